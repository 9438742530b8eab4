//! A backend that counts calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keytally::backend::MemoryBackend;
use keytally::key::{
    Actor, AuditEntry, AuditLog, AuditQuery, Key, KeyAdmin, KeyChange, KeyQuery, KeyRecord,
    KeyStore, Rotation, StoreError,
};
use keytally::usage::{
    Count, LogFilter, LogQuery, MergeBacklog, ReadError, Rollup, Summary, SummaryQuery, Totals,
    UsageEvent, UsageRange, UsageReader,
};
use keytally::{KeyId, Page, async_trait};

/// A memory backend with a call counter shared by its clones.
#[derive(Clone)]
pub(crate) struct Counted {
    backend: MemoryBackend,
    calls: Arc<AtomicUsize>,
}

impl Counted {
    pub(crate) fn of(backend: MemoryBackend) -> Self {
        Self {
            backend,
            calls: Arc::default(),
        }
    }

    fn counted(&self) -> &MemoryBackend {
        self.calls.fetch_add(1, Ordering::Relaxed);
        &self.backend
    }

    /// Returns the number of calls, and resets it.
    pub(crate) fn take(&self) -> usize {
        self.calls.swap(0, Ordering::Relaxed)
    }
}

#[async_trait]
impl KeyStore for Counted {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.counted().find(id).await
    }
}

#[async_trait]
impl KeyAdmin for Counted {
    async fn create(&self, record: KeyRecord, actor: Actor<'_>) -> Result<(), StoreError> {
        self.counted().create(record, actor).await
    }

    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        self.counted().list(query).await
    }

    async fn owners(&self, contains: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        self.counted().owners(contains, limit).await
    }

    async fn change(
        &self,
        id: KeyId,
        change: KeyChange,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        self.counted().change(id, change, actor).await
    }

    async fn rotate(
        &self,
        id: KeyId,
        rotation: Rotation,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        self.counted().rotate(id, rotation, actor).await
    }

    async fn delete(&self, id: KeyId, actor: Actor<'_>) -> Result<(), StoreError> {
        self.counted().delete(id, actor).await
    }

    fn audit_log(&self) -> Option<&dyn AuditLog> {
        Some(self)
    }
}

#[async_trait]
impl AuditLog for Counted {
    async fn audit_entries(&self, query: &AuditQuery) -> Result<Page<AuditEntry>, StoreError> {
        self.counted().audit_entries(query).await
    }
}

#[async_trait]
impl UsageReader for Counted {
    async fn summary(&self, query: &SummaryQuery) -> Result<Summary, ReadError> {
        self.counted().summary(query).await
    }

    async fn totals_by_key(
        &self,
        range: &UsageRange,
    ) -> Result<BTreeMap<Option<KeyId>, Totals>, ReadError> {
        self.counted().totals_by_key(range).await
    }

    async fn totals_of_keys(
        &self,
        range: &UsageRange,
        keys: &[Option<KeyId>],
    ) -> Result<BTreeMap<Option<KeyId>, Totals>, ReadError> {
        self.counted().totals_of_keys(range, keys).await
    }

    async fn rollups(&self, range: &UsageRange) -> Result<Vec<Rollup>, ReadError> {
        self.counted().rollups(range).await
    }

    async fn requests(&self, query: &LogQuery) -> Result<Page<UsageEvent>, ReadError> {
        self.counted().requests(query).await
    }

    async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError> {
        self.counted().count(filter).await
    }

    async fn endpoints(&self, limit: usize) -> Result<Vec<String>, ReadError> {
        self.counted().endpoints(limit).await
    }

    async fn revision(&self) -> Result<Option<String>, ReadError> {
        self.counted().revision().await
    }

    async fn merge_backlog(&self) -> Result<Option<MergeBacklog>, ReadError> {
        self.counted().merge_backlog().await
    }
}

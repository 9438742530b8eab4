//! The shared SQL backend.

use std::sync::Arc;

use super::engine::Engine;
use super::names::Names;
use crate::key::{AuditEntry, InvalidationFeed};
use crate::usage::LogSampling;

/// A database and the state that all clones of a backend share.
#[derive(Debug)]
pub(in crate::backend) struct SqlBackend<E> {
    pub(in crate::backend) engine: Arc<E>,
    pub(in crate::backend) changes: InvalidationFeed,
    pub(in crate::backend) sampling: LogSampling,
    pub(super) actor: Option<Arc<str>>,
}

impl<E> Clone for SqlBackend<E> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            changes: self.changes.clone(),
            sampling: self.sampling,
            actor: self.actor.clone(),
        }
    }
}

impl<E: Engine> SqlBackend<E> {
    pub(in crate::backend) fn new(engine: E) -> Self {
        Self {
            engine: Arc::new(engine),
            changes: InvalidationFeed::new(),
            sampling: LogSampling::All,
            actor: None,
        }
    }

    pub(super) fn names(&self) -> &Names {
        self.engine.names()
    }

    pub(in crate::backend) fn acting_as(&self, actor: &str) -> Self {
        Self {
            actor: AuditEntry::actor_of(actor).map(Into::into),
            ..self.clone()
        }
    }
}

/// Implements the traits for keys and for reading usage by delegating to the [`SqlBackend`] in a backend.
macro_rules! keep_in_sql {
    ($backend:ident) => {
        #[async_trait]
        impl KeyStore for $backend {
            async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
                self.0.find(id).await
            }

            fn invalidations(&self) -> Option<&InvalidationFeed> {
                Some(&self.0.changes)
            }
        }

        #[async_trait]
        impl KeyAdmin for $backend {
            async fn create(&self, record: KeyRecord) -> Result<(), StoreError> {
                self.0.create(record).await
            }

            async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
                self.0.list(query).await
            }

            async fn change(&self, id: KeyId, change: KeyChange) -> Result<Key, StoreError> {
                self.0.change(id, change).await
            }

            async fn rotate(&self, id: KeyId, rotation: Rotation) -> Result<Key, StoreError> {
                self.0.rotate(id, rotation).await
            }

            async fn delete(&self, id: KeyId) -> Result<(), StoreError> {
                self.0.delete(id).await
            }

            async fn reveal(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
                self.0.reveal(id).await
            }

            async fn audit(
                &self,
                query: &AuditQuery,
            ) -> Result<Option<Page<AuditEntry>>, StoreError> {
                self.0.audit(query).await.map(Some)
            }

            fn acting_as(&self, actor: &str) -> Option<Arc<dyn KeyAdmin>> {
                Some(Arc::new(Self(self.0.acting_as(actor))))
            }
        }

        #[async_trait]
        impl UsageReader for $backend {
            async fn summary(&self, query: &SummaryQuery) -> Result<Summary, ReadError> {
                self.0.summary(query).await
            }

            async fn totals_by_key(
                &self,
                range: &UsageRange,
            ) -> Result<BTreeMap<Option<KeyId>, Totals>, ReadError> {
                self.0.totals_by_key(range).await
            }

            async fn rollups(&self, range: &UsageRange) -> Result<Vec<Rollup>, ReadError> {
                self.0.rollups(range).await
            }

            async fn requests(&self, query: &LogQuery) -> Result<Page<UsageEvent>, ReadError> {
                self.0.requests(query).await
            }

            async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError> {
                self.0.count(filter).await
            }

            async fn recorded(&self, query: &RecordedQuery) -> Result<RecordedPage, ReadError> {
                self.0.recorded(query).await
            }
        }
    };
}

pub(in crate::backend) use keep_in_sql;

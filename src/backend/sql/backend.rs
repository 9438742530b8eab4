//! The shared SQL backend.

use std::sync::Arc;

use super::engine::Engine;
use super::error::BackendError;
use super::merging::{Merging, merge_passed};
use super::names::Names;
use crate::key::InvalidationFeed;
use crate::usage::LogSampling;

/// A database and the state that all clones of a backend share.
#[derive(Debug)]
pub(in crate::backend) struct SqlBackend<E> {
    pub(in crate::backend) engine: Arc<E>,
    pub(in crate::backend) changes: InvalidationFeed,
    pub(in crate::backend) sampling: LogSampling,
    pub(in crate::backend) merging: Arc<Merging>,
}

impl<E> Clone for SqlBackend<E> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            changes: self.changes.clone(),
            sampling: self.sampling,
            merging: self.merging.clone(),
        }
    }
}

impl<E: Engine> SqlBackend<E> {
    pub(in crate::backend) fn new(engine: E) -> Self {
        Self {
            engine: Arc::new(engine),
            changes: InvalidationFeed::new(),
            sampling: LogSampling::All,
            merging: Arc::default(),
        }
    }

    pub(in crate::backend) async fn merge_rollups(&self) -> Result<u64, BackendError> {
        Ok(merge_passed(&self.engine, true).await?)
    }

    pub(super) fn names(&self) -> &Names {
        self.engine.names()
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
            async fn create(&self, record: KeyRecord, actor: Actor<'_>) -> Result<(), StoreError> {
                self.0.create(record, actor).await
            }

            async fn create_all(
                &self,
                records: Vec<KeyRecord>,
                actor: Actor<'_>,
            ) -> Result<Vec<KeyId>, StoreError> {
                self.0.create_all(records, actor).await
            }

            async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
                self.0.list(query).await
            }

            async fn owners(
                &self,
                contains: &str,
                limit: usize,
            ) -> Result<Vec<String>, StoreError> {
                self.0.owners(contains, limit).await
            }

            async fn change(
                &self,
                id: KeyId,
                change: KeyChange,
                actor: Actor<'_>,
            ) -> Result<Key, StoreError> {
                self.0.change(id, change, actor).await
            }

            async fn rotate(
                &self,
                id: KeyId,
                rotation: Rotation,
                actor: Actor<'_>,
            ) -> Result<Key, StoreError> {
                self.0.rotate(id, rotation, actor).await
            }

            async fn delete(&self, id: KeyId, actor: Actor<'_>) -> Result<(), StoreError> {
                self.0.delete(id, actor).await
            }

            async fn reveal(
                &self,
                id: KeyId,
                actor: Actor<'_>,
            ) -> Result<Option<KeyRecord>, StoreError> {
                self.0.reveal(id, actor).await
            }

            fn audit_log(&self) -> Option<&dyn AuditLog> {
                Some(self)
            }

            fn owner_admin(&self) -> Option<&dyn OwnerAdmin> {
                Some(self)
            }
        }

        #[async_trait]
        impl OwnerAdmin for $backend {
            async fn owner(&self, id: &str) -> Result<Option<Owner>, StoreError> {
                self.0.owner(id).await
            }

            async fn list_owners(&self, query: &OwnerQuery) -> Result<Page<Owner>, StoreError> {
                self.0.list_owners(query).await
            }

            async fn change_owner(
                &self,
                id: &str,
                change: OwnerChange,
                actor: Actor<'_>,
            ) -> Result<Owner, StoreError> {
                self.0.change_owner(id, change, actor).await
            }

            async fn plan(&self, name: &str) -> Result<Option<Plan>, StoreError> {
                self.0.plan(name).await
            }

            async fn list_plans(&self) -> Result<Vec<Plan>, StoreError> {
                self.0.list_plans().await
            }

            async fn set_plan(&self, plan: Plan, actor: Actor<'_>) -> Result<Plan, StoreError> {
                self.0.set_plan(plan, actor).await
            }

            async fn delete_plan(&self, name: &str, actor: Actor<'_>) -> Result<(), StoreError> {
                self.0.delete_plan(name, actor).await
            }
        }

        #[async_trait]
        impl AuditLog for $backend {
            async fn audit_entries(
                &self,
                query: &AuditQuery,
            ) -> Result<Page<AuditEntry>, StoreError> {
                self.0.audit_entries(query).await
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

            async fn totals_of_keys(
                &self,
                range: &UsageRange,
                keys: &[Option<KeyId>],
            ) -> Result<BTreeMap<Option<KeyId>, Totals>, ReadError> {
                self.0.totals_of_keys(range, keys).await
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

            async fn endpoints(&self, limit: usize) -> Result<Vec<String>, ReadError> {
                self.0.endpoints(limit).await
            }

            async fn merge_backlog(&self) -> Result<Option<MergeBacklog>, ReadError> {
                self.0.merge_backlog().await.map(Some)
            }

            async fn revision(&self) -> Result<Option<String>, ReadError> {
                self.0.revision().await.map(Some)
            }
        }
    };
}

pub(in crate::backend) use keep_in_sql;

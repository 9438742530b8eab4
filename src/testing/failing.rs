//! A store that fails on demand.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use crate::id::KeyId;
use crate::key::{
    Actor, AuditEntry, AuditLog, AuditQuery, InvalidationFeed, Key, KeyAdmin, KeyCache, KeyChange,
    KeyQuery, KeyRecord, KeyStore, KeyUpdate, Owner, OwnerAdmin, OwnerChange, OwnerQuery, Plan,
    Rotation, StoreError,
};
use crate::page::Page;

/// A store that simulates outages: every operation during an outage fails with [`StoreError::Unavailable`].
///
/// Clones share the inner store and the outage.
///
/// ```
/// use keytally::backend::MemoryBackend;
/// use keytally::key::{KeyAdmin, KeyQuery};
/// use keytally::testing::FailingStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = FailingStore::new(MemoryBackend::new());
/// store.fail();
/// assert!(store.list(&KeyQuery::new()).await.is_err());
/// store.recover();
/// assert!(store.list(&KeyQuery::new()).await.is_ok());
/// # }
/// ```
pub struct FailingStore<S> {
    store: Arc<S>,
    off: Arc<AtomicBool>,
}

impl<S> FailingStore<S> {
    /// Wraps a store. It works until [`fail`](Self::fail) is called.
    pub fn new(store: S) -> Self {
        Self {
            store: Arc::new(store),
            off: Arc::default(),
        }
    }

    /// Starts an outage.
    pub fn fail(&self) {
        self.off.store(true, Ordering::SeqCst);
    }

    /// Ends the outage.
    pub fn recover(&self) {
        self.off.store(false, Ordering::SeqCst);
    }

    fn store(&self) -> Result<&S, StoreError> {
        if self.off.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("simulated outage"));
        }
        Ok(&self.store)
    }
}

impl<S> Clone for FailingStore<S> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            off: self.off.clone(),
        }
    }
}

impl<S> fmt::Debug for FailingStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailingStore")
            .field("off", &self.off)
            .finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: KeyStore> KeyStore for FailingStore<S> {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store()?.find(id).await
    }

    fn invalidations(&self) -> Option<&InvalidationFeed> {
        self.store.invalidations()
    }

    /// Always `None`, since the inner store's cache would hide the outage.
    fn cache(&self) -> Option<&KeyCache> {
        None
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: KeyAdmin> KeyAdmin for FailingStore<S> {
    async fn create(&self, record: KeyRecord, actor: Actor<'_>) -> Result<(), StoreError> {
        self.store()?.create(record, actor).await
    }

    async fn create_all(
        &self,
        records: Vec<KeyRecord>,
        actor: Actor<'_>,
    ) -> Result<Vec<KeyId>, StoreError> {
        self.store()?.create_all(records, actor).await
    }

    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        self.store()?.list(query).await
    }

    async fn owners(&self, contains: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        self.store()?.owners(contains, limit).await
    }

    async fn change(
        &self,
        id: KeyId,
        change: KeyChange,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        self.store()?.change(id, change, actor).await
    }

    async fn rotate(
        &self,
        id: KeyId,
        rotation: Rotation,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        self.store()?.rotate(id, rotation, actor).await
    }

    async fn delete(&self, id: KeyId, actor: Actor<'_>) -> Result<(), StoreError> {
        self.store()?.delete(id, actor).await
    }

    async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        self.store()?.get(id).await
    }

    async fn update(
        &self,
        id: KeyId,
        update: KeyUpdate,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        self.store()?.update(id, update, actor).await
    }

    async fn disable(&self, id: KeyId, actor: Actor<'_>) -> Result<Key, StoreError> {
        self.store()?.disable(id, actor).await
    }

    async fn enable(&self, id: KeyId, actor: Actor<'_>) -> Result<Key, StoreError> {
        self.store()?.enable(id, actor).await
    }

    async fn revoke(&self, id: KeyId, actor: Actor<'_>) -> Result<Key, StoreError> {
        self.store()?.revoke(id, actor).await
    }

    async fn reveal(&self, id: KeyId, actor: Actor<'_>) -> Result<Option<KeyRecord>, StoreError> {
        self.store()?.reveal(id, actor).await
    }

    fn audit_log(&self) -> Option<&dyn AuditLog> {
        self.store.audit_log().is_some().then_some(self)
    }

    fn owner_admin(&self) -> Option<&dyn OwnerAdmin> {
        self.store.owner_admin().is_some().then_some(self)
    }
}

impl<S: KeyAdmin> FailingStore<S> {
    fn owners_of_store(&self) -> Result<&dyn OwnerAdmin, StoreError> {
        let owners = self.store()?.owner_admin();
        owners.ok_or(StoreError::OwnersNotSupported)
    }
}

/// The owners and plans of the inner store. Its operations fail with [`StoreError::OwnersNotSupported`] if the inner store
/// has none.
#[async_trait]
impl<S: KeyAdmin> OwnerAdmin for FailingStore<S> {
    async fn owner(&self, id: &str) -> Result<Option<Owner>, StoreError> {
        self.owners_of_store()?.owner(id).await
    }

    async fn list_owners(&self, query: &OwnerQuery) -> Result<Page<Owner>, StoreError> {
        self.owners_of_store()?.list_owners(query).await
    }

    async fn change_owner(
        &self,
        id: &str,
        change: OwnerChange,
        actor: Actor<'_>,
    ) -> Result<Owner, StoreError> {
        self.owners_of_store()?
            .change_owner(id, change, actor)
            .await
    }

    async fn plan(&self, name: &str) -> Result<Option<Plan>, StoreError> {
        self.owners_of_store()?.plan(name).await
    }

    async fn list_plans(&self) -> Result<Vec<Plan>, StoreError> {
        self.owners_of_store()?.list_plans().await
    }

    async fn set_plan(&self, plan: Plan, actor: Actor<'_>) -> Result<Plan, StoreError> {
        self.owners_of_store()?.set_plan(plan, actor).await
    }

    async fn delete_plan(&self, name: &str, actor: Actor<'_>) -> Result<(), StoreError> {
        self.owners_of_store()?.delete_plan(name, actor).await
    }
}

#[async_trait]
impl<S: KeyAdmin> AuditLog for FailingStore<S> {
    async fn audit_entries(&self, query: &AuditQuery) -> Result<Page<AuditEntry>, StoreError> {
        match self.store()?.audit_log() {
            Some(log) => log.audit_entries(query).await,
            None => Ok(Page::empty()),
        }
    }
}

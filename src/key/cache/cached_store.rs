//! A store combined with its cache.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;

use super::loader::LookupSource;
use super::{CacheConfig, CacheLookup, KeyCache};
use crate::clock::Clock;
use crate::id::KeyId;
use crate::key::{
    Actor, AuditEntry, AuditLog, AuditQuery, InvalidationFeed, Key, KeyAdmin, KeyChange, KeyQuery,
    KeyRecord, KeyStore, KeyUpdate, Owner, OwnerAdmin, OwnerChange, OwnerQuery, OwnerUpdate, Plan,
    Rotation, StoreError,
};
use crate::page::Page;

impl<S: KeyStore> LookupSource for S {
    fn find(
        &self,
        id: KeyId,
    ) -> Pin<Box<dyn Future<Output = Result<Option<KeyRecord>, StoreError>> + Send + '_>> {
        KeyStore::find(self, id)
    }

    fn invalidations(&self) -> Option<&InvalidationFeed> {
        KeyStore::invalidations(self)
    }
}

impl KeyCache {
    /// A cache in front of a store. Subscribes to the [invalidation feed](KeyStore::invalidations) of the store,
    /// if it has one.
    pub fn new(store: impl KeyStore, config: CacheConfig, clock: Clock) -> Self {
        Self::with_source(Arc::new(store), config, clock)
    }
}

/// A store with a cache in front of it.
///
/// Changes made through it or [announced](KeyStore::invalidations) by the inner store are visible immediately to
/// all its users and to all caches in front of it; other changes within [`CacheConfig::ttl`].
/// [`ApiKeyLayer::new`](crate::ApiKeyLayer::new) creates a cache automatically; construct one explicitly to share
/// it between layers or to invalidate it manually.
pub struct CachedStore<S> {
    store: Arc<S>,
    cache: KeyCache,
}

impl<S> Clone for CachedStore<S> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            cache: self.cache.clone(),
        }
    }
}

impl<S: KeyStore> CachedStore<S> {
    /// A cached store with the default configuration and the system clock.
    pub fn new(store: S) -> Self {
        Self::with_config(store, CacheConfig::default(), Clock::system())
    }

    /// A cached store with this configuration and clock.
    pub fn with_config(store: S, config: CacheConfig, clock: Clock) -> Self {
        let store = Arc::new(store);
        let cache = KeyCache::with_source(store.clone(), config, clock);
        Self { store, cache }
    }

    /// The inner store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// A guard that evicts the key when dropped, even if the guarded change is cancelled: its outcome is unknown
    /// then.
    pub(super) fn invalidate_on_drop(&self, id: KeyId) -> impl Drop + '_ {
        self.on_drop(move |changes| changes.publish(id))
    }

    fn on_drop<'a>(&'a self, publish: impl Fn(&InvalidationFeed) + 'a) -> impl Drop + 'a {
        struct Fence<'a, F: Fn(&InvalidationFeed)>(&'a KeyCache, F);
        impl<F: Fn(&InvalidationFeed)> Drop for Fence<'_, F> {
            fn drop(&mut self) {
                self.1(self.0.invalidations());
            }
        }
        Fence(&self.cache, publish)
    }
}

impl<S: KeyAdmin> CachedStore<S> {
    fn owners_of_store(&self) -> Result<&dyn OwnerAdmin, StoreError> {
        let owners = self.store.owner_admin();
        owners.ok_or(StoreError::OwnersNotSupported)
    }
}

impl<S> fmt::Debug for CachedStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedStore")
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: KeyStore> KeyStore for CachedStore<S> {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let entry = match self.cache.get(id, self.cache.clock().now()) {
            CacheLookup::Hit(entry) => Some(entry).filter(|entry| entry.exists),
            CacheLookup::Stale(_) | CacheLookup::Miss => self.cache.lookup(id).await?,
        };
        Ok(entry.map(|entry| KeyRecord {
            policy: entry.policy.as_deref().cloned().unwrap_or_default(),
            ..KeyRecord::new(Key::clone(&entry.key), entry.digest.clone())
        }))
    }

    /// The feed of the inner store, or a feed of its own if that has none.
    fn invalidations(&self) -> Option<&InvalidationFeed> {
        Some(self.cache.invalidations())
    }

    fn cache(&self) -> Option<&KeyCache> {
        Some(&self.cache)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: KeyAdmin> KeyAdmin for CachedStore<S> {
    async fn create(&self, record: KeyRecord, actor: Actor<'_>) -> Result<(), StoreError> {
        let _fence = self.invalidate_on_drop(record.key.id);
        self.store.create(record, actor).await
    }

    async fn create_all(
        &self,
        records: Vec<KeyRecord>,
        actor: Actor<'_>,
    ) -> Result<Vec<KeyId>, StoreError> {
        let ids = records.iter().map(|record| record.key.id);
        let _fences: Vec<_> = ids.map(|id| self.invalidate_on_drop(id)).collect();
        self.store.create_all(records, actor).await
    }

    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        self.store.list(query).await
    }

    async fn owners(&self, contains: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        self.store.owners(contains, limit).await
    }

    async fn change(
        &self,
        id: KeyId,
        change: KeyChange,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        let _fence = self.invalidate_on_drop(id);
        self.store.change(id, change, actor).await
    }

    async fn rotate(
        &self,
        id: KeyId,
        rotation: Rotation,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        let _fences = (
            self.invalidate_on_drop(id),
            self.invalidate_on_drop(rotation.id),
        );
        self.store.rotate(id, rotation, actor).await
    }

    async fn delete(&self, id: KeyId, actor: Actor<'_>) -> Result<(), StoreError> {
        let _fence = self.invalidate_on_drop(id);
        self.store.delete(id, actor).await
    }

    async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        self.store.get(id).await
    }

    async fn update(
        &self,
        id: KeyId,
        update: KeyUpdate,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        let _fence = self.invalidate_on_drop(id);
        self.store.update(id, update, actor).await
    }

    async fn disable(&self, id: KeyId, actor: Actor<'_>) -> Result<Key, StoreError> {
        let _fence = self.invalidate_on_drop(id);
        self.store.disable(id, actor).await
    }

    async fn enable(&self, id: KeyId, actor: Actor<'_>) -> Result<Key, StoreError> {
        let _fence = self.invalidate_on_drop(id);
        self.store.enable(id, actor).await
    }

    async fn revoke(&self, id: KeyId, actor: Actor<'_>) -> Result<Key, StoreError> {
        let _fence = self.invalidate_on_drop(id);
        self.store.revoke(id, actor).await
    }

    async fn reveal(&self, id: KeyId, actor: Actor<'_>) -> Result<Option<KeyRecord>, StoreError> {
        self.store.reveal(id, actor).await
    }

    fn audit_log(&self) -> Option<&dyn AuditLog> {
        self.store.audit_log()
    }

    fn owner_admin(&self) -> Option<&dyn OwnerAdmin> {
        self.store.owner_admin().is_some().then_some(self)
    }
}

/// The owners and plans of the inner store. Its operations fail with [`StoreError::OwnersNotSupported`] if the inner store
/// has none.
#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: KeyAdmin> OwnerAdmin for CachedStore<S> {
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
        let _fence = self.on_drop(|changes| changes.publish_owner(id));
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
        let _fence = self.on_drop(InvalidationFeed::publish_all);
        self.owners_of_store()?.set_plan(plan, actor).await
    }

    async fn delete_plan(&self, name: &str, actor: Actor<'_>) -> Result<(), StoreError> {
        // No key has it.
        self.owners_of_store()?.delete_plan(name, actor).await
    }

    async fn update_owner(
        &self,
        id: &str,
        update: OwnerUpdate,
        actor: Actor<'_>,
    ) -> Result<Owner, StoreError> {
        let _fence = self.on_drop(|changes| changes.publish_owner(id));
        self.owners_of_store()?
            .update_owner(id, update, actor)
            .await
    }

    async fn suspend_owner(&self, id: &str, actor: Actor<'_>) -> Result<Owner, StoreError> {
        let _fence = self.on_drop(|changes| changes.publish_owner(id));
        self.owners_of_store()?.suspend_owner(id, actor).await
    }

    async fn resume_owner(&self, id: &str, actor: Actor<'_>) -> Result<Owner, StoreError> {
        let _fence = self.on_drop(|changes| changes.publish_owner(id));
        self.owners_of_store()?.resume_owner(id, actor).await
    }
}

#[async_trait]
impl<S: KeyStore + AuditLog> AuditLog for CachedStore<S> {
    async fn audit_entries(&self, query: &AuditQuery) -> Result<Page<AuditEntry>, StoreError> {
        self.store.audit_entries(query).await
    }
}

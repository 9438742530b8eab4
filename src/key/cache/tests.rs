mod failing;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use super::entry::LookupResult;
use super::*;
use crate::backend::MemoryBackend;
use crate::clock::Clock;
use crate::id::KeyId;
use crate::key::{
    Actor, Issuer, Key, KeyAdmin, KeyChange, KeyQuery, KeyRecord, KeyStore, NewKey, Rotation,
    StoreError,
};
use crate::page::Page;

/// A store whose responses are controlled by the test.
struct Scripted {
    record: Mutex<Option<KeyRecord>>,
    fails: AtomicBool,
    calls: AtomicUsize,
    entered: Notify,
    gate: Semaphore,
}

#[async_trait]
impl KeyStore for Arc<Scripted> {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        // Reads before it waits, like a slow store.
        let record = self.record.lock().unwrap().clone();
        self.entered.notify_one();
        self.gate.acquire().await.unwrap().forget();
        if self.fails.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("down"));
        }
        Ok(record.filter(|record| record.key.id == id))
    }
}

struct Setup {
    store: Arc<Scripted>,
    cache: KeyCache,
    clock: Clock,
    id: KeyId,
}

impl Setup {
    fn new(config: CacheConfig) -> Self {
        let clock = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
        let record = record();
        let id = record.key.id;
        let store = Arc::new(Scripted {
            record: Mutex::new(Some(record)),
            fails: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            entered: Notify::new(),
            gate: Semaphore::new(1_000),
        });
        let cache = KeyCache::new(store.clone(), config, clock.clone());
        Self {
            store,
            cache,
            clock,
            id,
        }
    }

    async fn lookup(&self) -> LookupResult {
        match self.cache.get(self.id, self.clock.now()) {
            CacheLookup::Hit(entry) => Ok(Some(entry).filter(|entry| entry.exists)),
            CacheLookup::Stale(_) | CacheLookup::Miss => self.cache.lookup(self.id).await,
        }
    }

    /// Looks the key up in a separate task.
    fn spawn_lookup(&self) -> JoinHandle<LookupResult> {
        let (cache, id) = (self.cache.clone(), self.id);
        tokio::spawn(async move { cache.lookup(id).await })
    }

    fn calls(&self) -> usize {
        self.store.calls.load(Ordering::SeqCst)
    }

    fn block(&self) {
        self.store.gate.forget_permits(1_000);
    }
}

pub(super) fn record() -> KeyRecord {
    Issuer::new("t")
        .unwrap()
        .prepare(NewKey::new("test"))
        .unwrap()
        .1
}

pub(super) fn config() -> CacheConfig {
    CacheConfig::new().ttl(Duration::from_secs(30))
}

#[tokio::test]
async fn key_is_looked_up_once_within_its_ttl() {
    let setup = Setup::new(config());
    for _ in 0..5 {
        assert!(setup.lookup().await.unwrap().is_some());
        setup.clock.advance(Duration::from_millis(5_990));
    }
    assert_eq!(setup.calls(), 1);
    // Reads did not extend the TTL: the sixth is after 30 seconds.
    setup.clock.advance(Duration::from_millis(50));
    assert!(setup.lookup().await.unwrap().is_some());
    assert_eq!(setup.calls(), 2);
    let lookups = CacheStats {
        lookups: 2,
        ..CacheStats::default()
    };
    assert_eq!(setup.cache.stats(), lookups);
}

#[tokio::test]
async fn invalidate_all_evicts_keys_and_unknown_ids() {
    let setup = Setup::new(config());
    let unknown = KeyId::from_number(1);
    for round in 1..4 {
        assert!(setup.lookup().await.unwrap().is_some());
        assert!(setup.cache.lookup(unknown).await.unwrap().is_none());
        assert_eq!(setup.cache.unknown(), 1);
        setup.cache.invalidate_all();
        assert!(matches!(
            setup.cache.get(unknown, setup.clock.now()),
            CacheLookup::Miss
        ));
        assert_eq!((setup.cache.unknown(), setup.calls()), (0, 2 * round));
    }
}

#[test]
fn cache_has_the_given_configuration() {
    let secs = Duration::from_secs;
    let config = CacheConfig::new()
        .ttl(secs(1))
        .capacity(2)
        .unknown_ttl(secs(3))
        .unknown_capacity(4)
        .lookup_timeout(secs(5))
        .uncached_lookups(6)
        .serve_stale(secs(7));
    let expected = CacheConfig {
        ttl: secs(1),
        capacity: 2,
        unknown_ttl: secs(3),
        unknown_capacity: 4,
        lookup_timeout: secs(5),
        uncached_lookups: 6,
        serve_stale: secs(7),
    };
    assert_eq!(config, expected);
    let setup = Setup::new(config);
    assert_eq!(setup.cache.config(), &expected);
    setup.clock.advance(secs(8));
    assert_eq!(setup.cache.clock().now(), setup.clock.now());
}

#[tokio::test]
async fn concurrent_lookups_share_one_store_call() {
    let setup = Setup::new(config());
    setup.block();
    let lookups = concurrent_lookups(&setup, 50);
    let (found, ()) = tokio::join!(lookups, async {
        setup.store.entered.notified().await;
        setup.store.gate.add_permits(1);
    });
    assert_eq!(found, 50);
    assert_eq!(setup.calls(), 1);
}

/// Runs concurrent lookups and returns how many found the key.
async fn concurrent_lookups(setup: &Setup, count: usize) -> usize {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let (cache, id) = (setup.cache.clone(), setup.id);
        tasks.spawn(async move { cache.lookup(id).await.unwrap().is_some() });
    }
    tasks
        .join_all()
        .await
        .into_iter()
        .filter(|found| *found)
        .count()
}

#[tokio::test]
async fn cancelled_lookup_is_taken_over_and_leaves_no_state() {
    let setup = Setup::new(config());
    setup.block();
    let first = setup.spawn_lookup();
    setup.store.entered.notified().await;
    let second = setup.spawn_lookup();
    tokio::task::yield_now().await;
    first.abort();
    setup.store.entered.notified().await;
    setup.store.gate.add_permits(1);
    assert!(second.await.unwrap().unwrap().is_some());
    assert!(setup.cache.is_idle());

    setup.cache.invalidate_all();
    let alone = setup.spawn_lookup();
    setup.store.entered.notified().await;
    alone.abort();
    assert!(alone.await.unwrap_err().is_cancelled());
    assert!(setup.cache.is_idle());
}

mod prompt_revocation {
    use super::*;

    #[tokio::test]
    async fn slow_lookup_does_not_restore_a_revoked_key() {
        let setup = Setup::new(config());
        setup.block();
        let slow = setup.spawn_lookup();
        setup.store.entered.notified().await;
        // The slow lookup read the key before it is revoked here.
        setup
            .store
            .record
            .lock()
            .unwrap()
            .as_mut()
            .unwrap()
            .key
            .revoked_at = Some(jiff::Timestamp::UNIX_EPOCH);
        setup.cache.invalidate(setup.id);
        setup.store.gate.add_permits(10);
        let found = slow.await.unwrap().unwrap().unwrap();
        assert!(found.key.revoked_at.is_some());
        assert!(
            setup
                .lookup()
                .await
                .unwrap()
                .unwrap()
                .key
                .revoked_at
                .is_some()
        );
        assert_eq!(setup.calls(), 2);
    }

    #[tokio::test]
    async fn slow_lookup_does_not_restore_a_key_of_a_suspended_owner() {
        let setup = Setup::new(config());
        let set = |change: fn(&mut KeyRecord)| {
            change(setup.store.record.lock().unwrap().as_mut().unwrap());
        };
        set(|record| record.key.owner = Some("acme".into()));
        setup.block();
        let slow = setup.spawn_lookup();
        setup.store.entered.notified().await;
        // The slow lookup read the key before its owner is suspended here.
        set(|record| record.policy.is_owner_suspended = true);
        setup.cache.invalidations().publish_owner("other");
        setup.cache.invalidations().publish_owner("acme");
        setup.store.gate.add_permits(10);
        let found = slow.await.unwrap().unwrap().unwrap();
        assert!(found.is_owner_suspended());
        assert_eq!(setup.calls(), 2);
        // Owners of other keys do not matter.
        setup.block();
        setup.cache.invalidate(setup.id);
        let slow = setup.spawn_lookup();
        setup.store.entered.notified().await;
        setup.cache.invalidations().publish_owner("other");
        setup.store.gate.add_permits(10);
        assert!(slow.await.unwrap().unwrap().is_some());
        assert_eq!(setup.calls(), 3);
        setup.cache.invalidations().publish_owner("other");
        let cached = setup.cache.get(setup.id, setup.clock.now());
        assert!(matches!(cached, CacheLookup::Hit(_)));
        setup.cache.invalidations().publish_owner("acme");
        let cached = setup.cache.get(setup.id, setup.clock.now());
        assert!(matches!(cached, CacheLookup::Miss));
    }

    #[tokio::test]
    async fn lookup_that_takes_longer_than_the_ttl_fails() {
        for (nanos, in_time) in [(0, true), (1, false)] {
            let setup = Setup::new(config());
            setup.block();
            let slow = setup.spawn_lookup();
            setup.store.entered.notified().await;
            setup.clock.advance(Duration::new(30, nanos));
            setup.store.gate.add_permits(1);
            match slow.await.unwrap() {
                Ok(found) => assert!(in_time && found.is_some()),
                Err(error) => assert!(!in_time && matches!(error, StoreError::Busy)),
            }
        }
    }

    #[tokio::test]
    async fn changes_through_a_cached_store_invalidate_all_its_caches() {
        let Setup {
            store, clock, id, ..
        } = Setup::new(config());
        let cached = CachedStore::with_config(store, config(), clock.clone());
        let caches = [
            cached.cache().unwrap().clone(),
            cached.cache().unwrap().separate(config(), clock.clone()),
            KeyCache::new(cached.clone(), config(), clock.clone()),
        ];
        for cache in &caches {
            assert!(cache.lookup(id).await.unwrap().is_some());
        }
        drop(cached.invalidate_on_drop(id));
        for cache in &caches {
            assert!(matches!(cache.get(id, clock.now()), CacheLookup::Miss));
        }
    }

    #[tokio::test]
    async fn changes_through_a_cached_store_invalidate_its_cache() {
        let record = record();
        let id = record.key.id;
        let cached = CachedStore::new(WithoutFeed(Arc::new(MemoryBackend::new())));
        cached.create(record, Actor::SYSTEM).await.unwrap();
        let lookups = || cached.cache().unwrap().stats().lookups;
        assert!(cached.find(id).await.unwrap().is_some());
        assert_eq!(lookups(), 1);
        cached.revoke(id, Actor::SYSTEM).await.unwrap();
        let found = cached.find(id).await.unwrap().unwrap();
        assert!(found.key.revoked_at.is_some());
        assert_eq!(lookups(), 2);
    }
}

#[tokio::test]
async fn key_that_was_unknown_before_is_cached_like_others() {
    let setup = Setup::new(config().unknown_capacity(2));
    let record = setup.store.record.lock().unwrap().take();
    assert!(setup.lookup().await.unwrap().is_none());
    *setup.store.record.lock().unwrap() = record;
    setup.cache.invalidate(setup.id);
    assert!(setup.lookup().await.unwrap().is_some());
    for n in 0..10 {
        let unknown = KeyId::from_number(n);
        assert!(setup.cache.lookup(unknown).await.unwrap().is_none());
    }
    let calls = setup.calls();
    assert!(setup.lookup().await.unwrap().is_some());
    assert_eq!(setup.calls(), calls);
}

#[tokio::test]
#[cfg_attr(miri, ignore = "too slow under Miri")]
async fn unknown_ids_are_cached_up_to_their_ttl_and_capacity() {
    let setup = Setup::new(
        config()
            .unknown_capacity(100)
            .unknown_ttl(Duration::from_secs(5)),
    );
    assert!(setup.lookup().await.unwrap().is_some());
    setup.store.gate.add_permits(10_000);
    for n in 0..10_000 {
        assert!(
            setup
                .cache
                .lookup(KeyId::from_number(n))
                .await
                .unwrap()
                .is_none()
        );
    }
    assert!(setup.cache.unknown() <= 100);
    let held = |id| match setup.cache.get(id, setup.clock.now()) {
        CacheLookup::Hit(entry) => Some(entry.exists),
        CacheLookup::Stale(_) | CacheLookup::Miss => None,
    };
    let unknown = KeyId::from_number(9_999);
    assert_eq!(held(unknown), Some(false));
    // The key is not evicted.
    assert_eq!(held(setup.id), Some(true));
    setup.clock.advance(Duration::from_secs(5));
    assert_eq!(held(unknown), None);
}

#[tokio::test]
#[cfg_attr(miri, ignore = "too slow under Miri")]
async fn cached_keys_are_bounded_by_the_capacity() {
    let backend = MemoryBackend::new();
    let clock = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
    let cache = KeyCache::new(backend.clone(), config().capacity(100), clock.clone());
    let mut held = Vec::new();
    for _ in 0..1_000 {
        let record = record();
        held.push(record.key.id);
        backend.create(record, Actor::SYSTEM).await.unwrap();
        cache.lookup(held[held.len() - 1]).await.unwrap();
    }
    held.retain(|id| matches!(cache.get(*id, clock.now()), CacheLookup::Hit(_)));
    // Shards round the capacity up.
    assert!((80..=120).contains(&held.len()), "{}", held.len());
}

#[tokio::test]
#[cfg_attr(miri, ignore = "too slow under Miri")]
async fn unknown_ids_do_not_evict_keys_at_capacity() {
    let backend = MemoryBackend::new();
    let clock = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
    let config = config().capacity(1_000).unknown_capacity(100);
    let cache = KeyCache::new(backend.clone(), config, clock.clone());
    let mut ids = Vec::new();
    for _ in 0..1_000 {
        let record = record();
        ids.push(record.key.id);
        backend.create(record, Actor::SYSTEM).await.unwrap();
        cache.lookup(ids[ids.len() - 1]).await.unwrap();
    }
    let held = || {
        let is_held = |id: &&KeyId| matches!(cache.get(**id, clock.now()), CacheLookup::Hit(_));
        ids.iter().filter(is_held).count()
    };
    let before = held();
    for n in 0..10_000 {
        cache.lookup(KeyId::from_number(n)).await.unwrap();
    }
    assert!(before > 900, "{before}");
    assert_eq!((held(), cache.unknown()), (before, 100));
}

#[tokio::test]
async fn zero_ttl_calls_the_store_every_time() {
    let setup = Setup::new(config().ttl(Duration::ZERO));
    for calls in 1..4 {
        assert!(setup.lookup().await.unwrap().is_some());
        assert_eq!(setup.calls(), calls);
    }
}

/// A store without an invalidation feed, so that only the guards of the cached store invalidate its keys.
#[derive(Clone)]
struct WithoutFeed(Arc<dyn KeyAdmin>);

#[async_trait]
impl KeyStore for WithoutFeed {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.0.find(id).await
    }
}

#[async_trait]
impl KeyAdmin for WithoutFeed {
    async fn create(&self, record: KeyRecord, actor: Actor<'_>) -> Result<(), StoreError> {
        self.0.create(record, actor).await
    }

    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        self.0.list(query).await
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
}

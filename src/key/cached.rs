//! A bounded cache in front of a store.
//!
//! 1. An entry's age counts from the moment its look-up **began** and is never renewed by reads: a
//!    key that is revoked elsewhere stops working here within the time to live.
//! 2. However many requests wait for a key, the store is asked once.
//! 3. Every look-up is registered under a lock before the store is asked. Whoever drops a key takes
//!    its look-up off the register under the same lock, so a slow answer that began before can
//!    neither enter the cache nor be used by anyone.
//! 4. Unknown ids live in a cache of their own, brief and bounded: a flood of them cannot push out
//!    keys that exist.
//! 5. An outage of the store is an error, unless serving what was known is asked for, with a bound.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use foldhash::fast::RandomState;
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use tokio::sync::OnceCell;

use super::changes::{ChangeFeed, Forget};
use super::record::{Key, KeyChange, KeyRecord, KeyUpdate, Rotation};
use super::store::{KeyAdmin, KeyQuery, KeyStore, StoreError};
use crate::clock::{Clock, Now};
use crate::id::KeyId;
use crate::page::Page;

/// How a cache keeps a store's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheConfig {
    /// How long a key may be used after the look-up that found it began: the bound on revocation.
    /// Zero asks the store on every request. Thirty seconds unless set.
    pub ttl: Duration,
    /// Keys held at most. 65,536 unless set; an entry takes about 700 bytes.
    pub capacity: usize,
    /// How long an unknown id is remembered. Five seconds unless set.
    pub unknown_ttl: Duration,
    /// Unknown ids remembered at most. 16,384 unless set.
    pub unknown_capacity: usize,
    /// How long the store may take to answer. Five seconds unless set, and never more than the
    /// time to live.
    pub lookup_timeout: Duration,
    /// For how long after its time to live a known key is still served while the store fails. Zero,
    /// which is never, unless set. It adds to the bound on revocation by other processes.
    pub serve_stale: Duration,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30),
            capacity: 65_536,
            unknown_ttl: Duration::from_secs(5),
            unknown_capacity: 16_384,
            lookup_timeout: Duration::from_secs(5),
            serve_stale: Duration::ZERO,
        }
    }
}

impl CacheConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`ttl`](Self::ttl).
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets [`capacity`](Self::capacity).
    #[must_use]
    pub fn capacity(mut self, keys: usize) -> Self {
        self.capacity = keys;
        self
    }

    /// Sets [`unknown_ttl`](Self::unknown_ttl).
    #[must_use]
    pub fn unknown_ttl(mut self, ttl: Duration) -> Self {
        self.unknown_ttl = ttl;
        self
    }

    /// Sets [`unknown_capacity`](Self::unknown_capacity).
    #[must_use]
    pub fn unknown_capacity(mut self, ids: usize) -> Self {
        self.unknown_capacity = ids;
        self
    }

    /// Sets [`lookup_timeout`](Self::lookup_timeout).
    #[must_use]
    pub fn lookup_timeout(mut self, timeout: Duration) -> Self {
        self.lookup_timeout = timeout;
        self
    }

    /// Sets [`serve_stale`](Self::serve_stale).
    #[must_use]
    pub fn serve_stale(mut self, bound: Duration) -> Self {
        self.serve_stale = bound;
        self
    }
}

/// What a cache did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Look-ups in the store.
    pub lookups: u64,
    /// Look-ups that failed or came too late.
    pub failures: u64,
    /// Times a known key was served past its time to live because the store failed.
    pub served_stale: u64,
}

/// A record as the cache holds it, and what a layer made of it.
#[derive(Debug)]
pub(crate) struct CachedKey {
    pub(crate) record: KeyRecord,
    /// The record's key once more, to hand out without its digest.
    pub(crate) key: Arc<Key>,
    /// What the first layer that used the entry derived from it, kept as long as it is.
    pub(crate) derived: OnceLock<Arc<dyn Any + Send + Sync>>,
    began: u64,
    /// Nanoseconds of the clock until which it may be used without asking again.
    fresh_until: AtomicU64,
}

/// What the cache knows without asking.
pub(crate) enum Peek {
    Known(Arc<CachedKey>),
    Unknown,
    Ask,
}

/// The cache itself: a handle, clones of which share one cache.
#[derive(Clone)]
pub struct KeyCache(Arc<Inner>);

type Known = Cache<
    KeyId,
    Arc<CachedKey>,
    UnitWeighter,
    RandomState,
    DefaultLifecycle<KeyId, Arc<CachedKey>>,
>;
type Unknown = Cache<KeyId, u64, UnitWeighter, RandomState, DefaultLifecycle<KeyId, u64>>;
type Found = Result<Option<Arc<CachedKey>>, StoreError>;

struct Inner {
    source: Arc<dyn KeyStore>,
    config: CacheConfig,
    clock: Clock,
    known: Known,
    unknown: Unknown,
    flights: Mutex<HashMap<KeyId, Arc<Flight>, RandomState>>,
    lookups: AtomicU64,
    failures: AtomicU64,
    served_stale: AtomicU64,
}

/// A look-up under way. Whoever comes first carries it out; when that request is dropped, the next
/// in line begins again.
#[derive(Default)]
struct Flight {
    found: OnceCell<Found>,
    overtaken: AtomicBool,
}

/// How often a look-up that a change overtook is begun anew before giving up.
const ATTEMPTS: usize = 8;
/// How long a stale key is served before the failing store is asked again.
const STALE_STEP: Duration = Duration::from_secs(1);

impl KeyCache {
    /// A cache in front of a store, which it listens to where the store announces changes.
    pub fn new(store: impl KeyStore, config: CacheConfig, clock: Clock) -> Self {
        Self::over(Arc::new(store), config, clock)
    }

    pub(crate) fn over(source: Arc<dyn KeyStore>, config: CacheConfig, clock: Clock) -> Self {
        let cache = |capacity: usize| (capacity.max(1), capacity.max(1) as u64);
        let (known_items, known_weight) = cache(config.capacity);
        let (unknown_items, unknown_weight) = cache(config.unknown_capacity);
        let inner = Arc::new(Inner {
            known: Cache::with(
                known_items,
                known_weight,
                UnitWeighter,
                RandomState::default(),
                DefaultLifecycle::default(),
            ),
            unknown: Cache::with(
                unknown_items,
                unknown_weight,
                UnitWeighter,
                RandomState::default(),
                DefaultLifecycle::default(),
            ),
            source,
            config,
            clock,
            flights: Mutex::default(),
            lookups: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            served_stale: AtomicU64::new(0),
        });
        if let Some(feed) = inner.source.changes() {
            let weak = Arc::downgrade(&inner);
            feed.subscribe(weak);
        }
        Self(inner)
    }

    /// Drops what is held about a key, look-ups under way included.
    pub fn invalidate(&self, id: KeyId) {
        self.0.forget(id);
    }

    /// Drops everything, look-ups under way included.
    pub fn invalidate_all(&self) {
        self.0.forget_all();
    }

    /// What the cache did so far.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            lookups: self.0.lookups.load(Ordering::Relaxed),
            failures: self.0.failures.load(Ordering::Relaxed),
            served_stale: self.0.served_stale.load(Ordering::Relaxed),
        }
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &CacheConfig {
        &self.0.config
    }

    pub(crate) fn source(&self) -> &Arc<dyn KeyStore> {
        &self.0.source
    }

    /// What is known without asking the store.
    #[inline]
    pub(crate) fn peek(&self, id: KeyId, now: Now) -> Peek {
        let now = now.elapsed_nanos();
        if let Some(entry) = self.0.known.get(&id) {
            if now < entry.fresh_until.load(Ordering::Relaxed) {
                return Peek::Known(entry);
            }
        } else if let Some(until) = self.0.unknown.get(&id)
            && now < until
        {
            return Peek::Unknown;
        }
        Peek::Ask
    }

    /// Asks the store, or waits with others for its answer.
    pub(crate) async fn lookup(&self, id: KeyId) -> Found {
        for _ in 0..ATTEMPTS {
            let flight = self.0.join(id);
            let waiter = Waiter {
                inner: &self.0,
                id,
                flight: &flight,
            };
            let found = flight
                .found
                .get_or_init(|| self.0.fetch(id, &flight))
                .await
                .clone();
            drop(waiter);
            if !flight.overtaken.load(Ordering::Acquire) {
                return found;
            }
        }
        Err(StoreError::unavailable(
            "the key kept changing while it was looked up",
        ))
    }
}

impl Inner {
    fn flights(&self) -> MutexGuard<'_, HashMap<KeyId, Arc<Flight>, RandomState>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, id: KeyId) -> Arc<Flight> {
        self.flights().entry(id).or_default().clone()
    }

    async fn fetch(&self, id: KeyId, flight: &Arc<Flight>) -> Found {
        let began = self.clock.now();
        let ttl = self.config.ttl;
        let patience = match self.config.lookup_timeout {
            timeout if ttl.is_zero() => timeout,
            timeout => timeout.min(ttl),
        };
        self.lookups.fetch_add(1, Ordering::Relaxed);
        let answer = match tokio::time::timeout(patience, self.source.find(id)).await {
            Err(_late) => Err(StoreError::Timeout),
            Ok(Ok(Some(record))) if record.key.id != id => Err(StoreError::unavailable(
                "the store answered with another key's record",
            )),
            Ok(answer) => answer,
        };
        let now = self.clock.now();
        let answer = if !ttl.is_zero() && now.since(began) > ttl {
            Err(StoreError::Timeout)
        } else {
            answer
        };
        let mut flights = self.flights();
        if flight.overtaken.load(Ordering::Acquire) {
            return answer.map(|_| None);
        }
        if flights
            .get(&id)
            .is_some_and(|current| Arc::ptr_eq(current, flight))
        {
            flights.remove(&id);
        }
        let until = |ttl: Duration| began.elapsed_nanos().saturating_add(nanos(ttl));
        match answer {
            Ok(Some(record)) => {
                let entry = Arc::new(CachedKey {
                    key: Arc::new(record.key.clone()),
                    record,
                    derived: OnceLock::new(),
                    began: began.elapsed_nanos(),
                    fresh_until: AtomicU64::new(until(ttl)),
                });
                self.unknown.remove(&id);
                self.known.insert(id, entry.clone());
                Ok(Some(entry))
            }
            Ok(None) => {
                self.known.remove(&id);
                self.unknown.insert(id, until(self.config.unknown_ttl));
                Ok(None)
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.stale(id, now).map(Some).ok_or(error)
            }
        }
    }

    /// The entry that may be served because the store fails, and for a step without asking again.
    fn stale(&self, id: KeyId, now: Now) -> Option<Arc<CachedKey>> {
        let entry = self.known.get(&id)?;
        let ttl = self.config.ttl;
        let end = entry
            .began
            .saturating_add(nanos(ttl))
            .saturating_add(nanos(self.config.serve_stale));
        let now = now.elapsed_nanos();
        if self.config.serve_stale.is_zero() || now >= end {
            return None;
        }
        self.served_stale.fetch_add(1, Ordering::Relaxed);
        let step = now.saturating_add(nanos(STALE_STEP)).min(end);
        entry.fresh_until.fetch_max(step, Ordering::Relaxed);
        Some(entry)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Forget for Inner {
    fn forget(&self, id: KeyId) {
        let mut flights = self.flights();
        if let Some(flight) = flights.remove(&id) {
            flight.overtaken.store(true, Ordering::Release);
        }
        self.known.remove(&id);
        self.unknown.remove(&id);
    }

    fn forget_all(&self) {
        let mut flights = self.flights();
        for (_, flight) in flights.drain() {
            flight.overtaken.store(true, Ordering::Release);
        }
        self.known.clear();
        self.unknown.clear();
    }
}

/// Takes an unfinished look-up off the register when the last request that waits for it is gone.
struct Waiter<'a> {
    inner: &'a Inner,
    id: KeyId,
    flight: &'a Arc<Flight>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if self.flight.found.initialized() {
            return;
        }
        let mut flights = self.inner.flights();
        // The register's own reference and this waiter's: nobody can join without the lock.
        if Arc::strong_count(self.flight) == 2
            && flights
                .get(&self.id)
                .is_some_and(|current| Arc::ptr_eq(current, self.flight))
        {
            flights.remove(&self.id);
        }
    }
}

impl fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyCache")
            .field("config", &self.0.config)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// A store with a cache in front of it, itself a store.
///
/// Changes that go through it are seen at once by everyone who shares it; others within
/// [`CacheConfig::ttl`]. [`ApiKeyLayer::new`](crate::ApiKeyLayer::new) caches by itself: make one
/// by hand to share a cache between layers or to invalidate it yourself.
#[derive(Clone)]
pub struct CachedStore<S> {
    store: Arc<S>,
    cache: KeyCache,
}

impl<S: KeyStore> CachedStore<S> {
    /// Caches a store's answers in the default way.
    pub fn new(store: S) -> Self {
        Self::with(store, CacheConfig::default(), Clock::system())
    }

    /// Caches a store's answers in this way, with ages told by this clock.
    pub fn with(store: S, config: CacheConfig, clock: Clock) -> Self {
        let store = Arc::new(store);
        let cache = KeyCache::over(store.clone(), config, clock);
        Self { store, cache }
    }

    /// The store behind the cache.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Drops the key when this is dropped: also when the change that it guards was abandoned half
    /// way, since nobody knows then what the store made of it.
    fn fence(&self, id: KeyId) -> impl Drop + '_ {
        struct Fence<'a>(&'a KeyCache, KeyId);
        impl Drop for Fence<'_> {
            fn drop(&mut self) {
                self.0.invalidate(self.1);
            }
        }
        Fence(&self.cache, id)
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
        let found = match self.cache.peek(id, self.cache.0.clock.now()) {
            Peek::Known(entry) => Some(entry),
            Peek::Unknown => None,
            Peek::Ask => self.cache.lookup(id).await?,
        };
        Ok(found.map(|entry| entry.record.clone()))
    }

    fn changes(&self) -> Option<&ChangeFeed> {
        self.store.changes()
    }

    fn cache(&self) -> Option<&KeyCache> {
        Some(&self.cache)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: KeyAdmin> KeyAdmin for CachedStore<S> {
    async fn create(&self, record: KeyRecord) -> Result<(), StoreError> {
        let _fence = self.fence(record.key.id);
        self.store.create(record).await
    }

    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        self.store.list(query).await
    }

    async fn change(&self, id: KeyId, change: KeyChange) -> Result<Key, StoreError> {
        let _fence = self.fence(id);
        self.store.change(id, change).await
    }

    async fn rotate(&self, id: KeyId, rotation: Rotation) -> Result<Key, StoreError> {
        let _fences = (self.fence(id), self.fence(rotation.id));
        self.store.rotate(id, rotation).await
    }

    async fn delete(&self, id: KeyId) -> Result<(), StoreError> {
        let _fence = self.fence(id);
        self.store.delete(id).await
    }

    async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        self.store.get(id).await
    }

    async fn update(&self, id: KeyId, update: KeyUpdate) -> Result<Key, StoreError> {
        let _fence = self.fence(id);
        self.store.update(id, update).await
    }

    async fn disable(&self, id: KeyId) -> Result<Key, StoreError> {
        let _fence = self.fence(id);
        self.store.disable(id).await
    }

    async fn enable(&self, id: KeyId) -> Result<Key, StoreError> {
        let _fence = self.fence(id);
        self.store.enable(id).await
    }

    async fn revoke(&self, id: KeyId) -> Result<Key, StoreError> {
        let _fence = self.fence(id);
        self.store.revoke(id).await
    }
}

#[cfg(test)]
mod tests;

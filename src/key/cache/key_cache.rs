//! The cache and its lookups.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use jiff::Timestamp;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Lifecycle, Weighter};

use super::entry::{CachedKey, LookupResult};
use super::loader::{Deadline, Loader, LookupSource};
use super::single_flight::{SingleFlight, Waiter};
use super::{CacheConfig, CacheStats};
use crate::clock::{Clock, Now};
use crate::id::KeyId;
use crate::key::invalidation::{Invalidate, InvalidationFeed};
use crate::key::{Digest, Key, KeyRecord, StoreError};
use crate::sync;

/// The result of a cache lookup that does not call the store.
pub(crate) enum CacheLookup {
    /// A valid entry: a key, or an unknown id.
    Hit(Arc<CachedKey>),
    /// The TTL of a cached key has ended; a store lookup is required.
    Stale(Arc<CachedKey>),
    /// Not cached; a store lookup is required.
    Miss,
}

/// A cache of keys. Clones are handles to the same cache.
#[derive(Clone)]
pub struct KeyCache(Arc<Inner>);

type Entry = Arc<CachedKey>;

type Entries = Cache<KeyId, Entry, KeyWeighter, RandomState, MarkEvicted>;

/// Weighs keys as one and unknown ids as zero, so that unknown ids evict nothing. Their number is bounded by
/// `Inner::unknown`.
#[derive(Clone)]
struct KeyWeighter;

impl Weighter<KeyId, Entry> for KeyWeighter {
    fn weight(&self, _: &KeyId, entry: &Entry) -> u64 {
        entry.exists.into()
    }
}

/// Marks entries that are evicted or replaced.
#[derive(Clone, Default)]
struct MarkEvicted(DefaultLifecycle<KeyId, Entry>);

impl Lifecycle<KeyId, Entry> for MarkEvicted {
    type RequestState = <DefaultLifecycle<KeyId, Entry> as Lifecycle<KeyId, Entry>>::RequestState;

    fn on_evict(&self, state: &mut Self::RequestState, id: KeyId, entry: Entry) {
        entry.evict();
        self.0.on_evict(state, id, entry);
    }
}

struct Inner {
    source: Loader,
    /// The feed of the store, or one for changes made through a cached store.
    changes: InvalidationFeed,
    config: CacheConfig,
    clock: Clock,
    entries: Entries,
    /// Unknown ids in `entries`, oldest first, including some that have since become known.
    unknown_ids: Mutex<VecDeque<KeyId>>,
    placeholder: Arc<Key>,
    flights: SingleFlight,
    failures: AtomicU64,
    served_stale: AtomicU64,
}

/// The maximum number of attempts of a lookup that is restarted by concurrent changes.
const MAX_ATTEMPTS: usize = 8;
/// The maximum lookup timeout, so that times do not overflow.
const MAX_TIMEOUT: Duration = Duration::from_secs(86_400);
/// The interval between retries of a failed store.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

impl KeyCache {
    pub(super) fn with_source(
        source: Arc<dyn LookupSource>,
        config: CacheConfig,
        clock: Clock,
    ) -> Self {
        let changes = source.invalidations().cloned().unwrap_or_default();
        Self::with_feed(source, changes, config, clock)
    }

    /// A separate cache in front of the same store, with the same invalidation feed.
    pub(crate) fn separate(&self, config: CacheConfig, clock: Clock) -> Self {
        let (source, changes) = (self.0.source.store().clone(), self.0.changes.clone());
        Self::with_feed(source, changes, config, clock)
    }

    fn with_feed(
        source: Arc<dyn LookupSource>,
        changes: InvalidationFeed,
        config: CacheConfig,
        clock: Clock,
    ) -> Self {
        let inner = Arc::new(Inner {
            entries: entries(&config),
            unknown_ids: Mutex::default(),
            placeholder: Arc::new(Key::new(KeyId::from_number(0), "", Timestamp::UNIX_EPOCH)),
            source: Loader::new(source, config.uncached_lookups),
            changes,
            config,
            clock,
            flights: SingleFlight::default(),
            failures: AtomicU64::new(0),
            served_stale: AtomicU64::new(0),
        });
        let weak = Arc::downgrade(&inner);
        inner.changes.subscribe(weak);
        Self(inner)
    }

    /// Evicts a key and discards its pending lookups, in all caches with the same invalidation feed.
    pub fn invalidate(&self, id: KeyId) {
        self.0.changes.publish(id);
    }

    /// Evicts everything and discards all pending lookups, in all caches with the same invalidation feed.
    pub fn invalidate_all(&self) {
        self.0.changes.publish_all();
    }

    /// Statistics since the creation of the cache.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            lookups: self.0.source.lookup_count(),
            failures: self.0.failures.load(Ordering::Relaxed),
            served_stale: self.0.served_stale.load(Ordering::Relaxed),
        }
    }

    /// The configuration of the cache.
    pub fn config(&self) -> &CacheConfig {
        &self.0.config
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The feed that invalidates this cache.
    pub(crate) fn invalidations(&self) -> &InvalidationFeed {
        &self.0.changes
    }

    /// The cached entry at this time of the clock of the cache.
    #[inline]
    pub(crate) fn get(&self, id: KeyId, now: Now) -> CacheLookup {
        let now = now.elapsed_nanos();
        let Some(entry) = self.0.entries.get(&id) else {
            return CacheLookup::Miss;
        };
        if now < entry.fresh_until {
            return CacheLookup::Hit(entry);
        }
        if now < entry.retry_at.load(Ordering::Relaxed) {
            self.0.count_stale();
            return CacheLookup::Hit(entry);
        }
        if entry.exists {
            return CacheLookup::Stale(entry);
        }
        CacheLookup::Miss
    }

    /// Looks a key up in the store, or joins a pending lookup. If the store failed before and a stale key may be
    /// served, returns it immediately and retries the store in the background.
    pub(crate) async fn lookup(&self, id: KeyId) -> LookupResult {
        let Ok(found) = self.lookup_charged(id, no_charge).await;
        found
    }

    /// Like [`lookup`](Self::lookup), with a charge before a store call. Joining a pending lookup is free.
    ///
    /// # Errors
    ///
    /// The error of `charge`.
    pub(crate) async fn lookup_charged<E>(
        &self,
        id: KeyId,
        charge: impl FnMut() -> Result<(), E>,
    ) -> Result<LookupResult, E> {
        if let Some((entry, retry)) = self.0.stale_entry(id) {
            if retry {
                let cache = self.clone();
                sync::spawn(async move { cache.0.lookup(id, no_charge).await });
            }
            self.0.count_stale();
            return Ok(Ok(Some(entry)));
        }
        let found = self.0.lookup(id, charge).await?;
        if let Ok(Some(entry)) = &found
            && entry.retry_at.load(Ordering::Relaxed) > 0
        {
            self.0.count_stale();
        }
        Ok(found)
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.0.flights.is_empty()
    }

    #[cfg(test)]
    pub(super) fn unknown(&self) -> usize {
        self.0.unknown_ids().len()
    }
}

/// The charge of lookups that are free.
fn no_charge() -> Result<(), Infallible> {
    Ok(())
}

fn entries(config: &CacheConfig) -> Entries {
    Cache::with(
        config
            .capacity
            .saturating_add(config.unknown_capacity)
            .max(1),
        config.capacity.max(1) as u64,
        KeyWeighter,
        RandomState::default(),
        MarkEvicted::default(),
    )
}

impl Inner {
    async fn lookup<E>(
        &self,
        id: KeyId,
        mut charge: impl FnMut() -> Result<(), E>,
    ) -> Result<LookupResult, E> {
        let deadline = Deadline::after(self.effective_timeout().min(MAX_TIMEOUT));
        for _ in 0..MAX_ATTEMPTS {
            let waiter = self.flights.join(id);
            let fetch = async || {
                charge()?;
                Ok(self.fetch(&waiter, deadline).await)
            };
            if let Some(found) = waiter.found(fetch).await? {
                return Ok(found);
            }
        }
        Ok(Err(StoreError::Busy))
    }

    async fn fetch(&self, waiter: &Waiter<'_>, deadline: Deadline) -> LookupResult {
        let (id, started) = (waiter.id(), self.clock.now());
        let result = self.load(id, started, deadline).await;
        let record = result.as_ref().ok().and_then(Option::as_ref);
        let owner = record.and_then(|record| record.key.owner.clone());
        let completed = waiter.complete(owner, || self.insert(id, result, started));
        // The result is discarded if the key or its owner changed meanwhile.
        completed.unwrap_or(Ok(None))
    }

    async fn load(
        &self,
        id: KeyId,
        started: Now,
        deadline: Deadline,
    ) -> Result<Option<KeyRecord>, StoreError> {
        let result = if self.entries.peek(&id).is_some_and(|entry| entry.exists) {
            self.source.retry(id, deadline).await
        } else {
            self.source.load(id, deadline).await
        };
        let ttl = self.config.ttl;
        // A result that is already past its TTL cannot be used.
        let late = !ttl.is_zero() && self.clock.now().since(started) > ttl;
        match result {
            Ok(_) if late => Err(StoreError::Busy),
            result => result,
        }
    }

    /// The lookup timeout, at most the TTL, for waiting and all attempts together.
    fn effective_timeout(&self) -> Duration {
        match self.config.lookup_timeout {
            timeout if self.config.ttl.is_zero() => timeout,
            timeout => timeout.min(self.config.ttl),
        }
    }

    /// Caches the result of a lookup and returns the entry to use.
    fn insert(
        &self,
        id: KeyId,
        result: Result<Option<KeyRecord>, StoreError>,
        started: Now,
    ) -> LookupResult {
        let until = |ttl| started.elapsed_nanos().saturating_add(nanos(ttl));
        match result {
            Ok(Some(KeyRecord {
                key,
                digest,
                policy,
                ..
            })) => {
                let entry = Arc::new(CachedKey {
                    exists: true,
                    key: Arc::new(key),
                    digest,
                    policy: Some(policy)
                        .filter(|policy| !policy.is_empty())
                        .map(Box::new),
                    limits: OnceLock::new(),
                    fresh_until: until(self.config.ttl),
                    retry_at: AtomicU64::new(0),
                    is_evicted: AtomicBool::new(false),
                });
                self.entries.insert(id, entry.clone());
                Ok(Some(entry))
            }
            Ok(None) => {
                self.insert_unknown(id, until(self.config.unknown_ttl));
                Ok(None)
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                let now = self.clock.now().elapsed_nanos();
                let held = self.entries.get(&id);
                match held.filter(|entry| entry.exists && now < self.stale_until(entry)) {
                    Some(entry) => {
                        let retry_at = self.retry_at(&entry, now, RETRY_INTERVAL);
                        entry.retry_at.store(retry_at, Ordering::Relaxed);
                        Ok(Some(entry))
                    }
                    None => Err(error),
                }
            }
        }
    }

    /// Caches an unknown id, evicting the oldest one if the capacity is reached.
    fn insert_unknown(&self, id: KeyId, until: u64) {
        let mut unknown = self.unknown_ids();
        while unknown.len() >= self.config.unknown_capacity.max(1) {
            if let Some(oldest) = unknown.pop_front() {
                self.entries.remove_if(&oldest, |entry| !entry.exists);
            }
        }
        unknown.push_back(id);
        let entry = CachedKey {
            exists: false,
            key: self.placeholder.clone(),
            digest: Digest::dummy(),
            policy: None,
            limits: OnceLock::new(),
            fresh_until: until,
            retry_at: AtomicU64::new(0),
            is_evicted: AtomicBool::new(false),
        };
        self.entries.insert(id, Arc::new(entry));
    }

    fn unknown_ids(&self) -> MutexGuard<'_, VecDeque<KeyId>> {
        self.unknown_ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A stale key that may be served because the store failed, and whether this request should trigger the retry.
    fn stale_entry(&self, id: KeyId) -> Option<(Arc<CachedKey>, bool)> {
        let entry = self.entries.get(&id)?;
        let now = self.clock.now().elapsed_nanos();
        let retry_at = entry.retry_at.load(Ordering::Relaxed);
        if retry_at == 0 || now >= self.stale_until(&entry) {
            return None;
        }
        let wait = self.effective_timeout().saturating_add(RETRY_INTERVAL);
        let next = self.retry_at(&entry, now, wait);
        let retry = now >= retry_at
            && entry
                .retry_at
                .compare_exchange(retry_at, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        Some((entry, retry))
    }

    /// Until when a key may be served while the store fails.
    fn stale_until(&self, entry: &CachedKey) -> u64 {
        let serve_stale = nanos(self.config.serve_stale);
        entry.fresh_until.saturating_add(serve_stale)
    }

    /// `now + wait`, at most until the key may be served.
    fn retry_at(&self, entry: &CachedKey, now: u64, wait: Duration) -> u64 {
        let retry_at = now.saturating_add(nanos(wait));
        retry_at.min(self.stale_until(entry))
    }

    fn count_stale(&self) {
        self.served_stale.fetch_add(1, Ordering::Relaxed);
    }
}

impl CachedKey {
    /// Whether the entry is within its TTL, or was within `grace` ago.
    pub(crate) fn is_fresh(&self, now: Now, grace: Duration) -> bool {
        now.elapsed_nanos() < self.fresh_until.saturating_add(nanos(grace))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Invalidate for Inner {
    fn remove(&self, id: KeyId) {
        self.flights.invalidate(id, || {
            if let Some((_, entry)) = self.entries.remove(&id) {
                entry.evict();
            }
        });
    }

    fn remove_owner(&self, owner: &str) {
        self.flights.invalidate_owner(owner, || {
            self.entries.retain(|_, entry| {
                let is_of_owner = entry.key.owner.as_deref() == Some(owner);
                if is_of_owner {
                    entry.evict();
                }
                !is_of_owner
            });
        });
    }

    fn clear(&self) {
        self.flights.invalidate_all(|| {
            self.entries.retain(|_, entry| {
                entry.evict();
                false
            });
            self.unknown_ids().clear();
        });
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

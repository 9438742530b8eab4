//! The cache and its look-ups.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use jiff::Timestamp;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use super::entry::{CachedKey, Found};
use super::loader::{Deadline, Loader, Source};
use super::single_flight::{SingleFlight, Waiter};
use super::{CacheConfig, CacheStats};
use crate::clock::{Clock, Now};
use crate::id::KeyId;
use crate::key::invalidation::{Invalidate, InvalidationFeed};
use crate::key::{Digest, Key, KeyRecord, StoreError};
use crate::sync;

/// What the cache knows without asking.
pub(crate) enum CacheLookup {
    /// What it knows: a key, or that there is none.
    Held(Arc<CachedKey>),
    /// The store has to be asked again about a key that was known.
    Stale(Arc<CachedKey>),
    /// The store has to be asked.
    Ask,
}

/// The cache itself: a handle, clones of which share one cache.
#[derive(Clone)]
pub struct KeyCache(Arc<Inner>);

type Entry = Arc<CachedKey>;

type Entries = Cache<KeyId, Entry, Room, RandomState, DefaultLifecycle<KeyId, Entry>>;

/// The room that entries take from each other: those without a key none, and so they are pushed out
/// by none. There are no more of them than `unknown` has.
#[derive(Clone)]
struct Room;

impl Weighter<KeyId, Entry> for Room {
    fn weight(&self, _: &KeyId, entry: &Entry) -> u64 {
        entry.exists.into()
    }
}

struct Inner {
    source: Loader,
    /// The store's own feed, or one for the changes that go through a cached store.
    changes: InvalidationFeed,
    config: CacheConfig,
    clock: Clock,
    entries: Entries,
    /// The ids among them that no key has, from the oldest, and some that have changed since.
    unknown: Mutex<VecDeque<KeyId>>,
    nobody: Arc<Key>,
    flights: SingleFlight,
    failures: AtomicU64,
    served_stale: AtomicU64,
}

/// How often a look-up is begun, anew when a change overtook it, before giving up.
const ATTEMPTS: usize = 8;
/// As long as any look-up may take, so that no time overflows.
const A_DAY: Duration = Duration::from_secs(86_400);
/// How long a store that failed is left alone.
const RETRY: Duration = Duration::from_secs(1);

impl KeyCache {
    pub(super) fn over(source: Arc<dyn Source>, config: CacheConfig, clock: Clock) -> Self {
        let changes = source.invalidations().cloned().unwrap_or_default();
        Self::listening(source, changes, config, clock)
    }

    /// Another cache over the same store, which hears of the same changes.
    pub(crate) fn fresh(&self, config: CacheConfig, clock: Clock) -> Self {
        let (source, changes) = (self.0.source.store().clone(), self.0.changes.clone());
        Self::listening(source, changes, config, clock)
    }

    fn listening(
        source: Arc<dyn Source>,
        changes: InvalidationFeed,
        config: CacheConfig,
        clock: Clock,
    ) -> Self {
        let inner = Arc::new(Inner {
            entries: entries(&config),
            unknown: Mutex::default(),
            nobody: Arc::new(Key::new(KeyId::from_number(0), "", Timestamp::UNIX_EPOCH)),
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

    /// Drops what is held about a key, look-ups under way included: here and in every cache that
    /// hears of the same changes.
    pub fn invalidate(&self, id: KeyId) {
        self.0.changes.publish(id);
    }

    /// Drops everything, look-ups under way included: here and in every cache that hears of the
    /// same changes.
    pub fn invalidate_all(&self) {
        self.0.changes.publish_all();
    }

    /// What the cache did so far.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            lookups: self.0.source.is_called(),
            failures: self.0.failures.load(Ordering::Relaxed),
            served_stale: self.0.served_stale.load(Ordering::Relaxed),
        }
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &CacheConfig {
        &self.0.config
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Where changes are announced that this cache hears of.
    pub(super) fn invalidations(&self) -> &InvalidationFeed {
        &self.0.changes
    }

    /// What is known without asking the store, at this time of the cache's clock.
    #[inline]
    pub(crate) fn get(&self, id: KeyId, now: Now) -> CacheLookup {
        let now = now.elapsed_nanos();
        let Some(entry) = self.0.entries.get(&id) else {
            return CacheLookup::Ask;
        };
        if now < entry.fresh_until {
            return CacheLookup::Held(entry);
        }
        if now < entry.retry_at.load(Ordering::Relaxed) {
            self.0.count_stale();
            return CacheLookup::Held(entry);
        }
        if entry.exists {
            return CacheLookup::Stale(entry);
        }
        CacheLookup::Ask
    }

    /// Asks the store, or waits with others for its answer. Nobody waits for a store that failed
    /// before as long as there is something to serve: it is asked behind the request.
    pub(crate) async fn lookup(&self, id: KeyId) -> Found {
        let Ok(found) = self.lookup_charged(id, is_failed_lookup).await;
        found
    }

    /// The same for one who has to pay before asking the store, and not for waiting with others.
    ///
    /// # Errors
    ///
    /// Those of paying.
    pub(crate) async fn lookup_charged<E>(
        &self,
        id: KeyId,
        pay: impl FnMut() -> Result<(), E>,
    ) -> Result<Found, E> {
        if let Some((entry, retry)) = self.0.known_in_outage(id) {
            if retry {
                let cache = self.clone();
                sync::spawn(async move { cache.0.lookup(id, is_failed_lookup).await });
            }
            self.0.count_stale();
            return Ok(Ok(Some(entry)));
        }
        let found = self.0.lookup(id, pay).await?;
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

/// What those pay who have nothing to pay.
fn is_failed_lookup() -> Result<(), Infallible> {
    Ok(())
}

fn entries(config: &CacheConfig) -> Entries {
    Cache::with(
        config
            .capacity
            .saturating_add(config.unknown_capacity)
            .max(1),
        config.capacity.max(1) as u64,
        Room,
        RandomState::default(),
        DefaultLifecycle::default(),
    )
}

impl Inner {
    async fn lookup<E>(
        &self,
        id: KeyId,
        mut pay: impl FnMut() -> Result<(), E>,
    ) -> Result<Found, E> {
        let deadline = Deadline::after(self.patience().min(A_DAY));
        for _ in 0..ATTEMPTS {
            let waiter = self.flights.join(id);
            let fetch = async || {
                pay()?;
                Ok(self.fetch(&waiter, deadline).await)
            };
            if let Some(found) = waiter.found(fetch).await? {
                return Ok(found);
            }
        }
        Ok(Err(StoreError::Busy))
    }

    async fn fetch(&self, waiter: &Waiter<'_>, deadline: Deadline) -> Found {
        let (id, began) = (waiter.id(), self.clock.now());
        let answer = self.load(id, began, deadline).await;
        let landed = waiter.complete(|| self.insert(id, answer, began));
        // Nobody uses what a change overtook.
        landed.unwrap_or(Ok(None))
    }

    async fn load(
        &self,
        id: KeyId,
        began: Now,
        deadline: Deadline,
    ) -> Result<Option<KeyRecord>, StoreError> {
        let answer = if self.entries.peek(&id).is_some_and(|entry| entry.exists) {
            self.source.retry(id, deadline).await
        } else {
            self.source.load(id, deadline).await
        };
        let ttl = self.config.ttl;
        // An answer that could not be used any more is none.
        let late = !ttl.is_zero() && self.clock.now().since(began) > ttl;
        match answer {
            Ok(_) if late => Err(StoreError::Busy),
            answer => answer,
        }
    }

    /// How long a look-up may take, its turn and all attempts included.
    fn patience(&self) -> Duration {
        match self.config.lookup_timeout {
            timeout if self.config.ttl.is_zero() => timeout,
            timeout => timeout.min(self.config.ttl),
        }
    }

    /// Keeps a look-up's answer, and tells what is to be made of it.
    fn insert(
        &self,
        id: KeyId,
        answer: Result<Option<KeyRecord>, StoreError>,
        began: Now,
    ) -> Found {
        let until = |ttl| began.elapsed_nanos().saturating_add(nanos(ttl));
        match answer {
            Ok(Some(KeyRecord { key, digest, .. })) => {
                let fresh_until = until(self.config.ttl);
                let entry = Arc::new(CachedKey {
                    exists: true,
                    key: Arc::new(key),
                    digest,
                    limits: OnceLock::new(),
                    fresh_until,
                    stale_until: fresh_until.saturating_add(nanos(self.config.serve_stale)),
                    retry_at: AtomicU64::new(0),
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
                match held.filter(|entry| entry.exists && now < entry.stale_until) {
                    Some(entry) => {
                        entry
                            .retry_at
                            .store(entry.after(now, RETRY), Ordering::Relaxed);
                        Ok(Some(entry))
                    }
                    None => Err(error),
                }
            }
        }
    }

    /// Remembers that no key has an id, in the place of the oldest such id where there are enough.
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
            key: self.nobody.clone(),
            digest: Digest::dummy(),
            limits: OnceLock::new(),
            fresh_until: until,
            stale_until: until,
            retry_at: AtomicU64::new(0),
        };
        self.entries.insert(id, Arc::new(entry));
    }

    fn unknown_ids(&self) -> MutexGuard<'_, VecDeque<KeyId>> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key that may be served because the store failed, and whether it is this request's turn to
    /// have the store asked again.
    fn known_in_outage(&self, id: KeyId) -> Option<(Arc<CachedKey>, bool)> {
        let entry = self.entries.get(&id)?;
        let now = self.clock.now().elapsed_nanos();
        let due = entry.retry_at.load(Ordering::Relaxed);
        if due == 0 || now >= entry.stale_until {
            return None;
        }
        let next = entry.after(now, self.patience().saturating_add(RETRY));
        let turn = now >= due
            && entry
                .retry_at
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        Some((entry, turn))
    }

    fn count_stale(&self) {
        self.served_stale.fetch_add(1, Ordering::Relaxed);
    }
}

impl CachedKey {
    /// Whether it may be used without asking the store, or could so long ago.
    pub(crate) fn is_fresh(&self, now: Now, grace: Duration) -> bool {
        now.elapsed_nanos() < self.fresh_until.saturating_add(nanos(grace))
    }

    /// So long after now, but within the time in which it may be used at all.
    fn after(&self, now: u64, wait: Duration) -> u64 {
        now.saturating_add(nanos(wait)).min(self.stale_until)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Invalidate for Inner {
    fn remove(&self, id: KeyId) {
        self.flights.invalidate(id, || {
            self.entries.remove(&id);
        });
    }

    fn clear(&self) {
        self.flights.invalidate_all(|| {
            self.entries.clear();
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

//! The cache and its look-ups.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use foldhash::fast::RandomState;
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use tokio::time::Instant;

use super::flight::{Flights, Waiter};
use super::source::Source;
use super::{CacheConfig, CacheStats};
use crate::clock::{Clock, Now};
use crate::id::KeyId;
use crate::key::changes::{ChangeFeed, Forget};
use crate::key::{Digest, Key, KeyRecord, KeyStore, StoreError};
use crate::sync;

/// A record as the cache holds it, and what a layer made of it.
#[derive(Debug)]
pub(crate) struct CachedKey {
    pub(crate) key: Arc<Key>,
    pub(crate) digest: Digest,
    /// What layers make of the key's limits, kept as long as the entry is.
    pub(crate) terms: OnceLock<Arc<dyn Any + Send + Sync>>,
    /// Nanoseconds of the clock until which it may be used without asking again.
    fresh_until: u64,
    /// Until when it may be used while the store fails.
    stale_until: u64,
    /// Until when it is used without asking again because the store failed; zero unless it did.
    retry_at: AtomicU64,
}

/// What the cache knows without asking.
pub(crate) enum Peek {
    Known(Arc<CachedKey>),
    Unknown,
    /// The store has to be asked again about a key that was known.
    Stale(Arc<CachedKey>),
    /// The store has to be asked.
    Ask,
}

pub(super) type Found = Result<Option<Arc<CachedKey>>, StoreError>;

/// The cache itself: a handle, clones of which share one cache.
#[derive(Clone)]
pub struct KeyCache(Arc<Inner>);

type Bounded<V> = Cache<KeyId, V, UnitWeighter, RandomState, DefaultLifecycle<KeyId, V>>;

struct Inner {
    source: Source,
    /// The store's own feed, or one for the changes that go through a cached store.
    changes: ChangeFeed,
    config: CacheConfig,
    clock: Clock,
    known: Bounded<Arc<CachedKey>>,
    unknown: Bounded<u64>,
    flights: Flights,
    lookups: AtomicU64,
    failures: AtomicU64,
    served_stale: AtomicU64,
}

/// How often a look-up that a change overtook is begun anew before giving up.
const ATTEMPTS: usize = 8;
/// As long as any look-up may take, so that no time overflows.
const A_DAY: Duration = Duration::from_secs(24 * 3_600);
/// How long a store that failed is left alone.
const RETRY: Duration = Duration::from_secs(1);

impl KeyCache {
    /// A cache in front of a store, which it listens to where the store announces changes.
    pub fn new(store: impl KeyStore, config: CacheConfig, clock: Clock) -> Self {
        Self::over(Arc::new(store), config, clock)
    }

    pub(super) fn over(source: Arc<dyn KeyStore>, config: CacheConfig, clock: Clock) -> Self {
        let changes = source.changes().cloned().unwrap_or_default();
        Self::listening(source, changes, config, clock)
    }

    /// Another cache over the same store, which hears of the same changes.
    pub(crate) fn anew(&self, config: CacheConfig, clock: Clock) -> Self {
        let (source, changes) = (self.0.source.store().clone(), self.0.changes.clone());
        Self::listening(source, changes, config, clock)
    }

    fn listening(
        source: Arc<dyn KeyStore>,
        changes: ChangeFeed,
        config: CacheConfig,
        clock: Clock,
    ) -> Self {
        let inner = Arc::new(Inner {
            known: bounded(config.capacity),
            unknown: bounded(config.unknown_capacity),
            source: Source::new(source, config.stranger_lookups),
            changes,
            config,
            clock,
            flights: Flights::default(),
            lookups: AtomicU64::new(0),
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
        self.0.changes.announce(id);
    }

    /// Drops everything, look-ups under way included: here and in every cache that hears of the
    /// same changes.
    pub fn invalidate_all(&self) {
        self.0.changes.announce_all();
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

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Where changes are announced that this cache hears of.
    pub(super) fn changes(&self) -> &ChangeFeed {
        &self.0.changes
    }

    /// What is known without asking the store, at this time of the cache's clock.
    #[inline]
    pub(crate) fn peek(&self, id: KeyId, now: Now) -> Peek {
        let now = now.elapsed_nanos();
        if let Some(entry) = self.0.known.get(&id) {
            if now < entry.fresh_until {
                return Peek::Known(entry);
            }
            if now < entry.retry_at.load(Ordering::Relaxed) {
                self.0.count_stale();
                return Peek::Known(entry);
            }
            return Peek::Stale(entry);
        }
        if let Some(until) = self.0.unknown.get(&id)
            && now < until
        {
            return Peek::Unknown;
        }
        Peek::Ask
    }

    /// Asks the store, or waits with others for its answer. Nobody waits for a store that failed
    /// before as long as there is something to serve: it is asked behind the request.
    pub(crate) async fn lookup(&self, id: KeyId) -> Found {
        if let Some((entry, retry)) = self.0.known_in_outage(id) {
            if retry {
                let cache = self.clone();
                sync::spawn(async move { cache.0.lookup(id).await });
            }
            self.0.count_stale();
            return Ok(Some(entry));
        }
        let found = self.0.lookup(id).await;
        if let Ok(Some(entry)) = &found
            && entry.retry_at.load(Ordering::Relaxed) > 0
        {
            self.0.count_stale();
        }
        found
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.0.flights.is_empty()
    }

    #[cfg(test)]
    pub(super) fn unknown(&self) -> usize {
        self.0.unknown.len()
    }
}

fn bounded<V: Clone>(capacity: usize) -> Bounded<V> {
    let capacity = capacity.max(1);
    Cache::with(
        capacity,
        capacity as u64,
        UnitWeighter,
        RandomState::default(),
        DefaultLifecycle::default(),
    )
}

impl Inner {
    async fn lookup(&self, id: KeyId) -> Found {
        let deadline = Instant::now() + self.patience().min(A_DAY);
        for _ in 0..ATTEMPTS {
            let waiter = self.flights.join(id);
            if let Some(found) = waiter.found(|| self.fetch(&waiter, deadline)).await {
                return found;
            }
        }
        Err(StoreError::unavailable(
            "the key kept changing while it was looked up",
        ))
    }

    async fn fetch(&self, waiter: &Waiter<'_>, deadline: Instant) -> Found {
        let (id, began) = (waiter.id(), self.clock.now());
        let answer = self.ask(id, began, deadline).await;
        let landed = waiter.land(|| self.keep(id, answer, began));
        // Nobody uses what a change overtook.
        landed.unwrap_or(Ok(None))
    }

    async fn ask(
        &self,
        id: KeyId,
        began: Now,
        deadline: Instant,
    ) -> Result<Option<KeyRecord>, StoreError> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        let answer = if self.known.contains_key(&id) {
            self.source.ask_again(id, deadline).await
        } else {
            self.source.ask(id, deadline).await
        };
        let ttl = self.config.ttl;
        if !ttl.is_zero() && self.clock.now().since(began) > ttl {
            return Err(StoreError::Timeout);
        }
        answer
    }

    /// How long a look-up may take, its turn and all attempts included.
    fn patience(&self) -> Duration {
        match self.config.lookup_timeout {
            timeout if self.config.ttl.is_zero() => timeout,
            timeout => timeout.min(self.config.ttl),
        }
    }

    /// Keeps a look-up's answer, and tells what is to be made of it.
    fn keep(&self, id: KeyId, answer: Result<Option<KeyRecord>, StoreError>, began: Now) -> Found {
        let until = |ttl| began.elapsed_nanos().saturating_add(nanos(ttl));
        match answer {
            Ok(Some(KeyRecord { key, digest, .. })) => {
                let fresh_until = until(self.config.ttl);
                let entry = Arc::new(CachedKey {
                    key: Arc::new(key),
                    digest,
                    terms: OnceLock::new(),
                    fresh_until,
                    stale_until: fresh_until.saturating_add(nanos(self.config.serve_stale)),
                    retry_at: AtomicU64::new(0),
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
                let now = self.clock.now().elapsed_nanos();
                match self.known.get(&id).filter(|entry| now < entry.stale_until) {
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

    /// A key that may be served because the store failed, and whether it is this request's turn to
    /// have the store asked again.
    fn known_in_outage(&self, id: KeyId) -> Option<(Arc<CachedKey>, bool)> {
        let entry = self.known.get(&id)?;
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
    /// So long after now, but within the time in which it may be used at all.
    fn after(&self, now: u64, wait: Duration) -> u64 {
        now.saturating_add(nanos(wait)).min(self.stale_until)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Forget for Inner {
    fn forget(&self, id: KeyId) {
        self.flights.overtake(id, || {
            self.known.remove(&id);
            self.unknown.remove(&id);
        });
    }

    fn forget_all(&self) {
        self.flights.overtake_all(|| {
            self.known.clear();
            self.unknown.clear();
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

//! Configuration and statistics of key caches.

use std::time::Duration;

/// Configuration of a key cache.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheConfig {
    /// The TTL of a cached key, counted from the start of its lookup. Bounds the time until a revocation takes
    /// effect. 30 seconds by default; zero looks the key up on every request.
    pub ttl: Duration,
    /// The maximum number of cached keys. 65,536 by default. A key and its digest take about 750 bytes, and some
    /// 250 more with a rate limit. Metadata adds its size in memory: 700 bytes for one field, and several times
    /// its length as JSON for many.
    pub capacity: usize,
    /// The TTL of unknown ids (negative cache). 5 seconds by default.
    pub unknown_ttl: Duration,
    /// The maximum number of cached unknown ids. 16,384 by default.
    pub unknown_capacity: usize,
    /// The timeout of a lookup, including the time that it waits for other lookups. 5 seconds by default, and at
    /// most `ttl` unless that is zero. If the store is not called within the first half of it, the request is
    /// rejected regardless of [`StoreFailure`](crate::StoreFailure).
    pub lookup_timeout: Duration,
    /// The maximum number of concurrent lookups of ids that are not cached; others wait. 64 by default. Requests
    /// with random ids thus cannot exhaust the store, and refreshing cached keys does not wait for them.
    pub uncached_lookups: usize,
    /// How long a cached key is served after its TTL while the store fails. Zero (never) by default. It is added
    /// to the time until a revocation in another process takes effect. The first request waits for the store to
    /// fail; after that, stale keys are served immediately and the store is retried in the background, at most
    /// once per second and key.
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
            uncached_lookups: 64,
            serve_stale: Duration::ZERO,
        }
    }
}

impl CacheConfig {
    /// The default configuration.
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

    /// Sets [`uncached_lookups`](Self::uncached_lookups).
    #[must_use]
    pub fn uncached_lookups(mut self, lookups: usize) -> Self {
        self.uncached_lookups = lookups;
        self
    }

    /// Sets [`serve_stale`](Self::serve_stale).
    #[must_use]
    pub fn serve_stale(mut self, max_age: Duration) -> Self {
        self.serve_stale = max_age;
        self
    }
}

/// Statistics of a key cache since its creation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Store calls.
    pub lookups: u64,
    /// Lookups that failed, timed out, or did not reach the store in time.
    pub failures: u64,
    /// Requests for which a stale key was served because the store failed.
    pub served_stale: u64,
}

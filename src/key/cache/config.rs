//! What can be set about a cache, and what it tells about itself.

use std::time::Duration;

/// How a cache keeps a store's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheConfig {
    /// How long a key may be used after the look-up that found it began: the bound on revocation.
    /// Zero asks the store on every request. Thirty seconds unless set.
    pub ttl: Duration,
    /// Keys held at most. 65,536 unless set. A key and its digest take about 800 bytes, and some
    /// 400 more with a rate limit; metadata adds what it takes in memory, which is 700 bytes for one
    /// field and several times its length as JSON for many.
    pub capacity: usize,
    /// How long an unknown id is remembered. Five seconds unless set.
    pub unknown_ttl: Duration,
    /// Unknown ids remembered at most. 16,384 unless set.
    pub unknown_capacity: usize,
    /// How long a look-up may take, waiting included. Five seconds unless set, and never more than the
    /// time to live. Where the store was not asked in the first half of it, the request is refused,
    /// whatever [`StoreFailure`](crate::StoreFailure) says.
    pub lookup_timeout: Duration,
    /// Look-ups of ids that the cache does not hold, under way at one time at most. 64 unless set.
    /// More wait for their turn; so what anybody makes up cannot use up the store, and keys that are
    /// held are looked up again without waiting for it.
    pub uncached_lookups: usize,
    /// For how long after its time to live a known key is still served while the store fails. Zero,
    /// which is never, unless set. It adds to the bound on revocation by other processes. One
    /// request waits to see the store fail; then it is asked again behind those that are served, at
    /// most once a second for each key.
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

    /// Sets [`uncached_lookups`](Self::uncached_lookups).
    #[must_use]
    pub fn uncached_lookups(mut self, at_once: usize) -> Self {
        self.uncached_lookups = at_once;
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
    /// How often the store was asked.
    pub lookups: u64,
    /// Look-ups that failed, came too late, or had no turn in time.
    pub failures: u64,
    /// Times a known key was served past its time to live because the store failed.
    pub served_stale: u64,
}

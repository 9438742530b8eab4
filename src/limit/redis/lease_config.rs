//! The configuration of leases.

use std::time::Duration;

/// Configures leases: each process charges capacity in Redis in advance, enough for a fifth of the
/// [time to live](Self::ttl) at its current rate, and decides requests within it without a call.
///
/// All processes together lease at most a [share](Self::share) of the burst of each limit, and at most what it restores in
/// the time to live. Leases loosen the bound of the limit by as much: in any interval, all processes together admit at
/// most the burst, plus the capacity restored in that interval, plus the leased units. Units of a process that is killed or becomes idle are lost, which makes
/// the limits stricter by as much until they expire. Limits that permit fewer than 4 leased units remain exact.
#[derive(Debug, Clone, Copy)]
#[must_use = "does nothing until passed to `RedisConfig::leases`"]
pub struct LeaseConfig {
    pub(super) share: f64,
    pub(super) ttl: Duration,
}

impl LeaseConfig {
    /// Leases of at most a tenth of each burst, for a second.
    pub fn new() -> Self {
        Self {
            share: 0.1,
            ttl: Duration::from_secs(1),
        }
    }

    /// The part of each burst that all processes together lease at most. 0.1 by default.
    ///
    /// # Panics
    ///
    /// If the share is not more than 0 and at most 1.
    pub fn share(mut self, share: f64) -> Self {
        assert!(
            share > 0.0 && share <= 1.0,
            "the share must be more than 0 and at most 1"
        );
        self.share = share;
        self
    }

    /// The time after which unused units expire. One second by default.
    ///
    /// # Panics
    ///
    /// If the time is not from 100 milliseconds to 10 seconds.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        assert!(
            (Duration::from_millis(100)..=Duration::from_secs(10)).contains(&ttl),
            "the time to live must be from 100 milliseconds to 10 seconds"
        );
        self.ttl = ttl;
        self
    }
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self::new()
    }
}

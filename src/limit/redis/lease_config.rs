//! The configuration of leases.

use std::time::Duration;

/// Leases: each process charges capacity in Redis in advance, as much as it uses in a fifth of the
/// [time to live](Self::ttl), and decides requests within it by itself, without waiting.
///
/// In any interval, all processes together admit at most the burst of a limit, what is restored in the interval, and the
/// units that were leased before it: at most the [share](Self::share) of the burst, and at most what is restored in the
/// time to live. A process that is killed or becomes idle leaves its units unused, which are at most as many. Limits for
/// which this is less than 4 requests remain exact.
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

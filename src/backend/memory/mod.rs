//! Everything in the process's memory: for tests, demonstrations and services that need no more.

mod keys;
mod usage;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::keys::Keys;
use self::usage::Usage;
use crate::key::ChangeFeed;

/// Keys and usage in memory: [`KeyAdmin`](crate::key::KeyAdmin),
/// [`UsageSink`](crate::usage::UsageSink) and [`UsageReader`](crate::usage::UsageReader).
///
/// Clones share what they keep. It is all gone with the process. The request log keeps the newest
/// requests up to a bound; sums are exact whatever the log has forgotten.
#[derive(Clone)]
pub struct MemoryBackend(Arc<Inner>);

struct Inner {
    keys: Mutex<Keys>,
    changes: ChangeFeed,
    usage: Mutex<Usage>,
}

/// How much a [`MemoryBackend`] keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// Requests in the log at most: 100,000 unless set. One takes some 300 bytes.
    pub log_capacity: usize,
    /// How long sums are kept by the minute; older ones are folded into hours, which loses nothing
    /// but the minute. Seven days unless set.
    pub minutes_kept: Duration,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            log_capacity: 100_000,
            minutes_kept: Duration::from_secs(7 * 24 * 3_600),
        }
    }
}

impl MemoryConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`log_capacity`](Self::log_capacity); zero keeps no log.
    #[must_use]
    pub fn log_capacity(mut self, requests: usize) -> Self {
        self.log_capacity = requests;
        self
    }

    /// Sets [`minutes_kept`](Self::minutes_kept).
    #[must_use]
    pub fn minutes_kept(mut self, time: Duration) -> Self {
        self.minutes_kept = time;
        self
    }
}

impl MemoryBackend {
    /// An empty backend with the defaults.
    pub fn new() -> Self {
        Self::with(MemoryConfig::default())
    }

    /// An empty backend.
    pub fn with(config: MemoryConfig) -> Self {
        Self(Arc::new(Inner {
            keys: Mutex::default(),
            changes: ChangeFeed::new(),
            usage: Mutex::new(Usage::new(config)),
        }))
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.0.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend")
            .field("keys", &self.keys().len())
            .finish_non_exhaustive()
    }
}

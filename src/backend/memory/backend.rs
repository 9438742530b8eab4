//! The memory backend.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::config::MemoryConfig;
use super::keys::Keys;
use super::usage::Usage;
use crate::clock::Clock;
use crate::key::InvalidationFeed;

/// Keys and usage in memory: [`KeyAdmin`](crate::key::KeyAdmin),
/// [`UsageSink`](crate::usage::UsageSink) and [`UsageReader`](crate::usage::UsageReader).
///
/// Clones share what they keep. It is all gone with the process. The request log keeps the newest
/// requests up to a bound, and the audit the newest changes of keys; sums are kept for
/// [longer](MemoryConfig::hours_kept), and are exact whatever the log has forgotten.
#[derive(Clone)]
pub struct MemoryBackend {
    pub(super) shared: Arc<Shared>,
    /// Who makes the changes that go through this handle, where that is known.
    pub(super) actor: Option<Arc<str>>,
}

pub(super) struct Shared {
    keys: Mutex<Keys>,
    pub(super) changes: InvalidationFeed,
    usage: Mutex<Usage>,
    pub(super) clock: Clock,
}

impl MemoryBackend {
    /// An empty backend with the defaults.
    pub fn new() -> Self {
        Self::with_config(MemoryConfig::default())
    }

    /// An empty backend.
    pub fn with_config(config: MemoryConfig) -> Self {
        Self::with_clock(config, Clock::system())
    }

    /// An empty backend that revokes keys, and says when they were changed, by this clock.
    pub fn with_clock(config: MemoryConfig, clock: Clock) -> Self {
        let shared = Arc::new(Shared {
            keys: Mutex::new(Keys::new(config.audit_capacity)),
            changes: InvalidationFeed::new(),
            usage: Mutex::new(Usage::new(config)),
            clock,
        });
        Self {
            shared,
            actor: None,
        }
    }

    pub(super) fn keys(&self) -> MutexGuard<'_, Keys> {
        self.shared
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn usage(&self) -> MutexGuard<'_, Usage> {
        self.shared
            .usage
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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

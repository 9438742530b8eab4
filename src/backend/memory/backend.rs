//! The in-memory backend.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::config::MemoryConfig;
use super::keys::Keys;
use super::usage::Usage;
use crate::clock::Clock;
use crate::key::InvalidationFeed;

/// Stores keys and usage in memory. Implements [`KeyAdmin`](crate::key::KeyAdmin),
/// [`OwnerAdmin`](crate::key::OwnerAdmin), [`AuditLog`](crate::key::AuditLog), [`UsageSink`](crate::usage::UsageSink) and
/// [`UsageReader`](crate::usage::UsageReader).
///
/// Clones share their data, which is lost when the process exits. The request log and the audit log keep the most
/// recent entries, up to a limit. Rollups are kept [longer](MemoryConfig::hours) and are exact regardless of
/// the request log.
#[derive(Clone)]
pub struct MemoryBackend {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    keys: Mutex<Keys>,
    pub(super) changes: InvalidationFeed,
    usage: Mutex<Usage>,
    pub(super) clock: Clock,
    /// The time of the last audit entry.
    pub(super) audited_at: Mutex<Timestamp>,
}

impl MemoryBackend {
    /// Creates an empty backend with the default configuration.
    pub fn new() -> Self {
        Self::with_config(MemoryConfig::default())
    }

    /// Creates an empty backend.
    pub fn with_config(config: MemoryConfig) -> Self {
        Self::with_clock(config, Clock::system())
    }

    /// Creates an empty backend that takes the time of revocations, audit entries and retention from this clock.
    pub fn with_clock(config: MemoryConfig, clock: Clock) -> Self {
        let shared = Arc::new(Shared {
            keys: Mutex::new(Keys::new(config.audit_capacity)),
            changes: InvalidationFeed::new(),
            usage: Mutex::new(Usage::new(config)),
            clock,
            audited_at: Mutex::new(Timestamp::MIN),
        });
        Self { shared }
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

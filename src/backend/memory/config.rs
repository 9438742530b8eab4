//! Bounds of a memory backend.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::usage::LogSampling;

/// How much a [`MemoryBackend`](super::MemoryBackend) keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// Requests in the log at most: 100,000 unless set. One takes some 300 bytes.
    pub log_capacity: usize,
    /// Which requests the log keeps: all unless set.
    pub log: LogSampling,
    /// How long sums are kept by the minute: seven days unless set. Older ones are folded into quarters
    /// of an hour, and no sum changes.
    pub minutes_kept: Duration,
    /// How long sums are kept by the quarter of an hour: 400 days unless set. Older ones are folded into
    /// hours of UTC, and days of zones such as `+05:45` turn approximate.
    pub quarters_kept: Duration,
    /// How long sums are kept at all: 400 days unless set.
    pub hours_kept: Duration,
    /// Entries in the audit of keys at most: 10,000 unless set. One holds a key twice, as it was before
    /// and after.
    pub audit_capacity: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            log_capacity: 100_000,
            log: LogSampling::All,
            minutes_kept: Duration::from_secs(7 * 24 * 3_600),
            quarters_kept: Duration::from_secs(400 * 24 * 3_600),
            hours_kept: Duration::from_secs(400 * 24 * 3_600),
            audit_capacity: 10_000,
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

    /// Sets [`log`](Self::log).
    #[must_use]
    pub fn log(mut self, keep: LogSampling) -> Self {
        self.log = keep;
        self
    }

    /// Sets [`minutes_kept`](Self::minutes_kept).
    #[must_use]
    pub fn minutes_kept(mut self, time: Duration) -> Self {
        self.minutes_kept = time;
        self
    }

    /// Sets [`quarters_kept`](Self::quarters_kept): as long as [`minutes_kept`](Self::minutes_kept) or
    /// shorter keeps none.
    #[must_use]
    pub fn quarters_kept(mut self, time: Duration) -> Self {
        self.quarters_kept = time;
        self
    }

    /// Sets [`hours_kept`](Self::hours_kept).
    #[must_use]
    pub fn hours_kept(mut self, time: Duration) -> Self {
        self.hours_kept = time;
        self
    }

    /// Sets [`audit_capacity`](Self::audit_capacity); zero keeps no audit, and then no
    /// [sealed secrets](crate::key::KeyAdmin::reveal) either.
    #[must_use]
    pub fn audit_capacity(mut self, entries: usize) -> Self {
        self.audit_capacity = entries;
        self
    }
}

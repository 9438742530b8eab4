//! Configuration of the in-memory backend.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::usage::LogSampling;

/// The capacity and retention of a [`MemoryBackend`](super::MemoryBackend).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// The maximum number of requests in the request log. 100,000 by default, at about 200 bytes each; 0 disables
    /// the log.
    pub log_capacity: usize,
    /// The sampling of the request log. All requests by default.
    pub log_sampling: LogSampling,
    /// How long rollups are kept by minute. Seven days by default. Older ones are merged into quarters of an hour;
    /// totals do not change.
    pub minutes: Duration,
    /// How long rollups are kept by quarter of an hour. 400 days by default. Older ones are merged into UTC hours,
    /// which makes days approximate in time zones such as `+05:45`.
    pub quarter_hours: Duration,
    /// How long rollups are kept. 400 days by default.
    pub hours: Duration,
    /// The maximum number of entries in the audit log. 10,000 by default; 0 disables the audit log. An entry holds
    /// the key before and after the change.
    pub audit_capacity: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            log_capacity: 100_000,
            log_sampling: LogSampling::All,
            minutes: Duration::from_secs(7 * 24 * 3_600),
            quarter_hours: Duration::from_secs(400 * 24 * 3_600),
            hours: Duration::from_secs(400 * 24 * 3_600),
            audit_capacity: 10_000,
        }
    }
}

impl MemoryConfig {
    /// Creates a configuration with the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`log_capacity`](Self::log_capacity). Zero disables the request log.
    #[must_use]
    pub fn log_capacity(mut self, requests: usize) -> Self {
        self.log_capacity = requests;
        self
    }

    /// Sets [`log_sampling`](Self::log_sampling).
    #[must_use]
    pub fn log_sampling(mut self, keep: LogSampling) -> Self {
        self.log_sampling = keep;
        self
    }

    /// Sets [`minutes`](Self::minutes).
    #[must_use]
    pub fn minutes(mut self, time: Duration) -> Self {
        self.minutes = time;
        self
    }

    /// Sets [`quarter_hours`](Self::quarter_hours). If it is not longer than [`minutes`](Self::minutes),
    /// minutes are merged into hours directly.
    #[must_use]
    pub fn quarter_hours(mut self, time: Duration) -> Self {
        self.quarter_hours = time;
        self
    }

    /// Sets [`hours`](Self::hours).
    #[must_use]
    pub fn hours(mut self, time: Duration) -> Self {
        self.hours = time;
        self
    }

    /// Sets [`audit_capacity`](Self::audit_capacity). Zero disables the audit log, and with it
    /// [encrypted secrets](crate::key::KeyAdmin::reveal).
    #[must_use]
    pub fn audit_capacity(mut self, entries: usize) -> Self {
        self.audit_capacity = entries;
        self
    }
}

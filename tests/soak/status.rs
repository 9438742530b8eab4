//! The reports of the process under test, and the settings that it shares with the tests.

use std::time::Duration;

use jiff::Timestamp;
use keytally::usage::{RecorderStats, ShutdownReport};
use serde::{Deserialize, Serialize};

/// The TTL of the caches.
pub(crate) const TTL: Duration = Duration::from_secs(2);
/// How long the `/stale` router serves expired cache entries during an outage.
pub(crate) const STALE: Duration = Duration::from_secs(20);

/// The status of the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ServerStatus {
    /// The wall clock of the layers.
    pub(crate) wall: Timestamp,
    pub(crate) resident_kib: u64,
    pub(crate) handles: usize,
    pub(crate) tasks: usize,
    pub(crate) stats: RecorderStats,
}

/// The final report.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FinalReport {
    pub(crate) report: ShutdownReport,
    pub(crate) stats: RecorderStats,
}

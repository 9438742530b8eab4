//! How far the merging of usage is behind.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Written usage that is not merged yet; see [`UsageReader::merge_backlog`](super::UsageReader::merge_backlog).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MergeBacklog {
    /// Records to merge, each with the rollups of a batch or more.
    pub records: u64,
    /// When the oldest of them was written, or was prepared for merging. This is less than two minutes ago as long as
    /// a process writes usage and merging keeps up.
    pub oldest_at: Option<Timestamp>,
    /// Records that cannot be merged: they are damaged, or from a later version of the crate. Summaries do not include
    /// their requests.
    pub unreadable: u64,
}

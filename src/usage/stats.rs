//! Counters of the recorder.

use std::sync::atomic::Ordering::Relaxed;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::outcome::RejectionReason;
use super::pending_event::EVENT_BYTES;
use crate::sync::atomic::{AtomicI64, AtomicU64};

/// Counters of a [`Recorder`](super::Recorder) since it was started.
///
/// `accepted == written + lost + spooled + queued`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RecorderStats {
    /// Events passed to the recorder.
    pub accepted: u64,
    /// Events written by the sink.
    pub written: u64,
    /// Events that were not and will not be written.
    pub lost: u64,
    /// Events in memory that are waiting to be written.
    pub queued: u64,
    /// The size of the queued events in bytes: 256 per event, plus the excess of long strings (see
    /// [`capacity_bytes`](super::RecorderBuilder::capacity_bytes)).
    pub queued_bytes: u64,
    /// Events in the spool that are waiting to be written. Not included in `queued`.
    pub spooled: u64,
    /// Events of earlier processes that were written from the spool. Not included in the other counters.
    pub recovered: u64,
    /// Events of earlier processes in the spool that were lost because they could not be read back or the sink
    /// rejected them. Not included in the other counters.
    pub unrecovered: u64,
    /// Requests that have begun and not ended, including long-lived streams.
    pub in_flight: u64,
    /// Failed writes that were retried.
    pub retries: u64,
    /// The time of the sink's last successful write; `None` if there was none.
    #[serde(default)]
    pub last_written_at: Option<Timestamp>,
    /// Rejections that are not recorded as events, by reason; only reasons that occurred. These are requests
    /// without a known key, and those of rejected keys beyond the [limits on such
    /// events](crate::ApiKeyLayer#events-of-rejected-keys).
    pub rejected: Vec<(RejectionReason, u64)>,
    /// Requests admitted without verifying their key, because the store failed and the layer is configured to
    /// admit them in that case.
    pub unverified: u64,
}

impl RecorderStats {
    /// The number of rejections for this reason that are not recorded as events.
    pub fn rejected_for(&self, reason: RejectionReason) -> u64 {
        self.rejected
            .iter()
            .find(|(counted, _)| *counted == reason)
            .map_or(0, |(_, count)| *count)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Events of rejected keys that are reserved or queued; included in `begun` and `queued`.
    pub(super) rejected: AtomicU64,
    /// Events lost before they entered the queue.
    pub(super) dropped: AtomicU64,
    /// Events written from memory.
    pub(super) written: AtomicU64,
    /// Events lost after they entered the queue.
    pub(super) failed: AtomicU64,
    /// Events moved from the queue to the spool.
    pub(super) spooled: AtomicU64,
    /// Events written from the spool.
    pub(super) drained: AtomicU64,
    /// Events lost from the spool.
    pub(super) spool_lost: AtomicU64,
    pub(super) recovered: AtomicU64,
    pub(super) unrecovered: AtomicU64,
    pub(super) retries: AtomicU64,
    /// The time of the last successful write, in microseconds since the Unix epoch; 0 if there was none.
    pub(super) last_written: AtomicI64,
    pub(super) unverified: AtomicU64,
}

/// Counts of requests and events that entered the recorder.
pub(super) struct Entered {
    /// Requests that have begun.
    pub(super) begun: u64,
    /// Events that entered the queue.
    pub(super) accepted: u64,
    /// Bytes of events in memory beyond [`EVENT_BYTES`] each.
    pub(super) extra_bytes: u64,
}

impl Counters {
    /// Events that left the queue: written, lost or spooled.
    pub(super) fn settled(&self) -> u64 {
        let settled = self.written.load(Relaxed) + self.failed.load(Relaxed);
        settled + self.spooled.load(Relaxed)
    }

    pub(super) fn snapshot(&self, entered: impl FnOnce() -> Entered) -> RecorderStats {
        // Read the counters in the reverse order of an event's life, so that no total is less than its parts.
        let drained = self.drained.load(Relaxed);
        let spoiled = self.spool_lost.load(Relaxed);
        let spooled = self.spooled.load(Relaxed).max(drained + spoiled);
        let written = self.written.load(Relaxed);
        let failed = self.failed.load(Relaxed);
        let dropped = self.dropped.load(Relaxed);
        let settled = spooled + written + failed;
        let entered = entered();
        let queued = entered.accepted.max(settled);
        let accepted = queued + dropped;
        let waiting = queued - settled;
        RecorderStats {
            accepted,
            written: written + drained,
            lost: failed + spoiled + dropped,
            queued: waiting,
            queued_bytes: waiting.saturating_mul(EVENT_BYTES) + entered.extra_bytes,
            spooled: spooled - drained - spoiled,
            recovered: self.recovered.load(Relaxed),
            unrecovered: self.unrecovered.load(Relaxed),
            in_flight: entered.begun.saturating_sub(accepted),
            retries: self.retries.load(Relaxed),
            last_written_at: Some(self.last_written.load(Relaxed))
                .filter(|micros| *micros != 0)
                .and_then(|micros| Timestamp::from_microsecond(micros).ok()),
            rejected: Vec::new(),
            unverified: self.unverified.load(Relaxed),
        }
    }
}

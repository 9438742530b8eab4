//! Counters of the recorder: what came in, what was written, what was lost and why.

use std::sync::atomic::Ordering::Relaxed;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::outcome::RejectionReason;
use super::pending_event::EVENT_BYTES;
use crate::sync::atomic::{AtomicI64, AtomicU64};

/// What a recorder has seen since it was made.
///
/// Once nothing is queued, `accepted == written + lost + spooled`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RecorderStats {
    /// Events handed to the recorder.
    pub accepted: u64,
    /// Events that the sink has written.
    pub written: u64,
    /// Events that were not written and never will be.
    pub lost: u64,
    /// Events that wait to be written.
    pub queued: u64,
    /// Bytes that they take: 256 an event, and what longer texts take beyond that.
    pub queued_bytes: u64,
    /// Events that are in the spool, where there is one, and will be written from there. They are
    /// queued no more.
    pub spooled: u64,
    /// Events of earlier processes that were in the spool and are written now. They were accepted
    /// elsewhere, and count nowhere else here.
    pub recovered: u64,
    /// Events of earlier processes that were in the spool and are lost: they could not be read back,
    /// or the sink rejected them.
    pub unrecovered: u64,
    /// Requests under way, streams that live for hours included.
    pub open: u64,
    /// Writes that failed and were tried again.
    pub retries: u64,
    /// When the sink last wrote something; `None` if it has not yet.
    #[serde(default)]
    pub last_written: Option<Timestamp>,
    /// Refusals that are not recorded as events, by reason that occurred: those without a known key, and those of
    /// rejected keys beyond [what is recorded of them](crate::ApiKeyLayer#events-of-rejected-keys).
    pub refused: Vec<(RejectionReason, u64)>,
    /// Requests that passed without their key being verified, because the store failed and the
    /// layer was told to let them pass.
    pub unverified: u64,
}

impl RecorderStats {
    /// Refusals for this reason that are not recorded as events.
    pub fn refused_for(&self, reason: RejectionReason) -> u64 {
        self.refused
            .iter()
            .find(|(known, _)| *known == reason)
            .map_or(0, |(_, count)| *count)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) begun: Padded,
    pub(super) queued: Queued,
    /// Events of rejected keys that are begun or wait to be written, among all others.
    pub(super) rejected: AtomicU64,
    /// Events that never entered the queue.
    pub(super) dropped: AtomicU64,
    /// Events that left the queue for the sink.
    pub(super) written: AtomicU64,
    /// Events that left the queue for nowhere.
    pub(super) failed: AtomicU64,
    /// Events that left the queue for the spool.
    pub(super) spooled: AtomicU64,
    /// Events that left the spool for the sink.
    pub(super) drained: AtomicU64,
    /// Events that left the spool for nowhere.
    pub(super) spoiled: AtomicU64,
    pub(super) recovered: AtomicU64,
    pub(super) unrecovered: AtomicU64,
    pub(super) retries: AtomicU64,
    /// When the sink last wrote something, in microseconds since 1970; 0 if it has not yet.
    pub(super) last_written: AtomicI64,
    pub(super) unverified: AtomicU64,
    pub(super) refused: [AtomicU64; RejectionReason::ALL.len()],
}

/// A counter on a cache line of its own, since every request on every core writes it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Padded(pub(super) AtomicU64);

/// What entered the queue, on a cache line of its own too.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Queued {
    /// Events that entered it.
    pub(super) events: AtomicU64,
    /// Bytes that the waiting ones take beyond [`EVENT_BYTES`] each. Few events have any, so that
    /// most write nothing here.
    pub(super) extra_bytes: AtomicU64,
}

impl Counters {
    /// Events that left the queue, one way or the other.
    pub(super) fn settled(&self) -> u64 {
        let settled = self.written.load(Relaxed) + self.failed.load(Relaxed);
        settled + self.spooled.load(Relaxed)
    }

    /// What so many waiting events take.
    pub(super) fn bytes_of(&self, events: u64) -> u64 {
        let extra = self.queued.extra_bytes.load(Relaxed);
        events.saturating_mul(EVENT_BYTES).saturating_add(extra)
    }

    pub(super) fn snapshot(&self) -> RecorderStats {
        // What an event does last is read first, so that no sum is smaller than its parts.
        let drained = self.drained.load(Relaxed);
        let spoiled = self.spoiled.load(Relaxed);
        let spooled = self.spooled.load(Relaxed).max(drained + spoiled);
        let written = self.written.load(Relaxed);
        let failed = self.failed.load(Relaxed);
        let dropped = self.dropped.load(Relaxed);
        let settled = spooled + written + failed;
        let queued = self.queued.events.load(Relaxed).max(settled);
        let accepted = queued + dropped;
        let waiting = queued - settled;
        let refused = RejectionReason::ALL.into_iter().map(|reason| {
            let count = self.refused[reason as usize].load(Relaxed);
            (reason, count)
        });
        RecorderStats {
            accepted,
            written: written + drained,
            lost: failed + spoiled + dropped,
            queued: waiting,
            queued_bytes: self.bytes_of(waiting),
            spooled: spooled - drained - spoiled,
            recovered: self.recovered.load(Relaxed),
            unrecovered: self.unrecovered.load(Relaxed),
            open: self.begun.0.load(Relaxed).saturating_sub(accepted),
            retries: self.retries.load(Relaxed),
            last_written: Some(self.last_written.load(Relaxed))
                .filter(|micros| *micros != 0)
                .and_then(|micros| Timestamp::from_microsecond(micros).ok()),
            refused: refused.filter(|(_, count)| *count > 0).collect(),
            unverified: self.unverified.load(Relaxed),
        }
    }
}

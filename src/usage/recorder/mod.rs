//! Moves events off the request path and writes them in batches.
//!
//! A request adds its event to the lane of its thread, in a bounded queue, without blocking. A single task drains the
//! lanes into batches, by size or by age, and retries each batch under one id until it is written, the sink rejects it, or
//! the shutdown timeout elapses. Events are counted when they enter and when they leave, so that in the end
//! `accepted = written + lost + spooled`.
//!
//! # With a spool
//!
//! 1. Write order: the batch in flight, then the spool from oldest to newest, then the queue.
//! 2. If the first attempt to write a batch fails, it goes to the spool, as do all later batches, filled by size
//!    or by age as usual. If a write is merely slow, spooling starts when half of the capacity is used. The batch
//!    in flight is spooled first and keeps being retried.
//! 3. A batch leaves the spool when the sink has written or rejected it. Its id keeps a retry from counting it
//!    twice. A batch that cannot be removed, as on a full disk, does not block the ones behind it.
//! 4. A failing spool is skipped until a backoff has elapsed. If it cannot be read, or rejects writes while memory
//!    fills up, batches in memory are written before those in the spool. A batch that was stored although its push
//!    reported an error is recognized by its id when it is read back.
//! 5. Shutdown reserves a quarter of its timeout for spooling.

mod builder;
mod lanes;
mod pipeline;
mod queue;
mod select;
mod spooling;
mod writer;

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::builder::{RecorderBuilder, WhenFull};
use self::queue::Inner;
use self::writer::Writer;
use super::in_flight::InFlight;
use super::outcome::RejectionReason;
use super::pending_event::PendingEvent;
use super::rejections::Rejections;
use super::sink::UsageSink;
use super::stats::RecorderStats;
use crate::clock::Now;
use crate::id::KeyId;
use crate::sync;

/// Writes events to a [`UsageSink`] in the background. Clones are handles to the same recorder.
///
/// Call [`shutdown`](Self::shutdown) before the process exits. If the last handle is dropped without it, the
/// queued events are still written while the runtime is alive, but the result is not reported.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Handle>);

/// Closes the recorder when the last handle is dropped.
#[derive(Debug)]
struct Handle(Arc<Inner>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl RecorderBuilder {
    /// Starts the recorder's task on the current Tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics if called outside a Tokio runtime.
    pub fn start(self) -> Recorder {
        let inner = Arc::new(Inner::new(&self));
        let task = sync::spawn(Writer::new(inner.clone(), self).run());
        if let Some(queue) = &inner.queue {
            queue.started(task.abort_handle());
        }
        Recorder(Arc::new(Handle(inner)))
    }
}

/// The result of [`Recorder::shutdown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "log the number of lost events"]
pub struct ShutdownReport {
    /// The number of events written by the sink since the recorder was started.
    pub written: u64,
    /// The number of all other requests since the recorder was started: lost events, events recorded after
    /// shutdown, and open requests that could not be ended. A batch whose write was interrupted by the timeout
    /// counts as lost unless it is in the spool, although the sink may have written it.
    pub lost: u64,
    /// The number of events left in the spool for the next process. 0 without a spool.
    pub spooled: u64,
}

/// How long to wait for an aborted task to stop.
const GRACE: Duration = Duration::from_secs(1);

impl Recorder {
    /// Starts a recorder with default settings on the current Tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics if called outside a Tokio runtime.
    pub fn new(sink: impl UsageSink) -> Self {
        Self::builder(sink).start()
    }

    /// Returns a builder to configure a recorder.
    pub fn builder(sink: impl UsageSink) -> RecorderBuilder {
        RecorderBuilder::new(Arc::new(sink))
    }

    /// Creates a recorder without a sink, which only maintains the counters in [`stats`](Self::stats). Events
    /// count as written until it is shut down.
    pub fn counting() -> Self {
        let inner = Inner::counting();
        Self(Arc::new(Handle(Arc::new(inner))))
    }

    /// Returns the current counters.
    pub fn stats(&self) -> RecorderStats {
        self.0.0.snapshot()
    }

    /// Returns the rejections in a range of time that are not recorded as events: those of requests without a known key,
    /// and those of rejected keys beyond the [limits on such events](crate::ApiKeyLayer#events-of-rejected-keys).
    ///
    /// They are counted in this process since the recorder was started. A bucket counts where it starts.
    pub fn rejections(&self, range: Range<Timestamp>) -> Rejections {
        self.0.0.rejections.within(&range)
    }

    /// Waits until all events recorded before this call are written, spooled or lost.
    ///
    /// Does not wait if the recorder's runtime has been dropped: its events are lost.
    pub async fn flush(&self) {
        let Some(queue) = &self.0.0.queue else { return };
        let counters = &self.0.0.counters;
        let target = self.0.0.lanes.gather();
        queue.flush_to.fetch_max(target, SeqCst);
        queue.wake.notify_one();
        queue.until(|| counters.settled() >= target).await;
    }

    /// Shuts the recorder down: records open requests as cancelled, writes queued and spooled events within the
    /// timeout, and reports the result. Events recorded later are lost.
    ///
    /// With a spool, a quarter of the timeout is reserved to spool the events that could not be written.
    ///
    /// Stop the server first, so that its last requests are recorded with their actual outcome. Further and
    /// concurrent calls are allowed: each returns when all events are settled, and the shortest timeout applies.
    ///
    /// Returns at most one second after the timeout. If the recorder's runtime exists but is not being driven,
    /// events that are not yet written are reported as lost.
    pub async fn shutdown(&self, timeout: Duration) -> ShutdownReport {
        let inner = &self.0.0;
        inner.in_flight.abandon_all();
        inner.close();
        if let Some(queue) = &inner.queue {
            let to_spool = if queue.has_spool {
                timeout / 4
            } else {
                Duration::ZERO
            };
            let late = async |time| tokio::time::timeout(time, queue.ended()).await.is_err();
            if late(timeout - to_spool).await {
                queue.hurry();
                if !queue.has_spool || late(to_spool).await {
                    queue.abort();
                    // Wait for it to stop, since it may be about to count a batch as written. This is quick
                    // unless its runtime is not being driven.
                    late(GRACE).await;
                }
            }
        }
        let stats = inner.snapshot();
        ShutdownReport {
            written: stats.written,
            // Requests that are still open will end too late.
            lost: stats.lost + stats.queued + stats.in_flight,
            spooled: stats.spooled,
        }
    }

    /// Counts a request as begun. Returns `false` if the request must be rejected: the recorder is full or closed
    /// and uses [`WhenFull::Reject`].
    #[inline]
    pub(crate) fn reserve(&self) -> bool {
        let inner = &*self.0.0;
        if inner.reserves() && inner.lanes.reserve().is_err() {
            return false;
        }
        inner.lanes.begin();
        true
    }

    /// Counts a request of a rejected key as begun. Returns `false` if the extra capacity for such events is used
    /// up.
    pub(crate) fn reserve_rejected(&self) -> bool {
        let inner = &*self.0.0;
        let reserved = inner.reserve_rejected();
        if reserved {
            inner.lanes.begin();
        }
        reserved
    }

    /// Undoes [`reserve_rejected`](Self::reserve_rejected) for a request that is not accounted for here.
    pub(crate) fn release_rejected(&self) {
        self.0.0.release_rejected();
        self.0.0.lanes.undo_begin();
    }

    /// Counts the event of a rejected key's request that began as lost.
    pub(crate) fn count_lost_rejected(&self) {
        self.0.0.release_rejected();
        self.0.0.drop_one();
    }

    /// Undoes [`reserve`](Self::reserve) for a request that is not accounted for here.
    pub(crate) fn release(&self) {
        let inner = &*self.0.0;
        if inner.reserves() {
            inner.lanes.release();
        }
        inner.lanes.undo_begin();
    }

    /// Counts the event of a request that began as lost.
    pub(crate) fn count_lost(&self) {
        let inner = &*self.0.0;
        if inner.reserves() {
            inner.lanes.release();
        }
        inner.drop_one();
    }

    /// An id that distinguishes live recorders.
    pub(crate) fn id(&self) -> usize {
        Arc::as_ptr(&self.0.0).addr()
    }

    /// Records the event of a request that has ended. Takes what can be moved out of it.
    #[inline]
    pub(crate) fn record(&self, event: &mut PendingEvent) {
        self.0.0.record(event);
    }

    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.0.0.in_flight
    }

    /// Counts a rejection without an event. `sender` returns the client IP, and the key id in the credential; it is
    /// called only if the recorder keeps them.
    pub(crate) fn count_rejection(
        &self,
        reason: RejectionReason,
        now: Now,
        sender: impl FnOnce() -> (Option<IpAddr>, Option<KeyId>),
    ) {
        self.0.0.rejections.count(reason, now, sender);
    }

    pub(crate) fn count_unverified(&self) {
        self.0.0.counters.unverified.fetch_add(1, Relaxed);
    }
}

#[cfg(all(test, any(keytally_loom, keytally_shuttle)))]
mod models;
#[cfg(test)]
pub(super) mod tests;

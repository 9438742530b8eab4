//! Takes events off the request path and writes them in batches.
//!
//! A request pushes its event into a bounded queue without waiting for anyone. One task empties the
//! queue into batches, by size or by age, and tries each batch under one id until it is written, the
//! sink says never, or shutdown's time is up. Every event is counted on its way in and on its way
//! out, so that `accepted = written + lost + spooled` at the end.
//!
//! # With a spool
//!
//! 1. The line is: the batch in flight, the spool's from the oldest on, then the queue.
//! 2. A batch whose first try fails goes to the spool, and so does all that comes after it, by size or by
//!    age as usual. While a write is slow rather than failing, that begins when half of the capacity is
//!    used. What is in flight goes before what came later, and is tried all the while.
//! 3. A batch leaves the spool when the sink has it or rejects it. In between its id makes it count once.
//!    What cannot be removed, as on a full disk, does not keep back what is behind it.
//! 4. A spool that fails is left alone for a while, as if there were none. When it cannot be read, or
//!    takes no more while memory fills up, what is in memory is written past it. What it has taken
//!    although it seemed to fail is recognized by its id when it comes out.
//! 5. Shutdown keeps a quarter of its time to spool what is left.

mod builder;
mod pipeline;
mod queue;
mod select;
mod spooling;
mod writer;

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::builder::{RecorderBuilder, WhenFull};
use self::queue::{Inner, Queue};
use self::writer::Writer;
use super::in_flight::InFlight;
use super::outcome::RejectionReason;
use super::pending_event::PendingEvent;
use super::sink::UsageSink;
use super::stats::RecorderStats;
use crate::sync;

/// Hands events to a [`UsageSink`] in the background. A clone is a handle to the same recorder.
///
/// Call [`shutdown`](Self::shutdown) before the process ends. When the last handle is dropped
/// without it, what is queued is still written as long as the runtime lives, but nobody learns
/// whether it was.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Handle>);

/// Ends the task when the last handle is gone.
#[derive(Debug)]
struct Handle(Arc<Inner>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl RecorderBuilder {
    /// Starts the recorder's task on the current tokio runtime.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(self) -> Recorder {
        let queue = Queue::new(&self);
        let inner = Arc::new(Inner::new(Some(queue), self.when_full));
        let task = sync::spawn(Writer::new(inner.clone(), self).run());
        if let Some(queue) = &inner.queue {
            queue.started(task.abort_handle());
        }
        Recorder(Arc::new(Handle(inner)))
    }
}

/// What became of all events when a recorder was shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "lost events are worth a line in the log"]
pub struct ShutdownReport {
    /// Events that the sink has written since the recorder was made.
    pub written: u64,
    /// All other requests that began since the recorder was made: events that were lost, those that
    /// came too late, and requests that were under way still and could not be ended. A batch whose
    /// write was cut off by the timeout counts as lost, although the sink may have it, unless the spool
    /// has it.
    pub lost: u64,
    /// Events that are left in the spool, where there is one, for the next process to write.
    pub spooled: u64,
}

/// How long a task that was aborted may take to stop.
const GRACE: Duration = Duration::from_secs(1);

impl Recorder {
    /// A recorder with the defaults; its task runs on the current tokio runtime.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn new(sink: impl UsageSink) -> Self {
        Self::builder(sink).start()
    }

    /// Configures a recorder.
    pub fn builder(sink: impl UsageSink) -> RecorderBuilder {
        RecorderBuilder::new(Arc::new(sink))
    }

    /// A recorder that keeps nothing but the counters of [`stats`](Self::stats); events count as
    /// written until it is shut down.
    pub fn counting() -> Self {
        let inner = Inner::new(None, WhenFull::Drop);
        Self(Arc::new(Handle(Arc::new(inner))))
    }

    /// What came in, what was written, what was lost, what is open: now.
    pub fn stats(&self) -> RecorderStats {
        self.0.0.counters.snapshot()
    }

    /// Waits until everything that was recorded before is written, lost, as all is when the task's
    /// runtime is gone, or safe in the spool, where there is one.
    pub async fn flush(&self) {
        let Some(queue) = &self.0.0.queue else { return };
        let counters = &self.0.0.counters;
        let target = counters.queued.events.load(SeqCst);
        queue.flush_to.fetch_max(target, SeqCst);
        queue.wake.notify_one();
        queue.until(|| counters.settled() >= target).await;
    }

    /// Records requests that are still open as cancelled, writes what is queued and spooled within the
    /// timeout, and tells what became of everything. Where there is a spool, a quarter of the timeout
    /// is kept to put there what could not be written. What is recorded afterwards counts as lost.
    ///
    /// Stop the server first: its last requests are then recorded as they ended. It may be called again,
    /// at the same time too: each call answers when all is settled, and the shortest timeout counts.
    ///
    /// It answers within the timeout and a second: when the recorder's runtime exists but is not
    /// driven, nothing settles, and what is not written counts as lost in the report.
    pub async fn shutdown(&self, timeout: Duration) -> ShutdownReport {
        let inner = &self.0.0;
        inner.open.abandon_all();
        inner.close();
        if let Some(queue) = &inner.queue {
            let to_spool = if queue.spools {
                timeout / 4
            } else {
                Duration::ZERO
            };
            let late = async |time| tokio::time::timeout(time, queue.ended()).await.is_err();
            if late(timeout - to_spool).await {
                queue.hurry();
                if !queue.spools || late(to_spool).await {
                    queue.abort();
                    // Not before it has stopped: it may be about to count a batch as written. That is a
                    // matter of moments, unless nobody drives its runtime.
                    late(GRACE).await;
                }
            }
        }
        let stats = inner.counters.snapshot();
        ShutdownReport {
            written: stats.written,
            // Whatever is under way still comes too late.
            lost: stats.lost + stats.queued + stats.open,
            spooled: stats.spooled,
        }
    }

    /// A request begins; `false` if the recorder has no room for its event, or takes in no more, and
    /// refuses.
    #[inline]
    pub(crate) fn reserve(&self) -> bool {
        let inner = &*self.0.0;
        let begun = inner.counters.begun.0.fetch_add(1, Relaxed);
        if inner.when_full == WhenFull::Refuse
            && let Some(queue) = &inner.queue
            && !inner.has_room(queue, begun)
        {
            inner.counters.begun.0.fetch_sub(1, Relaxed);
            return false;
        }
        true
    }

    /// A request of a rejected key begins; `false` if no place is left for its event outside of the capacity.
    pub(crate) fn reserve_rejected(&self) -> bool {
        let inner = &*self.0.0;
        let reserved = inner.reserve_rejected();
        if reserved {
            inner.counters.begun.0.fetch_add(1, Relaxed);
        }
        reserved
    }

    /// A request of a rejected key has no event after all.
    pub(crate) fn release_rejected(&self) {
        self.0.0.release_rejected();
    }

    /// A request that began turned out not to be accounted for here.
    pub(crate) fn release(&self) {
        self.0.0.counters.begun.0.fetch_sub(1, Relaxed);
    }

    /// A request that began cannot be told of.
    pub(crate) fn lose(&self) {
        self.0.0.drop_one();
    }

    /// Tells one recorder from another.
    pub(crate) fn id(&self) -> usize {
        Arc::as_ptr(&self.0.0).addr()
    }

    /// A request that began has ended.
    #[inline]
    pub(crate) fn record(&self, draft: PendingEvent) {
        self.0.0.record(draft);
    }

    pub(crate) fn open(&self) -> &InFlight {
        &self.0.0.open
    }

    pub(crate) fn count_refusal(&self, reason: RejectionReason) {
        self.0.0.counters.refused[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_unverified(&self) {
        self.0.0.counters.unverified.fetch_add(1, Relaxed);
    }
}

#[cfg(all(test, any(keytally_loom, keytally_shuttle)))]
mod models;
#[cfg(test)]
pub(super) mod tests;

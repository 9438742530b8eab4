//! The state shared by the handles of a recorder and its task: counters, the queued events and wake-ups.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use tokio::time::Instant;

use super::builder::{RecorderBuilder, WhenFull};
use super::lanes::{Accepted, Lanes, NoRoom};
use crate::log_throttle::LogThrottle;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, fence};
use crate::sync::{AbortHandle, Notify};
use crate::telemetry;
use crate::usage::in_flight::InFlight;
use crate::usage::pending_event::{EVENT_BYTES, PendingEvent};
use crate::usage::rejections::RejectionCounters;
use crate::usage::stats::{Counters, Entered, RecorderStats};

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) counters: Counters,
    pub(super) rejections: RejectionCounters,
    pub(super) in_flight: InFlight,
    pub(super) lanes: Lanes,
    /// `None` for a recorder without a sink.
    pub(super) queue: Option<Queue>,
    when_full: WhenFull,
    pub(super) closed: AtomicBool,
    drops: LogThrottle,
}

/// The state to wake the task that writes the events.
#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    capacity_bytes: u64,
    /// The number of events at which a batch is written.
    pub(super) batch_size: usize,
    /// The maximum number of events in a batch.
    pub(super) largest_batch: usize,
    /// Whether there is a spool.
    pub(super) has_spool: bool,
    /// What the task is waiting for ([`BUSY`], [`EMPTY`], [`FILLING`] or [`HALF`]), or that it has ended
    /// ([`SETTLED`]).
    waiting: AtomicU8,
    pub(super) wake: Notify,
    /// The number of events to be settled, as of the last call of `flush`.
    pub(super) flush_to: AtomicU64,
    /// The shutdown timeout only allows spooling the remaining events.
    pub(super) drain_now: AtomicBool,
    pub(super) settled: Notify,
    /// Events taken out of the lanes but still in memory.
    pub(super) in_flight: AtomicU64,
    task: OnceLock<AbortHandle>,
}

/// The maximum number of queued events of rejected keys, for any capacity. The memory for their strings is bounded
/// by this number alone.
const MAX_REJECTED: u64 = 256;

/// Not waiting for events.
pub(super) const BUSY: u8 = 0;
/// Waiting for the first event.
pub(super) const EMPTY: u8 = 1;
/// Waiting for a full batch.
pub(super) const FILLING: u8 = 2;
/// Waiting until half of the capacity is used.
pub(super) const HALF: u8 = 3;
/// The task has ended and the remaining events are counted as lost.
const SETTLED: u8 = 4;

impl Inner {
    pub(super) fn new(builder: &RecorderBuilder) -> Self {
        let lanes = Lanes::new(builder.capacity, builder.capacity_bytes, builder.batch_size);
        let queue = Queue::new(builder, &lanes);
        Self::with(
            lanes,
            Some(queue),
            builder.when_full,
            builder.rejected_senders,
        )
    }

    /// The state of a recorder without a sink.
    pub(super) fn counting() -> Self {
        Self::with(Lanes::new(0, 0, 0), None, WhenFull::Drop, 0)
    }

    fn with(
        lanes: Lanes,
        queue: Option<Queue>,
        when_full: WhenFull,
        rejected_senders: usize,
    ) -> Self {
        Self {
            counters: Counters::default(),
            rejections: RejectionCounters::new(rejected_senders),
            in_flight: InFlight::default(),
            lanes,
            queue,
            when_full,
            closed: AtomicBool::new(false),
            drops: LogThrottle::default(),
        }
    }

    /// Whether requests reserve room for their events when they begin.
    #[inline]
    pub(super) fn reserves(&self) -> bool {
        self.when_full == WhenFull::Reject
    }

    #[inline]
    pub(super) fn record(&self, event: &mut PendingEvent) {
        let is_rejected = event.fields.is_rejected;
        let Some(queue) = &self.queue else {
            if is_rejected {
                self.release_rejected();
            }
            return self.lanes.count().unwrap_or_else(|_| self.drop_one());
        };
        let is_reserved = self.reserves() && !is_rejected;
        match self.lanes.push(event, is_reserved) {
            Ok(Accepted::Nothing) => {}
            Ok(accepted) => self.wake_task(queue, accepted),
            Err(NoRoom) => {
                if is_rejected {
                    self.release_rejected();
                }
                self.drop_one();
            }
        }
    }

    /// Reserves a place in the extra capacity for events of rejected keys, if one is left.
    pub(super) fn reserve_rejected(&self) -> bool {
        let places = self.queue.as_ref().map_or(u64::MAX, Queue::rejected_places);
        let next = |reserved| (reserved < places).then_some(reserved + 1);
        !self.closed.load(Relaxed)
            && self
                .counters
                .rejected
                .fetch_update(Relaxed, Relaxed, next)
                .is_ok()
    }

    pub(super) fn release_rejected(&self) {
        self.counters.rejected.fetch_sub(1, Relaxed);
    }

    /// Wakes the task if it may be waiting for the accepted event.
    #[cold]
    fn wake_task(&self, queue: &Queue, accepted: Accepted) {
        // Together with the fence in `wait`: either the task sees the event, or this thread sees that it waits.
        fence(SeqCst);
        let waiting = queue.waiting.load(SeqCst);
        let due = accepted == Accepted::First
            || match waiting {
                FILLING => self.lanes.approximate_len() >= queue.batch_size || self.is_heavy(queue),
                HALF => self.is_crowded(queue),
                _ => false,
            };
        // The task may have continued in the meantime, or ended, which must not be overwritten.
        let claim = || {
            queue
                .waiting
                .compare_exchange(waiting, BUSY, SeqCst, SeqCst)
        };
        if due && waiting != SETTLED && claim().is_ok() {
            queue.wake.notify_one();
        }
    }

    #[cold]
    pub(super) fn drop_one(&self) {
        self.counters.dropped.fetch_add(1, Relaxed);
        if let Some(events) = self.drops.record() {
            telemetry::warn!(
                events,
                "usage events lost: the recorder is full or shut down"
            );
        }
    }

    pub(super) fn close(&self) {
        self.lanes.close();
        // Set afterwards: when the task sees it, no event is added any more.
        self.closed.store(true, SeqCst);
        if let Some(queue) = &self.queue {
            queue.wake.notify_one();
        }
    }

    /// Closes the recorder after its task has ended for any reason, and counts the remaining events as lost.
    pub(super) fn end(&self) {
        let Some(queue) = &self.queue else { return };
        self.close();
        let (queued, events) = self.lanes.discard();
        let lost = queued + queue.in_flight.swap(0, SeqCst);
        if lost > 0 {
            self.counters.failed.fetch_add(lost, Relaxed);
            telemetry::error!(events = lost, "usage events lost: the recorder has ended");
        }
        queue.waiting.store(SETTLED, SeqCst);
        queue.settled.notify_waiters();
        // Last, because this may drop limit handles of the application.
        drop(events);
    }

    /// The number of events in memory, including the batch in flight.
    fn waiting(&self) -> u64 {
        let accepted = self.lanes.accepted();
        accepted.saturating_sub(self.counters.settled())
    }

    /// Whether half of the capacity in bytes is used, so that a batch should not wait to fill.
    pub(super) fn is_heavy(&self, queue: &Queue) -> bool {
        let bytes = self.waiting() * EVENT_BYTES + self.lanes.extra_bytes();
        bytes >= queue.capacity_bytes.div_ceil(2)
    }

    /// Whether half of the capacity is used, in events or in bytes.
    pub(super) fn is_crowded(&self, queue: &Queue) -> bool {
        self.waiting() >= (queue.capacity as u64).div_ceil(2) || self.is_heavy(queue)
    }

    pub(super) fn snapshot(&self) -> RecorderStats {
        let mut stats = self.counters.snapshot(|| Entered {
            extra_bytes: self.lanes.extra_bytes(),
            accepted: self.lanes.accepted(),
            begun: self.lanes.begun(),
        });
        stats.rejected = self.rejections.totals();
        if self.queue.is_none() {
            stats.written = stats.queued;
            (stats.queued, stats.queued_bytes) = (0, 0);
        }
        stats
    }
}

impl Queue {
    fn new(builder: &RecorderBuilder, lanes: &Lanes) -> Self {
        let reachable = builder.capacity - lanes.unused_places() as usize;
        Self {
            capacity: builder.capacity,
            capacity_bytes: builder.capacity_bytes,
            // Reachable even if other lanes have reserved places.
            batch_size: builder.batch_size.min(reachable),
            largest_batch: builder.largest_batch,
            has_spool: builder.spool.is_some(),
            waiting: AtomicU8::new(BUSY),
            wake: Notify::default(),
            flush_to: AtomicU64::new(0),
            drain_now: AtomicBool::new(false),
            settled: Notify::default(),
            in_flight: AtomicU64::new(0),
            task: OnceLock::new(),
        }
    }

    /// The maximum number of queued events of rejected keys.
    fn rejected_places(&self) -> u64 {
        (self.capacity as u64 / 16).clamp(1, MAX_REJECTED)
    }

    pub(super) fn started(&self, task: AbortHandle) {
        let first = self.task.set(task);
        debug_assert!(first.is_ok(), "the queue already has a task");
    }

    /// For the task: waits until `due` returns true or the deadline `end` has passed.
    ///
    /// No wake-up is missed: `due` is checked after `waiting` is written, and code that makes `due` true reads
    /// `waiting` afterwards, so at least one side sees the other's change. The first event in a lane is announced
    /// under the lock of the lane instead.
    pub(super) async fn wait(
        &self,
        lanes: &Lanes,
        what: u8,
        end: Option<Instant>,
        due: impl Fn() -> bool,
    ) {
        loop {
            self.waiting.store(what, SeqCst);
            fence(SeqCst);
            if what == EMPTY {
                lanes.await_first();
            }
            if due() {
                break;
            }
            match end {
                None => self.wake.notified().await,
                Some(end) => {
                    if tokio::time::timeout_at(end, self.wake.notified())
                        .await
                        .is_err()
                    {
                        break;
                    }
                }
            }
        }
        self.waiting.store(BUSY, SeqCst);
    }

    /// Waits until `done` returns true, checking it whenever events are settled.
    pub(super) async fn until(&self, done: impl Fn() -> bool) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if done() {
                return;
            }
            settled.await;
        }
    }

    /// Waits until the task has ended and the remaining events are counted.
    pub(super) async fn ended(&self) {
        self.until(|| self.waiting.load(SeqCst) == SETTLED).await;
    }

    /// Tells the task to spool the remaining events and end.
    pub(super) fn hurry(&self) {
        self.drain_now.store(true, SeqCst);
        self.wake.notify_one();
    }

    /// Aborts the task.
    pub(super) fn abort(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

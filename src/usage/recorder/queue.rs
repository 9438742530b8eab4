//! The state shared by the handles of a recorder and its task: counters, the queue and wake-ups.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use tokio::time::Instant;

use super::builder::{RecorderBuilder, WhenFull};
use crate::log_throttle::LogThrottle;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, fence};
use crate::sync::{AbortHandle, Notify, SegQueue};
use crate::telemetry;
use crate::usage::in_flight::InFlight;
use crate::usage::pending_event::PendingEvent;
use crate::usage::stats::Counters;

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) counters: Counters,
    pub(super) in_flight: InFlight,
    /// `None` for a recorder without a sink.
    pub(super) queue: Option<Queue>,
    pub(super) when_full: WhenFull,
    pub(super) closed: AtomicBool,
    drops: LogThrottle,
}

/// The events to be written, and the state to wake the task that writes them.
#[derive(Debug)]
pub(super) struct Queue {
    /// Unbounded; `capacity` is enforced by the counters. A ring buffer would cycle through its whole memory
    /// although little of it is in use.
    pub(super) pending: SegQueue<PendingEvent>,
    pub(super) capacity: usize,
    pub(super) capacity_bytes: u64,
    /// The number of events at which a batch is written.
    pub(super) batch_size: usize,
    /// The maximum number of events in a batch.
    pub(super) largest_batch: usize,
    /// Whether there is a spool.
    pub(super) has_spool: bool,
    /// What the task is waiting for ([`BUSY`], [`EMPTY`], [`FILLING`] or [`HALF`]), or that it has ended
    /// ([`ENDED`] or [`SETTLED`]).
    waiting: AtomicU8,
    pub(super) wake: Notify,
    /// The number of events that had entered the queue at the last call of `flush`.
    pub(super) flush_to: AtomicU64,
    /// The shutdown timeout only allows spooling the remaining events.
    pub(super) drain_now: AtomicBool,
    pub(super) settled: Notify,
    /// Events taken out of the queue but still in memory, and their extra bytes.
    pub(super) in_flight: AtomicU64,
    pub(super) in_flight_extra: AtomicU64,
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
/// The task has ended and does not drain the queue.
const ENDED: u8 = 4;
/// The task has ended and the remaining events are counted as lost.
const SETTLED: u8 = 5;

impl Inner {
    pub(super) fn new(queue: Option<Queue>, when_full: WhenFull) -> Self {
        Self {
            counters: Counters::default(),
            in_flight: InFlight::default(),
            queue,
            when_full,
            closed: AtomicBool::new(false),
            drops: LogThrottle::default(),
        }
    }

    #[inline]
    pub(super) fn record(&self, event: PendingEvent) {
        if !self.admit(&event) {
            if event.is_rejected {
                self.release_rejected();
            }
            return self.drop_one();
        }
        match &self.queue {
            Some(queue) => self.push(queue, event),
            None => {
                self.counters.written.fetch_add(1, Relaxed);
                if event.is_rejected {
                    self.release_rejected();
                }
            }
        }
    }

    /// Counts an event as queued if there is room for it and its extra bytes.
    ///
    /// Called before the event is pushed, so that the count includes all events in the queue. `flush` relies on
    /// this.
    #[inline]
    pub(super) fn admit(&self, event: &PendingEvent) -> bool {
        if self.closed.load(SeqCst) {
            return false;
        }
        if let Some(queue) = &self.queue {
            let extra = event.extra_bytes();
            // `WhenFull::Reject` and rejected keys have reserved room when the request began.
            let is_reserved = self.when_full == WhenFull::Reject || event.is_rejected;
            if !is_reserved && !self.has_room_now(queue, extra) {
                return false;
            }
            if extra > 0 {
                self.counters.queued.extra_bytes.fetch_add(extra, SeqCst);
            }
        }
        self.counters.queued.events.fetch_add(1, SeqCst);
        true
    }

    /// Whether there is room for an event. Approximate: concurrent calls can all see the last free place.
    #[inline]
    fn has_room_now(&self, queue: &Queue, extra: u64) -> bool {
        // Read before the settled events, so that a batch settled in between is not subtracted twice.
        let rejected = self.counters.rejected.load(Acquire);
        let waiting = self.waiting().saturating_sub(rejected);
        let bytes = self.counters.bytes_of(waiting + 1).saturating_add(extra);
        waiting < queue.capacity as u64 && bytes <= queue.capacity_bytes
    }

    /// Whether there will be room for the event of a request that begins, if `started` requests began before it.
    #[inline]
    pub(super) fn has_room(&self, queue: &Queue, started: u64) -> bool {
        let rejected = self.counters.rejected.load(Acquire);
        let gone = self.counters.settled() + self.counters.dropped.load(Relaxed);
        let unsettled = started.saturating_sub(gone).saturating_sub(rejected);
        unsettled < queue.capacity as u64
            && self.counters.bytes_of(unsettled + 1) <= queue.capacity_bytes
            && !self.closed.load(Relaxed)
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

    /// The number of events in memory, including the batch in flight.
    #[inline]
    fn waiting(&self) -> u64 {
        let queued = self.counters.queued.events.load(Relaxed);
        queued.saturating_sub(self.counters.settled())
    }

    /// Whether half of the capacity in bytes is used, so that a batch should not wait to fill.
    #[inline]
    pub(super) fn is_heavy(&self, queue: &Queue) -> bool {
        self.counters.bytes_of(self.waiting()) >= queue.capacity_bytes.div_ceil(2)
    }

    /// Whether half of the capacity is used, in events or in bytes.
    #[inline]
    pub(super) fn is_crowded(&self, queue: &Queue) -> bool {
        self.waiting() >= (queue.capacity as u64).div_ceil(2) || self.is_heavy(queue)
    }

    /// Pushes an event that has been counted by [`admit`](Self::admit).
    #[inline]
    pub(super) fn push(&self, queue: &Queue, event: PendingEvent) {
        queue.pending.push(event);
        self.wake_task(queue);
        if self.closed.load(SeqCst) && queue.waiting.load(SeqCst) >= ENDED {
            // The task drained the queue for the last time before this event was pushed.
            self.discard_remaining(queue);
        }
    }

    /// Wakes the task if it is waiting for the pushed event.
    #[inline]
    fn wake_task(&self, queue: &Queue) {
        let waiting = queue.waiting.load(SeqCst);
        let due = match waiting {
            EMPTY => true,
            FILLING => queue.pending.len() >= queue.batch_size || self.is_heavy(queue),
            HALF => self.is_crowded(queue),
            _ => false,
        };
        // The task may have continued in the meantime, or ended, which must not be overwritten.
        let claim = |to| queue.waiting.compare_exchange(waiting, to, SeqCst, SeqCst);
        if due && claim(BUSY).is_ok() {
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
        self.closed.store(true, SeqCst);
        if let Some(queue) = &self.queue {
            queue.wake.notify_one();
        }
    }

    /// Closes the recorder after its task has ended for any reason, and counts the remaining events as lost.
    pub(super) fn end(&self) {
        let Some(queue) = &self.queue else { return };
        self.closed.store(true, SeqCst);
        // A push from here on sees this state and discards its event itself.
        queue.waiting.store(ENDED, SeqCst);
        self.discard_remaining(queue);
        queue.waiting.store(SETTLED, SeqCst);
        queue.settled.notify_waiters();
    }

    /// Counts the remaining events as lost. The task must have ended.
    fn discard_remaining(&self, queue: &Queue) {
        let mut lost = queue.in_flight.swap(0, SeqCst);
        let mut extra = queue.in_flight_extra.swap(0, SeqCst);
        while let Some(event) = queue.pending.pop() {
            lost += 1;
            extra += event.extra_bytes();
        }
        self.counters.queued.extra_bytes.fetch_sub(extra, Relaxed);
        if lost > 0 {
            self.counters.failed.fetch_add(lost, Relaxed);
            telemetry::error!(events = lost, "usage events lost: the recorder has ended");
        }
        queue.settled.notify_waiters();
    }
}

impl Queue {
    pub(super) fn new(builder: &RecorderBuilder) -> Self {
        Self {
            pending: SegQueue::default(),
            capacity: builder.capacity,
            capacity_bytes: builder.capacity_bytes,
            batch_size: builder.batch_size.min(builder.capacity),
            largest_batch: builder.largest_batch,
            has_spool: builder.spool.is_some(),
            waiting: AtomicU8::new(BUSY),
            wake: Notify::default(),
            flush_to: AtomicU64::new(0),
            drain_now: AtomicBool::new(false),
            settled: Notify::default(),
            in_flight: AtomicU64::new(0),
            in_flight_extra: AtomicU64::new(0),
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
    /// `waiting` afterwards, so at least one side sees the other's change.
    pub(super) async fn wait(&self, what: u8, end: Option<Instant>, due: impl Fn() -> bool) {
        loop {
            self.waiting.store(what, SeqCst);
            fence(SeqCst);
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

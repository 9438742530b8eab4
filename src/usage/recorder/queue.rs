//! What the handles of a recorder and its task share: the queue between them, and who waits for whom.

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
    pub(super) open: InFlight,
    /// A recorder without a sink has none.
    pub(super) queue: Option<Queue>,
    pub(super) when_full: WhenFull,
    pub(super) closed: AtomicBool,
    drops: LogThrottle,
}

/// What waits to be written, and what wakes the task that writes it.
#[derive(Debug)]
pub(super) struct Queue {
    /// Without bounds of its own: a ring would go through all of its memory time and again, where
    /// little of it is ever in use.
    pub(super) drafts: SegQueue<PendingEvent>,
    pub(super) capacity: usize,
    pub(super) capacity_bytes: u64,
    /// As many make a batch.
    pub(super) batch_size: usize,
    /// As many are one at most.
    pub(super) largest_batch: usize,
    /// There is a spool for what cannot be written in time.
    pub(super) spools: bool,
    /// What the task waits for: [`BUSY`], [`EMPTY`], [`FILLING`] or [`HALF`]; or that it does no more: [`ENDED`],
    /// [`SETTLED`].
    waiting: AtomicU8,
    pub(super) wake: Notify,
    /// Events that were queued when somebody last asked for a flush.
    pub(super) flush_to: AtomicU64,
    /// No time for more than to spool the rest.
    pub(super) hurry: AtomicBool,
    pub(super) settled: Notify,
    /// Events of the batch that is being written, and their extra bytes.
    pub(super) in_flight: AtomicU64,
    pub(super) in_flight_extra: AtomicU64,
    task: OnceLock<AbortHandle>,
}

/// Events of rejected keys that wait at most, however large the capacity: what their texts take is bounded by
/// their number alone.
const MAX_REJECTED: u64 = 256;

pub(super) const BUSY: u8 = 0;
/// For the first event.
pub(super) const EMPTY: u8 = 1;
/// For as many as make a batch.
pub(super) const FILLING: u8 = 2;
/// For half of the capacity to be used.
pub(super) const HALF: u8 = 3;
/// The task has ended: nobody empties the queue any more.
const ENDED: u8 = 4;
/// And what it left behind is counted.
const SETTLED: u8 = 5;

impl Inner {
    pub(super) fn new(queue: Option<Queue>, when_full: WhenFull) -> Self {
        Self {
            counters: Counters::default(),
            open: InFlight::default(),
            queue,
            when_full,
            closed: AtomicBool::new(false),
            drops: LogThrottle::default(),
        }
    }

    #[inline]
    pub(super) fn record(&self, draft: PendingEvent) {
        if !self.admit(&draft) {
            if draft.is_rejected {
                self.release_rejected();
            }
            return self.drop_one();
        }
        match &self.queue {
            Some(queue) => self.push(queue, draft),
            None => {
                self.counters.written.fetch_add(1, Relaxed);
                if draft.is_rejected {
                    self.release_rejected();
                }
            }
        }
    }

    /// Counts an event in, if there is room for it and its extra bytes. Before it is pushed: whoever counts what is queued, as a
    /// flush does, misses none that is ahead of another in the queue.
    #[inline]
    pub(super) fn admit(&self, draft: &PendingEvent) -> bool {
        if self.closed.load(SeqCst) {
            return false;
        }
        if let Some(queue) = &self.queue {
            let extra = draft.extra_bytes();
            // With `Refuse` there was room when the request began, and a rejected key has reserved its own.
            let has_place = self.when_full == WhenFull::Refuse || draft.is_rejected;
            if !has_place && !self.has_room_now(queue, extra) {
                return false;
            }
            if extra > 0 {
                self.counters.queued.extra_bytes.fetch_add(extra, SeqCst);
            }
        }
        self.counters.queued.events.fetch_add(1, SeqCst);
        true
    }

    /// Whether there is room for an event. Requests that end at the very same moment may both find the last
    /// place.
    #[inline]
    fn has_room_now(&self, queue: &Queue, extra: u64) -> bool {
        // Before what is settled: a batch that is settled in between must not count twice.
        let rejected = self.counters.rejected.load(Acquire);
        let waiting = self.waiting().saturating_sub(rejected);
        let bytes = self.counters.bytes_of(waiting + 1).saturating_add(extra);
        waiting < queue.capacity as u64 && bytes <= queue.capacity_bytes
    }

    /// Whether a request that begins will find room for its event.
    #[inline]
    pub(super) fn has_room(&self, queue: &Queue, begun: u64) -> bool {
        let rejected = self.counters.rejected.load(Acquire);
        let gone = self.counters.settled() + self.counters.dropped.load(Relaxed);
        let unsettled = begun.saturating_sub(gone).saturating_sub(rejected);
        unsettled < queue.capacity as u64
            && self.counters.bytes_of(unsettled + 1) <= queue.capacity_bytes
            && !self.closed.load(Relaxed)
    }

    /// Reserves a place for an event of a rejected key, outside of the capacity, if there is one left.
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

    /// Events that wait to be written, those in flight included.
    #[inline]
    fn waiting(&self) -> u64 {
        let queued = self.counters.queued.events.load(Relaxed);
        queued.saturating_sub(self.counters.settled())
    }

    /// Whether what waits takes half of the bytes that it may take: no time to wait for more.
    #[inline]
    pub(super) fn is_heavy(&self, queue: &Queue) -> bool {
        self.counters.bytes_of(self.waiting()) >= queue.capacity_bytes.div_ceil(2)
    }

    /// Whether half of the capacity is used, in events or in bytes.
    #[inline]
    pub(super) fn is_crowded(&self, queue: &Queue) -> bool {
        self.waiting() >= (queue.capacity as u64).div_ceil(2) || self.is_heavy(queue)
    }

    /// Hands over an event that was counted.
    #[inline]
    pub(super) fn push(&self, queue: &Queue, draft: PendingEvent) {
        queue.drafts.push(draft);
        self.pushed(queue);
        if self.closed.load(SeqCst) && queue.waiting.load(SeqCst) >= ENDED {
            // The task has looked for the last time before this event was there.
            self.give_up(queue);
        }
    }

    /// Wakes the task if it waits for this event.
    #[inline]
    fn pushed(&self, queue: &Queue) {
        let waiting = queue.waiting.load(SeqCst);
        let due = match waiting {
            EMPTY => true,
            FILLING => queue.drafts.len() >= queue.batch_size || self.is_heavy(queue),
            HALF => self.is_crowded(queue),
            _ => false,
        };
        // It may have gone on meanwhile, or have ended, which must stay visible.
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

    /// The task is gone, however it ended: nothing more is taken in, and what it left behind is lost.
    pub(super) fn end(&self) {
        let Some(queue) = &self.queue else { return };
        self.closed.store(true, SeqCst);
        // Whoever pushes an event from here on sees this afterwards, and gives it up itself.
        queue.waiting.store(ENDED, SeqCst);
        self.give_up(queue);
        queue.waiting.store(SETTLED, SeqCst);
        queue.settled.notify_waiters();
    }

    /// Counts what the task left behind as lost; the task must have ended.
    fn give_up(&self, queue: &Queue) {
        let mut lost = queue.in_flight.swap(0, SeqCst);
        let mut extra = queue.in_flight_extra.swap(0, SeqCst);
        while let Some(draft) = queue.drafts.pop() {
            lost += 1;
            extra += draft.extra_bytes();
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
            drafts: SegQueue::default(),
            capacity: builder.capacity,
            capacity_bytes: builder.capacity_bytes,
            batch_size: builder.batch_size.min(builder.capacity),
            largest_batch: builder.largest_batch,
            spools: builder.spool.is_some(),
            waiting: AtomicU8::new(BUSY),
            wake: Notify::default(),
            flush_to: AtomicU64::new(0),
            hurry: AtomicBool::new(false),
            settled: Notify::default(),
            in_flight: AtomicU64::new(0),
            in_flight_extra: AtomicU64::new(0),
            task: OnceLock::new(),
        }
    }

    /// Events of rejected keys that wait at most.
    fn rejected_places(&self) -> u64 {
        (self.capacity as u64 / 16).clamp(1, MAX_REJECTED)
    }

    pub(super) fn started(&self, task: AbortHandle) {
        let first = self.task.set(task);
        debug_assert!(first.is_ok(), "a queue has one task");
    }

    /// For the task: waits until `due` holds or `end` has come. Whoever makes it hold reads `waiting`
    /// afterwards, and it is checked again after `waiting` was written: one of the two sees the other.
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

    /// Waits until something is settled that `done` waits for.
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

    /// Waits until the task has ended and what it left behind is counted.
    pub(super) async fn ended(&self) {
        self.until(|| self.waiting.load(SeqCst) == SETTLED).await;
    }

    /// Lets the task spool what it has, and end.
    pub(super) fn hurry(&self) {
        self.hurry.store(true, SeqCst);
        self.wake.notify_one();
    }

    /// Ends the task where it stands.
    pub(super) fn abort(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

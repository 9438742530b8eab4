//! Takes events off the request path and writes them in batches.
//!
//! A request pushes its event into a bounded ring without waiting for anyone. One task empties the
//! ring into batches, by size or by age, and tries each batch under one id until it is written, the
//! sink says never, or shutdown's time is up. Every event is counted on its way in and on its way
//! out, so that `accepted = written + lost` at the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::draft::Draft;
use super::event::{UNMATCHED, UsageEvent};
use super::open::OpenRequests;
use super::outcome::{Cause, Outcome, Refusal};
use super::sink::{Batch, SinkError, UsageSink};
use super::stats::{Counters, RecorderStats};

/// What happens to a request whose event the recorder has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// It is served; its event is dropped and counted as lost.
    #[default]
    Drop,
    /// It is refused with 503 before the work: nothing is served that cannot be accounted for.
    Refuse,
}

/// How a [`Recorder`] works; made by [`Recorder::builder`].
pub struct RecorderBuilder {
    sink: Arc<dyn UsageSink>,
    capacity: usize,
    batch_size: usize,
    batch_age: Duration,
    write_timeout: Duration,
    backoff: (Duration, Duration),
    when_full: WhenFull,
    classify: Option<Arc<Classify>>,
}

type Classify = dyn Fn(&UsageEvent) -> Option<(Outcome, Option<Cause>)> + Send + Sync;

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

#[derive(Debug)]
struct Inner {
    counters: Counters,
    open: OpenRequests,
    queue: Option<Queue>,
    when_full: WhenFull,
    closed: AtomicBool,
}

/// The ring and what wakes its task; a recorder without a sink has none.
#[derive(Debug)]
struct Queue {
    ring: ArrayQueue<Draft>,
    batch_size: usize,
    /// What the task waits for: [`BUSY`], [`EMPTY`], [`FILLING`] or [`ENDED`].
    waiting: AtomicU8,
    wake: Notify,
    /// Events that were queued when somebody last asked for a flush.
    flush_to: AtomicU64,
    settled: Notify,
    /// Events of the batch that is being written.
    in_flight: AtomicUsize,
    task: Mutex<Option<JoinHandle<()>>>,
}

const BUSY: u8 = 0;
const EMPTY: u8 = 1;
const FILLING: u8 = 2;
/// The task has ended: nobody empties the ring any more.
const ENDED: u8 = 3;

/// What became of all events when a recorder was shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "lost events are worth a line in the log"]
pub struct ShutdownReport {
    /// Events that the sink has written since the recorder was made.
    pub written: u64,
    /// Events that were lost since the recorder was made. A batch whose write was cut off by the
    /// timeout counts as lost, although the sink may have it.
    pub lost: u64,
}

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
        RecorderBuilder {
            sink: Arc::new(sink),
            capacity: 32_768,
            batch_size: 2_048,
            batch_age: Duration::from_millis(250),
            write_timeout: Duration::from_secs(30),
            backoff: (Duration::from_millis(50), Duration::from_secs(5)),
            when_full: WhenFull::default(),
            classify: None,
        }
    }

    /// A recorder that keeps nothing but the counters of [`stats`](Self::stats); events count as
    /// written.
    pub fn counting() -> Self {
        Self(Arc::new(Handle(Arc::new(Inner {
            counters: Counters::default(),
            open: OpenRequests::default(),
            queue: None,
            when_full: WhenFull::Drop,
            closed: AtomicBool::new(false),
        }))))
    }

    /// What came in, what was written, what was lost, what is open: now.
    pub fn stats(&self) -> RecorderStats {
        self.0.0.counters.snapshot()
    }

    /// Waits until everything that was recorded before is written or lost.
    pub async fn flush(&self) {
        let Some(queue) = &self.0.0.queue else { return };
        let counters = &self.0.0.counters;
        let target = counters.queued.0.load(SeqCst);
        queue.flush_to.fetch_max(target, SeqCst);
        loop {
            let settled = queue.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if counters.settled() >= target {
                return;
            }
            queue.wake.notify_one();
            settled.await;
        }
    }

    /// Records requests that are still open as cancelled, writes what is queued within the timeout,
    /// and tells what became of everything. What is recorded afterwards counts as lost.
    ///
    /// Stop the server first: its last requests are then recorded as they ended.
    pub async fn shutdown(&self, timeout: Duration) -> ShutdownReport {
        let inner = &self.0.0;
        let deadline = Instant::now() + timeout;
        inner.open.abandon_all();
        inner.close();
        if let Some(queue) = &inner.queue {
            let task = queue
                .task
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(mut task) = task {
                if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                    task.abort();
                    // Not before it has stopped: it may be about to count a batch as written.
                    let _ = task.await;
                }
                inner.give_up();
            }
        }
        let stats = inner.counters.snapshot();
        ShutdownReport {
            written: stats.written,
            lost: stats.lost,
        }
    }

    /// A request begins; `false` if the recorder has no room for its event and refuses.
    #[inline]
    pub(crate) fn begin(&self) -> bool {
        let inner = &*self.0.0;
        let begun = inner.counters.begun.0.fetch_add(1, Relaxed);
        if inner.when_full == WhenFull::Refuse
            && let Some(queue) = &inner.queue
        {
            let gone = inner.counters.settled() + inner.counters.dropped.load(Relaxed);
            if begun.saturating_sub(gone) >= queue.ring.capacity() as u64 {
                inner.counters.begun.0.fetch_sub(1, Relaxed);
                return false;
            }
        }
        true
    }

    /// A request that began turned out not to be accounted for here.
    pub(crate) fn unbegin(&self) {
        self.0.0.counters.begun.0.fetch_sub(1, Relaxed);
    }

    /// Tells one recorder from another.
    pub(crate) fn id(&self) -> usize {
        Arc::as_ptr(&self.0.0).addr()
    }

    /// A request that began has ended.
    #[inline]
    pub(crate) fn record(&self, draft: Draft) {
        self.0.0.record(draft);
    }

    pub(crate) fn open(&self) -> &OpenRequests {
        &self.0.0.open
    }

    pub(crate) fn count_refusal(&self, reason: Refusal) {
        self.0.0.counters.refused[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_unverified(&self) {
        self.0.0.counters.unverified.fetch_add(1, Relaxed);
    }
}

impl Inner {
    #[inline]
    fn record(&self, draft: Draft) {
        let Some(queue) = &self.queue else {
            self.counters.queued.0.fetch_add(1, Relaxed);
            self.counters.written.fetch_add(1, Relaxed);
            return;
        };
        if self.closed.load(SeqCst) || queue.ring.push(draft).is_err() {
            self.counters.dropped.fetch_add(1, Relaxed);
            return;
        }
        self.counters.queued.0.fetch_add(1, SeqCst);
        queue.pushed();
        if self.closed.load(SeqCst) {
            // The task may have looked for the last time before this event was there.
            self.give_up_if_orphaned(queue);
        }
    }

    fn close(&self) {
        self.closed.store(true, SeqCst);
        if let Some(queue) = &self.queue {
            queue.wake.notify_one();
        }
    }

    /// Counts what the task left behind as lost; the task must have ended.
    fn give_up(&self) {
        let Some(queue) = &self.queue else { return };
        let mut lost = queue.in_flight.swap(0, SeqCst) as u64;
        while queue.ring.pop().is_some() {
            lost += 1;
        }
        self.counters.failed.fetch_add(lost, Relaxed);
        queue.settled.notify_waiters();
    }

    fn give_up_if_orphaned(&self, queue: &Queue) {
        if queue.waiting.load(SeqCst) == ENDED {
            self.give_up();
        }
    }
}

impl Queue {
    /// Wakes the task if it waits for this event.
    #[inline]
    fn pushed(&self) {
        let due = match self.waiting.load(SeqCst) {
            EMPTY => true,
            FILLING => self.ring.len() >= self.batch_size,
            _ => false,
        };
        if due && self.waiting.swap(BUSY, SeqCst) != BUSY {
            self.wake.notify_one();
        }
    }
}

impl RecorderBuilder {
    /// Events that may wait to be written: 32,768 unless set. A place takes about 200 bytes.
    #[must_use]
    pub fn capacity(mut self, events: usize) -> Self {
        self.capacity = events.max(1);
        self
    }

    /// Events in one batch at most: 2,048 unless set.
    #[must_use]
    pub fn batch_size(mut self, events: usize) -> Self {
        self.batch_size = events.max(1);
        self
    }

    /// How long an event waits at most for its batch to fill: 250 ms unless set.
    #[must_use]
    pub fn batch_age(mut self, age: Duration) -> Self {
        self.batch_age = age;
        self
    }

    /// How long one write may take before it is tried again: 30 seconds unless set.
    #[must_use]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// The first pause before a batch is tried again, and the longest; pauses double in between and
    /// are jittered. 50 ms and 5 s unless set.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = (first, longest);
        self
    }

    /// What happens when there is no room: [`WhenFull::Drop`] unless set.
    #[must_use]
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// Classifies events otherwise than by their status; `None` leaves the usual outcome. It runs
    /// in the background and is not asked about refusals.
    ///
    /// ```
    /// # use keytally::backend::MemoryBackend;
    /// # use keytally::usage::{Outcome, Recorder, Status};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let backend = MemoryBackend::new();
    /// // Not finding a posting is a good answer here.
    /// let recorder = Recorder::builder(backend)
    ///     .classify(|event| (event.status == Status::Http(404)).then_some((Outcome::Completed, None)))
    ///     .start();
    /// # let _ = recorder.shutdown(std::time::Duration::from_secs(1)).await;
    /// # }
    /// ```
    #[must_use]
    pub fn classify(
        mut self,
        classify: impl Fn(&UsageEvent) -> Option<(Outcome, Option<Cause>)> + Send + Sync + 'static,
    ) -> Self {
        self.classify = Some(Arc::new(classify));
        self
    }

    /// Starts the recorder's task on the current tokio runtime.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(self) -> Recorder {
        let inner = Arc::new(Inner {
            counters: Counters::default(),
            open: OpenRequests::default(),
            queue: Some(Queue {
                ring: ArrayQueue::new(self.capacity),
                batch_size: self.batch_size.min(self.capacity),
                waiting: AtomicU8::new(BUSY),
                wake: Notify::new(),
                flush_to: AtomicU64::new(0),
                settled: Notify::new(),
                in_flight: AtomicUsize::new(0),
                task: Mutex::new(None),
            }),
            when_full: self.when_full,
            closed: AtomicBool::new(false),
        });
        let writer = Writer {
            inner: inner.clone(),
            builder: self,
            unmatched: UNMATCHED.into(),
        };
        let task = tokio::spawn(writer.run());
        if let Some(queue) = &inner.queue {
            *queue.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        }
        Recorder(Arc::new(Handle(inner)))
    }
}

impl std::fmt::Debug for RecorderBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecorderBuilder")
            .field("capacity", &self.capacity)
            .field("batch_size", &self.batch_size)
            .field("batch_age", &self.batch_age)
            .field("write_timeout", &self.write_timeout)
            .field("backoff", &self.backoff)
            .field("when_full", &self.when_full)
            .finish_non_exhaustive()
    }
}

/// The recorder's task.
struct Writer {
    inner: Arc<Inner>,
    builder: RecorderBuilder,
    unmatched: Arc<str>,
}

impl Writer {
    async fn run(self) {
        let Some(queue) = &self.inner.queue else {
            return;
        };
        let _end = End(queue);
        loop {
            if queue.ring.is_empty() {
                if self.inner.closed.load(SeqCst) {
                    return;
                }
                let awake = || !queue.ring.is_empty() || self.inner.closed.load(SeqCst);
                self.wait(queue, EMPTY, None, awake).await;
                continue;
            }
            let due = || {
                queue.ring.len() >= queue.batch_size
                    || queue.flush_to.load(SeqCst) > self.inner.counters.settled()
                    || self.inner.closed.load(SeqCst)
            };
            self.wait(queue, FILLING, Some(self.builder.batch_age), due)
                .await;
            self.write_batch(queue).await;
        }
    }

    /// Waits until `due` holds or the time is up. Whoever makes it hold reads `waiting` afterwards,
    /// and it is checked again after `waiting` was written: one of the two sees the other.
    async fn wait(&self, queue: &Queue, what: u8, time: Option<Duration>, due: impl Fn() -> bool) {
        let end = time.map(|time| Instant::now() + time);
        loop {
            queue.waiting.store(what, SeqCst);
            fence(SeqCst);
            if due() {
                break;
            }
            match end {
                None => queue.wake.notified().await,
                Some(end) => {
                    if tokio::time::timeout_at(end, queue.wake.notified())
                        .await
                        .is_err()
                    {
                        break;
                    }
                }
            }
        }
        queue.waiting.store(BUSY, SeqCst);
    }

    async fn write_batch(&self, queue: &Queue) {
        let mut events = Vec::with_capacity(queue.ring.len().min(queue.batch_size));
        while events.len() < queue.batch_size
            && let Some(draft) = queue.ring.pop()
        {
            // Counted at once, so that an abort in between loses no count.
            queue.in_flight.fetch_add(1, SeqCst);
            events.push(self.classified(draft.into_event(&self.unmatched)));
        }
        let count = events.len() as u64;
        let written = self.write(Arc::new(Batch::new(events))).await;
        queue.in_flight.store(0, SeqCst);
        let counter = match written {
            Ok(()) => &self.inner.counters.written,
            Err(_) => &self.inner.counters.failed,
        };
        counter.fetch_add(count, SeqCst);
        queue.settled.notify_waiters();
    }

    /// Writes a batch, however often it takes, under its one id.
    async fn write(&self, batch: Arc<Batch>) -> Result<(), SinkError> {
        let (mut pause, longest) = self.builder.backoff;
        loop {
            let error = match self.try_write(&batch).await {
                Ok(()) => return Ok(()),
                Err(error @ SinkError::Rejected(_)) => {
                    report_loss(&error, batch.events.len());
                    return Err(error);
                }
                Err(error) => error,
            };
            report_retry(&error, batch.events.len());
            self.inner.counters.retries.fetch_add(1, Relaxed);
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Writes a batch once, in a task of its own: a sink that panics or hangs does no more harm
    /// than one that fails.
    async fn try_write(&self, batch: &Arc<Batch>) -> Result<(), SinkError> {
        let (sink, batch) = (self.builder.sink.clone(), batch.clone());
        let mut write = AbortOnDrop(tokio::spawn(async move { sink.write(&batch).await }));
        match tokio::time::timeout(self.builder.write_timeout, &mut write.0).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panicked)) => Err(SinkError::unavailable(panicked)),
            Err(late) => Err(SinkError::unavailable(late)),
        }
    }

    fn classified(&self, mut event: UsageEvent) -> UsageEvent {
        if let Some(classify) = &self.builder.classify
            && event.refusal.is_none()
            && let Ok(Some((outcome, cause))) = catch_unwind(AssertUnwindSafe(|| classify(&event)))
        {
            event.outcome = outcome;
            event.cause = cause;
        }
        event
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tells late producers that the task is gone, however it ended.
struct End<'a>(&'a Queue);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.waiting.store(ENDED, SeqCst);
    }
}

#[cfg(feature = "tracing")]
fn report_loss(error: &SinkError, events: usize) {
    tracing::error!(
        events,
        error = error as &dyn std::error::Error,
        "usage events lost"
    );
}

#[cfg(feature = "tracing")]
fn report_retry(error: &SinkError, events: usize) {
    tracing::warn!(
        events,
        error = error as &dyn std::error::Error,
        "usage write failed, trying again"
    );
}

#[cfg(not(feature = "tracing"))]
fn report_loss(_: &SinkError, _: usize) {}

#[cfg(not(feature = "tracing"))]
fn report_retry(_: &SinkError, _: usize) {}

#[cfg(test)]
mod tests;

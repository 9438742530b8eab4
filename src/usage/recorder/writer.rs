//! The recorder's task, which builds batches and writes them.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use jiff::Timestamp;

use super::builder::RecorderBuilder;
use super::pipeline::{PendingBatch, Pipeline};
use super::queue::{EMPTY, FILLING, Inner, Queue};
use crate::sync::atomic::AtomicU64;
use crate::sync::{JoinHandle, spawn};
use crate::telemetry;
use crate::usage::event::event_id;
use crate::usage::sink::{Batch, SinkError};

pub(super) struct Writer {
    pub(super) inner: Arc<Inner>,
    pub(super) builder: RecorderBuilder,
}

/// Runs however the task ends: normally, aborted, by a panic or with its runtime, even before its first poll.
impl Drop for Writer {
    fn drop(&mut self) {
        self.inner.end();
    }
}

impl Writer {
    pub(super) fn new(inner: Arc<Inner>, builder: RecorderBuilder) -> Self {
        Self { inner, builder }
    }

    pub(super) async fn run(self) {
        let Some(queue) = &self.inner.queue else {
            return;
        };
        let mut pipeline = Pipeline {
            // An earlier process may have left batches in the spool.
            spool_in_use: self.builder.spool.is_some(),
            ..Pipeline::default()
        };
        while self.next(queue, &mut pipeline).await && self.write(queue, &mut pipeline).await {}
    }

    /// Waits for the next batch and makes it the head. Returns `false` if there will be none, or no time to write
    /// it.
    async fn next(&self, queue: &Queue, pipeline: &mut Pipeline) -> bool {
        let closed = || self.inner.closed.load(SeqCst);
        loop {
            if queue.drain_now.load(SeqCst)
                && pipeline.held.is_none()
                && self.inner.lanes.is_empty()
            {
                return false;
            }
            self.remove_settled(pipeline).await;
            // If memory fills up and the spool rejects writes, write from memory before draining the spool.
            let waits = pipeline.held.is_some() || !self.inner.lanes.is_empty();
            let pressed = waits && pipeline.pushing.is_resting() && self.inner.is_crowded(queue);
            let spool_first = pipeline.spool_in_use && !pipeline.reads.is_resting() && !pressed;
            if spool_first && self.next_from_spool(queue, pipeline).await {
                return true;
            }
            if let Some(held) = pipeline.held.take() {
                pipeline.head = Some(held);
                return true;
            }
            // Read before checking the queue: all events recorded before it was closed are then in the queue.
            let was_closed = closed();
            if !self.inner.lanes.is_empty() {
                let end = pipeline.filled_by(self.builder.batch_age);
                queue
                    .wait(&self.inner.lanes, FILLING, end, || self.is_due(queue))
                    .await;
                pipeline.head = self.take(queue, pipeline);
                return true;
            }
            if was_closed && (pipeline.reads.is_resting() || !pipeline.spool_in_use) {
                return false;
            }
            let awake = || !self.inner.lanes.is_empty() || closed();
            queue
                .wait(&self.inner.lanes, EMPTY, pipeline.wakes(), awake)
                .await;
        }
    }

    /// Whether the queued events should be written without waiting for more.
    pub(super) fn is_due(&self, queue: &Queue) -> bool {
        self.inner.lanes.len() >= queue.batch_size
            || self.inner.is_heavy(queue)
            || queue.flush_to.load(SeqCst) > self.inner.counters.settled()
            || self.inner.closed.load(SeqCst)
    }

    /// Takes a batch out of the queue; `None` if the queue is empty.
    pub(super) fn take(&self, queue: &Queue, pipeline: &mut Pipeline) -> Option<PendingBatch> {
        pipeline.filling_since = None;
        // Counted immediately, so that a panic in between loses no count.
        let taken = |events| {
            queue.in_flight.fetch_add(events, SeqCst);
        };
        let (mut events, size) = self.inner.lanes.take(queue.largest_batch, taken);
        if let Some(classify) = &self.builder.classify {
            events.classify(|event| {
                catch_unwind(AssertUnwindSafe(|| classify(event))).unwrap_or_default()
            });
        }
        if let Some(billable) = &self.builder.billable {
            events.set_billable(|outcome, cause| {
                catch_unwind(AssertUnwindSafe(|| billable(outcome, cause)))
                    .unwrap_or(outcome.is_billable())
            });
        }
        let id = event_id(Timestamp::now().as_microsecond());
        (size.events > 0).then(|| PendingBatch {
            batch: Arc::new(Batch::of_rows(id, events)),
            size,
            spooled: false,
        })
    }

    /// Writes the head, retrying under the same id until it is written or rejected. Returns `false` if time has
    /// run out and the batch is in the spool.
    async fn write(&self, queue: &Queue, pipeline: &mut Pipeline) -> bool {
        let Some(head) = &pipeline.head else {
            return true;
        };
        let batch = head.batch.clone();
        let (mut pause, longest) = self.builder.backoff;
        loop {
            let Some(result) = self
                .spool_while(queue, pipeline, self.try_write(&batch))
                .await
            else {
                return false;
            };
            pipeline.failing = matches!(result, Err(SinkError::Unavailable(_)));
            match result {
                Ok(()) => {
                    let now = Timestamp::now().as_microsecond();
                    self.inner.counters.last_written.store(now, Relaxed);
                    self.settle(queue, pipeline, true);
                    return true;
                }
                Err(error @ SinkError::Rejected(_)) => {
                    telemetry::error!(
                        events = batch.len(),
                        error = &error as &dyn std::error::Error,
                        "usage events lost: the sink rejected a batch"
                    );
                    self.settle(queue, pipeline, false);
                    return true;
                }
                Err(error) => telemetry::warn!(
                    events = batch.len(),
                    error = &error as &dyn std::error::Error,
                    "usage write failed, retrying"
                ),
            }
            self.inner.counters.retries.fetch_add(1, Relaxed);
            let pausing = tokio::time::sleep(jittered(pause));
            if self.spool_while(queue, pipeline, pausing).await.is_none() {
                return false;
            }
            pause = pause.saturating_mul(2).min(longest);
        }
    }

    /// Attempts to write a batch once.
    async fn try_write(&self, batch: &Arc<Batch>) -> Result<(), SinkError> {
        let (sink, batch) = (self.builder.sink.clone(), batch.clone());
        let write = async move { sink.write(&batch).await };
        guarded(self.builder.write_timeout, write, SinkError::unavailable).await
    }

    /// Counts the head as written or lost and removes it.
    fn settle(&self, queue: &Queue, pipeline: &mut Pipeline, written: bool) {
        let Some(head) = pipeline.head.take() else {
            return;
        };
        let id = head.batch.id;
        if head.spooled {
            self.count_spooled(pipeline, id, head.events(), written);
            pipeline.settle(id, false);
            queue.settled.notify_waiters();
            return;
        }
        let counters = &self.inner.counters;
        let counter = if written {
            &counters.written
        } else {
            &counters.failed
        };
        self.left_memory(queue, &head, counter);
        if pipeline.own.contains_key(&id) {
            // A push that failed may have taken effect.
            pipeline.settle(id, false);
        }
    }

    /// Removes the events of a batch from the in-memory counters and adds them to `counter`.
    pub(super) fn left_memory(&self, queue: &Queue, taken: &PendingBatch, counter: &AtomicU64) {
        queue.in_flight.fetch_sub(taken.events(), SeqCst);
        counter.fetch_add(taken.events(), SeqCst);
        self.inner.lanes.give_back(taken.size);
        let rejected = &self.inner.counters.rejected;
        rejected.fetch_sub(taken.size.rejected, SeqCst);
        queue.settled.notify_waiters();
    }
}

/// Runs `work` in its own task with a timeout, so that panics and hangs become errors.
pub(super) async fn guarded<T: Send + 'static, E: Send + 'static>(
    time: Duration,
    work: impl Future<Output = Result<T, E>> + Send + 'static,
    failed: impl FnOnce(Box<dyn Error + Send + Sync>) -> E,
) -> Result<T, E> {
    let mut task = AbortOnDrop(spawn(work));
    match tokio::time::timeout(time, &mut task.0).await {
        Ok(Ok(result)) => result,
        Ok(Err(panicked)) => Err(failed(panicked.into())),
        Err(late) => Err(failed(late.into())),
    }
}

/// Applies a jitter of ±50%, so that instances do not retry at the same time.
pub(super) fn jittered(pause: Duration) -> Duration {
    let secs = pause.as_secs_f64() * (0.5 + fastrand::f64());
    Duration::try_from_secs_f64(secs).unwrap_or(Duration::MAX)
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

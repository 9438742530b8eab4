//! The recorder's task: makes batches and writes them.

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
use crate::usage::event::{UNMATCHED, UsageEvent};
use crate::usage::sink::{Batch, SinkError};

pub(super) struct Writer {
    pub(super) inner: Arc<Inner>,
    pub(super) builder: RecorderBuilder,
    unmatched: Arc<str>,
}

/// However the task ends: by itself, aborted, by a panic or with its runtime, before it began even.
impl Drop for Writer {
    fn drop(&mut self) {
        self.inner.end();
    }
}

impl Writer {
    pub(super) fn new(inner: Arc<Inner>, builder: RecorderBuilder) -> Self {
        Self {
            inner,
            builder,
            unmatched: UNMATCHED.into(),
        }
    }

    pub(super) async fn run(self) {
        let Some(queue) = &self.inner.queue else {
            return;
        };
        let mut line = Pipeline {
            // An earlier process may have left some.
            behind: self.builder.spool.is_some(),
            ..Pipeline::default()
        };
        while self.next(queue, &mut line).await && self.write(queue, &mut line).await {}
    }

    /// Puts the batch at the head of the line that is to be written next; `false` when there is none
    /// and will be none, or no time for it.
    async fn next(&self, queue: &Queue, line: &mut Pipeline) -> bool {
        let closed = || self.inner.closed.load(SeqCst);
        loop {
            if queue.hurry.load(SeqCst) && line.held.is_none() && queue.drafts.is_empty() {
                return false;
            }
            self.clear_away(line).await;
            // Memory that fills up and cannot be spooled is written past the spool.
            let waits = line.held.is_some() || !queue.drafts.is_empty();
            let pressed = waits && line.pushing.is_resting() && self.inner.is_crowded(queue);
            let spool_first = line.behind && !line.asking.is_resting() && !pressed;
            if spool_first && self.next_of_spool(queue, line).await {
                return true;
            }
            if let Some(held) = line.held.take() {
                line.head = Some(held);
                return true;
            }
            // Asked before the queue is looked at: what was recorded before it closed is in there.
            let was_closed = closed();
            if !queue.drafts.is_empty() {
                let end = line.filled_by(self.builder.batch_age);
                queue.wait(FILLING, end, || self.is_due(queue)).await;
                line.head = self.take(queue, line);
                return true;
            }
            if was_closed && (line.asking.is_resting() || !line.behind) {
                return false;
            }
            let awake = || !queue.drafts.is_empty() || closed();
            queue.wait(EMPTY, line.wakes(), awake).await;
        }
    }

    /// Whether what is in the queue is to be written, although more may come.
    pub(super) fn is_due(&self, queue: &Queue) -> bool {
        queue.drafts.len() >= queue.batch_size
            || self.inner.is_heavy(queue)
            || queue.flush_to.load(SeqCst) > self.inner.counters.settled()
            || self.inner.closed.load(SeqCst)
    }

    /// Takes a batch out of the queue, if there is anything in it.
    pub(super) fn take(&self, queue: &Queue, line: &mut Pipeline) -> Option<PendingBatch> {
        line.filling_since = None;
        let (mut extra, mut rejected) = (0, 0);
        let count = queue.drafts.len().min(queue.largest_batch);
        let events = (0..count).map(|_| {
            // Nobody else takes any, so there are as many as were counted.
            let draft = queue.drafts.pop().expect("a draft that was counted");
            // Counted at once, so that an abort in between loses no count.
            queue.in_flight.fetch_add(1, SeqCst);
            queue.in_flight_extra.fetch_add(draft.extra_bytes(), SeqCst);
            extra += draft.extra_bytes();
            rejected += u64::from(draft.is_rejected);
            self.classified(draft.into_event(&self.unmatched))
        });
        let batch = Arc::new(Batch::of(events.collect()));
        (count > 0).then_some(PendingBatch {
            batch,
            extra,
            rejected,
            spooled: false,
        })
    }

    /// Writes the batch at the head of the line, however often it takes, under its one id; `false`
    /// when there is no more time, and the spool has it.
    async fn write(&self, queue: &Queue, line: &mut Pipeline) -> bool {
        let Some(head) = &line.head else { return true };
        let batch = head.batch.clone();
        let (mut pause, longest) = self.builder.backoff;
        loop {
            let Some(answer) = self.beside(queue, line, self.try_write(&batch)).await else {
                return false;
            };
            line.failing = matches!(answer, Err(SinkError::Unavailable(_)));
            match answer {
                Ok(()) => {
                    let now = Timestamp::now().as_microsecond();
                    self.inner.counters.last_written.store(now, Relaxed);
                    self.settle(queue, line, true);
                    return true;
                }
                Err(error @ SinkError::Rejected(_)) => {
                    telemetry::error!(
                        events = batch.events.len(),
                        error = &error as &dyn std::error::Error,
                        "usage events lost"
                    );
                    self.settle(queue, line, false);
                    return true;
                }
                Err(error) => telemetry::warn!(
                    events = batch.events.len(),
                    error = &error as &dyn std::error::Error,
                    "usage write failed, trying again"
                ),
            }
            self.inner.counters.retries.fetch_add(1, Relaxed);
            let pausing = tokio::time::sleep(jittered(pause));
            if self.beside(queue, line, pausing).await.is_none() {
                return false;
            }
            pause = pause.saturating_mul(2).min(longest);
        }
    }

    /// Writes a batch once.
    async fn try_write(&self, batch: &Arc<Batch>) -> Result<(), SinkError> {
        let (sink, batch) = (self.builder.sink.clone(), batch.clone());
        let write = async move { sink.write(&batch).await };
        guarded(self.builder.write_timeout, write, SinkError::unavailable).await
    }

    /// Counts the batch at the head of the line, and lets go of it.
    fn settle(&self, queue: &Queue, line: &mut Pipeline, written: bool) {
        let Some(head) = line.head.take() else { return };
        let id = head.batch.id;
        if head.spooled {
            self.count_spooled(line, id, head.events(), written);
            line.leave(id, false);
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
        if line.own.contains_key(&id) {
            // A push that failed may have been done all the same.
            line.leave(id, false);
        }
    }

    /// Counts where the events of a batch went.
    pub(super) fn left_memory(&self, queue: &Queue, taken: &PendingBatch, counter: &AtomicU64) {
        queue.in_flight.fetch_sub(taken.events(), SeqCst);
        queue.in_flight_extra.fetch_sub(taken.extra, SeqCst);
        let extra_bytes = &self.inner.counters.queued.extra_bytes;
        extra_bytes.fetch_sub(taken.extra, SeqCst);
        counter.fetch_add(taken.events(), SeqCst);
        let rejected = &self.inner.counters.rejected;
        rejected.fetch_sub(taken.rejected, SeqCst);
        queue.settled.notify_waiters();
    }

    fn classified(&self, mut event: UsageEvent) -> UsageEvent {
        if let Some(classify) = &self.builder.classify
            && event.rejection_reason.is_none()
            && let Ok(Some((outcome, cause))) = catch_unwind(AssertUnwindSafe(|| classify(&event)))
        {
            event.outcome = outcome;
            event.cause = cause;
        }
        event
    }
}

/// Runs in a task of its own: what panics or hangs does no more harm than what fails.
pub(super) async fn guarded<T: Send + 'static, E: Send + 'static>(
    time: Duration,
    work: impl Future<Output = Result<T, E>> + Send + 'static,
    failed: impl FnOnce(Box<dyn Error + Send + Sync>) -> E,
) -> Result<T, E> {
    let mut task = AbortOnDrop(spawn(work));
    match tokio::time::timeout(time, &mut task.0).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(panicked)) => Err(failed(panicked.into())),
        Err(late) => Err(failed(late.into())),
    }
}

/// Half as long to one and a half times as long, so that many do not try again at once.
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

//! The recorder's task: makes batches and writes them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::builder::RecorderBuilder;
use super::queue::{EMPTY, FILLING, Inner, Queue};
use super::report;
use crate::usage::event::{UNMATCHED, UsageEvent};
use crate::usage::sink::{Batch, SinkError};

pub(super) struct Writer {
    inner: Arc<Inner>,
    builder: RecorderBuilder,
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
        let closed = || self.inner.closed.load(SeqCst);
        loop {
            if queue.drafts.is_empty() {
                if closed() {
                    return;
                }
                let awake = || !queue.drafts.is_empty() || closed();
                queue.wait(EMPTY, None, awake).await;
                continue;
            }
            let due = || {
                queue.drafts.len() >= queue.batch_size
                    || self.inner.is_heavy(queue)
                    || queue.flush_to.load(SeqCst) > self.inner.counters.settled()
                    || closed()
            };
            queue.wait(FILLING, Some(self.builder.batch_age), due).await;
            self.write_batch(queue).await;
        }
    }

    async fn write_batch(&self, queue: &Queue) {
        let count = queue.drafts.len().min(queue.batch_size);
        let events = (0..count).map(|_| {
            // Nobody else takes any, so there are as many as were counted.
            let draft = queue.drafts.pop().expect("a draft that was counted");
            // Counted at once, so that an abort in between loses no count.
            queue.in_flight.fetch_add(1, SeqCst);
            let extra = draft.extra_bytes();
            queue.in_flight_extra.fetch_add(extra, SeqCst);
            self.classified(draft.into_event(&self.unmatched))
        });
        let batch = Batch::of(events.collect());
        let written = self.write(Arc::new(batch)).await;
        queue.in_flight.store(0, SeqCst);
        let extra = queue.in_flight_extra.swap(0, SeqCst);
        let extra_bytes = &self.inner.counters.queued.extra_bytes;
        extra_bytes.fetch_sub(extra, SeqCst);
        let counter = match written {
            Ok(()) => &self.inner.counters.written,
            Err(_) => &self.inner.counters.failed,
        };
        counter.fetch_add(count as u64, SeqCst);
        queue.settled.notify_waiters();
    }

    /// Writes a batch, however often it takes, under its one id.
    async fn write(&self, batch: Arc<Batch>) -> Result<(), SinkError> {
        let (mut pause, longest) = self.builder.backoff;
        loop {
            let error = match self.try_write(&batch).await {
                Ok(()) => return Ok(()),
                Err(error @ SinkError::Rejected(_)) => {
                    report::rejected(&error, batch.events.len());
                    return Err(error);
                }
                Err(error) => error,
            };
            report::retry(&error, batch.events.len());
            self.inner.counters.retries.fetch_add(1, Relaxed);
            tokio::time::sleep(jittered(pause)).await;
            pause = pause.saturating_mul(2).min(longest);
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

/// Half as long to one and a half times as long, so that many do not try again at once.
fn jittered(pause: Duration) -> Duration {
    let secs = pause.as_secs_f64() * (0.5 + fastrand::f64());
    Duration::try_from_secs_f64(secs).unwrap_or(Duration::MAX)
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

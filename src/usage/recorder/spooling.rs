//! The part of the recorder's task that writes to and drains the spool.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::lanes::Size;
use super::pipeline::{Backoff, PendingBatch, PendingDelete, Pipeline, SpoolState};
use super::queue::{BUSY, EMPTY, FILLING, HALF, Queue};
use super::select::{First, first_of, meanwhile};
use super::writer::{Writer, guarded, jittered};
use crate::telemetry;
use crate::usage::spool::{Spool, SpoolError, Spooled};

/// The timeout of one spool operation.
const SPOOL_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum backoff after a spool failure.
const MAX_BACKOFF: Duration = Duration::from_secs(3_600);

impl Writer {
    /// Runs `work` for the sink and concurrently spools batches that should not stay in memory. Returns `None` if
    /// the shutdown timeout leaves no time for the work and all batches are in the spool.
    pub(super) async fn spool_while<T>(
        &self,
        queue: &Queue,
        pipeline: &mut Pipeline,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        if self.builder.spool.is_none() {
            return Some(work.await);
        }
        let mut work = pin!(work);
        loop {
            match first_of(
                work.as_mut(),
                self.wait_until_spooling_is_due(queue, pipeline),
            )
            .await
            {
                First::Work(output) => return Some(output),
                First::Other(true) => {}
                First::Other(false) => return None,
            }
            let push = self.push_next(queue, pipeline);
            if let Some(output) = meanwhile(work.as_mut(), push).await {
                return Some(output);
            }
        }
    }

    /// Waits until a batch should be spooled. Returns `false` if everything is spooled and the shutdown timeout
    /// leaves no time to wait.
    async fn wait_until_spooling_is_due(&self, queue: &Queue, pipeline: &mut Pipeline) -> bool {
        let hurry = || queue.drain_now.load(SeqCst);
        loop {
            if hurry() {
                if !pipeline.is_in_memory() && self.inner.lanes.is_empty() {
                    return false;
                }
                if !pipeline.hurried {
                    pipeline.hurried = true;
                    pipeline.pushing.retry_at = None;
                }
            }
            if let Some(rest) = pipeline.pushing.retry_at {
                let hurried = pipeline.hurried;
                queue
                    .wait(&self.inner.lanes, BUSY, Some(rest), || hurry() && !hurried)
                    .await;
                if !pipeline.pushing.is_resting() {
                    pipeline.pushing.retry_at = None;
                }
                continue;
            }
            if !(pipeline.spool_in_use || pipeline.failing || hurry()) {
                // The normal case: the first attempt to write a batch, with nothing in the spool.
                let crowded = || !self.inner.lanes.is_empty() && self.inner.is_crowded(queue);
                queue
                    .wait(&self.inner.lanes, HALF, None, || crowded() || hurry())
                    .await;
                if crowded() {
                    return true;
                }
            } else if pipeline.is_in_memory() {
                return true;
            } else if self.inner.lanes.is_empty() {
                let awake = || !self.inner.lanes.is_empty() || hurry();
                queue.wait(&self.inner.lanes, EMPTY, None, awake).await;
            } else {
                let end = pipeline.filled_by(self.builder.batch_age);
                let due = || self.is_due(queue) || hurry();
                queue.wait(&self.inner.lanes, FILLING, end, due).await;
                return true;
            }
        }
    }

    /// Pushes the oldest batch that is only in memory to the spool.
    async fn push_next(&self, queue: &Queue, pipeline: &mut Pipeline) {
        if !pipeline.is_in_memory() {
            pipeline.held = self.take(queue, pipeline);
        }
        let Some(taken) = pipeline.next_to_spool() else {
            return;
        };
        let batch = taken.batch.clone();
        let id = batch.id;
        pipeline.own.insert(id, SpoolState::Unconfirmed);
        let push = self.call_spool(&mut pipeline.pushing, |spool| async move {
            spool.push(&batch).await
        });
        if push.await.is_none() {
            return;
        }
        if !pipeline.spool_in_use {
            pipeline.spool_in_use = true;
            telemetry::warn!("started spooling usage events");
        }
        let head = pipeline.head.as_mut().filter(|head| head.batch.id == id);
        if let Some(head) = head {
            head.spooled = true;
            let n = head.events();
            self.left_memory(queue, head, &self.inner.counters.spooled);
            pipeline.own.insert(id, SpoolState::Waiting(n));
        } else if let Some(held) = pipeline.held.take() {
            self.mark_spooled(queue, pipeline, &held);
        }
    }

    /// Counts a batch as spooled.
    fn mark_spooled(&self, queue: &Queue, pipeline: &mut Pipeline, taken: &PendingBatch) {
        self.left_memory(queue, taken, &self.inner.counters.spooled);
        pipeline
            .own
            .insert(taken.batch.id, SpoolState::Waiting(taken.events()));
    }

    /// Makes the spool's oldest batch the next one to write. Returns `false` if there is none or the spool fails.
    pub(super) async fn next_from_spool(&self, queue: &Queue, pipeline: &mut Pipeline) -> bool {
        loop {
            self.remove_settled(pipeline).await;
            let past = pipeline.read_after;
            let next = move |spool: Arc<dyn Spool>| async move { spool.next(past).await };
            let Some(next) = self.call_spool(&mut pipeline.reads, next).await else {
                return false;
            };
            match next {
                None => {
                    self.mark_empty(queue, pipeline);
                    return false;
                }
                Some(Spooled::Unreadable { id, events }) => {
                    if pipeline.own.get(&id) != Some(&SpoolState::Counted) {
                        telemetry::error!(
                            events,
                            batch = %id,
                            "usage events lost: the spool cannot read a batch"
                        );
                        self.count_spooled(pipeline, id, events, false);
                        pipeline.settle(id, true);
                        queue.settled.notify_waiters();
                    }
                    pipeline.read_after = Some(id);
                }
                Some(Spooled::Batch(batch)) => {
                    let id = batch.id;
                    // Its push took effect although it returned an error.
                    if let Some(held) = pipeline.held.take_if(|held| held.batch.id == id) {
                        self.mark_spooled(queue, pipeline, &held);
                    }
                    if pipeline.own.get(&id) != Some(&SpoolState::Counted) {
                        pipeline.head = Some(PendingBatch {
                            batch: batch.into(),
                            size: Size::default(),
                            spooled: true,
                        });
                        return true;
                    }
                    pipeline.read_after = Some(id);
                }
            }
        }
    }

    /// Removes settled batches from the spool.
    pub(super) async fn remove_settled(&self, pipeline: &mut Pipeline) {
        while let Some(&PendingDelete { id, unreadable }) = pipeline.pending_deletes.front()
            && !pipeline.deletes.is_resting()
        {
            let clear = move |spool: Arc<dyn Spool>| async move {
                if unreadable {
                    spool.set_aside(id).await
                } else {
                    spool.remove(id).await
                }
            };
            if self
                .call_spool(&mut pipeline.deletes, clear)
                .await
                .is_some()
            {
                pipeline.pending_deletes.pop_front();
                pipeline.own.remove(&id);
            }
        }
        if pipeline.pending_deletes.is_empty() {
            pipeline.read_after = None;
        }
    }

    /// Handles an empty spool. Batches that this recorder pushed and did not read back were drained by another
    /// process and count as written.
    fn mark_empty(&self, queue: &Queue, pipeline: &mut Pipeline) {
        pipeline.spool_in_use = false;
        let mut drained = 0;
        pipeline.own.retain(|_, state| match *state {
            SpoolState::Waiting(events) => {
                drained += events;
                false
            }
            SpoolState::Counted | SpoolState::Unconfirmed => true,
        });
        if pipeline.drained + drained > 0 {
            telemetry::info!(events = pipeline.drained + drained, "usage spool drained");
            pipeline.drained = 0;
        }
        self.inner.counters.drained.fetch_add(drained, SeqCst);
        queue.settled.notify_waiters();
    }

    /// Counts a batch from the spool as written or lost.
    pub(super) fn count_spooled(
        &self,
        pipeline: &mut Pipeline,
        id: Uuid,
        events: u64,
        written: bool,
    ) {
        let counters = &self.inner.counters;
        let (counter, events) = match (pipeline.own.get(&id), written) {
            (Some(&SpoolState::Waiting(events)), true) => (&counters.drained, events),
            (Some(&SpoolState::Waiting(events)), false) => (&counters.spool_lost, events),
            (None, true) => (&counters.recovered, events),
            (None, false) => (&counters.unrecovered, events),
            // It is counted as in memory, or was counted before.
            (Some(SpoolState::Unconfirmed | SpoolState::Counted), _) => return,
        };
        pipeline.drained += events;
        counter.fetch_add(events, SeqCst);
    }

    /// Calls the spool. On failure, starts a backoff and returns `None`.
    async fn call_spool<T, F>(
        &self,
        health: &mut Backoff,
        call: impl FnOnce(Arc<dyn Spool>) -> F,
    ) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, SpoolError>> + Send + 'static,
    {
        let start = Instant::now();
        let operation = call(self.builder.spool.clone()?);
        match guarded(SPOOL_TIMEOUT, operation, SpoolError::new).await {
            Ok(output) => {
                *health = Backoff::default();
                Some(output)
            }
            Err(error) => {
                telemetry::error!(
                    error = &error as &dyn std::error::Error,
                    "usage spool failed, retrying later"
                );
                let (first, longest) = self.builder.backoff;
                let pause = first
                    .saturating_mul(1 << health.failures.min(16))
                    .min(longest);
                health.failures += 1;
                // A hanging spool takes at most half of the task's time.
                let rest = jittered(pause).max(start.elapsed()).min(MAX_BACKOFF);
                health.retry_at = Some(Instant::now() + rest);
                None
            }
        }
    }
}

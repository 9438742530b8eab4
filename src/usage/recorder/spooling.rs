//! The spool's part in the recorder's task: what goes into it, and what comes out of it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::pipeline::{Health, PendingBatch, PendingDelete, Pipeline, SpoolState};
use super::queue::{BUSY, EMPTY, FILLING, HALF, Queue};
use super::select::{First, first_of, meanwhile};
use super::writer::{Writer, guarded, jittered};
use crate::telemetry;
use crate::usage::spool::{Spool, SpoolError, Spooled};

/// How long a spool may take for one answer.
const SPOOL_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest that a spool which failed is left alone.
const LONGEST_REST: Duration = Duration::from_secs(3_600);

impl Writer {
    /// Does some work for the sink, and lets the spool take meanwhile what memory should not keep;
    /// `None` when there is no more time for the work, and the spool has everything.
    pub(super) async fn beside<T>(
        &self,
        queue: &Queue,
        line: &mut Pipeline,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        if self.builder.spool.is_none() {
            return Some(work.await);
        }
        let mut work = pin!(work);
        loop {
            match first_of(work.as_mut(), self.overflow(queue, line)).await {
                First::Work(answer) => return Some(answer),
                First::Other(true) => {}
                First::Other(false) => return None,
            }
            let push = self.push_next(queue, line);
            if let Some(answer) = meanwhile(work.as_mut(), push).await {
                return Some(answer);
            }
        }
    }

    /// Waits until the spool should take a batch; `false` when it has everything and there is no more
    /// time.
    async fn overflow(&self, queue: &Queue, line: &mut Pipeline) -> bool {
        let hurry = || queue.hurry.load(SeqCst);
        loop {
            if hurry() {
                if !line.is_in_memory() && queue.drafts.is_empty() {
                    return false;
                }
                if !line.hurried {
                    line.hurried = true;
                    line.pushing.rest = None;
                }
            }
            if let Some(rest) = line.pushing.rest {
                let hurried = line.hurried;
                queue.wait(BUSY, Some(rest), || hurry() && !hurried).await;
                if !line.pushing.is_resting() {
                    line.pushing.rest = None;
                }
                continue;
            }
            if !(line.behind || line.failing || hurry()) {
                // The first try of a batch with none before it: that is how it goes every day.
                let crowded = || !queue.drafts.is_empty() && self.inner.is_crowded(queue);
                queue.wait(HALF, None, || crowded() || hurry()).await;
                if crowded() {
                    return true;
                }
            } else if line.is_in_memory() {
                return true;
            } else if queue.drafts.is_empty() {
                let awake = || !queue.drafts.is_empty() || hurry();
                queue.wait(EMPTY, None, awake).await;
            } else {
                let end = line.filled_by(self.builder.batch_age);
                let due = || self.is_due(queue) || hurry();
                queue.wait(FILLING, end, due).await;
                return true;
            }
        }
    }

    /// Pushes the oldest batch to the spool that only memory has.
    async fn push_next(&self, queue: &Queue, line: &mut Pipeline) {
        if !line.is_in_memory() {
            line.held = self.take(queue, line);
        }
        let Some(taken) = line.next_to_spool() else {
            return;
        };
        let batch = taken.batch.clone();
        let id = batch.id;
        line.own.insert(id, SpoolState::Doubtful);
        let push = self.ask(&mut line.pushing, |spool| async move {
            spool.push(&batch).await
        });
        if push.await.is_none() {
            return;
        }
        if !line.behind {
            line.behind = true;
            telemetry::warn!("usage events go to the spool");
        }
        let head = line.head.as_mut().filter(|head| head.batch.id == id);
        if let Some(head) = head {
            head.spooled = true;
            let n = head.events();
            self.left_memory(queue, head, &self.inner.counters.spooled);
            line.own.insert(id, SpoolState::Waiting(n));
        } else if let Some(held) = line.held.take() {
            self.now_spooled(queue, line, &held);
        }
    }

    fn now_spooled(&self, queue: &Queue, line: &mut Pipeline, taken: &PendingBatch) {
        self.left_memory(queue, taken, &self.inner.counters.spooled);
        line.own
            .insert(taken.batch.id, SpoolState::Waiting(taken.events()));
    }

    /// Puts the spool's oldest batch at the head of the line; `false` when there is none, or the spool
    /// does not tell.
    pub(super) async fn next_of_spool(&self, queue: &Queue, line: &mut Pipeline) -> bool {
        loop {
            self.clear_away(line).await;
            let past = line.past;
            let next = move |spool: Arc<dyn Spool>| async move { spool.next(past).await };
            let Some(next) = self.ask(&mut line.asking, next).await else {
                return false;
            };
            match next {
                None => {
                    self.now_empty(queue, line);
                    return false;
                }
                Some(Spooled::Unreadable { id, events }) => {
                    if line.own.get(&id) != Some(&SpoolState::Counted) {
                        telemetry::error!(
                            events,
                            batch = %id,
                            "usage events lost: the spool cannot read them back"
                        );
                        self.count_spooled(line, id, events, false);
                        line.leave(id, true);
                        queue.settled.notify_waiters();
                    }
                    line.past = Some(id);
                }
                Some(Spooled::Batch(batch)) => {
                    let id = batch.id;
                    // Its push was done, although it seemed to fail.
                    if let Some(held) = line.held.take_if(|held| held.batch.id == id) {
                        self.now_spooled(queue, line, &held);
                    }
                    if line.own.get(&id) != Some(&SpoolState::Counted) {
                        line.head = Some(PendingBatch {
                            batch: batch.into(),
                            extra: 0,
                            rejected: 0,
                            spooled: true,
                        });
                        return true;
                    }
                    line.past = Some(id);
                }
            }
        }
    }

    /// Lets the spool forget what is settled.
    pub(super) async fn clear_away(&self, line: &mut Pipeline) {
        while let Some(&PendingDelete { id, unreadable }) = line.leftovers.front()
            && !line.clearing.is_resting()
        {
            let clear = move |spool: Arc<dyn Spool>| async move {
                if unreadable {
                    spool.set_aside(id).await
                } else {
                    spool.remove(id).await
                }
            };
            if self.ask(&mut line.clearing, clear).await.is_some() {
                line.leftovers.pop_front();
                line.own.remove(&id);
            }
        }
        if line.leftovers.is_empty() {
            line.past = None;
        }
    }

    /// What this recorder has pushed and did not see again, another process has taken out.
    fn now_empty(&self, queue: &Queue, line: &mut Pipeline) {
        line.behind = false;
        let mut drained = 0;
        line.own.retain(|_, fate| match *fate {
            SpoolState::Waiting(events) => {
                drained += events;
                false
            }
            SpoolState::Counted | SpoolState::Doubtful => true,
        });
        if line.came_out + drained > 0 {
            telemetry::info!(
                events = line.came_out + drained,
                "the usage spool is empty again"
            );
            line.came_out = 0;
        }
        self.inner.counters.drained.fetch_add(drained, SeqCst);
        queue.settled.notify_waiters();
    }

    /// Counts a batch of the spool that the sink has, or that is lost.
    pub(super) fn count_spooled(&self, line: &mut Pipeline, id: Uuid, events: u64, written: bool) {
        let counters = &self.inner.counters;
        let (counter, events) = match (line.own.get(&id), written) {
            (Some(&SpoolState::Waiting(events)), true) => (&counters.drained, events),
            (Some(&SpoolState::Waiting(events)), false) => (&counters.spoiled, events),
            (None, true) => (&counters.recovered, events),
            (None, false) => (&counters.unrecovered, events),
            // Memory has it, and counts it, or it was counted.
            (Some(SpoolState::Doubtful | SpoolState::Counted), _) => return,
        };
        line.came_out += events;
        counter.fetch_add(events, SeqCst);
    }

    /// Asks the spool; `None` when it fails, and is to be left alone for a while.
    async fn ask<T, F>(
        &self,
        health: &mut Health,
        ask: impl FnOnce(Arc<dyn Spool>) -> F,
    ) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, SpoolError>> + Send + 'static,
    {
        let asked = Instant::now();
        let answer = ask(self.builder.spool.clone()?);
        match guarded(SPOOL_TIMEOUT, answer, SpoolError::new).await {
            Ok(answer) => {
                *health = Health::default();
                Some(answer)
            }
            Err(error) => {
                telemetry::error!(
                    error = &error as &dyn std::error::Error,
                    "usage spool failed, trying again later"
                );
                let (first, longest) = self.builder.backoff;
                let pause = first
                    .saturating_mul(1 << health.failures.min(16))
                    .min(longest);
                health.failures += 1;
                // A spool that hangs takes half of the task's time at most.
                let rest = jittered(pause).max(asked.elapsed()).min(LONGEST_REST);
                health.rest = Some(Instant::now() + rest);
                None
            }
        }
    }
}

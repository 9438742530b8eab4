//! The state of batches after they leave the queue.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::lanes::Size;
use crate::usage::sink::Batch;

/// The batches known to the task. Write order: the batch in flight, then the spool, then the batch held for the
/// spool, then the queue.
#[derive(Debug, Default)]
pub(super) struct Pipeline {
    /// The batch in flight.
    pub(super) head: Option<PendingBatch>,
    /// A batch that was taken out of the queue for the spool but is not in the spool yet.
    pub(super) held: Option<PendingBatch>,
    /// When the first event of the next batch was seen in the queue.
    pub(super) filling_since: Option<Instant>,
    /// Whether the sink's last result was [`SinkError::Unavailable`](crate::usage::SinkError::Unavailable).
    pub(super) failing: bool,
    /// Whether the spool may hold batches, which come before the queue.
    pub(super) spool_in_use: bool,
    /// The batches that this recorder has pushed to the spool.
    pub(super) own: HashMap<Uuid, SpoolState>,
    /// The number of events drained from the spool since it was last empty.
    pub(super) drained: u64,
    /// Settled batches that are still in the spool, oldest first.
    pub(super) pending_deletes: VecDeque<PendingDelete>,
    /// The last leftover that was read; reading continues after it.
    pub(super) read_after: Option<Uuid>,
    /// The health of the spool's operations. Separate, since a full disk can fail pushes, and perhaps removals,
    /// but not reads.
    pub(super) pushing: Backoff,
    pub(super) reads: Backoff,
    pub(super) deletes: Backoff,
    /// Whether the task has noticed `Queue::hurry`.
    pub(super) hurried: bool,
}

/// A batch in memory.
#[derive(Debug)]
pub(super) struct PendingBatch {
    pub(super) batch: Arc<Batch>,
    /// The room of its events; none for a batch that was read from the spool.
    pub(super) size: Size,
    /// Whether it is also in the spool and counted as spooled.
    pub(super) spooled: bool,
}

/// How a batch that was pushed to the spool is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpoolState {
    /// The push failed or is in progress. The batch is in memory, and may be in the spool too.
    Unconfirmed,
    /// This number of events counts as spooled.
    Waiting(u64),
    /// Already counted as written or lost, although it may still be in the spool.
    Counted,
}

/// A batch to remove from the spool.
#[derive(Debug, Clone, Copy)]
pub(super) struct PendingDelete {
    pub(super) id: Uuid,
    /// Set the batch aside instead of removing it.
    pub(super) unreadable: bool,
}

/// The health of a spool operation.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// After a failure, the time of the next attempt.
    pub(super) retry_at: Option<Instant>,
    /// The number of consecutive failures.
    pub(super) failures: u32,
}

impl Backoff {
    pub(super) fn is_resting(&self) -> bool {
        self.retry_at.is_some_and(|until| Instant::now() < until)
    }
}

impl PendingBatch {
    pub(super) fn events(&self) -> u64 {
        self.batch.len() as u64
    }
}

impl Pipeline {
    /// Whether there is a batch that is only in memory.
    pub(super) fn is_in_memory(&self) -> bool {
        self.held.is_some() || self.head.as_ref().is_some_and(|head| !head.spooled)
    }

    /// The next batch to spool: the batch in flight, which is the oldest, or else the held one.
    pub(super) fn next_to_spool(&self) -> Option<&PendingBatch> {
        let head = self.head.as_ref().filter(|head| !head.spooled);
        head.or(self.held.as_ref())
    }

    /// The deadline until which the next batch may wait for more events.
    pub(super) fn filled_by(&mut self, age: Duration) -> Option<Instant> {
        let since = *self.filling_since.get_or_insert_with(Instant::now);
        since.checked_add(age)
    }

    /// Marks a settled batch as counted and schedules its removal from the spool.
    pub(super) fn settle(&mut self, id: Uuid, unreadable: bool) {
        self.own.insert(id, SpoolState::Counted);
        self.pending_deletes
            .push_back(PendingDelete { id, unreadable });
    }

    /// The time of the next attempt to read from or clear the spool, if one is due.
    pub(super) fn wakes(&self) -> Option<Instant> {
        let asking = self.reads.retry_at.filter(|_| self.spool_in_use);
        let clearing = self
            .deletes
            .retry_at
            .filter(|_| !self.pending_deletes.is_empty());
        asking.into_iter().chain(clearing).min()
    }
}

//! The line in which batches stand once they are out of the queue.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::usage::sink::Batch;

/// What the task knows of the batches: in flight, then the spool's, then what is held for it, then the
/// queue.
#[derive(Debug, Default)]
pub(super) struct Pipeline {
    /// The batch that is being written.
    pub(super) head: Option<PendingBatch>,
    /// A batch that was taken out of the queue for the spool, and is not in it yet.
    pub(super) held: Option<PendingBatch>,
    /// Since when the queue has something for the next batch.
    pub(super) filling_since: Option<Instant>,
    /// The sink's last answer was that it is unavailable.
    pub(super) failing: bool,
    /// The spool may hold batches, which come before those in the queue.
    pub(super) behind: bool,
    /// What this recorder has pushed to the spool.
    pub(super) own: HashMap<Uuid, SpoolState>,
    /// Events that came out of the spool since it was empty last.
    pub(super) came_out: u64,
    /// What is settled and in the spool still, oldest first.
    pub(super) leftovers: VecDeque<PendingDelete>,
    /// The last of them that was come upon: what is behind it is next.
    pub(super) past: Option<Uuid>,
    /// How the spool gets on, apart: a full disk has no room for what is pushed, perhaps none to clear
    /// away either, and can be read all the same.
    pub(super) pushing: Health,
    pub(super) asking: Health,
    pub(super) clearing: Health,
    /// The task knows that there is no more time than to spool the rest.
    pub(super) hurried: bool,
}

/// A batch in memory.
#[derive(Debug)]
pub(super) struct PendingBatch {
    pub(super) batch: Arc<Batch>,
    /// What its events take beyond their fixed size.
    pub(super) extra: u64,
    /// How many of its events are of rejected keys.
    pub(super) rejected: u64,
    /// It is in the spool too, and counted there.
    pub(super) spooled: bool,
}

/// How far the counting of a batch is that was pushed to the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpoolState {
    /// The push failed, or is not over: the spool may have it or not, and memory has it.
    Doubtful,
    /// So many events count as spooled.
    Waiting(u64),
    /// Written or lost: whatever is left of it in the spool counts no more.
    Counted,
}

/// A batch to be cleared away.
#[derive(Debug, Clone, Copy)]
pub(super) struct PendingDelete {
    pub(super) id: Uuid,
    /// Set aside rather than removed.
    pub(super) unreadable: bool,
}

/// Whether the spool is worth asking.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// It has failed, and is left alone until then.
    pub(super) rest: Option<Instant>,
    /// How often it has failed in a row.
    pub(super) failures: u32,
}

impl Health {
    pub(super) fn is_resting(&self) -> bool {
        self.rest.is_some_and(|until| Instant::now() < until)
    }
}

impl PendingBatch {
    pub(super) fn events(&self) -> u64 {
        self.batch.events.len() as u64
    }
}

impl Pipeline {
    /// Whether there is a batch that only memory has.
    pub(super) fn is_in_memory(&self) -> bool {
        self.held.is_some() || self.head.as_ref().is_some_and(|head| !head.spooled)
    }

    /// The batch that the spool takes next. What is in flight comes first: it is the oldest.
    pub(super) fn next_to_spool(&self) -> Option<&PendingBatch> {
        let head = self.head.as_ref().filter(|head| !head.spooled);
        head.or(self.held.as_ref())
    }

    /// Until when the batch that is filling may wait for more.
    pub(super) fn filled_by(&mut self, age: Duration) -> Option<Instant> {
        let since = *self.filling_since.get_or_insert_with(Instant::now);
        since.checked_add(age)
    }

    /// What there is of a settled batch in the spool counts no more, and can go.
    pub(super) fn leave(&mut self, id: Uuid, unreadable: bool) {
        self.own.insert(id, SpoolState::Counted);
        self.leftovers.push_back(PendingDelete { id, unreadable });
    }

    /// When there is something to do although nothing happens.
    pub(super) fn wakes(&self) -> Option<Instant> {
        let asking = self.asking.rest.filter(|_| self.behind);
        let clearing = self.clearing.rest.filter(|_| !self.leftovers.is_empty());
        asking.into_iter().chain(clearing).min()
    }
}

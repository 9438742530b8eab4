//! The queue of the recorder: one lane for each thread, so that threads do not share cache lines.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use crate::sync::atomic::{AtomicU64, AtomicUsize};
use crate::sync::{Mutex, MutexGuard, thread_index};
use crate::usage::event_rows::{EventRows, PendingRows};
use crate::usage::pending_event::{EVENT_BYTES, PendingEvent};

/// The events that have ended and are not in a batch yet.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Box<[Lane]>,
    gathered: Mutex<Gathered>,
    room: Room,
    /// The number of places that a lane reserves at a time.
    places: u64,
    /// The number of rows for which a lane keeps memory.
    kept_rows: usize,
}

/// The events of threads with one index.
#[derive(Debug)]
#[repr(align(128))]
struct Lane {
    /// The number of requests that have begun.
    begun: AtomicU64,
    /// The number of events that were accepted. Written with the lock held.
    accepted: AtomicU64,
    /// The number of events in the lane. Written with the lock held.
    len: AtomicUsize,
    state: Mutex<LaneState>,
}

#[derive(Debug, Default)]
struct LaneState {
    events: PendingRows,
    /// Reserved places that are not in use.
    places: u64,
    /// Whether the task waits for the next event.
    is_awaited: bool,
    is_closed: bool,
}

/// Events taken out of their lanes, oldest first.
#[derive(Debug, Default)]
struct Gathered {
    chunks: VecDeque<(PendingRows, Range<usize>)>,
    /// Empty rows, to be used by lanes.
    spare: Vec<PendingRows>,
    /// The number of events in the chunks.
    len: usize,
    /// The number of events gathered so far.
    total: u64,
}

/// The part of the recorder's capacity that is in use: by events in memory, and by places reserved by lanes.
#[derive(Debug)]
struct Room {
    events: AtomicU64,
    bytes: AtomicU64,
    capacity: u64,
    capacity_bytes: u64,
}

/// What an accepted event may change for the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepted {
    /// The task is waiting for the first event.
    First,
    /// The event used room that was not reserved before, so that a limit for which the task waits may be reached.
    InNewRoom,
    /// The event used a place that was reserved before.
    InPlace,
}

/// The room of a number of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Size {
    pub(super) events: u64,
    /// Their bytes beyond [`EVENT_BYTES`] each.
    pub(super) extra: u64,
    /// The number of events of rejected keys, which have room of their own.
    pub(super) rejected: u64,
}

/// No room is left, or the recorder is closed.
#[derive(Debug)]
pub(super) struct NoRoom;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lanes {
    /// The number of places that a lane reserves at a time is a small part of the capacity, so that unused places
    /// do not matter, and of a batch, since the task is woken for a full batch only when a lane reserves places.
    pub(super) fn new(capacity: usize, capacity_bytes: u64, batch_size: usize) -> Self {
        let lanes = lane_count();
        let capacity = capacity as u64;
        let events = capacity.min(capacity_bytes / EVENT_BYTES);
        let places = (events / (64 * lanes as u64)).min(batch_size as u64 / 32);
        Self {
            lanes: (0..lanes).map(|_| Lane::new()).collect(),
            gathered: Mutex::default(),
            room: Room {
                events: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                capacity,
                capacity_bytes,
            },
            places: places.clamp(1, 64),
            kept_rows: (2 * batch_size / lanes).clamp(256, 4_096),
        }
    }

    /// The lane of the current thread.
    #[inline]
    fn lane(&self) -> &Lane {
        // The number of lanes is a power of two.
        &self.lanes[thread_index() & (self.lanes.len() - 1)]
    }

    /// Counts a request as begun.
    #[inline]
    pub(super) fn begin(&self) {
        self.lane().begun.fetch_add(1, Relaxed);
    }

    /// Undoes [`begin`](Self::begin).
    pub(super) fn undo_begin(&self) {
        self.lane().begun.fetch_sub(1, Relaxed);
    }

    /// Reserves a place for the event of a request that begins.
    pub(super) fn reserve(&self) -> Result<(), NoRoom> {
        let state = &mut *lock(&self.lane().state);
        if state.is_closed {
            return Err(NoRoom);
        }
        self.take_place(state)?;
        Ok(())
    }

    /// Gives a reserved place back.
    pub(super) fn release(&self) {
        lock(&self.lane().state).places += 1;
    }

    /// Takes one of the lane's places, or reserves more. Returns whether it has reserved more.
    #[inline]
    fn take_place(&self, state: &mut LaneState) -> Result<bool, NoRoom> {
        if let Some(left) = state.places.checked_sub(1) {
            state.places = left;
            return Ok(false);
        }
        for places in [self.places, 1] {
            if self.room.take(places, places * EVENT_BYTES) {
                state.places = places - 1;
                return Ok(true);
            }
        }
        Err(NoRoom)
    }

    /// Adds an event. `is_reserved` is whether a place was reserved for it when the request began.
    #[inline]
    pub(super) fn push(
        &self,
        event: &mut PendingEvent,
        is_reserved: bool,
    ) -> Result<Accepted, NoRoom> {
        let lane = self.lane();
        let state = &mut *lock(&lane.state);
        if state.is_closed {
            return Err(NoRoom);
        }
        let extra = event.extra_bytes();
        let mut in_new_room = extra > 0 || event.fields.is_rejected;
        if is_reserved {
            self.room.bytes.fetch_add(extra, Relaxed);
        } else if !event.fields.is_rejected {
            in_new_room |= self.take_place(state)?;
            if extra > 0 && !self.room.take(0, extra) {
                state.places += 1;
                return Err(NoRoom);
            }
        }
        state.events.push(event);
        lane.accepted
            .store(lane.accepted.load(Relaxed) + 1, Relaxed);
        lane.len.store(state.events.len(), Release);
        Ok(if std::mem::take(&mut state.is_awaited) {
            Accepted::First
        } else if in_new_room {
            Accepted::InNewRoom
        } else {
            Accepted::InPlace
        })
    }

    /// Counts an event as accepted that is not kept.
    pub(super) fn count(&self) -> Result<(), NoRoom> {
        let lane = self.lane();
        if lock(&lane.state).is_closed {
            return Err(NoRoom);
        }
        lane.accepted.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Makes the next event in each lane return [`Accepted::First`].
    pub(super) fn await_first(&self) {
        for lane in &self.lanes {
            lock(&lane.state).is_awaited = true;
        }
    }

    /// Accepts no further events.
    pub(super) fn close(&self) {
        for lane in &self.lanes {
            lock(&lane.state).is_closed = true;
        }
    }

    /// The number of events, in lanes and gathered.
    pub(super) fn len(&self) -> usize {
        // The lock is held while events move between the two.
        let gathered = lock(&self.gathered);
        let lanes = self.lanes.iter().map(|lane| lane.len.load(Acquire));
        gathered.len + lanes.sum::<usize>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes all events out of their lanes. Returns the number of events that were ever taken.
    pub(super) fn gather(&self) -> u64 {
        let gathered = &mut *lock(&self.gathered);
        self.gather_into(gathered);
        gathered.total
    }

    fn gather_into(&self, gathered: &mut Gathered) {
        for lane in &self.lanes {
            if lane.len.load(Acquire) == 0 {
                continue;
            }
            let spare = gathered.spare.pop().unwrap_or_default();
            let events = {
                let mut state = lock(&lane.state);
                lane.len.store(0, Release);
                std::mem::replace(&mut state.events, spare)
            };
            let len = events.len();
            gathered.chunks.push_back((events, 0..len));
            gathered.len += len;
            gathered.total += len as u64;
        }
    }

    /// Takes up to this many events, oldest first. Calls `taken` with their size before they leave the queue.
    pub(super) fn take(&self, largest: usize, taken: impl Fn(Size)) -> (EventRows, Size) {
        let gathered = &mut *lock(&self.gathered);
        self.gather_into(gathered);
        let wanted = gathered.len.min(largest);
        let (mut events, mut size) = (EventRows::with_capacity(wanted), Size::default());
        while let Some((chunk, rest)) = gathered.chunks.front_mut()
            && events.len() < wanted
        {
            let end = rest.end.min(rest.start + wanted - events.len());
            let part = rest.start..end;
            let (extra, rejected) = chunk.extra(part.clone());
            let part_size = Size {
                events: part.len() as u64,
                extra,
                rejected,
            };
            taken(part_size);
            size.events += part_size.events;
            size.extra += extra;
            size.rejected += rejected;
            gathered.len -= part.len();
            rest.start = end;
            events.append(chunk, part);
            if rest.start == rest.end
                && let Some((mut chunk, _)) = gathered.chunks.pop_front()
                && gathered.spare.len() < self.lanes.len()
            {
                chunk.clear(self.kept_rows);
                gathered.spare.push(chunk);
            }
        }
        (events, size)
    }

    /// Removes all events from lanes that are closed, and releases all room. Returns their number.
    pub(super) fn discard(&self) -> u64 {
        let gathered = &mut *lock(&self.gathered);
        self.gather_into(gathered);
        gathered.chunks.clear();
        self.room.events.store(0, SeqCst);
        self.room.bytes.store(0, SeqCst);
        std::mem::take(&mut gathered.len) as u64
    }

    /// Returns the room of events that have left memory.
    pub(super) fn give_back(&self, size: Size) {
        let events = size.events - size.rejected;
        self.room.events.fetch_sub(events, SeqCst);
        let bytes = events * EVENT_BYTES + size.extra;
        self.room.bytes.fetch_sub(bytes, SeqCst);
    }

    /// Whether half of the capacity in bytes is used.
    pub(super) fn is_heavy(&self) -> bool {
        self.room.bytes.load(Relaxed) >= self.room.capacity_bytes.div_ceil(2)
    }

    /// Whether half of the capacity is used, in events or in bytes.
    pub(super) fn is_crowded(&self) -> bool {
        self.room.events.load(Relaxed) >= self.room.capacity.div_ceil(2) || self.is_heavy()
    }

    /// The number of requests that have begun.
    pub(super) fn begun(&self) -> u64 {
        let begun = self.lanes.iter().map(|lane| lane.begun.load(Relaxed));
        // A request may end on another thread than it began on.
        begun.fold(0, u64::wrapping_add)
    }

    /// The number of events that were accepted.
    pub(super) fn accepted(&self) -> u64 {
        let accepted = self.lanes.iter().map(|lane| lane.accepted.load(Relaxed));
        accepted.sum()
    }

    /// The bytes of events in memory beyond [`EVENT_BYTES`] each.
    pub(super) fn extra_bytes(&self) -> u64 {
        let places = self.room.events.load(Relaxed) * EVENT_BYTES;
        self.room.bytes.load(Relaxed).saturating_sub(places)
    }
}

impl Lane {
    fn new() -> Self {
        Self {
            begun: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            len: AtomicUsize::new(0),
            state: Mutex::default(),
        }
    }
}

impl Room {
    /// Takes room for events and bytes, if all of it is free.
    fn take(&self, events: u64, bytes: u64) -> bool {
        let within = |limit: u64, more: u64| {
            move |used: u64| used.checked_add(more).filter(|used| *used <= limit)
        };
        let take = within(self.capacity_bytes, bytes);
        if self.bytes.fetch_update(SeqCst, SeqCst, take).is_err() {
            return false;
        }
        let take = within(self.capacity, events);
        let has_room = self.events.fetch_update(SeqCst, SeqCst, take).is_ok();
        if !has_room {
            self.bytes.fetch_sub(bytes, SeqCst);
        }
        has_room
    }
}

/// A power of two, at least the number of cores.
fn lane_count() -> usize {
    if cfg!(all(test, any(keytally_loom, keytally_shuttle))) {
        return 2;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.next_power_of_two().min(64)
}

//! The queue of the recorder: lanes that are shared by few threads, so that threads rarely contend for a cache line.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use crate::sync::atomic::{AtomicU64, AtomicUsize};
use crate::sync::{Mutex, MutexGuard, thread_index, thread_slots};
use crate::usage::event_rows::{EventRows, PendingRows};
use crate::usage::pending_event::{EVENT_BYTES, PendingEvent};

/// The events that have ended and are not in a batch yet.
pub(super) struct Lanes {
    lanes: Box<[Lane]>,
    gathered: Mutex<Gathered>,
    /// The number of gathered events. Written with the lock held.
    gathered_len: AtomicUsize,
    room: Room,
    /// Bytes of events in memory beyond [`EVENT_BYTES`] each.
    extra_bytes: AtomicU64,
    /// The number of places that a lane reserves at a time.
    places: u64,
    /// The number of events after which a lane wakes the task if it waits for a number of events.
    stride: u64,
    /// The number of rows for which a lane keeps memory.
    kept_rows: usize,
}

/// The queue of the threads that map to this lane.
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

#[derive(Default)]
struct LaneState {
    events: PendingRows,
    /// Reserved places that are not in use.
    places: u64,
    /// Whether the task waits for the next event.
    is_awaited: bool,
    is_closed: bool,
}

/// Events taken out of their lanes, oldest first.
#[derive(Default)]
struct Gathered {
    chunks: VecDeque<Chunk>,
    /// Empty rows, to be used by lanes.
    spare: Vec<PendingRows>,
    /// The number of events gathered so far.
    total: u64,
}

/// Events, and the range of those that are not in a batch yet.
type Chunk = (PendingRows, Range<usize>);

/// The part of the capacity that is in use: by events in memory, requests that have reserved room, and places reserved
/// by lanes.
struct Room {
    events: AtomicU64,
    bytes: AtomicU64,
    capacity: u64,
    capacity_bytes: u64,
}

/// What the task may be waiting for when an event was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepted {
    /// The first event.
    First,
    /// A number of events, or of their bytes.
    Several,
    /// Nothing that this event completes.
    Nothing,
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
    pub(super) fn new(capacity: usize, capacity_bytes: u64, batch_size: usize) -> Self {
        let lanes = thread_slots();
        let capacity = capacity as u64;
        let events = capacity.min(capacity_bytes / EVENT_BYTES);
        // All lanes reserve at most a 64th of the capacity, and wake the task at most an eighth of a batch or of the
        // capacity late.
        let places = events / (64 * lanes as u64);
        let stride = events.min(batch_size as u64) / (8 * lanes as u64);
        Self {
            lanes: (0..lanes).map(|_| Lane::new()).collect(),
            gathered: Mutex::default(),
            gathered_len: AtomicUsize::new(0),
            room: Room {
                events: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                capacity,
                capacity_bytes,
            },
            extra_bytes: AtomicU64::new(0),
            places: places.clamp(1, 64),
            stride: stride.clamp(1, 64),
            kept_rows: (2 * batch_size / lanes).clamp(256, 4_096),
        }
    }

    /// The number of places that may be reserved and not in use.
    pub(super) fn unused_places(&self) -> u64 {
        self.lanes.len() as u64 * (self.places - 1)
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
        self.take_place(state)
    }

    /// Releases a reserved place.
    pub(super) fn release(&self) {
        let state = &mut *lock(&self.lane().state);
        if !state.is_closed {
            self.release_place(state);
        }
    }

    /// Keeps a place for the next event, or releases it if the lane has enough.
    fn release_place(&self, state: &mut LaneState) {
        if state.places + 1 < self.places {
            state.places += 1;
        } else {
            self.room.give_back(1, EVENT_BYTES);
        }
    }

    /// Takes one of the lane's places, or reserves more.
    #[inline]
    fn take_place(&self, state: &mut LaneState) -> Result<(), NoRoom> {
        if let Some(left) = state.places.checked_sub(1) {
            state.places = left;
            return Ok(());
        }
        for places in [self.places, 1] {
            if self.room.take(places, places * EVENT_BYTES) {
                state.places = places - 1;
                return Ok(());
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
        if !is_reserved && !event.fields.is_rejected {
            self.take_place(state)?;
        }
        if extra > 0 {
            if is_reserved {
                self.room.bytes.fetch_add(extra, Relaxed);
            } else if !self.room.take(0, extra) {
                self.release_place(state);
                return Err(NoRoom);
            }
            self.extra_bytes.fetch_add(extra, Relaxed);
        }
        state.events.push(event);
        let accepted = lane.count();
        lane.len.store(state.events.len(), Release);
        Ok(if std::mem::take(&mut state.is_awaited) {
            Accepted::First
        } else if extra > 0 || accepted.is_multiple_of(self.stride) {
            Accepted::Several
        } else {
            Accepted::Nothing
        })
    }

    /// Counts an event as accepted that is not kept.
    pub(super) fn count(&self) -> Result<(), NoRoom> {
        let lane = self.lane();
        let state = lock(&lane.state);
        if state.is_closed {
            return Err(NoRoom);
        }
        lane.count();
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

    /// The number of events, in lanes and gathered. For the task.
    pub(super) fn len(&self) -> usize {
        // The lock is held while events move between the two.
        let _gathered = lock(&self.gathered);
        self.approximate_len()
    }

    /// The same without waiting. Without events that are being gathered.
    pub(super) fn approximate_len(&self) -> usize {
        let lanes = self.lanes.iter().map(|lane| lane.len.load(Acquire));
        lanes.sum::<usize>() + self.gathered_len.load(Acquire)
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
            gathered.total += len as u64;
            let all = self.gathered_len.load(Relaxed) + len;
            self.gathered_len.store(all, Release);
        }
    }

    /// Takes up to this many events, oldest first. Calls `taken` with their number before they leave the queue.
    pub(super) fn take(&self, largest: usize, taken: impl FnOnce(u64)) -> (EventRows, Size) {
        // The chunks with events for the batch. The last one may have more.
        let mut chunks: Vec<Chunk> = Vec::new();
        let wanted = {
            let gathered = &mut *lock(&self.gathered);
            self.gather_into(gathered);
            let all = self.gathered_len.load(Relaxed);
            let wanted = all.min(largest);
            let mut found = 0;
            while found < wanted
                && let Some(chunk) = gathered.chunks.pop_front()
            {
                found += chunk.1.len();
                chunks.push(chunk);
            }
            taken(wanted as u64);
            self.gathered_len.store(all - wanted, Release);
            wanted
        };
        // Without the lock: this takes a while, and the keys are dropped.
        let (mut events, mut size) = (EventRows::with_capacity(wanted), Size::default());
        for (chunk, rest) in &mut chunks {
            let end = rest.end.min(rest.start + wanted - events.len());
            let part = rest.start..end;
            let (extra, rejected) = chunk.extra(part.clone());
            size.events += part.len() as u64;
            size.extra += extra;
            size.rejected += rejected;
            rest.start = end;
            events.append(chunk, part);
            if rest.start == rest.end {
                chunk.clear(self.kept_rows);
            }
        }
        let gathered = &mut *lock(&self.gathered);
        for (chunk, rest) in chunks {
            if rest.start < rest.end {
                gathered.chunks.push_front((chunk, rest));
            } else if gathered.spare.len() < self.lanes.len() {
                gathered.spare.push(chunk);
            }
        }
        (events, size)
    }

    /// Removes all events from lanes that are closed, and releases all room. Returns their number, and the events.
    pub(super) fn discard(&self) -> (u64, impl Drop) {
        let gathered = &mut *lock(&self.gathered);
        self.gather_into(gathered);
        self.room.events.store(0, SeqCst);
        self.room.bytes.store(0, SeqCst);
        self.extra_bytes.store(0, SeqCst);
        let len = self.gathered_len.load(Relaxed);
        self.gathered_len.store(0, Release);
        (len as u64, std::mem::take(&mut gathered.chunks))
    }

    /// Returns the room of events that have left memory.
    pub(super) fn give_back(&self, size: Size) {
        let events = size.events - size.rejected;
        self.room
            .give_back(events, events * EVENT_BYTES + size.extra);
        self.extra_bytes.fetch_sub(size.extra, SeqCst);
    }

    /// The number of requests that have begun.
    pub(super) fn begun(&self) -> u64 {
        let begun = self.lanes.iter().map(|lane| lane.begun.load(Relaxed));
        // A request may be undone on another thread than it began on, before or after that thread is read.
        let begun = begun.fold(0, u64::wrapping_add).cast_signed();
        begun.max(0).cast_unsigned()
    }

    /// The number of events that were accepted.
    pub(super) fn accepted(&self) -> u64 {
        let accepted = self.lanes.iter().map(|lane| lane.accepted.load(Relaxed));
        accepted.sum()
    }

    /// The bytes of events in memory beyond [`EVENT_BYTES`] each.
    pub(super) fn extra_bytes(&self) -> u64 {
        self.extra_bytes.load(Relaxed)
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes")
            .field("len", &self.approximate_len())
            .finish_non_exhaustive()
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

    /// Counts an event as accepted. Requires the lock.
    #[inline]
    fn count(&self) -> u64 {
        let accepted = self.accepted.load(Relaxed) + 1;
        self.accepted.store(accepted, Relaxed);
        accepted
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

    fn give_back(&self, events: u64, bytes: u64) {
        let before = self.events.fetch_sub(events, SeqCst);
        debug_assert!(before >= events, "more room is released than was taken");
        self.bytes.fetch_sub(bytes, SeqCst);
    }
}

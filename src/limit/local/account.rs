//! What one key has spent, and the limits under which somebody spends of it.
//!
//! Each different limit has a slot of its own, so that a holder's limits are kept whatever others
//! hold. What is spent under one is counted in all of its name: when a key's limits change, or
//! differ from layer to layer, nothing is forgiven.

use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError};

use smallvec::SmallVec;

use super::gcra::{GcraState, Spend};
use crate::clock::Now;
use crate::limit::{Decision, LimitError, LimitHandle, LimitResponse, RateLimit};
use crate::sync::{Mutex, MutexGuard};

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one key has spent. The lock is held for some nanoseconds: it makes a request spend of all
/// limits or of none.
#[derive(Debug, Default)]
pub(super) struct Account(Mutex<Slots>);

type Slots = SmallVec<[GcraState; 1]>;

impl Account {
    /// Different limits that are in use or have something spent. Beyond these, what is spent under a
    /// limit that is not in use is known by others of its name only.
    pub(super) const MAX_SLOTS: usize = 4 * RateLimit::MAX_PER_KEY;

    pub(super) fn hold(
        self: Arc<Self>,
        limits: &[RateLimit],
        now: Now,
    ) -> Result<Held, LimitError> {
        let mut slots = lock(&self.0);
        let places = limits
            .iter()
            .map(|limit| place(&mut slots, limit, now.elapsed_nanos()))
            .collect::<Result<_, _>>()?;
        drop(slots);
        Ok(Held {
            account: self,
            places,
        })
    }

    pub(super) fn is_whole(&self, now: Now) -> bool {
        let now = now.elapsed_nanos();
        lock(&self.0).iter().all(|slot| slot.is_whole(now))
    }
}

/// The limit's slot, made in the place of one that is missed least or behind all others.
fn place(slots: &mut Slots, limit: &RateLimit, now: u64) -> Result<Place, LimitError> {
    let (name, quota) = (limit.name(), limit.quota()?);
    let index = match slots.iter().position(|slot| slot.is(name, quota)) {
        Some(index) => index,
        None => {
            let slot = GcraState::beside(slots, name, quota, now);
            let free = slots.iter().position(|slot| slot.is_free(now));
            let index = match free {
                None if slots.len() < Account::MAX_SLOTS => None,
                None => Some(carried_by_others(slots, name, now).ok_or(LimitError::Full)?),
                free => free,
            };
            match index {
                Some(index) => slots[index] = slot,
                None => slots.push(slot),
            }
            index.unwrap_or(slots.len() - 1)
        }
    };
    Ok(Place {
        index,
        name: slots[index].name().clone(),
    })
}

/// A slot that nobody holds, where another of its name, or the new one, knows what is spent: the one
/// with the least, so that the most is remembered whatever limit comes back.
fn carried_by_others(slots: &Slots, new: &str, now: u64) -> Option<usize> {
    let named_so = |name: &str| slots.iter().filter(|slot| **slot.name() == *name).count();
    let carried = |slot: &GcraState| **slot.name() == *new || named_so(slot.name()) > 1;
    slots
        .iter()
        .enumerate()
        .filter(|(_, slot)| !slot.is_held() && carried(slot))
        .min_by_key(|(_, slot)| slot.spent_requests(now))
        .map(|(index, _)| index)
}

/// One holder's limits.
#[derive(Debug)]
pub(super) struct Held {
    account: Arc<Account>,
    places: SmallVec<[Place; 1]>,
}

/// Where a limit's slot is: there it stays for as long as its name is held.
#[derive(Debug)]
struct Place {
    index: usize,
    name: Arc<str>,
}

impl LimitHandle for Held {
    fn acquire(&self, cost: u32, now: Now) -> LimitResponse {
        let (slots, now) = (lock(&self.account.0), now.elapsed_nanos());
        let mut decision = Decision::default();
        match NonZeroU32::new(cost) {
            Some(cost) => self.spend(&slots, cost, now, &mut decision),
            None => self
                .own(&slots)
                .for_each(|slot| decision.push(slot.standing(now))),
        }
        LimitResponse::Ready(decision)
    }
}

impl Held {
    #[inline]
    fn own<'a>(&self, slots: &'a [GcraState]) -> impl Iterator<Item = &'a GcraState> {
        self.places.iter().map(|place| &slots[place.index])
    }

    #[inline]
    fn spend(&self, slots: &[GcraState], cost: NonZeroU32, now: u64, decision: &mut Decision) {
        // One limit can be asked and spent of in one go.
        if self.places.len() > 1 {
            for slot in self.own(slots) {
                slot.check(now, cost, Spend::No, decision);
            }
            if !decision.is_allowed() {
                return;
            }
            *decision = Decision::default();
        }
        for slot in self.own(slots) {
            slot.check(now, cost, Spend::Yes, decision);
        }
        if slots.len() > self.places.len() && decision.is_allowed() {
            self.tell_others(slots, cost, now);
        }
    }

    /// Counts what was spent in the slots of other limits that have one of the names.
    #[cold]
    fn tell_others(&self, slots: &[GcraState], cost: NonZeroU32, now: u64) {
        for (index, slot) in slots.iter().enumerate() {
            let mut namesakes = self
                .places
                .iter()
                .filter(|place| place.name == *slot.name());
            if namesakes.next().is_some_and(|own| own.index != index) {
                slot.count(cost, now);
            }
        }
    }
}

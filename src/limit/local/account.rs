//! The usage of one key, and the handles that share it.
//!
//! Each different limit has a slot of its own, so that handles do not affect each other's limits. Consumption
//! under one limit counts for all limits of the same name, so that usage is not lost when the limits of a key
//! change or differ between layers.

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

/// The usage of one key. The lock is held for nanoseconds; it makes a request consume from all limits or from
/// none.
#[derive(Debug, Default)]
pub(super) struct Account(Mutex<Slots>);

type Slots = SmallVec<[GcraState; 1]>;

impl Account {
    /// The maximum number of different limits that are in use or have usage. Beyond that, the usage of a limit
    /// that is not in use is tracked only by others of its name.
    pub(super) const MAX_SLOTS: usize = 4 * RateLimit::MAX_PER_KEY;

    pub(super) fn attach(
        self: Arc<Self>,
        limits: &[RateLimit],
        now: Now,
    ) -> Result<AccountHandle, LimitError> {
        let mut slots = lock(&self.0);
        let places = limits
            .iter()
            .map(|limit| find_or_insert(&mut slots, limit, now.elapsed_nanos()))
            .collect::<Result<_, _>>()?;
        drop(slots);
        Ok(AccountHandle {
            account: self,
            places,
        })
    }

    pub(super) fn is_whole(&self, now: Now) -> bool {
        let now = now.elapsed_nanos();
        lock(&self.0).iter().all(|slot| slot.is_unused(now))
    }
}

/// Finds the slot of a limit, or creates it: in place of a replaceable slot, or at the end.
fn find_or_insert(slots: &mut Slots, limit: &RateLimit, now: u64) -> Result<Place, LimitError> {
    let (name, quota) = (limit.name(), limit.quota()?);
    let index = match slots.iter().position(|slot| slot.is(name, quota)) {
        Some(index) => index,
        None => {
            let slot = GcraState::with_usage_of(slots, name, quota, now);
            let free = slots.iter().position(|slot| slot.is_removable(now));
            let index = match free {
                None if slots.len() < Account::MAX_SLOTS => None,
                None => Some(replaceable(slots, name, now).ok_or(LimitError::AtCapacity)?),
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

/// A slot that is not in use and whose usage is tracked by another slot of its name, or the new one. Of these, the
/// slot with the least usage, so that the most is retained for limits that return.
fn replaceable(slots: &Slots, new: &str, now: u64) -> Option<usize> {
    let same_name = |name: &str| slots.iter().filter(|slot| **slot.name() == *name).count();
    let is_redundant = |slot: &GcraState| **slot.name() == *new || same_name(slot.name()) > 1;
    slots
        .iter()
        .enumerate()
        .filter(|(_, slot)| !slot.in_use() && is_redundant(slot))
        .min_by_key(|(_, slot)| slot.usage_in_requests(now))
        .map(|(index, _)| index)
}

/// The limits of one handle.
#[derive(Debug)]
pub(super) struct AccountHandle {
    account: Arc<Account>,
    places: SmallVec<[Place; 1]>,
}

/// The index of a slot, stable while its name is held.
#[derive(Debug)]
struct Place {
    index: usize,
    name: Arc<str>,
}

impl LimitHandle for AccountHandle {
    fn acquire(&self, cost: u32, now: Now) -> LimitResponse {
        let (slots, now) = (lock(&self.account.0), now.elapsed_nanos());
        let mut decision = Decision::default();
        match NonZeroU32::new(cost) {
            Some(cost) => self.spend(&slots, cost, now, &mut decision),
            None => decision = Decision::new(self.own_slots(&slots).map(|slot| slot.status(now))),
        }
        LimitResponse::Ready(decision)
    }
}

impl AccountHandle {
    #[inline]
    fn own_slots<'a>(&self, slots: &'a [GcraState]) -> impl Iterator<Item = &'a GcraState> {
        self.places.iter().map(|place| &slots[place.index])
    }

    #[inline]
    fn spend(&self, slots: &[GcraState], cost: NonZeroU32, now: u64, decision: &mut Decision) {
        // A single limit is checked and consumed in one step.
        if self.places.len() > 1 {
            for slot in self.own_slots(slots) {
                slot.check(now, cost, Spend::No, decision);
            }
            if !decision.is_allowed() {
                return;
            }
            *decision = Decision::default();
        }
        for slot in self.own_slots(slots) {
            slot.check(now, cost, Spend::Yes, decision);
        }
        if slots.len() > self.places.len() && decision.is_allowed() {
            self.charge_others(slots, cost, now);
        }
    }

    /// Consumes from the slots of other limits with the same names.
    #[cold]
    fn charge_others(&self, slots: &[GcraState], cost: NonZeroU32, now: u64) {
        for (index, slot) in slots.iter().enumerate() {
            let mut same_name = self
                .places
                .iter()
                .filter(|place| place.name == *slot.name());
            if same_name.next().is_some_and(|own| own.index != index) {
                slot.consume(cost, now);
            }
        }
    }
}

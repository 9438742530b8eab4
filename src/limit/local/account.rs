//! The usage of one subject, and the handles that share it.
//!
//! Each different limit has a slot of its own, so that handles do not affect each other's limits. Consumption
//! under one limit counts for all limits of the same name, so that usage is not lost when the limits of a key
//! change or differ between layers.

use std::num::NonZeroU32;
use std::slice::from_ref;
use std::sync::atomic::Ordering::Acquire;
use std::sync::{Arc, PoisonError};

use smallvec::{SmallVec, smallvec};

use super::slot::Slot;
use crate::clock::Now;
use crate::limit::rate::{Exceeded, Rate};
use crate::limit::{Decision, LimitError, LimitHandle, LimitResponse, LimitStatus, RateLimit};
use crate::sync::atomic::fence;
use crate::sync::{Mutex, MutexGuard};

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The usage of one subject. The lock makes a request consume from all limits or from none. It is not needed while there
/// is one slot that no handle charges together with other accounts.
#[derive(Debug, Default)]
pub(super) struct Account(Mutex<Slots>);

/// Handles hold clones, so that a reference count of one means that the limit is not in use.
type Slots = SmallVec<[Arc<Slot>; 1]>;

impl Account {
    /// The maximum number of different limits that are in use or have usage. Beyond that, the usage of a limit
    /// that is not in use is tracked only by others of its name.
    pub(super) const MAX_SLOTS: usize = 4 * RateLimit::MAX_PER_KEY;

    pub(super) fn attach(
        self: Arc<Self>,
        limits: &[RateLimit],
        now: Now,
    ) -> Result<AccountLimits, LimitError> {
        let mut all = lock(&self.0);
        let slots = limits
            .iter()
            .map(|limit| find_or_insert(&mut all, limit, now.elapsed_nanos()))
            .collect::<Result<_, _>>()?;
        drop(all);
        Ok(AccountLimits {
            account: self,
            slots,
        })
    }

    pub(super) fn is_whole(&self, now: Now) -> bool {
        let now = now.elapsed_nanos();
        lock(&self.0).iter().all(|slot| slot.is_unused(now))
    }
}

/// Finds the slot of a limit, or creates it: in place of a replaceable slot, or at the end.
fn find_or_insert(slots: &mut Slots, limit: &RateLimit, now: u64) -> Result<Arc<Slot>, LimitError> {
    let (name, rate) = (limit.name(), Rate::of(limit)?);
    let same = |slot: &&Arc<Slot>| slot.name() == name && slot.rate() == rate;
    if let Some(slot) = slots.iter().find(same) {
        return Ok(slot.clone());
    }
    let is_removable = |slot: &Arc<Slot>| !is_shared(slot) && slot.is_unused(now);
    let index = match slots.iter().position(is_removable) {
        None if slots.len() < Account::MAX_SLOTS => None,
        None => Some(replaceable(slots, name, now).ok_or(LimitError::AtCapacity)?),
        free => free,
    };
    let is_only = slots.len() == usize::from(index.is_some());
    if !is_only {
        slots.iter().for_each(|slot| slot.lock());
    }
    let same_name = slots.iter().filter(|slot| slot.name() == name);
    let usage = same_name.map(|slot| (slot.rate(), slot.usage(now)));
    let slot = Arc::new(Slot::new(limit, rate, is_only, usage, now));
    match index {
        Some(index) => slots[index] = slot.clone(),
        None => slots.push(slot.clone()),
    }
    Ok(slot)
}

/// Whether there are other references. If not, all that was done through them is visible.
pub(super) fn is_shared<T>(shared: &Arc<T>) -> bool {
    if Arc::strong_count(shared) > 1 {
        return true;
    }
    fence(Acquire);
    false
}

/// A slot that is not in use and whose usage is tracked by another slot of its name, or the new one. Of these, the
/// slot with the least usage, so that the most is retained for limits that return.
fn replaceable(slots: &Slots, new: &str, now: u64) -> Option<usize> {
    let same_name = |name: &str| slots.iter().filter(|slot| slot.name() == name).count();
    let is_redundant = |slot: &Slot| slot.name() == new || same_name(slot.name()) > 1;
    slots
        .iter()
        .enumerate()
        .filter(|(_, slot)| !is_shared(slot) && is_redundant(slot))
        .min_by_key(|(_, slot)| slot.usage_in_requests(now))
        .map(|(index, _)| index)
}

/// The limits of an account that a handle charges.
#[derive(Debug)]
pub(super) struct AccountLimits {
    account: Arc<Account>,
    slots: Box<[Arc<Slot>]>,
}

/// The limits of one handle, of one or more accounts.
#[derive(Debug)]
pub(in crate::limit) struct LocalHandle(HandleLimits);

#[derive(Debug)]
enum HandleLimits {
    /// One limit, as of most keys. In less memory than lists of one.
    Single(Arc<Account>, Arc<Slot>),
    Several(Box<SmallVec<[AccountLimits; 1]>>),
}

/// A borrowed [`AccountLimits`].
#[derive(Clone, Copy)]
struct Charged<'a> {
    account: &'a Arc<Account>,
    slots: &'a [Arc<Slot>],
}

impl AccountLimits {
    fn charged(&self) -> Charged<'_> {
        Charged::of(&self.account, &self.slots)
    }
}

impl LimitHandle for LocalHandle {
    fn acquire(&self, cost: u32, now: Now) -> LimitResponse {
        let now = now.elapsed_nanos();
        let Some(cost) = NonZeroU32::new(cost) else {
            let _locked = self.lock();
            return LimitResponse::Ready(Decision::new(self.statuses(now)));
        };
        if let HandleLimits::Single(_, slot) = &self.0
            && let Some(result) = slot.try_consume(cost, now)
        {
            return LimitResponse::Ready(decision_of(result));
        }
        let locked = self.lock();
        LimitResponse::Ready(self.consume_all(&locked, cost, Some(cost), now))
    }

    fn recharge(&self, charged: u32, charged_at: Now, cost: u32, now: Now) -> LimitResponse {
        let (since, at) = (charged_at.elapsed_nanos(), now.elapsed_nanos());
        let elapsed = at.saturating_sub(since);
        if let HandleLimits::Single(_, slot) = &self.0
            && let Some(result) = slot.try_recharge(slot.unrestored(charged, elapsed), cost, at)
        {
            return LimitResponse::Ready(decision_of(result));
        }
        let locked = self.lock();
        for slot in self.slots() {
            slot.give_back(slot.unrestored(charged, elapsed), at);
        }
        LimitResponse::Ready(match NonZeroU32::new(cost) {
            // Other limits of the same names, which may not have had room for `charged`, keep it.
            Some(all_of_it) => {
                let others = NonZeroU32::new(cost.saturating_sub(charged));
                self.consume_all(&locked, all_of_it, others, at)
            }
            None => Decision::new(self.statuses(at)),
        })
    }
}

/// The decision about a single limit.
#[inline]
pub(in crate::limit) fn decision_of(result: Result<LimitStatus, Exceeded>) -> Decision {
    match result {
        Ok(status) => Decision::single(status),
        Err(exceeded) => {
            let mut decision = Decision::single(exceeded.status);
            decision.deny(0, exceeded.wait);
            decision
        }
    }
}

/// The accounts of a handle, locked. In the order in which they were locked.
type Locked<'a> = SmallVec<[(Charged<'a>, MutexGuard<'a, Slots>); 2]>;

impl LocalHandle {
    pub(super) fn of(accounts: SmallVec<[AccountLimits; 1]>) -> Self {
        if let [AccountLimits { account, slots }] = &accounts[..]
            && let [slot] = &slots[..]
        {
            return Self(HandleLimits::Single(account.clone(), slot.clone()));
        }
        let is_joint = accounts.len() > 1;
        let handle = Self(HandleLimits::Several(Box::new(accounts)));
        if is_joint {
            // Accounts are charged together under their locks.
            let _locked = handle.lock();
            handle.slots().for_each(|slot| slot.lock());
        }
        handle
    }

    /// Raises the usage of each limit to at least this, in nanoseconds until it is restored.
    #[cfg(feature = "redis")]
    pub(in crate::limit) fn raise(&self, usages: impl Iterator<Item = u64>, now: Now) {
        let _locked = self.lock();
        for (slot, usage) in self.slots().zip(usages) {
            slot.raise(usage, now.elapsed_nanos());
        }
    }

    /// The limits, in the order in which they were attached.
    #[inline]
    fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        let (first, others) = match &self.0 {
            HandleLimits::Single(_, slot) => (from_ref(slot), &[][..]),
            HandleLimits::Several(accounts) => match accounts.split_first() {
                Some((first, others)) => (&first.slots[..], others),
                None => (&[][..], &[][..]),
            },
        };
        let others = others.iter().flat_map(|account| &account.slots);
        first.iter().chain(others)
    }

    /// Locks all accounts, in the same order as every other handle.
    #[inline]
    fn lock(&self) -> Locked<'_> {
        let only = match &self.0 {
            HandleLimits::Single(account, slot) => Charged::of(account, from_ref(slot)),
            HandleLimits::Several(accounts) => match &accounts[..] {
                [only] => only.charged(),
                _ => return lock_several(accounts),
            },
        };
        smallvec![only.lock()]
    }

    fn statuses(&self, now: u64) -> impl Iterator<Item = LimitStatus> {
        self.slots().map(move |slot| slot.status(now))
    }

    /// Consumes from all limits of the handle, and a cost of their own from others of the same names, or from none.
    fn consume_all(
        &self,
        locked: &Locked<'_>,
        cost: NonZeroU32,
        others: Option<NonZeroU32>,
        now: u64,
    ) -> Decision {
        let mut decision = Decision::default();
        for slot in self.slots() {
            match slot.check(cost, now) {
                Ok(()) => {
                    decision.push(slot.status(now));
                }
                Err(exceeded) => {
                    let index = decision.push(exceeded.status);
                    decision.deny(index, exceeded.wait);
                }
            }
        }
        if !decision.is_allowed() {
            return decision;
        }
        if let Some(cost) = others {
            for (charged, all) in locked {
                if all.len() > charged.slots.len() {
                    charged.charge_others(all, cost, now);
                }
            }
        }
        Decision::new(self.slots().map(|slot| slot.consume(cost, now)))
    }
}

/// Locks accounts in the order of their addresses.
#[inline(never)]
fn lock_several(accounts: &[AccountLimits]) -> Locked<'_> {
    let charged = accounts.iter().map(AccountLimits::charged);
    let mut charged: SmallVec<[_; 2]> = charged.collect();
    charged.sort_unstable_by_key(|charged| Arc::as_ptr(charged.account));
    charged.into_iter().map(Charged::lock).collect()
}

impl<'a> Charged<'a> {
    fn of(account: &'a Arc<Account>, slots: &'a [Arc<Slot>]) -> Self {
        Self { account, slots }
    }

    fn lock(self) -> (Self, MutexGuard<'a, Slots>) {
        (self, lock(&self.account.0))
    }

    /// Consumes from the slots of other limits with the same names.
    #[cold]
    fn charge_others(self, all: &Slots, cost: NonZeroU32, now: u64) {
        for other in all {
            let mut same_name = self.slots.iter().filter(|own| own.name() == other.name());
            if same_name.next().is_some_and(|own| !Arc::ptr_eq(own, other)) {
                other.consume(cost, now);
            }
        }
    }
}

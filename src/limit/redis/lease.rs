//! Leases: capacity that is charged in Redis in advance, and then spent without asking it.
//!
//! A lease has a number of units, each of which is a cost of one for every limit of a handle. Redis records how many
//! units are leased, and when they expire, so that all leases of a subject together stay within a part of its limits. The
//! record never has fewer units than are left: they are recorded before they are spent, and expire here before they do in
//! Redis.

#[cfg(all(test, any(keytally_loom, keytally_shuttle)))]
mod models;
#[cfg(test)]
mod tests;

use std::sync::PoisonError;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::Duration;

use super::lease_config::LeaseConfig;
use crate::limit::rate::Rate;
use crate::sync::atomic::AtomicU64;
use crate::sync::{Mutex, MutexGuard};

/// The lower bits of the state of a lease, which are its units.
const UNIT_BITS: u32 = 20;
/// The maximum number of units.
const MAX_UNITS: u32 = (1 << UNIT_BITS) - 1;
/// The bits of nanoseconds that an expiry leaves out.
const TICK_BITS: u32 = 16;
/// With fewer units, limits stay exact.
const MIN_UNITS: u32 = 4;
/// The part of the time to live that a lease is to last.
const LASTS: u32 = 5;
/// The minimum time over which the demand is measured, in nanoseconds.
const WINDOW: u64 = 25_000_000;
/// The number of different expiry times that Redis records within the time to live.
const STEPS: u32 = 8;

/// The lease of a handle.
#[derive(Debug)]
pub(super) struct Lease {
    /// The units that are left, and when they expire: nanoseconds of the process, without the lowest bits.
    state: AtomicU64,
    /// The number of units at which the next ones are leased; 0 while that is under way.
    refill_at: AtomicU64,
    terms: Mutex<Terms>,
    ttl: Duration,
    /// The maximum number of units of all leases together.
    most: u32,
}

#[derive(Debug, Default)]
struct Terms {
    is_refilling: bool,
    recorded: Option<Recorded>,
    /// When the last refill began, in nanoseconds of the process.
    since: u64,
    demand: Demand,
}

/// What Redis has recorded of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) units: u32,
    /// When the units expire, in milliseconds since 1970.
    pub(super) expires_at: u64,
}

/// The units that requests consume.
#[derive(Debug, Default)]
struct Demand {
    /// When the count began, in nanoseconds of the process.
    since: u64,
    units: u64,
    /// The units of the lease at the last count.
    left: u32,
    /// The units that a lease should have.
    wanted: u32,
}

/// A refill on its way. Failed unless it is [completed](Self::complete).
#[derive(Debug)]
pub(super) struct Refill<'a> {
    lease: &'a Lease,
    began: u64,
    /// The units that are left.
    pub(super) held: u32,
    /// The number of units to add.
    pub(super) wanted: u32,
    /// What is recorded of the lease until now.
    pub(super) recorded: Option<Recorded>,
    is_complete: bool,
}

/// The maximum number of units that all leases of a limit have together.
pub(super) fn most_units(rate: Rate, config: LeaseConfig) -> u32 {
    let share = (rate.burst() as f64 * config.share) as u64;
    let restored = u64::try_from(config.ttl.as_nanos()).unwrap_or(u64::MAX);
    let units = share.min(restored) / rate.per_request();
    u32::try_from(units).unwrap_or(MAX_UNITS).min(MAX_UNITS)
}

/// The precision of the expiry in Redis, in milliseconds.
pub(super) fn expiry_step(ttl: Duration) -> u32 {
    (millis(ttl) / STEPS).max(1)
}

/// When units that are leased at this time expire in Redis, in milliseconds since 1970. The script has the same rule.
pub(super) fn expires_at(now: u64, ttl: Duration) -> u64 {
    let step = u64::from(expiry_step(ttl));
    let least = now / 1_000_000 + 1 + u64::from(millis(ttl));
    least.div_ceil(step) * step
}

pub(super) fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn units(state: u64) -> u32 {
    state as u32 & MAX_UNITS
}

fn is_expired(state: u64, now: u64) -> bool {
    state >> UNIT_BITS <= now >> TICK_BITS
}

fn state(units: u32, expires: u64) -> u64 {
    (expires >> TICK_BITS << UNIT_BITS) | u64::from(units)
}

impl Lease {
    /// A lease without units. `None` if the limits are too small for leases.
    pub(super) fn new(rates: impl Iterator<Item = Rate>, config: LeaseConfig) -> Option<Self> {
        let most = rates.map(|rate| most_units(rate, config)).min()?;
        (most >= MIN_UNITS).then(|| Self {
            state: AtomicU64::new(0),
            refill_at: AtomicU64::new(0),
            terms: Mutex::default(),
            ttl: config.ttl,
            most,
        })
    }

    /// Spends units, if there are enough. Returns the units that are left, and whether the caller is to refill.
    #[inline]
    pub(super) fn spend(&self, cost: u32, now: u64) -> Option<(u32, bool)> {
        let spent = self.state.fetch_update(AcqRel, Acquire, |state| {
            (units(state) >= cost && !is_expired(state, now)).then(|| state - u64::from(cost))
        });
        let left = units(spent.ok()?) - cost;
        let is_low = u64::from(left) < self.refill_at.load(Relaxed)
            // One of the requests refills.
            && self.refill_at.swap(0, Relaxed) > 0;
        Some((left, is_low))
    }

    /// Returns units that were spent at this time, if the lease still has them on record. Returns the units that are
    /// then left.
    pub(super) fn unspend(&self, returned: u32, spent_at: u64, now: u64) -> Option<u32> {
        let terms = self.terms();
        let recorded = terms.recorded?.units;
        if terms.is_refilling || spent_at <= terms.since {
            return None;
        }
        let before = self.state.fetch_update(AcqRel, Acquire, |state| {
            let after = units(state).saturating_add(returned);
            (after <= recorded && !is_expired(state, now)).then(|| state + u64::from(returned))
        });
        before.ok().map(|state| units(state) + returned)
    }

    /// Counts a cost that is charged without the lease, and begins a refill, if one is worth a call.
    pub(super) fn begin_refill(&self, cost: u32, now: u64) -> Option<Refill<'_>> {
        let mut terms = self.terms();
        let state = self.state.load(Acquire);
        let left = units(state);
        let held = if is_expired(state, now) { 0 } else { left };
        let target = terms.demand.count(cost, left, now, self.most, self.ttl);
        terms.demand.left = held;
        let wanted = target.saturating_sub(held);
        if terms.is_refilling {
            return None;
        }
        if wanted == 0 {
            self.refill_at.store(target.div_ceil(2).into(), Relaxed);
            return None;
        }
        terms.is_refilling = true;
        terms.since = now;
        self.refill_at.store(0, Relaxed);
        // Expired units must not come back with the new ones. Others may be spent meanwhile.
        let _ = self.state.fetch_update(AcqRel, Acquire, |state| {
            (is_expired(state, now) && state != 0).then_some(0)
        });
        Some(Refill {
            lease: self,
            began: now,
            held,
            wanted,
            recorded: terms.recorded.take(),
            is_complete: false,
        })
    }

    fn terms(&self) -> MutexGuard<'_, Terms> {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refill<'_> {
    /// The time after which the units expire.
    pub(super) fn ttl(&self) -> Duration {
        self.lease.ttl
    }

    /// Adds the granted units. `decided_at` is the time of Redis.
    pub(super) fn complete(mut self, granted: u32, decided_at: u64) {
        self.is_complete = true;
        let granted = granted.min(self.wanted);
        let lease = self.lease;
        let mut terms = lease.terms();
        let ttl = u64::try_from(lease.ttl.as_nanos()).unwrap_or(u64::MAX);
        let expires = self.began.saturating_add(ttl);
        let filled = lease.state.fetch_update(AcqRel, Acquire, |old| {
            Some(state(units(old) + granted, expires))
        });
        let left = filled.map_or(0, |old| units(old) + granted);
        terms.demand.spent_until(left - granted);
        terms.demand.left = left;
        terms.recorded = Some(Recorded {
            units: self.held + granted,
            expires_at: expires_at(decided_at, lease.ttl),
        });
        terms.is_refilling = false;
        // Without any, the next request that finds no units asks again.
        let refill_at = if granted == 0 { 0 } else { left.div_ceil(2) };
        lease.refill_at.store(refill_at.into(), Relaxed);
    }
}

impl Drop for Refill<'_> {
    /// What Redis has recorded is not known: it stays recorded until it expires.
    fn drop(&mut self) {
        if !self.is_complete {
            self.lease.terms().is_refilling = false;
        }
    }
}

impl Demand {
    /// Counts what was spent of the lease until so many units are left.
    fn spent_until(&mut self, left: u32) {
        self.units += u64::from(self.left.saturating_sub(left));
        self.left = left;
    }

    /// Counts a cost, and what was spent of the lease. Returns the number of units that a lease should have.
    fn count(&mut self, cost: u32, left: u32, now: u64, most: u32, ttl: Duration) -> u32 {
        self.spent_until(left);
        self.units += u64::from(cost);
        let elapsed = now.saturating_sub(self.since);
        if elapsed >= WINDOW {
            let lasts = ttl.as_nanos() / u128::from(LASTS);
            let wanted = u128::from(self.units) * lasts / u128::from(elapsed);
            let wanted = u32::try_from(wanted).unwrap_or(u32::MAX).min(most);
            self.wanted = if wanted < MIN_UNITS { 0 } else { wanted };
            (self.since, self.units) = (now, 0);
        }
        self.wanted
    }
}

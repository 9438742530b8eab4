//! The usage of one limit, on the arithmetic of governor.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::sync::Arc;

use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use crate::limit::{Decision, LimitStatus};

#[derive(Debug)]
pub(super) struct GcraState {
    /// The name of the limit. Handles hold clones, so that a reference count of one means that the limit is not in
    /// use.
    name: Arc<str>,
    quota: Quota,
    /// The theoretical arrival time of GCRA, in nanoseconds of the clock. At most the whole burst from now.
    arrival: Cell<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Spend {
    Yes,
    No,
}

impl GcraState {
    /// A slot that starts with the usage of other limits of this name.
    pub(super) fn with_usage_of(others: &[Self], name: &str, quota: Quota, now: u64) -> Self {
        let slot = Self {
            name: name.into(),
            quota,
            arrival: Cell::new(now),
        };
        let same_name = others.iter().filter(|other| *other.name == *name);
        let spent = same_name.map(|other| other.converted_to(&quota, now)).max();
        slot.add(spent.unwrap_or(0), now);
        slot
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn is(&self, name: &str, quota: Quota) -> bool {
        *self.name == *name && self.quota == quota
    }

    /// Whether there is no usage.
    pub(super) fn is_unused(&self, now: u64) -> bool {
        self.arrival.get() <= now
    }

    pub(super) fn in_use(&self) -> bool {
        Arc::strong_count(&self.name) > 1
    }

    /// Whether the slot can be removed without effect.
    pub(super) fn is_removable(&self, now: u64) -> bool {
        !self.in_use() && self.is_unused(now)
    }

    #[inline]
    pub(super) fn check(&self, now: u64, cost: NonZeroU32, spend: Spend, decision: &mut Decision) {
        // governor multiplies the cost without overflow check: a cost beyond the burst may wrap around.
        if cost > self.quota.burst_size() {
            let index = decision.push(self.status(now));
            return decision.deny(index, None);
        }
        match self.limiter(now, spend).check_n(cost) {
            Ok(Ok(spent)) if spend == Spend::Yes => {
                decision.push(LimitStatus {
                    remaining: spent.remaining_burst_capacity(),
                    reset_secs: self.reset_secs(now),
                });
            }
            Ok(Ok(_fits)) => {
                decision.push(self.status(now));
            }
            Ok(Err(not_until)) => {
                let index = decision.push(self.status(now));
                decision.deny(index, Some(not_until.wait_time_from(Nanos::default())));
            }
            Err(_beyond_the_burst) => {
                let index = decision.push(self.status(now));
                decision.deny(index, None);
            }
        }
    }

    pub(super) fn status(&self, now: u64) -> LimitStatus {
        let one_less = self.limiter(now, Spend::No).check();
        LimitStatus {
            remaining: one_less.map_or(0, |snapshot| snapshot.remaining_burst_capacity() + 1),
            reset_secs: self.reset_secs(now),
        }
    }

    /// Consumes what was consumed from another limit of this name.
    pub(super) fn consume(&self, cost: NonZeroU32, now: u64) {
        self.add(
            u64::from(cost.get()).saturating_mul(per_request(&self.quota)),
            now,
        );
    }

    /// A limiter of governor for a single check, whose time starts now, so that the request reads the clock only
    /// once.
    fn limiter(
        &self,
        now: u64,
        spend: Spend,
    ) -> RateLimiter<NotKeyed, Arrival<'_>, FrozenClock, StateInformationMiddleware> {
        let arrival = Arrival {
            stored: &self.arrival,
            now,
            spend,
        };
        RateLimiter::new(self.quota, arrival, FrozenClock)
    }

    fn reset_secs(&self, now: u64) -> u32 {
        let nanos = self.spent(now).div_ceil(1_000_000_000);
        u32::try_from(nanos).unwrap_or(u32::MAX)
    }

    /// The usage, as nanoseconds until it is restored.
    fn spent(&self, now: u64) -> u64 {
        self.arrival.get().saturating_sub(now)
    }

    /// The usage in requests.
    pub(super) fn usage_in_requests(&self, now: u64) -> u64 {
        self.spent(now).div_ceil(per_request(&self.quota))
    }

    /// The usage in requests, converted to nanoseconds of another limit.
    fn converted_to(&self, quota: &Quota, now: u64) -> u64 {
        let nanos = u128::from(self.spent(now)) * u128::from(per_request(quota));
        let nanos = nanos.div_ceil(u128::from(per_request(&self.quota)));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// Consumes this much, at most what remains.
    fn add(&self, nanos: u64, now: u64) {
        let all = u64::from(self.quota.burst_size().get()).saturating_mul(per_request(&self.quota));
        let before = self.spent(now);
        let spent = before.saturating_add(nanos).min(all).max(before);
        self.arrival.set(now.saturating_add(spent));
    }
}

fn per_request(quota: &Quota) -> u64 {
    u64::try_from(quota.replenish_interval().as_nanos())
        .unwrap_or(u64::MAX)
        .max(1)
}

/// The state of governor for one check, relative to now. Checks that consume nothing are not written back.
struct Arrival<'a> {
    stored: &'a Cell<u64>,
    now: u64,
    spend: Spend,
}

impl StateStore for Arrival<'_> {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let since_now = self.stored.get().saturating_sub(self.now);
        let (outcome, next) = f(Some(since_now.into()))?;
        if self.spend == Spend::Yes {
            self.stored.set(self.now + next.as_u64());
        }
        Ok(outcome)
    }
}

/// A clock that stands still, for limiters that live for one check.
struct FrozenClock;

impl Clock for FrozenClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::default()
    }
}

//! A limit in this process and its usage.

use std::num::NonZeroU32;
use std::sync::atomic::Ordering::SeqCst;

use crate::limit::rate::{Exceeded, Rate};
use crate::limit::{LimitStatus, RateLimit};
use crate::sync::atomic::AtomicU64;

/// A limit and its usage.
#[derive(Debug)]
pub(super) struct Slot {
    /// For its name.
    limit: RateLimit,
    rate: Rate,
    /// The theoretical arrival time, in nanoseconds of the clock, and [`LOCKED`]. At most the whole burst from now.
    state: AtomicU64,
}

/// Set if the state is only changed under the lock of the account.
const LOCKED: u64 = 1 << 63;

impl Slot {
    /// A slot with the usage of other limits of this name. `is_only` is whether it is the only slot of its account.
    pub(super) fn new(
        limit: &RateLimit,
        rate: Rate,
        is_only: bool,
        usage: impl Iterator<Item = (Rate, u64)>,
        now: u64,
    ) -> Self {
        let usage = usage.map(|(from, usage)| rate.converted(usage, from));
        let usage = usage.max().unwrap_or(0).min(rate.burst());
        let locked = if is_only { 0 } else { LOCKED };
        Self {
            limit: limit.clone(),
            rate,
            state: AtomicU64::new(now.saturating_add(usage) | locked),
        }
    }

    pub(super) fn name(&self) -> &str {
        self.limit.name()
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// From now on, the usage is only changed under the lock of the account.
    pub(super) fn lock(&self) {
        self.state.fetch_or(LOCKED, SeqCst);
    }

    /// The usage, as nanoseconds until it is restored.
    #[inline]
    pub(super) fn usage(&self, now: u64) -> u64 {
        (self.state.load(SeqCst) & !LOCKED).saturating_sub(now)
    }

    /// Whether there is no usage.
    pub(super) fn is_unused(&self, now: u64) -> bool {
        self.usage(now) == 0
    }

    /// The usage in requests.
    pub(super) fn usage_in_requests(&self, now: u64) -> u64 {
        self.usage(now).div_ceil(self.rate.per_request())
    }

    pub(super) fn status(&self, now: u64) -> LimitStatus {
        self.rate.status(self.usage(now))
    }

    /// Consumes without the lock of the account. `None` if it is required.
    #[inline]
    pub(super) fn try_consume(
        &self,
        cost: NonZeroU32,
        now: u64,
    ) -> Option<Result<LimitStatus, Exceeded>> {
        self.try_recharge(0, cost.get(), now)
    }

    /// Returns usage in nanoseconds, and then consumes. Without the lock of the account; `None` if it is required.
    #[inline]
    pub(super) fn try_recharge(
        &self,
        returned: u64,
        cost: u32,
        now: u64,
    ) -> Option<Result<LimitStatus, Exceeded>> {
        let mut outcome = None;
        let _ = self.state.fetch_update(SeqCst, SeqCst, |state| {
            if state & LOCKED != 0 {
                outcome = None;
                return None;
            }
            let usage = state.saturating_sub(now).saturating_sub(returned);
            let after = self.rate.after(usage, cost);
            let next = match &after {
                Ok(usage) => Some(now.saturating_add(*usage)),
                Err(_) => (returned > 0).then(|| now.saturating_add(usage)),
            };
            outcome = Some(after.map(|usage| self.rate.status(usage)));
            next
        });
        outcome
    }

    /// The usage in nanoseconds of a cost that was consumed some time ago, without what has been restored since.
    pub(super) fn unrestored(&self, cost: u32, elapsed: u64) -> u64 {
        let usage = u64::from(cost).saturating_mul(self.rate.per_request());
        usage.saturating_sub(elapsed)
    }

    /// Returns usage in nanoseconds. Requires the lock of the account.
    pub(super) fn give_back(&self, usage: u64, now: u64) {
        let usage = self.usage(now).saturating_sub(usage);
        self.state.store(now.saturating_add(usage) | LOCKED, SeqCst);
    }

    /// Raises the usage to at least this.
    #[cfg(feature = "redis")]
    pub(super) fn raise(&self, usage: u64, now: u64) {
        let least = now.saturating_add(usage.min(self.rate.burst()));
        let _ = self.state.fetch_update(SeqCst, SeqCst, |state| {
            ((state & !LOCKED) < least).then_some(least | (state & LOCKED))
        });
    }

    /// Whether a request is allowed.
    pub(super) fn check(&self, cost: NonZeroU32, now: u64) -> Result<(), Exceeded> {
        self.rate.after(self.usage(now), cost.get()).map(drop)
    }

    /// Consumes at most what remains. Requires the lock of the account.
    pub(super) fn consume(&self, cost: NonZeroU32, now: u64) -> LimitStatus {
        let before = self.usage(now);
        let more = u64::from(cost.get()).saturating_mul(self.rate.per_request());
        let usage = before
            .saturating_add(more)
            .min(self.rate.burst())
            .max(before);
        self.state.store(now.saturating_add(usage) | LOCKED, SeqCst);
        self.rate.status(usage)
    }
}

//! The limits of a request's subjects in Redis.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use smallvec::{SmallVec, smallvec};

use super::client::Shared;
use super::config::RedisFallback;
use super::lease::{Lease, Refill};
use super::script::{Arrival, Charge, LeaseRequest, Operation, Outcome};
use crate::clock::{Clock, Now};
use crate::limit::local::{LocalHandle, decision_of};
use crate::limit::rate::Rate;
use crate::limit::{Decision, LimitError, LimitHandle, LimitResponse};

/// The maximum age of a decision from which rejections follow, in nanoseconds. Other processes may have returned costs
/// meanwhile.
const MAX_AGE: u64 = 1_000_000_000;

#[derive(Debug)]
pub(super) struct RedisHandle(pub(super) Arc<RedisLimits>);

/// The limits of a handle.
#[derive(Debug)]
pub(super) struct RedisLimits {
    pub(super) shared: Arc<Shared>,
    pub(super) limits: SmallVec<[Limit; 1]>,
    /// `None` if the limits are exact.
    pub(super) lease: Option<Box<Lease>>,
    /// Decides while Redis is unavailable.
    pub(super) fallback: RedisFallback,
    pub(super) local: LocalHandle,
    /// The cost that was admitted while Redis was unavailable.
    pub(super) owed: AtomicU64,
    /// The outage for which `local` has the usage that was seen.
    pub(super) outage: AtomicU64,
    pub(super) latest: Mutex<Option<Outcome>>,
    /// When the latest decision was requested, in nanoseconds of the process, plus 1. 0 without any.
    pub(super) decided_at: AtomicU64,
    /// The nanoseconds between the request of the latest decision and its response. The arrival times may be later by as
    /// much.
    pub(super) delay: AtomicU64,
    /// Whether decisions use the time of this process.
    pub(super) own_time: bool,
}

#[derive(Debug)]
pub(super) struct Limit {
    /// The Redis key of the subject.
    pub(super) key: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) rate: Rate,
    /// The earliest arrival time after the latest decision, in nanoseconds of the process.
    pub(super) arrival: AtomicU64,
    /// The maximum number of units that all processes have leased together.
    pub(super) most_units: u32,
}

impl Limit {
    /// The time of a unit, and the maximum number of leased units.
    fn unit(&self) -> (u64, u32) {
        (self.rate.per_request(), self.most_units)
    }
}

impl LimitHandle for RedisHandle {
    fn acquire(&self, cost: u32, now: Now) -> LimitResponse {
        if let Some(left) = self.0.spend_lease(cost, now) {
            return LimitResponse::Ready(self.0.leased(left, now));
        }
        if !self.0.shared.is_open()
            && let Some(decision) = self.0.rejection(cost, now)
        {
            return LimitResponse::Ready(decision);
        }
        self.0.charge(0, Duration::ZERO, cost, now)
    }

    fn recharge(&self, charged: u32, charged_at: Now, cost: u32, now: Now) -> LimitResponse {
        if charged == 0 {
            return self.acquire(cost, now);
        }
        match self.0.correct_lease(charged, charged_at, cost, now) {
            Some(left) => LimitResponse::Ready(self.0.leased(left, now)),
            None => self.0.charge(charged, now.since(charged_at), cost, now),
        }
    }
}

impl RedisLimits {
    /// Spends units of the lease, and refills it in the background. Returns the units that are left.
    #[inline]
    fn spend_lease(self: &Arc<Self>, cost: u32, now: Now) -> Option<u32> {
        let lease = self.lease.as_ref().filter(|_| cost > 0)?;
        let (left, is_low) = lease.spend(cost, now.elapsed_nanos())?;
        if is_low {
            self.refill(now);
        }
        Some(left)
    }

    /// Replaces a cost within the lease. Returns the units that are left.
    fn correct_lease(
        self: &Arc<Self>,
        charged: u32,
        charged_at: Now,
        cost: u32,
        now: Now,
    ) -> Option<u32> {
        match cost.checked_sub(charged) {
            Some(more) => self.spend_lease(more, now),
            None => {
                let [charged_at, at] = [charged_at, now].map(Now::elapsed_nanos);
                let lease = self.lease.as_ref()?;
                lease.unspend(charged - cost, charged_at, at)
            }
        }
    }

    /// The decision about a request within the lease, of which so many units are left.
    #[inline]
    fn leased(&self, left: u32, now: Now) -> Decision {
        let now = now.elapsed_nanos();
        let status = |limit: &Limit| {
            let left = u64::from(left).saturating_mul(limit.rate.per_request());
            let arrival = limit.arrival.load(Ordering::Relaxed);
            limit
                .rate
                .status(arrival.saturating_sub(now).saturating_sub(left))
        };
        match &self.limits[..] {
            [limit] => Decision::single(status(limit)),
            limits => Decision::new(limits.iter().map(status)),
        }
    }

    #[cold]
    fn refill(self: &Arc<Self>, now: Now) {
        if self.shared.is_open() {
            return;
        }
        let limits = self.clone();
        self.shared.spawn(async move {
            let lease = limits.lease.as_ref();
            let refill = lease.and_then(|lease| lease.begin_refill(0, now.elapsed_nanos()));
            if refill.is_some() {
                // If it fails, the next request that finds no units asks Redis.
                let _ = limits.run(0, Duration::ZERO, 0, now, refill).await;
            }
        });
    }

    /// Returns `charged`, which was consumed this time ago, and consumes the cost.
    // Not inlined, so that decisions without a call do not prepare one.
    #[inline(never)]
    fn charge(
        self: &Arc<Self>,
        charged: u32,
        elapsed: Duration,
        cost: u32,
        now: Now,
    ) -> LimitResponse {
        if self.shared.is_open() {
            return self.without_redis(charged, cost, now);
        }
        let limits = self.clone();
        LimitResponse::Pending(Box::pin(async move {
            let lease = limits.lease.as_ref();
            let refill = lease.and_then(|lease| lease.begin_refill(cost, now.elapsed_nanos()));
            match limits.run(charged, elapsed, cost, now, refill).await {
                Ok(decision) => Ok(decision),
                Err(_) => match limits.without_redis(charged, cost, now) {
                    LimitResponse::Ready(decision) => Ok(decision),
                    LimitResponse::Pending(decision) => decision.await,
                },
            }
        }))
    }

    /// Asks Redis, also for units of the lease.
    async fn run(
        &self,
        charged: u32,
        elapsed: Duration,
        cost: u32,
        now: Now,
        refill: Option<Refill<'_>>,
    ) -> Result<Decision, LimitError> {
        let mut owed = Owed::take(self);
        let mut operation = self.operation(charged, elapsed, cost, owed.cost);
        operation.lease = refill.as_ref().map(|refill| LeaseRequest {
            wanted: refill.wanted,
            held: refill.held,
            recorded: refill.recorded,
            ttl: refill.ttl(),
            units: self.limits.iter().map(Limit::unit).collect(),
        });
        let time = self.own_time.then(|| nanos(now.timestamp()));
        let outcome = self.shared.run(time, operation).await?;
        owed.cost = 0;
        let (granted, decided_at) = (outcome.granted, outcome.now);
        let decision = self.decide(outcome, cost, now);
        if let Some(refill) = refill {
            refill.complete(granted, decided_at);
        }
        Ok(decision)
    }

    /// The latest known arrival times.
    fn seen(&self) -> SmallVec<[Arrival; 1]> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match &*latest {
            Some(latest) => latest.arrivals.clone(),
            None => smallvec![Arrival::default(); self.limits.len()],
        }
    }

    fn operation(&self, charged: u32, elapsed: Duration, cost: u32, owed: u64) -> Operation {
        let elapsed = duration_nanos(elapsed);
        let seen = self.seen();
        let charges = self.limits.iter().zip(seen).map(|(limit, seen)| {
            let time = |cost: u64| limit.rate.per_request().saturating_mul(cost);
            Charge {
                key: limit.key.clone(),
                name: limit.name.clone(),
                cost: time(cost.into()),
                burst: limit.rate.burst(),
                back: time(charged.into()).saturating_sub(elapsed),
                owed: time(owed),
                seen,
            }
        });
        Operation {
            charges: charges.collect(),
            lease: None,
        }
    }

    fn decide(&self, outcome: Outcome, cost: u32, now: Now) -> Decision {
        // Allowed costs are already in the arrival times.
        let cost = if outcome.is_allowed { 0 } else { cost };
        let usages = outcome.arrivals.iter();
        let usages = usages.map(|arrival| arrival.time.saturating_sub(outcome.now));
        let decision = self.decision(usages.clone(), cost);
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let order = |outcome: &Outcome| (outcome.now, outcome.arrivals.clone());
        // Responses may be out of order by the timeout at most. Otherwise, the clock of the server was set back.
        let is_later = latest.as_ref().is_none_or(|latest| {
            let ago = latest.now.saturating_sub(outcome.now);
            order(latest) <= order(&outcome) || ago > self.shared.timeout_nanos()
        });
        if is_later {
            let delay = match self.own_time {
                true => outcome.now.saturating_sub(nanos(now.timestamp())),
                // At most the timeout, since the time of a manual clock is another.
                false => duration_nanos(Clock::system().now().since(now))
                    .min(self.shared.timeout_nanos()),
            };
            let now = now.elapsed_nanos();
            for (limit, usage) in self.limits.iter().zip(usages) {
                let arrival = now.saturating_add(usage);
                limit.arrival.store(arrival, Ordering::Relaxed);
            }
            self.delay.store(delay, Ordering::Relaxed);
            self.decided_at
                .store(now.saturating_add(1), Ordering::Release);
            *latest = Some(outcome);
        }
        decision
    }

    /// The decision about a cost with these usages.
    fn decision(&self, usages: impl Iterator<Item = u64>, cost: u32) -> Decision {
        let mut decision = Decision::default();
        for (limit, usage) in self.limits.iter().zip(usages) {
            let index = decision.push(limit.rate.status(usage));
            if let Err(exceeded) = limit.rate.after(usage, cost) {
                decision.deny(index, exceeded.wait);
            }
        }
        decision
    }

    /// The rejection of this cost, if it follows from the latest decision: other requests make the arrival times later,
    /// so Redis would reject it, too.
    fn rejection(&self, cost: u32, now: Now) -> Option<Decision> {
        let now = now.elapsed_nanos();
        let decided_at = self.decided_at.load(Ordering::Acquire).checked_sub(1)?;
        if now.saturating_sub(decided_at) > MAX_AGE {
            return None;
        }
        let usage = |limit: &Limit| limit.arrival.load(Ordering::Relaxed).saturating_sub(now);
        let allows = |limit: &Limit| limit.rate.allows(usage(limit), cost);
        if self.limits.iter().all(allows) {
            return None;
        }
        // So that a request after the wait is admitted.
        let delay = self.delay.load(Ordering::Relaxed);
        let latest = |limit: &Limit| usage(limit).saturating_add(delay);
        if let [limit] = &self.limits[..] {
            let exceeded = limit.rate.after(latest(limit), cost).err()?;
            return Some(decision_of(Err(exceeded)));
        }
        let decision = self.decision(self.limits.iter().map(latest), cost);
        (!decision.is_allowed()).then_some(decision)
    }

    /// Decides while Redis is unavailable.
    fn without_redis(&self, charged: u32, cost: u32, now: Now) -> LimitResponse {
        // What was charged in Redis stays charged.
        let cost = cost.saturating_sub(charged);
        let response = match self.fallback {
            RedisFallback::Local { .. } => {
                let outage = self.shared.failures.load(Ordering::Relaxed);
                if !self.shared.is_open() || self.outage.load(Ordering::Acquire) != outage {
                    let time = nanos(now.timestamp());
                    let usages = self.seen().into_iter();
                    let usages = usages.map(|seen| seen.time.saturating_sub(time));
                    self.local.raise(usages, now);
                    self.outage.store(outage, Ordering::Release);
                }
                self.local.acquire(cost, now)
            }
            RedisFallback::Reject => {
                let error = LimitError::Unavailable("Redis is unavailable".into());
                LimitResponse::Pending(Box::pin(std::future::ready(Err(error))))
            }
            RedisFallback::Admit => {
                let statuses = self.limits.iter().map(|limit| limit.rate.status(0));
                LimitResponse::Ready(Decision::new(statuses))
            }
        };
        if let LimitResponse::Ready(decision) = &response
            && decision.is_allowed()
        {
            self.owed.fetch_add(cost.into(), Ordering::AcqRel);
        }
        response
    }

    /// Whether a cost was admitted while Redis was unavailable that has not been charged.
    pub(super) fn is_owing(&self) -> bool {
        self.owed.load(Ordering::Acquire) > 0
    }

    /// Charges what was admitted while Redis was unavailable. It stays owed if that fails.
    pub(super) async fn report(self: Arc<Self>) {
        let mut owed = Owed::take(&self);
        if owed.cost == 0 {
            return;
        }
        let operation = self.operation(0, Duration::ZERO, 0, owed.cost);
        let time = self.own_time.then(|| nanos(Timestamp::now()));
        if self.shared.run(time, operation).await.is_ok() {
            owed.cost = 0;
        }
    }
}

/// What is owed, unless it is charged: also if the request is cancelled. It may have been charged nevertheless, which
/// makes the limits a little stricter.
struct Owed<'a> {
    limits: &'a RedisLimits,
    cost: u64,
}

impl<'a> Owed<'a> {
    fn take(limits: &'a RedisLimits) -> Self {
        let cost = limits.owed.swap(0, Ordering::AcqRel);
        Self { limits, cost }
    }
}

impl Drop for Owed<'_> {
    fn drop(&mut self) {
        if self.cost > 0 {
            self.limits.owed.fetch_add(self.cost, Ordering::AcqRel);
        }
    }
}

/// Nanoseconds since 1970.
fn nanos(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond()).unwrap_or(0)
}

fn duration_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

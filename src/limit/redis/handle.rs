//! The limits of a request's subjects in Redis.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use smallvec::{SmallVec, smallvec};

use super::client::Shared;
use super::script::{Charge, Operation, Outcome};
use crate::clock::Now;
use crate::limit::local::{LocalHandle, decision_of};
use crate::limit::rate::Rate;
use crate::limit::{Decision, LimitError, LimitHandle, LimitResponse};

/// The maximum age of a decision from which rejections follow, in nanoseconds. Other processes may have returned costs meanwhile.
const MAX_AGE: u64 = 1_000_000_000;

/// How requests are limited while Redis is unavailable.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum RedisFallback {
    /// Each process applies this share of the limits by itself, beginning with the usage that it has last seen. The
    /// default, with a share of 1. With three instances, a share of 1/3 keeps the limits.
    Local {
        /// More than 0, and at most 1.
        share: f64,
    },
    /// Reject requests of keys with limits with 503.
    Reject,
    /// Admit all requests.
    Admit,
}

#[derive(Debug)]
pub(super) struct RedisHandle(pub(super) Arc<RedisLimits>);

/// The limits of a handle.
#[derive(Debug)]
pub(super) struct RedisLimits {
    pub(super) shared: Arc<Shared>,
    pub(super) limits: SmallVec<[Limit; 1]>,
    /// Decides while Redis is unavailable.
    pub(super) fallback: RedisFallback,
    pub(super) local: LocalHandle,
    /// The cost that was admitted while Redis was unavailable.
    pub(super) owed: AtomicU64,
    /// The outage for which `local` has the usage that was seen.
    pub(super) outage: AtomicU64,
    pub(super) latest: Mutex<Option<Outcome>>,
    /// When the latest decision was made, in nanoseconds of the process, plus 1. 0 without any.
    pub(super) decided_at: AtomicU64,
    /// Whether decisions use the time of this process.
    pub(super) own_time: bool,
}

#[derive(Debug)]
pub(super) struct Limit {
    /// The Redis key of the subject.
    pub(super) key: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) rate: Rate,
    /// The arrival time after the latest decision, in nanoseconds of the process.
    pub(super) arrival: AtomicU64,
}

impl LimitHandle for RedisHandle {
    fn acquire(&self, cost: u32, now: Now) -> LimitResponse {
        self.0.charge(0, Duration::ZERO, cost, now)
    }

    fn recharge(&self, charged: u32, charged_at: Now, cost: u32, now: Now) -> LimitResponse {
        self.0.charge(charged, now.since(charged_at), cost, now)
    }
}

impl RedisLimits {
    /// Returns `charged`, which was consumed this time ago, and consumes the cost.
    fn charge(
        self: &Arc<Self>,
        charged: u32,
        elapsed: Duration,
        cost: u32,
        now: Now,
    ) -> LimitResponse {
        if charged == 0
            && let Some(decision) = self.rejection(cost, now)
        {
            return LimitResponse::Ready(decision);
        }
        if self.shared.is_open() {
            return self.without_redis(charged, cost, now);
        }
        let limits = self.clone();
        LimitResponse::Pending(Box::pin(async move {
            let mut owed = Owed::take(&limits);
            let operation = limits.operation(charged, elapsed, cost, owed.cost);
            let time = limits.own_time.then(|| nanos(now.timestamp()));
            match limits.shared.run(time, operation).await {
                Ok(outcome) => {
                    owed.cost = 0;
                    Ok(limits.decide(outcome, cost, now))
                }
                Err(_) => match limits.without_redis(charged, cost, now) {
                    LimitResponse::Ready(decision) => Ok(decision),
                    LimitResponse::Pending(decision) => decision.await,
                },
            }
        }))
    }

    /// The latest known arrival times, in nanoseconds since 1970.
    fn seen(&self) -> SmallVec<[u64; 1]> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match &*latest {
            Some(latest) => latest.arrivals.clone(),
            None => smallvec![0; self.limits.len()],
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
        Operation(charges.collect())
    }

    fn decide(&self, outcome: Outcome, cost: u32, now: Now) -> Decision {
        // Allowed costs are already in the arrival times.
        let cost = if outcome.is_allowed { 0 } else { cost };
        let usages = outcome.arrivals.iter();
        let usages = usages.map(|arrival| arrival.saturating_sub(outcome.now));
        let decision = self.decision(usages.clone(), cost);
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let order = |outcome: &Outcome| (outcome.now, outcome.arrivals.clone());
        // Responses may be out of order by the timeout at most. Otherwise, the clock of the server was set back.
        let is_later = latest.as_ref().is_none_or(|latest| {
            let ago = latest.now.saturating_sub(outcome.now);
            order(latest) <= order(&outcome) || ago > self.shared.timeout_nanos()
        });
        if is_later {
            let now = now.elapsed_nanos();
            for (limit, usage) in self.limits.iter().zip(usages) {
                let arrival = now.saturating_add(usage);
                limit.arrival.store(arrival, Ordering::Relaxed);
            }
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
        if let [limit] = &self.limits[..] {
            let exceeded = limit.rate.after(usage(limit), cost).err()?;
            return Some(decision_of(Err(exceeded)));
        }
        let is_exceeded = |limit: &Limit| limit.rate.after(usage(limit), cost).is_err();
        let is_rejected = self.limits.iter().any(is_exceeded);
        let decision = is_rejected.then(|| self.decision(self.limits.iter().map(usage), cost))?;
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
                    let usages = usages.map(|seen| seen.saturating_sub(time));
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

    /// Charges what was admitted while Redis was unavailable. Returns whether nothing is owed any more.
    pub(super) async fn report(self: Arc<Self>) -> bool {
        let mut owed = Owed::take(&self);
        if owed.cost == 0 {
            return true;
        }
        let operation = self.operation(0, Duration::ZERO, 0, owed.cost);
        let time = self.own_time.then(|| nanos(Timestamp::now()));
        let run = self.shared.run(time, operation);
        if run.await.is_err() {
            return false;
        }
        owed.cost = 0;
        true
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

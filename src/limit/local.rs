//! Limits kept in the process, on governor's arithmetic.

use std::cell::Cell;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use super::limiter::{Allowance, Answer, Decision, LimitError, Limiter, Standing};
use super::rate::RateLimit;
use crate::clock::Now;
use crate::id::KeyId;

/// A [`Limiter`] whose state lives in this process.
///
/// It holds an account for each key that has something spent or is in use; an account with nothing
/// spent is dropped when room is needed, which changes no decision. When every account has something
/// spent and there is no room left, further keys are refused rather than let through unlimited.
#[derive(Debug)]
pub struct LocalLimiter {
    shards: Box<[Mutex<Shard>]>,
    room_per_shard: usize,
}

#[derive(Debug, Default)]
struct Shard {
    accounts: HashMap<KeyId, Arc<Account>, foldhash::fast::RandomState>,
    /// Accounts at which idle ones are looked for, so that the search costs little per account.
    sweep_at: usize,
}

/// What one key has spent. The lock is held for some nanoseconds: it makes a request spend of all
/// limits or of none.
#[derive(Debug)]
struct Account(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    limits: Vec<RateLimit>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    quota: Quota,
    /// The theoretical arrival time of GCRA, in the clock's nanoseconds.
    arrival: Cell<u64>,
}

const SHARDS: usize = 64;
const FIRST_SWEEP: usize = 64;

impl LocalLimiter {
    /// A limiter with room for a million keys that have something spent.
    pub fn new() -> Self {
        Self::with_room_for(1_000_000)
    }

    /// A limiter with room for about this many keys that have something spent; an account takes
    /// some 200 bytes.
    pub fn with_room_for(keys: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            room_per_shard: keys.div_ceil(SHARDS).max(1),
        }
    }

    /// Accounts held right now.
    pub fn accounts(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(shard).accounts.len())
            .sum()
    }

    fn shard(&self, subject: KeyId) -> &Mutex<Shard> {
        // Ids are random digits; the last two spread evenly enough.
        let digits = subject.as_str().as_bytes();
        let spread = usize::from(digits[KeyId::LEN - 1]) + 7 * usize::from(digits[KeyId::LEN - 2]);
        &self.shards[spread % self.shards.len()]
    }
}

impl Default for LocalLimiter {
    fn default() -> Self {
        Self::new()
    }
}

impl Limiter for LocalLimiter {
    fn attach(
        &self,
        subject: KeyId,
        limits: &[RateLimit],
        now: Now,
    ) -> Result<Arc<dyn Allowance>, LimitError> {
        RateLimit::validate_all(limits)?;
        let mut shard = lock(self.shard(subject));
        if let Some(account) = shard.accounts.get(&subject) {
            lock(&account.0).change(limits, now)?;
            return Ok(account.clone());
        }
        if shard.accounts.len() >= shard.sweep_at.max(FIRST_SWEEP).min(self.room_per_shard) {
            shard.accounts.retain(|_, account| {
                Arc::strong_count(account) > 1 || !lock(&account.0).is_whole(now)
            });
            shard.sweep_at = shard.accounts.len() * 2;
        }
        if shard.accounts.len() >= self.room_per_shard {
            return Err(LimitError::Full);
        }
        let mut book = Book::default();
        book.change(limits, now)?;
        let account = Arc::new(Account(Mutex::new(book)));
        shard.accounts.insert(subject, account.clone());
        Ok(account)
    }
}

impl Allowance for Account {
    fn take(&self, cost: u32, now: Now) -> Answer {
        Answer::Now(lock(&self.0).take(cost, now.elapsed_nanos()))
    }
}

impl Book {
    /// Puts other limits into force and carries over what is spent, counted in requests.
    fn change(&mut self, limits: &[RateLimit], now: Now) -> Result<(), LimitError> {
        if self.limits == limits {
            return Ok(());
        }
        let now = now.elapsed_nanos();
        let mut entries = Vec::with_capacity(limits.len());
        for limit in limits {
            let entry = Entry {
                quota: limit.quota()?,
                arrival: Cell::new(0),
            };
            let before = self
                .limits
                .iter()
                .position(|old| old.name() == limit.name());
            if let Some(old) = before.and_then(|index| self.entries.get(index)) {
                entry
                    .arrival
                    .set(now + old.spent(now).carried_to(&entry.quota));
            }
            entries.push(entry);
        }
        self.entries = entries;
        self.limits = limits.to_vec();
        Ok(())
    }

    fn is_whole(&self, now: Now) -> bool {
        let now = now.elapsed_nanos();
        self.entries.iter().all(|entry| entry.arrival.get() <= now)
    }

    fn take(&self, cost: u32, now: u64) -> Decision {
        let mut decision = Decision::default();
        let cost = NonZeroU32::new(cost);
        if let ([entry], Some(cost)) = (&*self.entries, cost) {
            entry.check(now, cost, Spend::Yes, &mut decision);
            return decision;
        }
        if let Some(cost) = cost {
            for entry in &self.entries {
                entry.check(now, cost, Spend::No, &mut decision);
            }
            if !decision.is_allowed() {
                return decision;
            }
            decision = Decision::default();
            for entry in &self.entries {
                entry.check(now, cost, Spend::Yes, &mut decision);
            }
        } else {
            for entry in &self.entries {
                decision.push(entry.standing(now));
            }
        }
        decision
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Spend {
    Yes,
    No,
}

impl Entry {
    /// A check by governor at this moment: the limiter is made for the one check, with its time
    /// beginning now, so that the request's one reading of the clock serves here too.
    fn limiter(
        &self,
        now: u64,
        spend: Spend,
    ) -> RateLimiter<NotKeyed, Arrival<'_>, Standstill, StateInformationMiddleware> {
        let arrival = Arrival {
            stored: &self.arrival,
            now,
            spend,
        };
        RateLimiter::new(self.quota, arrival, Standstill)
    }

    fn check(&self, now: u64, cost: NonZeroU32, spend: Spend, decision: &mut Decision) {
        match self.limiter(now, spend).check_n(cost) {
            Ok(Ok(spent)) if spend == Spend::Yes => decision.push(Standing {
                remaining: spent.remaining_burst_capacity(),
                reset_secs: self.reset_secs(now),
            }),
            Ok(Ok(_fits)) => decision.push(self.standing(now)),
            Ok(Err(not_until)) => {
                decision.push(self.standing(now));
                decision.refuse(Some(not_until.wait_time_from(Nanos::default())));
            }
            Err(_beyond_the_burst) => {
                decision.push(self.standing(now));
                decision.refuse(None);
            }
        }
    }

    fn standing(&self, now: u64) -> Standing {
        let one_less = self.limiter(now, Spend::No).check();
        Standing {
            remaining: one_less.map_or(0, |snapshot| snapshot.remaining_burst_capacity() + 1),
            reset_secs: self.reset_secs(now),
        }
    }

    fn reset_secs(&self, now: u64) -> u32 {
        let nanos = self.arrival.get().saturating_sub(now);
        u32::try_from(nanos.div_ceil(1_000_000_000)).unwrap_or(u32::MAX)
    }

    fn spent(&self, now: u64) -> Spent {
        Spent {
            nanos: self.arrival.get().saturating_sub(now),
            per_request: replenish_nanos(&self.quota),
        }
    }
}

/// What is spent of a limit, as the time it takes to come back.
struct Spent {
    nanos: u64,
    per_request: u64,
}

impl Spent {
    /// The same number of requests in another limit's time, at most all that it has.
    fn carried_to(&self, quota: &Quota) -> u64 {
        let per_request = u128::from(replenish_nanos(quota));
        let nanos = u128::from(self.nanos) * per_request / u128::from(self.per_request);
        let all = per_request * u128::from(quota.burst_size().get());
        u64::try_from(nanos.min(all)).unwrap_or(u64::MAX)
    }
}

fn replenish_nanos(quota: &Quota) -> u64 {
    u64::try_from(quota.replenish_interval().as_nanos())
        .unwrap_or(u64::MAX)
        .max(1)
}

/// Governor's state for one check, told in time since now; a check that is not to spend is not
/// written back.
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

/// A clock for a limiter that lives for one check.
struct Standstill;

impl Clock for Standstill {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::default()
    }
}

/// Nothing in here panics while it holds a lock, so a poisoned one is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

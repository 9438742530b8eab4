//! Models of accounts: what is spent is neither forgotten nor spent in part, whoever comes first.

use super::*;
use crate::clock::Clock;
use crate::limit::{Answer, Decision};
use crate::sync::model::{check, check_all, thread};

/// A limiter that looks for idle accounts at every key that comes, as all of these fall into one shard.
struct Setup {
    limiter: LocalLimiter,
    clock: Clock,
    ids: Vec<KeyId>,
}

impl Setup {
    fn new() -> Arc<Self> {
        let limiter = LocalLimiter::with_capacity(1);
        let ids = (0..).map(KeyId::from_number);
        let ids = ids.filter(|id| std::ptr::eq(limiter.shard(*id), &raw const limiter.shards[0]));
        let ids = ids.take(4).collect();
        let clock = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
        Arc::new(Self {
            limiter,
            clock,
            ids,
        })
    }

    fn attach(&self, key: usize, limits: &[RateLimit]) -> Result<Arc<dyn LimitHandle>, LimitError> {
        self.limiter.attach(self.ids[key], limits, self.clock.now())
    }

    fn take(&self, allowance: &dyn LimitHandle, cost: u32) -> Decision {
        match allowance.take(cost, self.clock.now()) {
            LimitResponse::Ready(decision) => decision,
            LimitResponse::Pending(_) => unreachable!("the local limiter answers at once"),
        }
    }

    /// Requests that pass, of so many by a holder that then leaves.
    fn pass(&self, key: usize, limits: &[RateLimit], requests: u32) -> u32 {
        let allowance = self.attach(key, limits).unwrap();
        (0..requests)
            .map(|_| u32::from(self.take(&*allowance, 1).is_allowed()))
            .sum()
    }

    fn remaining(&self, key: usize, limits: &[RateLimit]) -> Vec<u32> {
        let decision = self.take(&*self.attach(key, limits).unwrap(), 0);
        let standings = decision.standings().iter();
        standings.map(|standing| standing.remaining).collect()
    }
}

#[test]
fn rule_7_dropping_idle_accounts_grants_no_request() {
    check_all(|| {
        let setup = Setup::new();
        let limits = [RateLimit::per_hour(2)];
        let sweeping = setup.clone();
        let sweeping = thread(move || {
            // There is no room for it once the other has something spent and is not in use.
            drop(sweeping.attach(1, &[RateLimit::per_hour(1)]));
        });
        assert_eq!(setup.pass(0, &limits, 1), 1);
        assert_eq!(setup.remaining(0, &limits), [1]);
        sweeping.join().unwrap();
        assert_eq!(setup.pass(0, &limits, 3), 1);
    });
}

#[test]
fn rule_7_holders_that_come_and_go_share_what_there_is() {
    check(|| {
        let setup = Setup::new();
        let limits = [RateLimit::per_hour(3)];
        let spending = [(); 2].map(|()| {
            let (setup, limits) = (setup.clone(), limits.clone());
            thread(move || setup.pass(0, &limits, 1) + setup.pass(0, &limits, 2))
        });
        let sweeping = setup.clone();
        let sweeping = thread(move || {
            for key in [1, 2, 1] {
                drop(sweeping.attach(key, &[RateLimit::per_hour(1)]));
            }
        });
        let passed = spending.map(|spending| spending.join().unwrap());
        sweeping.join().unwrap();
        assert_eq!(passed.iter().sum::<u32>(), 3);
        assert_eq!(setup.remaining(0, &limits), [0]);
    });
}

#[test]
fn rule_7_a_request_spends_of_all_limits_or_of_none() {
    check_all(|| {
        let setup = Setup::new();
        let limits = [
            RateLimit::per_hour(5).with_name("wide"),
            RateLimit::per_hour(1).with_name("narrow"),
        ];
        let (other, same) = (setup.clone(), limits.clone());
        let other = thread(move || other.pass(0, &same, 1));
        let passed = setup.pass(0, &limits, 1) + other.join().unwrap();
        assert_eq!(passed, 1);
        assert_eq!(setup.remaining(0, &limits), [4, 0]);
    });
}

#[test]
fn rule_7_a_change_of_limits_forgives_nothing() {
    check_all(|| {
        let setup = Setup::new();
        let narrow = [RateLimit::per_hour(2).with_name("rate")];
        let wide = [RateLimit::per_hour(4).with_name("rate")];
        let other = setup.clone();
        let other = thread(move || other.pass(0, &narrow, 1));
        let passed = setup.pass(0, &wide, 1) + other.join().unwrap();
        assert_eq!(passed, 2);
        assert_eq!(setup.remaining(0, &wide), [2]);
    });
}

#[test]
fn rule_6_accounts_stay_within_their_room() {
    check(|| {
        let setup = Setup::new();
        let limits = [RateLimit::per_hour(1)];
        let spending = [0, 1, 2].map(|key| {
            let (setup, limits) = (setup.clone(), limits.clone());
            thread(move || match setup.attach(key, &limits) {
                Ok(allowance) => u32::from(setup.take(&*allowance, 1).is_allowed()),
                Err(LimitError::Full) => 0,
                Err(error) => panic!("{error}"),
            })
        });
        let passed: u32 = spending.map(|thread| thread.join().unwrap()).iter().sum();
        // An account for each that has something spent, and for no other.
        assert_eq!(setup.limiter.accounts(), passed as usize);
        // Nobody uses one any more, and one is what there is room for.
        assert_eq!(setup.attach(3, &limits).unwrap_err(), LimitError::Full);
        assert_eq!(setup.limiter.accounts(), passed as usize);
    });
}

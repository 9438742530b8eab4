//! Model tests of accounts: usage is neither lost nor consumed in part, in concurrent interleavings.

use super::*;
use crate::clock::Clock;
use crate::limit::{Decision, LimitResponse, Subject, SubjectLimits};
use crate::sync::model::{check, check_all, thread};

/// A limiter that sweeps on every attach of a new key, because all keys are in the same shard.
struct Setup {
    limiter: LocalLimiter,
    clock: Clock,
    ids: Vec<KeyId>,
}

impl Setup {
    fn new() -> Arc<Self> {
        let limiter = LocalLimiter::with_capacity(1);
        let ids = (0..).map(KeyId::from_number);
        let ids = ids
            .filter(|id| std::ptr::eq(limiter.shard((*id).into()), &raw const limiter.shards[0]));
        let ids = ids.take(4).collect();
        let clock = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
        Arc::new(Self {
            limiter,
            clock,
            ids,
        })
    }

    fn attach(&self, key: usize, limits: &[RateLimit]) -> Result<Arc<dyn LimitHandle>, LimitError> {
        let subjects = [SubjectLimits::new(self.ids[key], limits)];
        self.limiter.attach(&subjects, self.clock.now())
    }

    fn acquire(&self, handle: &dyn LimitHandle, cost: u32) -> Decision {
        match handle.acquire(cost, self.clock.now()) {
            LimitResponse::Ready(decision) => decision,
            LimitResponse::Pending(_) => unreachable!("the local limiter responds immediately"),
        }
    }

    /// The number of admitted requests, of this many through a new handle.
    fn admitted(&self, key: usize, limits: &[RateLimit], requests: u32) -> u32 {
        let handle = self.attach(key, limits).unwrap();
        (0..requests)
            .map(|_| u32::from(self.acquire(&*handle, 1).is_allowed()))
            .sum()
    }

    fn remaining(&self, key: usize, limits: &[RateLimit]) -> Vec<u32> {
        let decision = self.acquire(&*self.attach(key, limits).unwrap(), 0);
        let statuses = decision.statuses().iter();
        statuses.map(|status| status.remaining).collect()
    }
}

mod rejections_spend_nothing {
    use super::*;

    #[test]
    fn removing_idle_accounts_admits_no_request() {
        check_all(|| {
            let setup = Setup::new();
            let limits = [RateLimit::per_hour(2)];
            let sweeper = setup.clone();
            let sweeper = thread(move || {
                // It exceeds the capacity once the other key has usage and is not in use.
                drop(sweeper.attach(1, &[RateLimit::per_hour(1)]));
            });
            assert_eq!(setup.admitted(0, &limits, 1), 1);
            assert_eq!(setup.remaining(0, &limits), [1]);
            sweeper.join().unwrap();
            assert_eq!(setup.admitted(0, &limits, 3), 1);
        });
    }

    #[test]
    fn short_lived_handles_share_one_limit() {
        check(|| {
            let setup = Setup::new();
            let limits = [RateLimit::per_hour(3)];
            let spenders = [(); 2].map(|()| {
                let (setup, limits) = (setup.clone(), limits.clone());
                thread(move || setup.admitted(0, &limits, 1) + setup.admitted(0, &limits, 2))
            });
            let sweeper = setup.clone();
            let sweeper = thread(move || {
                for key in [1, 2, 1] {
                    drop(sweeper.attach(key, &[RateLimit::per_hour(1)]));
                }
            });
            let total = spenders.map(|spenders| spenders.join().unwrap());
            sweeper.join().unwrap();
            assert_eq!(total.iter().sum::<u32>(), 3);
            assert_eq!(setup.remaining(0, &limits), [0]);
        });
    }

    #[test]
    fn request_consumes_all_limits_or_none() {
        check_all(|| {
            let setup = Setup::new();
            let limits = [
                RateLimit::per_hour(5).with_name("wide"),
                RateLimit::per_hour(1).with_name("narrow"),
            ];
            let (other, same) = (setup.clone(), limits.clone());
            let other = thread(move || other.admitted(0, &same, 1));
            let total = setup.admitted(0, &limits, 1) + other.join().unwrap();
            assert_eq!(total, 1);
            assert_eq!(setup.remaining(0, &limits), [4, 0]);
        });
    }

    #[test]
    fn keys_of_an_owner_share_its_limits() {
        // Not exhaustive, since the shards of the subjects are random.
        check(|| {
            let clock = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
            let limiter = Arc::new(LocalLimiter::new());
            let decide = |key: u8, cost: u32| {
                let (limiter, clock) = (limiter.clone(), clock.clone());
                move || {
                    let (of_key, of_owner) = ([RateLimit::per_hour(2)], [RateLimit::per_hour(1)]);
                    let mut subjects = [
                        SubjectLimits::new(KeyId::from_number(key.into()), &of_key),
                        SubjectLimits::new(Subject::Owner("customer-17"), &of_owner),
                    ];
                    // In any order.
                    subjects.rotate_left(key.into());
                    let handle = limiter.attach(&subjects, clock.now()).unwrap();
                    match handle.acquire(cost, clock.now()) {
                        LimitResponse::Ready(decision) => decision,
                        LimitResponse::Pending(_) => unreachable!(),
                    }
                }
            };
            let other = thread(decide(1, 1));
            let admitted = [decide(0, 1)(), other.join().unwrap()].map(|it| it.is_allowed());
            assert_eq!(admitted.iter().filter(|&&it| it).count(), 1);
            for (key, admitted) in [0, 1].into_iter().zip(admitted) {
                let of_key = decide(key, 0)().statuses()[usize::from(key)];
                assert_eq!(of_key.remaining, 2 - u32::from(admitted));
            }
        });
    }

    #[test]
    fn recharging_neither_loses_nor_adds_usage() {
        for limits in [
            vec![RateLimit::per_hour(5)],
            vec![
                RateLimit::per_hour(9).with_name("wide"),
                RateLimit::per_hour(5).with_name("narrow"),
            ],
        ] {
            check(move || {
                let setup = Setup::new();
                let recharge = |setup: &Setup, limits: &[RateLimit], cost: u32| {
                    let (handle, now) = (setup.attach(0, limits).unwrap(), setup.clock.now());
                    assert!(setup.acquire(&*handle, 1).is_allowed());
                    match handle.recharge(1, now, cost, now) {
                        LimitResponse::Ready(decision) => decision.is_allowed(),
                        LimitResponse::Pending(_) => unreachable!(),
                    }
                };
                let (other, same) = (setup.clone(), limits.clone());
                let other = thread(move || recharge(&other, &same, 2));
                let is_allowed = recharge(&setup, &limits, 3);
                assert!(is_allowed && other.join().unwrap());
                assert_eq!(setup.remaining(0, &limits).last(), Some(&0));
            });
        }
    }

    #[test]
    fn changed_limits_keep_usage() {
        check_all(|| {
            let setup = Setup::new();
            let narrow = [RateLimit::per_hour(2).with_name("rate")];
            let wide = [RateLimit::per_hour(4).with_name("rate")];
            let other = setup.clone();
            let other = thread(move || other.admitted(0, &narrow, 1));
            let total = setup.admitted(0, &wide, 1) + other.join().unwrap();
            assert_eq!(total, 2);
            assert_eq!(setup.remaining(0, &wide), [2]);
        });
    }
}

mod bounded_unauthenticated_state {
    use super::*;

    #[test]
    fn accounts_stay_within_capacity() {
        check(|| {
            let setup = Setup::new();
            let limits = [RateLimit::per_hour(1)];
            let spenders = [0, 1, 2].map(|key| {
                let (setup, limits) = (setup.clone(), limits.clone());
                thread(move || match setup.attach(key, &limits) {
                    Ok(handle) => u32::from(setup.acquire(&*handle, 1).is_allowed()),
                    Err(LimitError::AtCapacity) => 0,
                    Err(error) => panic!("{error}"),
                })
            });
            let total: u32 = spenders.map(|thread| thread.join().unwrap()).iter().sum();
            // One account for each key with usage, and no others.
            assert_eq!(setup.limiter.tracked_keys(), total as usize);
            // No account is in use, and the capacity is one.
            assert_eq!(
                setup.attach(3, &limits).unwrap_err(),
                LimitError::AtCapacity
            );
            assert_eq!(setup.limiter.tracked_keys(), total as usize);
        });
    }
}

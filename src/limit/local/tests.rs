use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock;
use crate::limit::{Decision, LimitResponse, LimitStatus};

fn id(n: u128) -> KeyId {
    KeyId::from_number(n)
}

fn acquire(handle: &Arc<dyn LimitHandle>, cost: u32, clock: &clock::Clock) -> Decision {
    match handle.acquire(cost, clock.now()) {
        LimitResponse::Ready(decision) => decision,
        LimitResponse::Pending(_) => unreachable!("the local limiter responds immediately"),
    }
}

fn recharge(
    handle: &Arc<dyn LimitHandle>,
    charged: u32,
    charged_at: Now,
    cost: u32,
    clock: &clock::Clock,
) -> Decision {
    match handle.recharge(charged, charged_at, cost, clock.now()) {
        LimitResponse::Ready(decision) => decision,
        LimitResponse::Pending(_) => unreachable!("the local limiter responds immediately"),
    }
}

fn clock() -> clock::Clock {
    clock::Clock::manual(jiff::Timestamp::UNIX_EPOCH)
}

#[test]
fn burst_is_admitted_and_then_restored_at_the_rate() {
    let clock = clock();
    let limits = [RateLimit::per_minute(60).with_burst(3)];
    let key = LocalLimiter::new()
        .attach(&[SubjectLimits::new(id(1), &limits)], clock.now())
        .unwrap();
    for remaining in [2, 1, 0] {
        let decision = acquire(&key, 1, &clock);
        assert!(decision.is_allowed());
        assert_eq!(decision.statuses()[0].remaining, remaining);
    }
    let rejected = acquire(&key, 1, &clock);
    assert!(!rejected.is_allowed());
    assert_eq!(rejected.wait(), Some(Duration::from_secs(1)));
    assert_eq!(
        rejected.statuses()[0],
        LimitStatus {
            remaining: 0,
            reset_secs: 3
        }
    );
    clock.advance(Duration::from_secs(1));
    assert!(acquire(&key, 1, &clock).is_allowed());
    assert!(!acquire(&key, 1, &clock).is_allowed());
}

mod rejections_spend_nothing {
    use super::*;

    #[test]
    fn rejected_request_consumes_nothing() {
        let clock = clock();
        let limits = [
            RateLimit::per_minute(60).with_burst(5).with_name("wide"),
            RateLimit::per_minute(60).with_burst(1).with_name("narrow"),
        ];
        let key = LocalLimiter::new()
            .attach(&[SubjectLimits::new(id(1), &limits)], clock.now())
            .unwrap();
        assert!(acquire(&key, 1, &clock).is_allowed());
        for _ in 0..10 {
            let rejected = acquire(&key, 1, &clock);
            assert!(!rejected.is_exceeded(0) && rejected.is_exceeded(1));
        }
        let status = acquire(&key, 0, &clock);
        assert!(status.is_allowed());
        assert_eq!(status.statuses()[0].remaining, 4);
    }

    #[test]
    fn repeatedly_changed_limit_keeps_usage() {
        let clock = clock();
        let limiter = LocalLimiter::new();
        let attach = |per_hour: u32| {
            let limits = [RateLimit::per_hour(per_hour).with_name("rate")];
            limiter
                .attach(&[SubjectLimits::new(id(1), &limits)], clock.now())
                .unwrap()
        };
        let remaining = |handle: &_| acquire(handle, 0, &clock).statuses()[0].remaining;
        assert!(acquire(&attach(1_000), 900, &clock).is_allowed());
        let mut handle = attach(10);
        for change in 1..=100 {
            // Narrower than the first, all different, and all exhausted.
            let per_hour = 10 + change * 37 % 101;
            let changed = attach(per_hour);
            assert_eq!(remaining(&changed), 0, "{per_hour}");
            assert!(!acquire(&changed, 1, &clock).is_allowed());
            // The previous handle is kept until here, as by pending requests.
            assert!(!acquire(&handle, 1, &clock).is_allowed());
            handle = changed;
            clock.advance(Duration::from_secs(2));
            assert_eq!(
                acquire(&handle, 1, &clock).is_allowed(),
                remaining(&handle) > 0
            );
        }
        // Some 200 seconds restored 55.
        assert!((100..160).contains(&remaining(&attach(1_000))));
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow under Miri")]
    fn removing_idle_accounts_keeps_usage() {
        let clock = clock();
        let limiter = LocalLimiter::with_capacity(SHARDS * FIRST_SWEEP);
        let limits = [RateLimit::per_hour(1)];
        let spent = limiter
            .attach(&[SubjectLimits::new(id(0), &limits)], clock.now())
            .unwrap();
        assert!(acquire(&spent, 1, &clock).is_allowed());
        drop(spent);
        let unspent = limiter
            .attach(&[SubjectLimits::new(id(1), &limits)], clock.now())
            .unwrap();
        for n in 2..100_000 {
            limiter
                .attach(&[SubjectLimits::new(id(n), &limits)], clock.now())
                .unwrap();
        }
        assert!(limiter.tracked_keys() <= SHARDS * FIRST_SWEEP);
        assert!(acquire(&unspent, 1, &clock).is_allowed());
        for n in [0, 1] {
            let again = limiter
                .attach(&[SubjectLimits::new(id(n), &limits)], clock.now())
                .unwrap();
            assert!(!acquire(&again, 1, &clock).is_allowed());
        }
    }
}

#[test]
fn peek_consumes_nothing() {
    let clock = clock();
    let limits = [RateLimit::per_second(1)];
    let key = LocalLimiter::new()
        .attach(&[SubjectLimits::new(id(1), &limits)], clock.now())
        .unwrap();
    for _ in 0..5 {
        let LimitResponse::Ready(decision) = key.peek(clock.now()) else {
            panic!("the local limiter responds immediately");
        };
        assert_eq!(
            decision.statuses()[0],
            LimitStatus {
                remaining: 1,
                reset_secs: 0
            }
        );
    }
    assert!(acquire(&key, 1, &clock).is_allowed());
}

#[test]
fn cost_beyond_the_burst_is_never_allowed() {
    let clock = clock();
    let limits = [RateLimit::per_second(5)];
    let key = LocalLimiter::new()
        .attach(&[SubjectLimits::new(id(1), &limits)], clock.now())
        .unwrap();
    let rejected = acquire(&key, 6, &clock);
    assert!(!rejected.is_allowed());
    assert_eq!((rejected.wait(), rejected.retry_after_secs()), (None, None));
    assert!(acquire(&key, 5, &clock).is_allowed());
}

#[test]
fn changed_limits_keep_usage() {
    let clock = clock();
    let limiter = LocalLimiter::new();
    let narrow = [RateLimit::per_minute(10).with_name("rate")];
    let wide = [RateLimit::per_minute(100).with_name("rate")];
    let handle = limiter
        .attach(&[SubjectLimits::new(id(1), &narrow)], clock.now())
        .unwrap();
    assert!(acquire(&handle, 10, &clock).is_allowed());
    let key = limiter
        .attach(&[SubjectLimits::new(id(1), &wide)], clock.now())
        .unwrap();
    assert_eq!(acquire(&key, 0, &clock).statuses()[0].remaining, 90);
    // The old handle applies the old limits.
    assert!(!acquire(&handle, 1, &clock).is_allowed());
    assert!(acquire(&key, 90, &clock).is_allowed());
    assert!(!acquire(&key, 1, &clock).is_allowed());
    let back = limiter
        .attach(&[SubjectLimits::new(id(1), &narrow)], clock.now())
        .unwrap();
    let rejected = acquire(&back, 1, &clock);
    assert_eq!(rejected.wait(), Some(Duration::from_secs(6)));
}

#[test]
fn temporarily_narrower_limit_keeps_usage() {
    let clock = clock();
    let limiter = LocalLimiter::new();
    let attach = |limit: RateLimit| {
        limiter
            .attach(&[SubjectLimits::new(id(1), &[limit])], clock.now())
            .unwrap()
    };
    let wide = attach(RateLimit::per_hour(100));
    assert!(acquire(&wide, 80, &clock).is_allowed());
    drop(wide);
    let narrow = attach(RateLimit::per_hour(10));
    assert_eq!(acquire(&narrow, 0, &clock).statuses()[0].remaining, 0);
    drop(narrow);
    let wide = attach(RateLimit::per_hour(100));
    assert_eq!(acquire(&wide, 0, &clock).statuses()[0].remaining, 20);
}

/// Two layers, each with its own limits for the same key.
#[test]
fn attaching_does_not_affect_other_handles() {
    let clock = clock();
    let limiter = LocalLimiter::new();
    let hourly = [RateLimit::per_hour(3)];
    let outer = limiter
        .attach(&[SubjectLimits::new(id(1), &hourly)], clock.now())
        .unwrap();
    for left in [2, 1, 0] {
        let decision = acquire(&outer, 1, &clock);
        assert_eq!(decision.statuses()[0].remaining, left);
        let inner = limiter
            .attach(
                &[SubjectLimits::new(id(1), &[RateLimit::per_second(5)])],
                clock.now(),
            )
            .unwrap();
        assert_eq!(acquire(&inner, 1, &clock).statuses()[0].remaining, 4);
        clock.advance(Duration::from_secs(1));
    }
    assert!(!acquire(&outer, 1, &clock).is_allowed());
}

#[test]
fn limits_of_the_same_name_share_usage() {
    let clock = clock();
    let limiter = LocalLimiter::new();
    let attach = |limit: RateLimit| {
        limiter
            .attach(&[SubjectLimits::new(id(1), &[limit])], clock.now())
            .unwrap()
    };
    let remaining = |handle: &_| acquire(handle, 0, &clock).statuses()[0].remaining;
    let wide = attach(RateLimit::per_minute(60));
    let narrow = attach(RateLimit::per_minute(6));
    let other = attach(RateLimit::per_minute(6).with_name("other"));
    assert!(acquire(&wide, 4, &clock).is_allowed());
    assert_eq!((remaining(&wide), remaining(&narrow)), (56, 2));
    assert!(acquire(&narrow, 2, &clock).is_allowed());
    assert_eq!((remaining(&wide), remaining(&narrow)), (54, 0));
    // A cost beyond the narrow limit exhausts it, and it is restored at its own rate.
    assert!(acquire(&wide, 54, &clock).is_allowed());
    assert_eq!(
        acquire(&narrow, 1, &clock).wait(),
        Some(Duration::from_secs(10))
    );
    clock.advance(Duration::from_secs(10));
    assert_eq!((remaining(&wide), remaining(&narrow)), (10, 1));
    assert_eq!(remaining(&other), 6);
}

#[test]
fn number_of_different_limits_per_key_is_bounded() {
    let clock = clock();
    let limiter = LocalLimiter::new();
    let attach = |n: usize| {
        let limits = [RateLimit::per_minute(10).with_name(format!("n{n}"))];
        limiter.attach(&[SubjectLimits::new(id(1), &limits)], clock.now())
    };
    for n in 0..Account::MAX_SLOTS {
        assert!(acquire(&attach(n).unwrap(), 1, &clock).is_allowed());
    }
    assert_eq!(attach(100).unwrap_err(), LimitError::AtCapacity);
    // Existing limits still work and keep their usage.
    assert_eq!(
        acquire(&attach(0).unwrap(), 1, &clock).statuses()[0].remaining,
        8
    );
    clock.advance(Duration::from_secs(60));
    let handles: Vec<_> = (100..100 + Account::MAX_SLOTS).map(attach).collect();
    assert!(handles.iter().all(Result::is_ok));
    // Limits in use are not replaced, even without usage.
    assert_eq!(attach(0).unwrap_err(), LimitError::AtCapacity);
}

#[test]
fn slot_in_use_or_unique_by_name_is_not_replaced() {
    let clock = clock();
    let limiter = LocalLimiter::new();
    let attach = |name: String, per_hour: u32| {
        let limits = [RateLimit::per_hour(per_hour).with_name(name)];
        limiter.attach(&[SubjectLimits::new(id(1), &limits)], clock.now())
    };
    let unique = Account::MAX_SLOTS - 2;
    for n in 0..unique {
        assert!(acquire(&attach(format!("n{n}"), 10).unwrap(), 1, &clock).is_allowed());
    }
    let handles = [10, 20].map(|per_hour| attach("rate".into(), per_hour).unwrap());
    assert!(acquire(&handles[0], 10, &clock).is_allowed());
    let full = |result: Result<_, _>| result.is_err_and(|error| error == LimitError::AtCapacity);
    assert!(full(attach("rate".into(), 30)));
    drop(handles);
    // One of the two is replaced; the other has its usage.
    assert!(attach("other".into(), 10).is_ok_and(|other| acquire(&other, 1, &clock).is_allowed()));
    assert!(full(attach("another".into(), 10)));
    let last = attach("rate".into(), 30).unwrap();
    assert_eq!(acquire(&last, 0, &clock).statuses()[0].remaining, 20);
    for n in 0..unique {
        let handle = attach(format!("n{n}"), 10).unwrap();
        assert_eq!(acquire(&handle, 0, &clock).statuses()[0].remaining, 9);
    }
}

#[test]
fn accounts_in_use_do_not_count_towards_capacity() {
    let clock = clock();
    let limiter = LocalLimiter::with_capacity(1);
    let limits = [RateLimit::per_hour(1)];
    let attach = |n| limiter.attach(&[SubjectLimits::new(id(n), &limits)], clock.now());
    let handles: Vec<_> = (0..1_000).map(attach).collect();
    assert!(handles.iter().all(Result::is_ok));
}

#[test]
#[cfg_attr(miri, ignore = "too slow under Miri")]
fn sweeps_are_amortized() {
    let clock = clock();
    let limits = [RateLimit::per_hour(1)];
    for (in_use, capacity) in [(true, 1), (false, 1_000_000)] {
        let limiter = LocalLimiter::with_capacity(capacity);
        let mut handles = Vec::new();
        let mut sweeps = 0;
        for n in 0..20_000 {
            let shard = lock(limiter.shard(id(n).into()));
            sweeps += usize::from(shard.len() >= shard.sweep_at);
            drop(shard);
            let key = limiter
                .attach(&[SubjectLimits::new(id(n), &limits)], clock.now())
                .unwrap();
            assert!(acquire(&key, 1, &clock).is_allowed());
            if in_use {
                handles.push(key);
            }
        }
        // Ten doublings from one account to some 312 per shard, and one sweep of the empty shard.
        assert!(sweeps <= SHARDS * 11, "{sweeps}");
        assert_eq!(limiter.tracked_keys(), 20_000);
    }
}

#[test]
#[cfg_attr(miri, ignore = "too slow under Miri")]
fn subjects_are_distributed_over_all_shards() {
    let clock = clock();
    let (limiter, limits) = (LocalLimiter::new(), [RateLimit::per_day(1)]);
    let attach = |n: u128| {
        let owner = n.to_string();
        let subjects = [id(n).into(), Subject::Owner(&owner)];
        let subjects = subjects.map(|subject| SubjectLimits::new(subject, &limits));
        limiter.attach(&subjects, clock.now()).unwrap()
    };
    // In use, so that none is removed.
    let _handles: Vec<_> = (0..32_000).map(attach).collect();
    for shard in &limiter.shards {
        let accounts = lock(shard).len();
        // More than six standard deviations from 1,000.
        assert!((800..=1_200).contains(&accounts), "{accounts}");
    }
}

#[test]
fn number_of_handles_of_a_limit_is_unbounded() {
    let clock = clock();
    let limiter = LocalLimiter::new();
    let limits = [RateLimit::per_hour(200)];
    let handles: Vec<_> = (0..2 * Account::MAX_SLOTS)
        .map(|_| {
            limiter
                .attach(&[SubjectLimits::new(id(1), &limits)], clock.now())
                .unwrap()
        })
        .collect();
    for (spent, key) in handles.iter().enumerate() {
        let left = acquire(key, 1, &clock).statuses()[0].remaining;
        assert_eq!(left as usize, 199 - spent);
    }
}

#[test]
fn limiter_works_behind_arc_and_box() {
    let clock = clock();
    let shared: Arc<dyn Limiter> = Arc::new(LocalLimiter::new());
    let boxed: Box<dyn Limiter> = Box::new(shared.clone());
    let limits = [RateLimit::per_hour(1)];
    let first = shared
        .attach(&[SubjectLimits::new(id(1), &limits)], clock.now())
        .unwrap();
    let second = boxed
        .attach(&[SubjectLimits::new(id(1), &limits)], clock.now())
        .unwrap();
    assert!(acquire(&first, 1, &clock).is_allowed());
    assert!(!acquire(&second, 1, &clock).is_allowed());
}

#[test]
#[cfg_attr(miri, ignore = "too slow under Miri")]
fn keys_beyond_capacity_are_rejected() {
    let clock = clock();
    let limiter = LocalLimiter::with_capacity(1);
    let limits = [RateLimit::per_hour(1)];
    let mut full = 0;
    for n in 0..10_000 {
        match limiter.attach(&[SubjectLimits::new(id(n), &limits)], clock.now()) {
            Ok(key) => assert!(acquire(&key, 1, &clock).is_allowed()),
            Err(error) => {
                assert_eq!(error, LimitError::AtCapacity);
                full += 1;
            }
        }
    }
    assert_eq!(limiter.tracked_keys(), 10_000 - full);
    assert!(limiter.tracked_keys() <= SHARDS);
    // After an hour, all limits are restored and capacity is available.
    clock.advance(Duration::from_secs(3_600));
    assert!(
        limiter
            .attach(&[SubjectLimits::new(id(10_001), &limits)], clock.now())
            .is_ok()
    );
}

/// A leaky bucket, in nanoseconds as `u128` so that products do not overflow.
#[derive(Debug)]
struct Model {
    capacity: u128,
    per_request: u128,
    /// The level of the bucket in nanoseconds, as of `at`.
    level: u128,
    at: u64,
}

impl Model {
    fn of(limit: &RateLimit) -> Self {
        Self {
            capacity: limit.burst().into(),
            per_request: limit.period().as_nanos() / u128::from(limit.requests()),
            level: 0,
            at: 0,
        }
    }

    fn drain(&mut self, now: u64) {
        self.level = self.level.saturating_sub((now - self.at).into());
        self.at = now;
    }

    fn spend(&mut self, cost: u32) {
        self.level += u128::from(cost) * self.per_request;
    }

    /// Whether a request is allowed after this wait.
    fn fits_after(&self, wait: Duration, cost: u32) -> bool {
        let level = self.level.saturating_sub(wait.as_nanos());
        level + u128::from(cost) * self.per_request <= self.capacity * self.per_request
    }
}

fn compare_with_leaky_bucket(
    limits: &[RateLimit],
    steps: Vec<(u64, u32)>,
) -> Result<(), TestCaseError> {
    let clock = clock();
    let mut models: Vec<_> = limits.iter().map(Model::of).collect();
    let key = LocalLimiter::new()
        .attach(&[SubjectLimits::new(id(1), limits)], clock.now())
        .unwrap();
    for (pause, cost) in steps {
        clock.advance(Duration::from_nanos(pause));
        let now = clock.now().elapsed_nanos();
        models.iter_mut().for_each(|model| model.drain(now));
        let fits_after = |wait| models.iter().all(|model| model.fits_after(wait, cost));
        let never = models.iter().any(|model| u128::from(cost) > model.capacity);
        let decision = acquire(&key, cost, &clock);
        prop_assert_eq!(
            decision.is_allowed(),
            cost == 0 || fits_after(Duration::ZERO)
        );
        match decision.wait() {
            // Invariant 8: the wait suffices, and a nanosecond less does not.
            Some(wait) => {
                prop_assert!(fits_after(wait) && !fits_after(wait - Duration::from_nanos(1)));
            }
            None => prop_assert!(decision.is_allowed() || never),
        }
        for (model, standing) in models.iter_mut().zip(decision.statuses()) {
            if decision.is_allowed() {
                model.spend(cost);
            }
            let free = model.capacity * model.per_request - model.level;
            prop_assert_eq!(u128::from(standing.remaining), free / model.per_request);
            prop_assert_eq!(
                u128::from(standing.reset_secs),
                model.level.div_ceil(1_000_000_000)
            );
        }
    }
    Ok(())
}

/// A strategy for valid limits with windows of up to a year.
fn any_limit() -> impl Strategy<Value = RateLimit> {
    let seconds = prop_oneof![Just(1), Just(86_400), Just(31_622_400), 1u64..31_622_400];
    let limit = |(requests, seconds, burst)| {
        RateLimit::per(requests, Duration::from_secs(seconds)).with_burst(burst)
    };
    (1u32..100_000, seconds, 1u32..100_000)
        .prop_map(limit)
        .prop_filter("the window is at most a year", |limit| {
            limit.validate().is_ok()
        })
}

#[test]
fn cost_that_overflows_is_rejected() {
    // 21,350,400 × 864 s slightly exceed 2⁶⁴ ns: wrapping arithmetic would allow that.
    let limit = RateLimit::per(100, Duration::from_secs(86_400));
    let steps = [100, 101, 21_350_400, u32::MAX].map(|cost| (0, cost));
    for steps in [steps.to_vec(), steps[1..].to_vec()] {
        compare_with_leaky_bucket(std::slice::from_ref(&limit), steps).unwrap();
    }
}

proptest! {
    #[test]
    fn decisions_match_a_leaky_bucket(
        rates in proptest::collection::vec((1u32..50, 1u32..50), 1..4),
        steps in proptest::collection::vec((0u64..2_000_000_000, 0u32..8), 1..200),
    ) {
        let limits: Vec<_> = rates
            .iter()
            .enumerate()
            .map(|(n, &(rate, burst))| {
                RateLimit::per_second(rate).with_burst(burst).with_name(format!("n{n}"))
            })
            .collect();
        compare_with_leaky_bucket(&limits, steps)?;
    }

    #[test]
    fn arbitrary_costs_match_a_leaky_bucket(
        limits in proptest::collection::vec(any_limit(), 1..4),
        steps in proptest::collection::vec(
            (0u64..90_000_000_000_000, prop_oneof![any::<u32>(), 0u32..2_000]),
            1..50,
        ),
    ) {
        let named = |(n, limit): (usize, RateLimit)| limit.with_name(format!("n{n}"));
        let limits: Vec<_> = limits.into_iter().enumerate().map(named).collect();
        compare_with_leaky_bucket(&limits, steps)?;
    }

    /// Keys of an owner and the owner by itself: each request fits all buckets of its subjects, and fills all or none.
    #[test]
    fn limits_of_keys_and_owners_match_leaky_buckets(
        of_key in (1u32..20, 1u32..20),
        of_owner in proptest::collection::vec((1u32..40, 1u32..40), 1..3),
        steps in proptest::collection::vec((0usize..4, 0u64..400_000_000, 0u32..6), 1..200),
    ) {
        let limit = |name: String, (rate, burst): (u32, u32)| {
            RateLimit::per_second(rate).with_burst(burst).with_name(name)
        };
        let of_key = [limit("n0".into(), of_key)];
        let of_owner = of_owner.into_iter().enumerate();
        let of_owner: Vec<_> = of_owner.map(|(n, rate)| limit(format!("n{n}"), rate)).collect();
        let clock = clock();
        let limiter = LocalLimiter::new();
        let owner = SubjectLimits::new(Subject::Owner("customer-17"), &of_owner);
        let attach = |subjects: &[SubjectLimits<'_>]| limiter.attach(subjects, clock.now()).unwrap();
        let handles = [
            attach(&[SubjectLimits::new(id(1), &of_key), owner]),
            attach(&[owner, SubjectLimits::new(id(2), &of_key)]),
            attach(&[SubjectLimits::new(id(3), &of_key), owner]),
            attach(&[owner]),
        ];
        let buckets = of_key.len() * 3..of_key.len() * 3 + of_owner.len();
        let mut models: Vec<_> = of_key.iter().cycle().take(3).chain(&of_owner).map(Model::of).collect();
        for (handle, pause, cost) in steps {
            clock.advance(Duration::from_nanos(pause));
            let now = clock.now().elapsed_nanos();
            models.iter_mut().for_each(|model| model.drain(now));
            // In the order of attachment.
            let owners = buckets.clone();
            let mine: Vec<usize> = match handle {
                1 => owners.chain([1]).collect(),
                3 => owners.collect(),
                key => std::iter::once(key).chain(owners).collect(),
            };
            let decision = acquire(&handles[handle], cost, &clock);
            let fits = mine.iter().all(|&index| models[index].fits_after(Duration::ZERO, cost));
            prop_assert_eq!(decision.is_allowed(), cost == 0 || fits);
            for (&index, status) in mine.iter().zip(decision.statuses()) {
                let model = &mut models[index];
                if decision.is_allowed() {
                    model.spend(cost);
                }
                let free = model.capacity * model.per_request - model.level;
                prop_assert_eq!(u128::from(status.remaining), free / model.per_request);
            }
            prop_assert_eq!(decision.statuses().len(), mine.len());
        }
    }

    /// Whatever is recharged when, the final costs of requests never exceed the limits in any interval.
    #[test]
    fn recharged_costs_stay_within_the_limits(
        rates in proptest::collection::vec((1u32..20, 1u32..20), 1..4),
        steps in proptest::collection::vec(
            (0u64..400_000_000, 0u32..6, proptest::option::of((0usize..4, 0u32..8))), 1..80),
    ) {
        let limits: Vec<_> = rates
            .iter()
            .enumerate()
            .map(|(n, &(rate, burst))| {
                RateLimit::per_second(rate).with_burst(burst).with_name(format!("n{n}"))
            })
            .collect();
        let clock = clock();
        let limiter = LocalLimiter::new();
        let key = limiter.attach(&[SubjectLimits::new(id(1), &limits)], clock.now()).unwrap();
        // The requests that were admitted: when they were last charged, and their cost.
        let mut requests: Vec<(Now, u32)> = Vec::new();
        for (pause, cost, recharged) in steps {
            clock.advance(Duration::from_nanos(pause));
            let now = clock.now();
            match recharged {
                Some((back, cost)) if back < requests.len() => {
                    let index = requests.len() - 1 - back;
                    let (charged_at, charged) = requests[index];
                    let decision = recharge(&key, charged, charged_at, cost, &clock);
                    let never = limits.iter().any(|limit| cost > limit.burst());
                    prop_assert!(!(decision.is_allowed() && never));
                    prop_assert_eq!(decision.wait().is_none(), decision.is_allowed() || never);
                    requests[index] = (now, if decision.is_allowed() { cost } else { 0 });
                    if let Some(wait) = decision.wait() {
                        clock.advance(wait);
                        prop_assert!(acquire(&key, cost, &clock).is_allowed());
                        requests.push((clock.now(), cost));
                    }
                }
                _ => {
                    if acquire(&key, cost, &clock).is_allowed() {
                        requests.push((now, cost));
                    }
                }
            }
        }
        requests.sort_by_key(|(at, _)| at.elapsed_nanos());
        for limit in &limits {
            let per_request = limit.period().as_nanos() / u128::from(limit.requests());
            for (first, (from, _)) in requests.iter().enumerate() {
                let mut total = 0;
                for (to, cost) in &requests[first..] {
                    total += u128::from(*cost);
                    let restored = to.since(*from).as_nanos();
                    prop_assert!(total * per_request <= u128::from(limit.burst()) * per_request + restored);
                }
            }
        }
    }

    /// Immediately after it was charged, a request costs what it is recharged.
    #[test]
    fn recharging_at_once_equals_charging_the_final_cost(
        limits in proptest::collection::vec(any_limit(), 1..4),
        steps in proptest::collection::vec((0u64..90_000_000_000, 1u32..9, 0u32..9), 1..50),
    ) {
        let named = |(n, limit): (usize, RateLimit)| limit.with_name(format!("n{n}"));
        let limits: Vec<_> = limits.into_iter().enumerate().map(named).collect();
        let clock = clock();
        let limiter = LocalLimiter::new();
        let [direct, recharged] =
            [1, 2].map(|key| limiter.attach(&[SubjectLimits::new(id(key), &limits)], clock.now()).unwrap());
        for (pause, first, cost) in steps {
            clock.advance(Duration::from_nanos(pause));
            if acquire(&recharged, first, &clock).is_allowed() {
                let expected = acquire(&direct, cost, &clock);
                let decision = recharge(&recharged, first, clock.now(), cost, &clock);
                prop_assert_eq!(decision, expected);
            }
        }
    }

    /// Whatever other handles consume, each handle admits no more than its own limit, and the reported wait
    /// suffices.
    #[test]
    fn handles_enforce_their_own_limits(
        rates in proptest::collection::vec((1u32..50, 1u32..50), 2..5),
        steps in proptest::collection::vec(
            (0usize..4, 0u64..500_000_000, 0u32..8, proptest::bool::ANY), 1..200),
    ) {
        let clock = clock();
        let limiter = LocalLimiter::new();
        let mut handles: Vec<_> = rates
            .iter()
            .map(|&(rate, burst)| {
                let limits = [RateLimit::per_second(rate).with_burst(burst)];
                let model = Model::of(&limits[0]);
                (limiter.attach(&[SubjectLimits::new(id(1), &limits)], clock.now()).unwrap(), limits, model)
            })
            .collect();
        for (handle, pause, cost, reattach) in steps {
            clock.advance(Duration::from_nanos(pause));
            let now = clock.now().elapsed_nanos();
            let index = handle % handles.len();
            let (handle, limits, model) = &mut handles[index];
            if reattach {
                *handle = limiter.attach(&[SubjectLimits::new(id(1), limits)], clock.now()).unwrap();
            }
            let decision = acquire(handle, cost, &clock);
            model.drain(now);
            if decision.is_allowed() {
                prop_assert!(cost == 0 || model.fits_after(Duration::ZERO, cost));
                model.spend(cost);
            } else if let Some(wait) = decision.wait() {
                clock.advance(wait);
                model.drain(clock.now().elapsed_nanos());
                prop_assert!(acquire(handle, cost, &clock).is_allowed());
                model.spend(cost);
            }
        }
    }
}

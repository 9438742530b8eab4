use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock;
use crate::limit::{Decision, LimitResponse, LimitStatus};

fn id(n: u128) -> KeyId {
    KeyId::from_number(n)
}

fn take(allowance: &Arc<dyn LimitHandle>, cost: u32, clock: &clock::Clock) -> Decision {
    match allowance.acquire(cost, clock.now()) {
        LimitResponse::Ready(decision) => decision,
        LimitResponse::Pending(_) => unreachable!("the local limiter answers at once"),
    }
}

fn clock() -> clock::Clock {
    clock::Clock::manual(jiff::Timestamp::UNIX_EPOCH)
}

#[test]
fn a_burst_passes_and_then_the_pace_counts() {
    let clock = clock();
    let limits = [RateLimit::per_minute(60).with_burst(3)];
    let key = LocalLimiter::new()
        .attach(id(1), &limits, clock.now())
        .unwrap();
    for remaining in [2, 1, 0] {
        let decision = take(&key, 1, &clock);
        assert!(decision.is_allowed());
        assert_eq!(decision.statuses()[0].remaining, remaining);
    }
    let refused = take(&key, 1, &clock);
    assert!(!refused.is_allowed());
    assert_eq!(refused.wait(), Some(Duration::from_secs(1)));
    assert_eq!(
        refused.statuses()[0],
        LimitStatus {
            remaining: 0,
            reset_secs: 3
        }
    );
    clock.advance(Duration::from_secs(1));
    assert!(take(&key, 1, &clock).is_allowed());
    assert!(!take(&key, 1, &clock).is_allowed());
}

#[test]
fn rule_7_a_refused_request_spends_nothing() {
    let clock = clock();
    let limits = [
        RateLimit::per_minute(60).with_burst(5).with_name("wide"),
        RateLimit::per_minute(60).with_burst(1).with_name("narrow"),
    ];
    let key = LocalLimiter::new()
        .attach(id(1), &limits, clock.now())
        .unwrap();
    assert!(take(&key, 1, &clock).is_allowed());
    for _ in 0..10 {
        let refused = take(&key, 1, &clock);
        assert!(!refused.is_violated(0) && refused.is_violated(1));
    }
    let looked = take(&key, 0, &clock);
    assert!(looked.is_allowed());
    assert_eq!(looked.statuses()[0].remaining, 4);
}

#[test]
fn looking_spends_nothing() {
    let clock = clock();
    let limits = [RateLimit::per_second(1)];
    let key = LocalLimiter::new()
        .attach(id(1), &limits, clock.now())
        .unwrap();
    for _ in 0..5 {
        let LimitResponse::Ready(decision) = key.peek(clock.now()) else {
            panic!("the local limiter answers at once");
        };
        assert_eq!(
            decision.statuses()[0],
            LimitStatus {
                remaining: 1,
                reset_secs: 0
            }
        );
    }
    assert!(take(&key, 1, &clock).is_allowed());
}

#[test]
fn a_cost_beyond_the_burst_never_passes() {
    let clock = clock();
    let limits = [RateLimit::per_second(5)];
    let key = LocalLimiter::new()
        .attach(id(1), &limits, clock.now())
        .unwrap();
    let refused = take(&key, 6, &clock);
    assert!(!refused.is_allowed());
    assert_eq!((refused.wait(), refused.retry_after_secs()), (None, None));
    assert!(take(&key, 5, &clock).is_allowed());
}

#[test]
fn changed_limits_keep_what_is_spent() {
    let clock = clock();
    let limiter = LocalLimiter::new();
    let narrow = [RateLimit::per_minute(10).with_name("rate")];
    let wide = [RateLimit::per_minute(100).with_name("rate")];
    let held = limiter.attach(id(1), &narrow, clock.now()).unwrap();
    assert!(take(&held, 10, &clock).is_allowed());
    let key = limiter.attach(id(1), &wide, clock.now()).unwrap();
    assert_eq!(take(&key, 0, &clock).statuses()[0].remaining, 90);
    // Whoever still holds the old limits is under those.
    assert!(!take(&held, 1, &clock).is_allowed());
    assert!(take(&key, 90, &clock).is_allowed());
    assert!(!take(&key, 1, &clock).is_allowed());
    let back = limiter.attach(id(1), &narrow, clock.now()).unwrap();
    let refused = take(&back, 1, &clock);
    assert_eq!(refused.wait(), Some(Duration::from_secs(6)));
}

#[test]
fn limits_that_are_narrow_for_a_while_forgive_nothing() {
    let clock = clock();
    let limiter = LocalLimiter::new();
    let attach = |limit: RateLimit| limiter.attach(id(1), &[limit], clock.now()).unwrap();
    let wide = attach(RateLimit::per_hour(100));
    assert!(take(&wide, 80, &clock).is_allowed());
    drop(wide);
    let narrow = attach(RateLimit::per_hour(10));
    assert_eq!(take(&narrow, 0, &clock).statuses()[0].remaining, 0);
    drop(narrow);
    let wide = attach(RateLimit::per_hour(100));
    assert_eq!(take(&wide, 0, &clock).statuses()[0].remaining, 20);
}

/// Two layers, each with its own limits for the same key.
#[test]
fn attaching_changes_nothing_for_others() {
    let clock = clock();
    let limiter = LocalLimiter::new();
    let hourly = [RateLimit::per_hour(3)];
    let outer = limiter.attach(id(1), &hourly, clock.now()).unwrap();
    for left in [2, 1, 0] {
        let decision = take(&outer, 1, &clock);
        assert_eq!(decision.statuses()[0].remaining, left);
        let inner = limiter
            .attach(id(1), &[RateLimit::per_second(5)], clock.now())
            .unwrap();
        assert_eq!(take(&inner, 1, &clock).statuses()[0].remaining, 4);
        clock.advance(Duration::from_secs(1));
    }
    assert!(!take(&outer, 1, &clock).is_allowed());
}

#[test]
fn holders_of_one_name_share_what_is_spent() {
    let clock = clock();
    let limiter = LocalLimiter::new();
    let attach = |limit: RateLimit| limiter.attach(id(1), &[limit], clock.now()).unwrap();
    let remaining = |held: &_| take(held, 0, &clock).statuses()[0].remaining;
    let wide = attach(RateLimit::per_minute(60));
    let narrow = attach(RateLimit::per_minute(6));
    let other = attach(RateLimit::per_minute(6).with_name("other"));
    assert!(take(&wide, 4, &clock).is_allowed());
    assert_eq!((remaining(&wide), remaining(&narrow)), (56, 2));
    assert!(take(&narrow, 2, &clock).is_allowed());
    assert_eq!((remaining(&wide), remaining(&narrow)), (54, 0));
    // More than the narrow one has takes all that it has, and comes back at its own pace.
    assert!(take(&wide, 54, &clock).is_allowed());
    assert_eq!(
        take(&narrow, 1, &clock).wait(),
        Some(Duration::from_secs(10))
    );
    clock.advance(Duration::from_secs(10));
    assert_eq!((remaining(&wide), remaining(&narrow)), (10, 1));
    assert_eq!(remaining(&other), 6);
}

#[test]
fn a_key_has_room_for_so_many_different_limits() {
    let clock = clock();
    let limiter = LocalLimiter::new();
    let attach = |n: usize| {
        let limits = [RateLimit::per_minute(10).with_name(format!("n{n}"))];
        limiter.attach(id(1), &limits, clock.now())
    };
    for n in 0..Account::MAX_SLOTS {
        assert!(take(&attach(n).unwrap(), 1, &clock).is_allowed());
    }
    assert_eq!(attach(100).unwrap_err(), LimitError::Full);
    // What is there goes on, and keeps what is spent.
    assert_eq!(
        take(&attach(0).unwrap(), 1, &clock).statuses()[0].remaining,
        8
    );
    clock.advance(Duration::from_secs(60));
    let held: Vec<_> = (100..100 + Account::MAX_SLOTS).map(attach).collect();
    assert!(held.iter().all(Result::is_ok));
    // Those in use stay, though nothing is spent of them.
    assert_eq!(attach(0).unwrap_err(), LimitError::Full);
}

#[test]
fn rule_7_a_limit_can_change_as_often_as_it_will() {
    let clock = clock();
    let limiter = LocalLimiter::new();
    let attach = |per_hour: u32| {
        let limits = [RateLimit::per_hour(per_hour).with_name("rate")];
        limiter.attach(id(1), &limits, clock.now()).unwrap()
    };
    let remaining = |held: &_| take(held, 0, &clock).statuses()[0].remaining;
    assert!(take(&attach(1_000), 900, &clock).is_allowed());
    let mut held = attach(10);
    for change in 1..=100 {
        // Narrower than the first, each different, and all of them with nothing left.
        let per_hour = 10 + change * 37 % 101;
        let changed = attach(per_hour);
        assert_eq!(remaining(&changed), 0, "{per_hour}");
        assert!(!take(&changed, 1, &clock).is_allowed());
        // The one before is held until here, as by requests that are under way.
        assert!(!take(&held, 1, &clock).is_allowed());
        held = changed;
        clock.advance(Duration::from_secs(2));
        assert_eq!(take(&held, 1, &clock).is_allowed(), remaining(&held) > 0);
    }
    // Some 200 seconds gave 55 back.
    assert!((100..160).contains(&remaining(&attach(1_000))));
}

#[test]
fn a_slot_that_is_held_or_alone_of_its_name_is_not_given_up() {
    let clock = clock();
    let limiter = LocalLimiter::new();
    let attach = |name: String, per_hour: u32| {
        let limits = [RateLimit::per_hour(per_hour).with_name(name)];
        limiter.attach(id(1), &limits, clock.now())
    };
    let alone = Account::MAX_SLOTS - 2;
    for n in 0..alone {
        assert!(take(&attach(format!("n{n}"), 10).unwrap(), 1, &clock).is_allowed());
    }
    let held = [10, 20].map(|per_hour| attach("rate".into(), per_hour).unwrap());
    assert!(take(&held[0], 10, &clock).is_allowed());
    let full = |result: Result<_, _>| result.is_err_and(|error| error == LimitError::Full);
    assert!(full(attach("rate".into(), 30)));
    drop(held);
    // Of the two one goes, and the other knows what is spent of it.
    assert!(attach("other".into(), 10).is_ok_and(|other| take(&other, 1, &clock).is_allowed()));
    assert!(full(attach("another".into(), 10)));
    let last = attach("rate".into(), 30).unwrap();
    assert_eq!(take(&last, 0, &clock).statuses()[0].remaining, 20);
    for n in 0..alone {
        let held = attach(format!("n{n}"), 10).unwrap();
        assert_eq!(take(&held, 0, &clock).statuses()[0].remaining, 9);
    }
}

#[test]
fn accounts_in_use_take_no_room() {
    let clock = clock();
    let limiter = LocalLimiter::with_capacity(1);
    let limits = [RateLimit::per_hour(1)];
    let attach = |n| limiter.attach(id(n), &limits, clock.now());
    let held: Vec<_> = (0..1_000).map(attach).collect();
    assert!(held.iter().all(Result::is_ok));
}

#[test]
#[cfg_attr(miri, ignore = "so many accounts take an hour")]
fn accounts_are_not_searched_on_every_attach() {
    let clock = clock();
    let limits = [RateLimit::per_hour(1)];
    for (in_use, room) in [(true, 1), (false, 1_000_000)] {
        let limiter = LocalLimiter::with_capacity(room);
        let mut held = Vec::new();
        let mut sweeps = 0;
        for n in 0..20_000 {
            let shard = lock(limiter.shard(id(n)));
            sweeps += usize::from(shard.accounts.len() >= shard.sweep_at);
            drop(shard);
            let key = limiter.attach(id(n), &limits, clock.now()).unwrap();
            assert!(take(&key, 1, &clock).is_allowed());
            if in_use {
                held.push(key);
            }
        }
        // Ten doublings from one account to some 312 in a shard, and one of the empty shard.
        assert!(sweeps <= SHARDS * 11, "{sweeps}");
        assert_eq!(limiter.accounts(), 20_000);
    }
}

/// By their last two digits: ids are random.
#[test]
fn keys_are_spread_over_all_shards() {
    let clock = clock();
    let limiter = LocalLimiter::new();
    for n in 0..62 * 62 {
        limiter.attach(id(n), &[], clock.now()).unwrap();
    }
    for shard in &limiter.shards {
        let accounts = lock(shard).accounts.len();
        assert!((55..=65).contains(&accounts), "{accounts}");
    }
}

#[test]
fn any_number_of_layers_can_hold_the_same_limit() {
    let clock = clock();
    let limiter = LocalLimiter::new();
    let limits = [RateLimit::per_hour(200)];
    let held: Vec<_> = (0..2 * Account::MAX_SLOTS)
        .map(|_| limiter.attach(id(1), &limits, clock.now()).unwrap())
        .collect();
    for (spent, key) in held.iter().enumerate() {
        let left = take(key, 1, &clock).statuses()[0].remaining;
        assert_eq!(left as usize, 199 - spent);
    }
}

#[test]
fn a_limiter_can_be_shared() {
    let clock = clock();
    let shared: Arc<dyn Limiter> = Arc::new(LocalLimiter::new());
    let boxed: Box<dyn Limiter> = Box::new(shared.clone());
    let limits = [RateLimit::per_hour(1)];
    let first = shared.attach(id(1), &limits, clock.now()).unwrap();
    let second = boxed.attach(id(1), &limits, clock.now()).unwrap();
    assert!(take(&first, 1, &clock).is_allowed());
    assert!(!take(&second, 1, &clock).is_allowed());
}

#[test]
#[cfg_attr(miri, ignore = "so many accounts take an hour")]
fn rule_7_forgetting_idle_accounts_grants_nothing() {
    let clock = clock();
    let limiter = LocalLimiter::with_capacity(SHARDS * FIRST_SWEEP);
    let limits = [RateLimit::per_hour(1)];
    let spent = limiter.attach(id(0), &limits, clock.now()).unwrap();
    assert!(take(&spent, 1, &clock).is_allowed());
    drop(spent);
    let unspent = limiter.attach(id(1), &limits, clock.now()).unwrap();
    for n in 2..100_000 {
        limiter.attach(id(n), &limits, clock.now()).unwrap();
    }
    assert!(limiter.accounts() <= SHARDS * FIRST_SWEEP);
    assert!(take(&unspent, 1, &clock).is_allowed());
    for n in [0, 1] {
        let again = limiter.attach(id(n), &limits, clock.now()).unwrap();
        assert!(!take(&again, 1, &clock).is_allowed());
    }
}

#[test]
#[cfg_attr(miri, ignore = "so many accounts take an hour")]
fn without_room_further_keys_are_refused() {
    let clock = clock();
    let limiter = LocalLimiter::with_capacity(1);
    let limits = [RateLimit::per_hour(1)];
    let mut full = 0;
    for n in 0..10_000 {
        match limiter.attach(id(n), &limits, clock.now()) {
            Ok(key) => assert!(take(&key, 1, &clock).is_allowed()),
            Err(error) => {
                assert_eq!(error, LimitError::Full);
                full += 1;
            }
        }
    }
    assert_eq!(limiter.accounts(), 10_000 - full);
    assert!(limiter.accounts() <= SHARDS);
    // An hour later everything is whole again, and there is room.
    clock.advance(Duration::from_secs(3_600));
    assert!(limiter.attach(id(10_001), &limits, clock.now()).is_ok());
}

/// A leaky bucket, counted in nanoseconds of `u128` so that no product overflows.
#[derive(Debug)]
struct Model {
    capacity: u128,
    per_request: u128,
    /// Nanoseconds' worth of requests in the bucket, as of `at`.
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

    /// Whether a request passes when it waits that long.
    fn fits_after(&self, wait: Duration, cost: u32) -> bool {
        let level = self.level.saturating_sub(wait.as_nanos());
        level + u128::from(cost) * self.per_request <= self.capacity * self.per_request
    }
}

fn agrees_with_a_leaky_bucket(
    limits: &[RateLimit],
    steps: Vec<(u64, u32)>,
) -> Result<(), TestCaseError> {
    let clock = clock();
    let mut models: Vec<_> = limits.iter().map(Model::of).collect();
    let key = LocalLimiter::new()
        .attach(id(1), limits, clock.now())
        .unwrap();
    for (pause, cost) in steps {
        clock.advance(Duration::from_nanos(pause));
        let now = clock.now().elapsed_nanos();
        models.iter_mut().for_each(|model| model.drain(now));
        let fits_after = |wait| models.iter().all(|model| model.fits_after(wait, cost));
        let never = models.iter().any(|model| u128::from(cost) > model.capacity);
        let decision = take(&key, cost, &clock);
        prop_assert_eq!(
            decision.is_allowed(),
            cost == 0 || fits_after(Duration::ZERO)
        );
        match decision.wait() {
            // Invariant 8: that wait suffices, and a nanosecond less does not.
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

/// Any limit that can be kept, up to windows of a year.
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
fn a_product_that_wraps_around_is_refused() {
    // 21,350,400 × 864 s are 2⁶⁴ ns and a little: governor alone lets that pass.
    let limit = RateLimit::per(100, Duration::from_secs(86_400));
    let steps = [100, 101, 21_350_400, u32::MAX].map(|cost| (0, cost));
    for steps in [steps.to_vec(), steps[1..].to_vec()] {
        agrees_with_a_leaky_bucket(std::slice::from_ref(&limit), steps).unwrap();
    }
}

proptest! {
    #[test]
    fn decisions_agree_with_a_leaky_bucket(
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
        agrees_with_a_leaky_bucket(&limits, steps)?;
    }

    #[test]
    fn costs_of_any_size_agree_with_a_leaky_bucket(
        limits in proptest::collection::vec(any_limit(), 1..4),
        steps in proptest::collection::vec(
            (0u64..90_000_000_000_000, prop_oneof![any::<u32>(), 0u32..2_000]),
            1..50,
        ),
    ) {
        let named = |(n, limit): (usize, RateLimit)| limit.with_name(format!("n{n}"));
        let limits: Vec<_> = limits.into_iter().enumerate().map(named).collect();
        agrees_with_a_leaky_bucket(&limits, steps)?;
    }

    /// Whoever else attaches and spends: what one holder lets through keeps that holder's limit,
    /// and as long as a wait is, it suffices.
    #[test]
    fn every_holder_is_kept_to_its_own_limit(
        rates in proptest::collection::vec((1u32..50, 1u32..50), 2..5),
        steps in proptest::collection::vec(
            (0usize..4, 0u64..500_000_000, 0u32..8, proptest::bool::ANY), 1..200),
    ) {
        let clock = clock();
        let limiter = LocalLimiter::new();
        let mut holders: Vec<_> = rates
            .iter()
            .map(|&(rate, burst)| {
                let limits = [RateLimit::per_second(rate).with_burst(burst)];
                let model = Model::of(&limits[0]);
                (limiter.attach(id(1), &limits, clock.now()).unwrap(), limits, model)
            })
            .collect();
        for (holder, pause, cost, anew) in steps {
            clock.advance(Duration::from_nanos(pause));
            let now = clock.now().elapsed_nanos();
            let index = holder % holders.len();
            let (allowance, limits, model) = &mut holders[index];
            if anew {
                *allowance = limiter.attach(id(1), limits, clock.now()).unwrap();
            }
            let decision = take(allowance, cost, &clock);
            model.drain(now);
            if decision.is_allowed() {
                prop_assert!(cost == 0 || model.fits_after(Duration::ZERO, cost));
                model.spend(cost);
            } else if let Some(wait) = decision.wait() {
                clock.advance(wait);
                model.drain(clock.now().elapsed_nanos());
                prop_assert!(take(allowance, cost, &clock).is_allowed());
                model.spend(cost);
            }
        }
    }
}

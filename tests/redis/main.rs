//! `RedisLimiter` with real Redis servers.

#![cfg(feature = "redis")]

#[path = "../support/children.rs"]
mod children;
mod ledger;
mod proxy;
mod server;
#[path = "../support/wall_clock.rs"]
mod wall_clock;

use std::sync::Arc;
use std::time::{Duration, Instant};

use keytally::limit::{
    Decision, LeaseConfig, LimitError, LimitHandle, LimitResponse, Limiter, LocalLimiter,
    RateLimit, RedisConfig, RedisFallback, RedisLimiter, Subject, SubjectLimits,
};
use keytally::{Clock, KeyId, Now};
use proptest::prelude::*;
use proxy::Proxy;
use server::Server;

const KEY: &str = "3fK9aB0000zzZZ19";

fn key() -> KeyId {
    KEY.parse().unwrap()
}

fn config(server: &Server) -> RedisConfig {
    // Long enough for a busy machine.
    RedisConfig::new(&server.url())
        .unwrap()
        .timeout(Duration::from_secs(20))
}

async fn decision(response: LimitResponse) -> Decision {
    try_decision(response).await.unwrap()
}

async fn try_decision(response: LimitResponse) -> Result<Decision, LimitError> {
    match response {
        LimitResponse::Ready(decision) => Ok(decision),
        LimitResponse::Pending(decision) => decision.await,
    }
}

/// The number of admitted requests.
async fn admitted(handle: &Arc<dyn LimitHandle>, requests: u32) -> u32 {
    let clock = Clock::system();
    let mut count = 0;
    for _ in 0..requests {
        count += u32::from(decision(handle.acquire(1, clock.now())).await.is_allowed());
    }
    count
}

async fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "timed out");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

mod exact_shared_limits {
    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Acquire(u32),
        /// Another cost for the last request of the process, if it was admitted.
        Recharge(u32),
    }

    /// Steps of two processes, and the microseconds before each.
    fn steps() -> impl Strategy<Value = Vec<(u64, usize, Step)>> {
        let step = prop_oneof![
            4 => (0u32..8).prop_map(Step::Acquire),
            1 => (0u32..8).prop_map(Step::Recharge),
        ];
        let pause = prop_oneof![1 => Just(0), 6 => 0u64..1_500_000];
        proptest::collection::vec((pause, 0usize..2, step), 1..40)
    }

    fn limits() -> impl Strategy<Value = Vec<RateLimit>> {
        let limit = prop_oneof![
            (1u32..50).prop_map(RateLimit::per_second),
            (1u32..50).prop_map(RateLimit::per_minute),
            (1u32..1_000).prop_map(RateLimit::per_day),
        ];
        proptest::collection::vec((limit, 1u32..50), 1..4).prop_map(|limits| {
            let named = |(n, (limit, burst)): (usize, (RateLimit, u32))| {
                limit.with_burst(burst).with_name(format!("n{n}"))
            };
            limits.into_iter().enumerate().map(named).collect()
        })
    }

    /// The script in Redis, with requests of two processes, and the limiter in one process make the same decisions, to
    /// the nanosecond.
    #[test]
    fn decisions_equal_those_of_the_local_limiter() {
        let server = Server::start();
        let runtime = runtime();
        let _entered = runtime.enter();
        let redis = [(); 2].map(|()| RedisLimiter::new(config(&server).own_time()));
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            cases: 200,
            failure_persistence: None,
            ..Default::default()
        });
        let number = std::cell::Cell::new(0);
        let test = |limits: Vec<RateLimit>, of_owner: usize, steps: Vec<(u64, usize, Step)>| {
            number.set(number.get() + 1);
            let id: KeyId = format!("{:016}", number.get()).parse().unwrap();
            // Nanoseconds since 1970 do not fit into a double.
            let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
            let local = LocalLimiter::new();
            // The last limits are those of an owner.
            let (of_key, of_owner) = limits.split_at(limits.len().saturating_sub(of_owner));
            let owner = id.to_string();
            let subjects = [
                SubjectLimits::new(id, of_key),
                SubjectLimits::new(Subject::Owner(&owner), of_owner),
            ];
            let attach = |limiter: &dyn Limiter| limiter.attach(&subjects, clock.now()).unwrap();
            let (local, shared) = (attach(&local), redis.each_ref().map(|it| attach(it)));
            let mut last: [Option<(u32, Now)>; 2] = [None; 2];
            let mut previous = 0;
            for (micros, process, step) in steps {
                clock.advance(Duration::from_micros(micros));
                if process != previous {
                    // A process remembers rejections for a second, also if the other one returns costs.
                    clock.advance(Duration::from_millis(1_001));
                }
                previous = process;
                let now = clock.now();
                let handles = [&local, &shared[process]];
                let (cost, responses) = match (step, last[process]) {
                    (Step::Recharge(cost), Some((charged, at))) => {
                        (cost, handles.map(|it| it.recharge(charged, at, cost, now)))
                    }
                    (Step::Acquire(cost) | Step::Recharge(cost), _) => {
                        (cost, handles.map(|it| it.acquire(cost, now)))
                    }
                };
                let [local, shared] =
                    responses.map(|response| runtime.block_on(decision(response)));
                prop_assert_eq!(shared, local);
                last[process] = local.is_allowed().then_some((cost, now));
            }
            Ok(())
        };
        let input = (limits(), 0usize..3, steps());
        let result = runner.run(&input, |(limits, of_owner, steps)| {
            test(limits, of_owner, steps)
        });
        result.unwrap();
        assert!(
            redis
                .iter()
                .all(|it| it.is_available() && it.failures() == 0)
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn instances_admit_as_many_requests_as_one() {
        let server = Server::start();
        let limits = [RateLimit::per_hour(50), RateLimit::per_day(60)];
        let now = Clock::system().now();
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let limiter = RedisLimiter::new(config(&server));
            let handle = limiter
                .attach(&[SubjectLimits::new(key(), &limits)], now)
                .unwrap();
            for _ in 0..5 {
                let handle = handle.clone();
                requests.spawn(async move { admitted(&handle, 10).await });
            }
            drop(limiter);
        }
        let total: u32 = requests.join_all().await.into_iter().sum();
        assert_eq!(total, 50);
        // The limits expire a minute after their usage.
        let ttl = format!("TTL keytally:limits:{{{KEY}}}");
        let left: i64 = server.command(&ttl)[1..].parse().unwrap();
        // 50 of 60 a day.
        assert!((71_900..=72_062).contains(&left), "{left}");
    }

    #[tokio::test]
    async fn returned_costs_stay_returned_for_requests_that_were_on_their_way() {
        let server = Server::start();
        let limiter = RedisLimiter::new(config(&server));
        let limits = [RateLimit::per_day(100)];
        let now = Clock::system().now();
        let subjects = [SubjectLimits::new(key(), &limits)];
        let handle = limiter.attach(&subjects, now).unwrap();
        assert!(decision(handle.acquire(90, now)).await.is_allowed());
        // Both know the usage of 90.
        let [returned, next] = [handle.recharge(90, now, 1, now), handle.acquire(1, now)];
        let [returned, next] = tokio::join!(decision(returned), decision(next)).into();
        assert_eq!(returned.statuses()[0].remaining, 99);
        assert_eq!(next.statuses()[0].remaining, 98);
    }

    #[tokio::test]
    async fn shorter_limit_does_not_shorten_the_expiry() {
        let server = Server::start();
        let limiter = RedisLimiter::new(config(&server));
        let now = Clock::system().now();
        for limit in [RateLimit::per_day(1), RateLimit::per_second(1)] {
            let subjects = [SubjectLimits::new(key(), std::slice::from_ref(&limit))];
            assert_eq!(
                admitted(&limiter.attach(&subjects, now).unwrap(), 1).await,
                1
            );
            let left = server.command(&format!("TTL keytally:limits:{{{KEY}}}"));
            assert!(left[1..].parse::<u32>().unwrap() > 86_400, "{left}");
        }
    }

    #[tokio::test]
    async fn damaged_values_concern_their_key_alone() {
        let server = Server::start();
        let limiter = RedisLimiter::new(config(&server).fallback(RedisFallback::Reject));
        let now = Clock::system().now();
        let limits = [RateLimit::per_hour(10)];
        let other: KeyId = "3fK9aB0000zzZZ20".parse().unwrap();
        let [damaged, whole] = [key(), other].map(|id| {
            let subjects = [SubjectLimits::new(id, &limits)];
            limiter.attach(&subjects, now).unwrap()
        });
        admitted(&whole, 1).await;
        let of_damaged = format!("keytally:limits:{{{KEY}}}");
        // Of the right length, with more nanoseconds than a second has.
        let invalid = format!("HSET {{}} hour \"{}\"", r"\xff".repeat(20));
        for damage in ["SET {} text", "DEL {}", "HSET {} hour short", &invalid] {
            server.command(&damage.replace("{}", &of_damaged));
            if damage.starts_with("DEL") {
                continue;
            }
            // All are in one call.
            let [one, two, three, four] = [&damaged, &whole, &damaged, &whole]
                .map(|handle| try_decision(handle.acquire(1, now)));
            let decisions = tokio::join!(one, two, three, four);
            let admitted = <[_; 4]>::from(decisions)
                .map(|decision| decision.ok().map(|decision| decision.is_allowed()));
            assert_eq!(admitted, [None, Some(true), None, Some(true)]);
            assert!(limiter.is_available());
        }
        // Each was charged once.
        assert_eq!(admitted(&whole, 10).await, 3);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn conformance_suite_passes() {
        let server = Server::start();
        keytally::conformance::limiter(&RedisLimiter::new(config(&server))).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rejections_are_remembered() {
        let server = Server::start();
        let limiter = RedisLimiter::new(config(&server));
        let handle = limiter
            .attach(
                &[SubjectLimits::new(key(), &[RateLimit::per_hour(5)])],
                Clock::system().now(),
            )
            .unwrap();
        let clock = Clock::system();
        assert!(decision(handle.acquire(5, clock.now())).await.is_allowed());
        let requested = clock.now();
        let first = decision(handle.acquire(1, requested)).await;
        let first = first.wait().unwrap();
        let mut age = Duration::ZERO;
        // The clock may step back by microseconds.
        let margin = Duration::from_millis(1);
        while age < Duration::from_millis(900) {
            let LimitResponse::Ready(second) = handle.acquire(1, clock.now()) else {
                break;
            };
            age = clock.now().since(requested);
            let second = second.wait().unwrap();
            assert!(second <= first + margin && second + age + margin >= first);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(age > Duration::from_millis(500), "{age:?}");
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert!(matches!(
            handle.acquire(1, clock.now()),
            LimitResponse::Pending(_)
        ));
    }
}

mod clusters {
    use super::*;

    fn config(servers: &[Server]) -> RedisConfig {
        let urls: Vec<_> = servers.iter().map(Server::url).collect();
        let config = RedisConfig::cluster(urls.iter().map(|url| &**url)).unwrap();
        config
            .timeout(Duration::from_secs(20))
            .fallback(RedisFallback::Reject)
    }

    /// Two processes share the limits of owners and their keys, which are on all servers.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn limits_hold_across_all_servers() {
        let servers = Server::start_cluster();
        let limiters = [(); 2].map(|()| RedisLimiter::new(config(&servers)));
        let now = Clock::system().now();
        let (of_key, of_owner) = ([RateLimit::per_day(20)], [RateLimit::per_day(30)]);
        for owner in 0..12 {
            let name = format!("customer-{owner}");
            let mut requests = tokio::task::JoinSet::new();
            for (limiter, key) in limiters
                .iter()
                .zip([1, 2])
                .chain(limiters.iter().zip([2, 1]))
            {
                let key: KeyId = format!("{:016}", owner * 10 + key).parse().unwrap();
                let subjects = [
                    SubjectLimits::new(key, &of_key),
                    SubjectLimits::new(Subject::Owner(&name), &of_owner),
                ];
                let handle = limiter.attach(&subjects, now).unwrap();
                requests.spawn(async move { admitted(&handle, 12).await });
            }
            let total: u32 = requests.join_all().await.into_iter().sum();
            assert_eq!(total, 30, "{name}");
        }
        for server in &servers {
            assert_ne!(server.command("DBSIZE"), ":0");
        }
        assert!(limiters.iter().all(|limiter| limiter.failures() == 0));
    }

    /// In a cluster, the usage of a key is stored with its owner, also before the owner has limits.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn keys_keep_their_usage_when_their_owner_gets_limits() {
        use keytally::ApiKeyLayer;
        use keytally::backend::MemoryBackend;
        use keytally::key::{Actor, Issuer, NewKey, OwnerAdmin, OwnerUpdate};

        let servers = Server::start_cluster();
        let backend = MemoryBackend::new();
        let new = NewKey::new("First").owner("customer-17");
        let issuer = Issuer::new("acme").unwrap();
        let issued = issuer.issue(&backend, new, Actor::SYSTEM).await.unwrap();
        let layer = ApiKeyLayer::new(backend.clone())
            .limiter(RedisLimiter::new(config(&servers)))
            .limiter_timeout(Duration::from_secs(20))
            .default_limits([RateLimit::per_day(10)]);
        let service = tower::service_fn(async |_: http::Request<String>| {
            Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
        });
        let service = tower::Layer::layer(&layer, service);
        for _ in 0..4 {
            let request = http::Request::get("/").header("x-api-key", issued.secret.expose());
            let request = request.body(String::new()).unwrap();
            let response = tower::ServiceExt::oneshot(service.clone(), request).await;
            assert_eq!(response.unwrap().status(), 200);
        }
        let update = OwnerUpdate::new().limits([RateLimit::per_day(100)]);
        let updated = backend.update_owner("customer-17", update, Actor::SYSTEM);
        updated.await.unwrap();
        let statuses = layer.limit_statuses(&issued.key).await.unwrap();
        let remaining = statuses.iter().map(|(_, status)| status.remaining);
        assert_eq!(remaining.collect::<Vec<_>>(), [6, 100]);
    }

    /// A slot moves to another server and back while its limits are charged: each cost is charged once.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn resharding_charges_each_cost_once() {
        let servers = Server::start_cluster();
        let limiter = RedisLimiter::new(config(&servers));
        let (of_key, of_owner) = ([RateLimit::per_day(5_000)], [RateLimit::per_day(4_000)]);
        let subjects = [
            SubjectLimits::new(key(), &of_key),
            SubjectLimits::new(Subject::Owner("customer-17"), &of_owner),
        ];
        let handle = limiter.attach(&subjects, Clock::system().now()).unwrap();
        assert_eq!(admitted(&handle, 1).await, 1);
        let slot = servers[0].command("CLUSTER KEYSLOT {owner:customer-17}");
        let slot: u16 = slot[1..].parse().unwrap();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (handle, stop) = (handle.clone(), stop.clone());
            requests.spawn(async move {
                let mut count = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    count += admitted(&handle, 1).await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                count
            });
        }
        let moved = tokio::task::spawn_blocking(move || {
            for _ in 0..4 {
                let pause = || std::thread::sleep(Duration::from_millis(30));
                Server::move_slot(&servers, slot, pause);
                pause();
            }
            servers
        });
        let servers = moved.await.unwrap();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let total: u32 = requests.join_all().await.into_iter().sum::<u32>() + 1;
        let statuses = decision(handle.peek(Clock::system().now())).await;
        let remaining = statuses.statuses().iter().map(|status| status.remaining);
        assert_eq!(
            remaining.collect::<Vec<_>>(),
            [5_000 - total, 4_000 - total]
        );
        assert!(total > 20 && limiter.failures() == 0, "{total}");
        drop(servers);
    }

    /// A script with a new key, some of whose slot has moved, cannot run until all has: only its requests fail.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn resharding_keeps_the_cluster_available() {
        let servers = Server::start_cluster();
        let limiter = RedisLimiter::new(config(&servers).timeout(Duration::from_secs(4)));
        let limits = [RateLimit::per_day(100)];
        let attach = |key: &str, owner: &str| {
            let subjects = [
                SubjectLimits::new(key.parse::<KeyId>().unwrap(), &limits),
                SubjectLimits::new(Subject::Owner(owner), &limits),
            ];
            limiter.attach(&subjects, Clock::system().now()).unwrap()
        };
        assert_eq!(admitted(&attach(KEY, "customer-17"), 1).await, 1);
        let slot = servers[0].command("CLUSTER KEYSLOT {owner:customer-17}");
        let slot: u16 = slot[1..].parse().unwrap();
        let new = attach("0000000000000001", "customer-17");
        let other = attach("0000000000000002", "customer-18");
        let runtime = tokio::runtime::Handle::current();
        let moved = tokio::task::spawn_blocking(move || {
            Server::move_slot(&servers, slot, || {
                runtime.block_on(async {
                    let response = new.acquire(1, Clock::system().now());
                    assert!(try_decision(response).await.is_err());
                    assert_eq!(admitted(&other, 1).await, 1);
                });
            });
            (servers, new)
        });
        let (servers, new) = moved.await.unwrap();
        assert_eq!(limiter.failures(), 0);
        assert_eq!(admitted(&new, 1).await, 1);
        drop(servers);
    }

    /// While a server is down, requests do not wait, and limits are shared again once it is back.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn lost_server_makes_the_cluster_unavailable() {
        let mut servers = Server::start_cluster();
        let limiter = RedisLimiter::new(config(&servers).timeout(Duration::from_secs(2)));
        let limits = [RateLimit::per_day(100)];
        let handle = limiter.attach(&[SubjectLimits::new(key(), &limits)], Clock::system().now());
        let handle = handle.unwrap();
        assert_eq!(admitted(&handle, 3).await, 3);
        servers[1].signal("STOP");
        until(|| !limiter.is_available()).await;
        let response = handle.acquire(1, Clock::system().now());
        assert!(try_decision(response).await.is_err());
        servers[1].signal("CONT");
        let end = Instant::now() + Duration::from_secs(60);
        let decision = loop {
            if let Ok(decision) = try_decision(handle.acquire(1, Clock::system().now())).await {
                break decision;
            }
            assert!(Instant::now() < end, "the cluster does not recover");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(decision.is_allowed());
        // Requests that were given up on may have been charged.
        assert!((90..=96).contains(&decision.statuses()[0].remaining));
        servers[0].kill();
    }

    #[test]
    fn clusters_require_nodes() {
        assert!(RedisConfig::cluster([]).is_err());
        assert!(RedisConfig::cluster(["http://127.0.0.1:1"]).is_err());
        assert!(RedisConfig::cluster(["redis://127.0.0.1:1"]).is_ok());
    }
}

mod leases {
    use super::*;

    fn leasing(server: &Server, leases: LeaseConfig) -> RedisLimiter {
        RedisLimiter::new(config(server).own_time().leases(leases))
    }

    fn handle(limiter: &RedisLimiter, limits: &[RateLimit]) -> Arc<dyn LimitHandle> {
        limiter
            .attach(&[SubjectLimits::new(key(), limits)], Clock::system().now())
            .unwrap()
    }

    /// The number of requests that were decided without waiting, of those that were admitted, each a millisecond after
    /// the last one.
    async fn immediate(handle: &Arc<dyn LimitHandle>, clock: &Clock, requests: u32) -> [u32; 2] {
        let [mut immediate, mut admitted] = [0, 0];
        for _ in 0..requests {
            clock.advance(Duration::from_millis(1));
            let response = handle.acquire(1, clock.now());
            let is_ready = matches!(response, LimitResponse::Ready(_));
            if decision(response).await.is_allowed() {
                admitted += 1;
                immediate += u32::from(is_ready);
            }
            // Of the task that refills.
            tokio::task::yield_now().await;
        }
        [immediate, admitted]
    }

    fn clock() -> Clock {
        Clock::manual("2026-11-01T10:00:00Z".parse().unwrap())
    }

    /// The leased units that Redis has recorded.
    fn recorded(server: &Server) -> u32 {
        leases_in(server).iter().map(|(_, units)| units).sum()
    }

    /// The leased units, and when they expire, in milliseconds since 1970.
    fn leases_in(server: &Server) -> Vec<(i64, u32)> {
        let leases = server.response(&format!("HGET keytally:limits:{{{KEY}}} \"\\x01\""));
        let units = leases
            .split_whitespace()
            .filter_map(|it| it.split_once(':'));
        units
            .map(|(at, units)| (at.parse().unwrap(), units.parse().unwrap()))
            .collect()
    }

    #[tokio::test]
    async fn requests_within_a_lease_do_not_wait() {
        let server = Server::start();
        let leases = LeaseConfig::new().share(1.0).ttl(Duration::from_secs(10));
        let limiter = leasing(&server, leases);
        // A tenth of what is requested is restored, and at most 1,000 are leased.
        let limits = [RateLimit::per_second(100).with_burst(10_000)];
        let handle = handle(&limiter, &limits);
        let clock = clock();
        let [immediate, admitted] = immediate(&handle, &clock, 1_000).await;
        assert_eq!(admitted, 1_000);
        assert!(immediate > 500, "{immediate}");
        let recorded = recorded(&server);
        assert!((1..=1_000).contains(&recorded), "{recorded}");
        // Each unit is charged once: what is left in Redis, and in the lease.
        let LimitResponse::Ready(leased) = handle.acquire(1, clock.now()) else {
            panic!("there is no lease");
        };
        let with_lease = leased.statuses()[0].remaining;
        assert!((9_098..=9_100).contains(&with_lease), "{with_lease}");
        let other = RedisLimiter::new(config(&server).own_time());
        let other = super::leases::handle(&other, &limits);
        let exact = decision(other.peek(clock.now())).await.statuses()[0].remaining;
        assert!(
            (exact..=exact + recorded).contains(&with_lease),
            "{with_lease} {exact}"
        );
    }

    /// Four processes in arbitrary order, at arbitrary times: what they admit is within the burst, with the tenth that is
    /// leased.
    #[test]
    fn admitted_costs_stay_within_the_stated_bound() {
        #[derive(Debug, Clone)]
        enum Step {
            Acquire(u32),
            /// So many requests.
            Burst(u32),
            Recharge(u32),
        }
        let server = Server::start();
        let runtime = runtime();
        let _entered = runtime.enter();
        let limiters = [(); 4].map(|()| leasing(&server, LeaseConfig::new()));
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            cases: 100,
            failure_persistence: None,
            ..Default::default()
        });
        let step = prop_oneof![
            4 => (1u32..8).prop_map(Step::Acquire),
            4 => (1u32..60).prop_map(Step::Burst),
            2 => (0u32..8).prop_map(Step::Recharge),
        ];
        let steps = proptest::collection::vec((0u64..60_000, 0usize..4, step), 1..80);
        let (number, immediate) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        let test = |steps: Vec<(u64, usize, Step)>| {
            number.set(number.get() + 1);
            let id: KeyId = format!("{:016}", number.get()).parse().unwrap();
            let clock = clock();
            let limits = [
                RateLimit::per_second(1_000).with_burst(300),
                RateLimit::per_minute(100_000)
                    .with_burst(400)
                    .with_name("m"),
            ];
            let subjects = [SubjectLimits::new(id, &limits)];
            let handles = limiters.each_ref();
            let handles = handles.map(|it| it.attach(&subjects, clock.now()).unwrap());
            // When, and the cost.
            let mut admitted: Vec<(u64, u32)> = Vec::new();
            let mut last: [Option<(usize, Now)>; 4] = [None; 4];
            for (micros, process, step) in steps {
                clock.advance(Duration::from_micros(micros));
                let now = clock.now();
                let count = if let Step::Burst(count) = step {
                    count
                } else {
                    1
                };
                for _ in 0..count {
                    let (cost, replaced) = match step {
                        Step::Acquire(cost) => (cost, None),
                        Step::Burst(_) => (1, None),
                        Step::Recharge(cost) => (cost, last[process]),
                    };
                    let response = match replaced {
                        Some((index, at)) => {
                            handles[process].recharge(admitted[index].1, at, cost, now)
                        }
                        None => handles[process].acquire(cost, now),
                    };
                    if let LimitResponse::Ready(decision) = &response
                        && decision.is_allowed()
                    {
                        immediate.set(immediate.get() + 1);
                    }
                    if !runtime.block_on(decision(response)).is_allowed() {
                        continue;
                    }
                    match replaced {
                        // Returned as if it had never been admitted. More is admitted now.
                        Some((index, _)) => {
                            let before = admitted[index].1;
                            admitted[index].1 = before.min(cost);
                            admitted.push((now.elapsed_nanos(), cost.saturating_sub(before)));
                            last[process] = None;
                        }
                        None => {
                            last[process] = Some((admitted.len(), now));
                            admitted.push((now.elapsed_nanos(), cost));
                        }
                    }
                }
            }
            for limit in &limits {
                let per_request = limit.period().as_nanos() as u64 / u64::from(limit.requests());
                let most = u64::from(limit.burst() + limit.burst() / 10) * per_request;
                let mut arrival = 0;
                for (at, cost) in &admitted {
                    arrival = arrival.max(*at) + u64::from(*cost) * per_request;
                    prop_assert!(arrival - at <= most, "{limit:?} at {at}");
                }
            }
            Ok(())
        };
        runner.run(&steps, test).unwrap();
        assert!(immediate.get() > 100, "{}", immediate.get());
    }

    /// The lease of a process that ends is not used, and others lease as many units once it has expired.
    #[tokio::test]
    async fn lost_leases_expire() {
        let server = Server::start();
        let limits = [RateLimit::per_second(1_000).with_burst(5_000)];
        let clock = clock();
        let first = leasing(&server, LeaseConfig::new());
        let handle_of = |limiter: &RedisLimiter| handle(limiter, &limits);
        assert_eq!(immediate(&handle_of(&first), &clock, 200).await[1], 200);
        drop(first);
        let lost = recorded(&server);
        assert!((1..=500).contains(&lost), "{lost}");
        clock.advance(Duration::from_millis(1_300));
        let second = leasing(&server, LeaseConfig::new());
        let handle = handle_of(&second);
        let began = clock.now().timestamp().as_millisecond();
        assert_eq!(immediate(&handle, &clock, 200).await[1], 200);
        let leases = leases_in(&server);
        assert!(!leases.is_empty());
        assert!(leases.iter().all(|(at, _)| *at > began), "{leases:?}");
        // All that time has restored is there, whatever was leased.
        let left = decision(handle.peek(clock.now())).await.statuses()[0].remaining;
        assert!(left >= 5_000 - 500 - 200, "{left}");
    }

    #[tokio::test]
    async fn leases_are_spent_while_redis_is_away() {
        let mut server = Server::start();
        let config = config(&server).own_time().leases(LeaseConfig::new());
        let limiter = RedisLimiter::new(config.fallback(RedisFallback::Reject));
        let handle = handle(&limiter, &[RateLimit::per_second(10_000)]);
        let clock = clock();
        assert_eq!(immediate(&handle, &clock, 300).await[1], 300);
        server.kill();
        until(|| !limiter.is_available()).await;
        let mut count = 0;
        while let LimitResponse::Ready(decision) = handle.acquire(1, clock.now()) {
            assert!(decision.is_allowed());
            count += 1;
        }
        assert!((1..=1_000).contains(&count), "{count}");
        let response = handle.acquire(1, clock.now());
        assert!(matches!(
            try_decision(response).await,
            Err(LimitError::Unavailable(_))
        ));
    }

    #[tokio::test]
    async fn conformance_suite_passes_with_leases() {
        let server = Server::start();
        let config = config(&server).leases(LeaseConfig::new());
        keytally::conformance::limiter(&RedisLimiter::new(config)).await;
    }
}

mod outages {
    use super::*;

    fn handle(limiter: &RedisLimiter, limits: &[RateLimit]) -> Arc<dyn LimitHandle> {
        limiter
            .attach(&[SubjectLimits::new(key(), limits)], Clock::system().now())
            .unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn lost_scripts_and_data_are_restored() {
        let mut server = Server::start();
        let limits = [RateLimit::per_hour(6)];
        let limiters = [(); 2].map(|()| RedisLimiter::new(config(&server)));
        let handles = limiters.each_ref().map(|limiter| handle(limiter, &limits));
        assert_eq!(admitted(&handles[0], 1).await, 1);
        server.command("SCRIPT FLUSH");
        assert_eq!(admitted(&handles[0], 2).await, 2);
        // The process that has seen the usage restores it.
        server.command("FLUSHALL");
        assert_eq!(admitted(&handles[0], 1).await, 1);
        assert_eq!(admitted(&handles[1], 1).await, 1);
        server.kill();
        server.restart();
        until(|| {
            limiters
                .iter()
                .all(|limiter| limiter.failures() > 0 && limiter.is_available())
        })
        .await;
        assert_eq!(
            admitted(&handles[1], 3).await + admitted(&handles[0], 3).await,
            1
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn share_is_applied_without_redis_and_charged_afterwards() {
        let mut server = Server::start();
        let limits = [RateLimit::per_hour(10)];
        let share = RedisFallback::Local { share: 0.5 };
        let limiter = RedisLimiter::new(config(&server).fallback(share));
        let first = handle(&limiter, &limits);
        // 3 of 10 are three tenths of the share, too.
        assert_eq!(admitted(&first, 3).await, 3);
        server.kill();
        until(|| !limiter.is_available()).await;
        let began = Instant::now();
        assert_eq!(admitted(&first, 10).await, 3);
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "requests waited for Redis"
        );
        server.restart();
        until(|| limiter.is_available()).await;
        // Another instance sees all six, once they are reported.
        let other = RedisLimiter::new(config(&server));
        let other = handle(&other, &limits);
        let remaining = async || {
            let peeked = decision(other.peek(Clock::system().now())).await;
            peeked.statuses()[0].remaining
        };
        let end = Instant::now() + Duration::from_secs(30);
        while remaining().await != 4 {
            assert!(Instant::now() < end, "{} remain", remaining().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn costs_of_many_keys_are_charged_after_an_outage() {
        let mut server = Server::start();
        let limits = [RateLimit::per_hour(10)];
        let limiter = RedisLimiter::new(config(&server).fallback(RedisFallback::Admit));
        let attach = |limiter: &RedisLimiter, number: u32| {
            let id: KeyId = format!("{number:016}").parse().unwrap();
            let subjects = [SubjectLimits::new(id, &limits)];
            limiter.attach(&subjects, Clock::system().now()).unwrap()
        };
        let handles: Vec<_> = (0..300).map(|number| attach(&limiter, number)).collect();
        server.kill();
        until(|| !limiter.is_available()).await;
        for handle in &handles {
            assert_eq!(admitted(handle, 3).await, 3);
        }
        server.restart();
        until(|| server.command("DBSIZE") == ":300").await;
        let other = RedisLimiter::new(config(&server));
        for number in 0..300 {
            let peeked = attach(&other, number).peek(Clock::system().now());
            assert_eq!(decision(peeked).await.statuses()[0].remaining, 7);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn hanging_server_delays_requests_by_the_timeout_at_most() {
        let server = Server::start();
        let limits = [RateLimit::per_hour(100)];
        let config = config(&server).timeout(Duration::from_millis(100));
        let limiter = RedisLimiter::new(config.fallback(RedisFallback::Reject));
        let handle = handle(&limiter, &limits);
        until(|| server.command("DBSIZE") == ":0").await;
        server.signal("STOP");
        let response = handle.acquire(1, Clock::system().now());
        assert!(matches!(
            try_decision(response).await,
            Err(LimitError::Unavailable(_))
        ));
        until(|| !limiter.is_available()).await;
        // Now no request waits.
        let mut response = match handle.acquire(1, Clock::system().now()) {
            LimitResponse::Pending(response) => response,
            LimitResponse::Ready(decision) => panic!("{decision:?}"),
        };
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(response.as_mut().poll(cx)));
        assert!(matches!(polled.await, std::task::Poll::Ready(Err(_))));
        server.signal("CONT");
        until(|| limiter.is_available()).await;
        let end = Instant::now() + Duration::from_secs(30);
        let admitted = loop {
            let response = handle.acquire(1, Clock::system().now());
            match try_decision(response).await {
                Ok(decision) => break decision,
                // On a busy machine.
                Err(_) => assert!(Instant::now() < end, "Redis does not respond"),
            }
        };
        assert!(admitted.is_allowed());
        // Requests that were given up on may have been charged once.
        assert!((90..=99).contains(&admitted.statuses()[0].remaining));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn requests_are_admitted_without_limits_if_configured() {
        let mut server = Server::start();
        server.kill();
        let limiter = RedisLimiter::new(config(&server).fallback(RedisFallback::Admit));
        let handle = handle(&limiter, &[RateLimit::per_hour(2)]);
        until(|| !limiter.is_available()).await;
        assert_eq!(admitted(&handle, 5).await, 5);
        server.restart();
        until(|| limiter.is_available()).await;
        let limited = async || {
            let peeked = decision(handle.peek(Clock::system().now())).await;
            peeked.statuses()[0].remaining == 0
        };
        while !limited().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(admitted(&handle, 3).await, 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn promoted_replica_keeps_the_limits() {
        let mut primary = Server::start();
        let replica = primary.start_replica();
        let sentinels = [(); 3].map(|()| primary.start_sentinel());
        let urls = sentinels.each_ref().map(Server::url);
        let urls = urls.iter().map(|url| &**url);
        let config = RedisConfig::sentinel("keytally", urls, "redis://redis/0").unwrap();
        // Long enough for a busy machine.
        let config = config.timeout(Duration::from_secs(5));
        let limiter = RedisLimiter::new(config.fallback(RedisFallback::Reject));
        let limits = [RateLimit::per_hour(10)];
        let handle = handle(&limiter, &limits);
        let remaining = async || {
            let peeked = try_decision(handle.peek(Clock::system().now())).await;
            Some(peeked.ok()?.statuses()[0].remaining)
        };
        assert_eq!(admitted(&handle, 3).await, 3);
        // All sentinels must know each other and the replica, or there is no failover.
        let knows = |sentinel: &Server| {
            let master = sentinel.response("SENTINEL MASTER keytally");
            let mut lines = master.lines().skip_while(|line| *line != "num-slaves");
            let slaves = lines.nth(2) == Some("1");
            let mut lines = master
                .lines()
                .skip_while(|line| *line != "num-other-sentinels");
            slaves && lines.nth(2) == Some("2")
        };
        until(|| sentinels.iter().all(knows)).await;
        let received = || replica.response("KEYS *").contains(KEY);
        until(received).await;
        // The replica cannot connect again, and lags behind.
        replica.command("CONFIG SET masterauth wrong");
        replica.command("CLIENT KILL TYPE master");
        assert_eq!(admitted(&handle, 2).await, 2);
        primary.kill();
        until(|| limiter.failures() > 0).await;
        let end = Instant::now() + Duration::from_secs(60);
        while remaining().await.is_none() {
            assert!(Instant::now() < end, "no failover");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The process has seen what the replica has not received.
        assert_eq!(admitted(&handle, 10).await, 5);
        assert!(replica.response("ROLE").contains("master"));
    }

    /// Requests whose connection is lost before the response are charged once, and not sent again.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn lost_responses_are_charged_once() {
        let server = Server::start();
        let proxy = Proxy::start(server.port());
        let config = RedisConfig::new(&proxy.url()).unwrap();
        let config = config.timeout(Duration::from_secs(20));
        let limiter = RedisLimiter::new(config.fallback(RedisFallback::Reject));
        let handle = handle(&limiter, &[RateLimit::per_day(100)]);
        assert_eq!(admitted(&handle, 1).await, 1);
        for failures in 1..=5 {
            proxy.cut_next();
            let response = handle.acquire(1, Clock::system().now());
            assert!(try_decision(response).await.is_err());
            until(|| limiter.failures() == failures && limiter.is_available()).await;
        }
        let remaining = decision(handle.acquire(1, Clock::system().now())).await;
        assert_eq!(remaining.statuses()[0].remaining, 93);
    }

    /// The clock of the server is set back by an hour: the usage that was seen does not stay until then.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn limits_are_restored_after_the_clock_is_set_back() {
        let server = Server::start();
        let limiter = RedisLimiter::new(config(&server).own_time());
        let limits = [RateLimit::per_second(1).with_burst(5)];
        let handle = handle(&limiter, &limits);
        let [clock, set_back] = ["2026-11-01T10:00:00Z", "2026-11-01T09:00:00Z"]
            .map(|time| Clock::manual(time.parse().unwrap()));
        let first = decision(handle.acquire(5, clock.now())).await;
        assert!(first.is_allowed());
        set_back.advance(Duration::from_millis(1_100));
        let rejected = decision(handle.acquire(1, set_back.now())).await;
        // At most the whole burst is spent.
        assert_eq!(rejected.wait(), Some(Duration::from_secs(1)));
        set_back.advance(Duration::from_secs(2));
        let admitted = decision(handle.acquire(1, set_back.now())).await;
        assert!(admitted.is_allowed(), "{admitted:?}");
        assert_eq!(admitted.statuses()[0].remaining, 1);
    }

    #[test]
    fn sentinel_requires_sentinels_and_a_tcp_server() {
        let sentinel = |sentinels: &[&str], server| {
            RedisConfig::sentinel("keytally", sentinels.iter().copied(), server)
        };
        assert!(sentinel(&["redis://127.0.0.1:26379"], "redis://redis/0").is_ok());
        for (sentinels, server) in [
            (&[][..], "redis://redis/0"),
            (&["redis://127.0.0.1:26379"], "unix:///run/redis.sock"),
            (&["http://127.0.0.1:26379"], "redis://redis/0"),
        ] {
            assert!(
                sentinel(sentinels, server).is_err(),
                "{sentinels:?} {server}"
            );
        }
    }

    #[test]
    fn invalid_urls_reveal_no_password() {
        let error = RedisConfig::new("redis://:hunter2@host:notaport")
            .unwrap_err()
            .to_string();
        assert!(!error.contains("hunter2"), "{error}");
        let config = RedisConfig::new("redis://:hunter2@localhost/").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

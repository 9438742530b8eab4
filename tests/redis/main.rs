//! `RedisLimiter` with real Redis servers.

#![cfg(feature = "redis")]

#[path = "../support/children.rs"]
mod children;
mod ledger;
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use keytally::limit::{
    Decision, LimitError, LimitHandle, LimitResponse, Limiter, LocalLimiter, RateLimit,
    RedisConfig, RedisFallback, RedisLimiter, Subject, SubjectLimits,
};
use keytally::{Clock, KeyId, Now};
use proptest::prelude::*;
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
        /// Another cost for the last admitted request.
        Recharge(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
        let step = prop_oneof![
            4 => (0u32..8).prop_map(Step::Acquire),
            1 => (0u32..8).prop_map(Step::Recharge),
        ];
        proptest::collection::vec((0u64..1_500_000, step), 1..40)
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

    /// The script in Redis and the limiter in the process make the same decisions, to the nanosecond.
    #[test]
    fn decisions_equal_those_of_the_local_limiter() {
        let server = Server::start();
        let runtime = runtime();
        let _entered = runtime.enter();
        let redis = RedisLimiter::new(config(&server).own_time());
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            cases: 200,
            failure_persistence: None,
            ..Default::default()
        });
        let number = std::cell::Cell::new(0);
        let test = |limits: Vec<RateLimit>, of_owner: usize, steps: Vec<(u64, Step)>| {
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
            let [local, shared]: [Arc<dyn LimitHandle>; 2] = [
                local.attach(&subjects, clock.now()).unwrap(),
                redis.attach(&subjects, clock.now()).unwrap(),
            ];
            let mut last: Option<(u32, Now)> = None;
            for (micros, step) in steps {
                clock.advance(Duration::from_micros(micros));
                let now = clock.now();
                let (cost, responses) = match (step, last) {
                    (Step::Recharge(cost), Some((charged, at))) => {
                        let recharge =
                            |handle: &Arc<dyn LimitHandle>| handle.recharge(charged, at, cost, now);
                        (cost, [recharge(&local), recharge(&shared)])
                    }
                    (Step::Acquire(cost) | Step::Recharge(cost), _) => {
                        (cost, [local.acquire(cost, now), shared.acquire(cost, now)])
                    }
                };
                let [local, shared] =
                    responses.map(|response| runtime.block_on(decision(response)));
                prop_assert_eq!(shared, local);
                last = local.is_allowed().then_some((cost, now));
            }
            Ok(())
        };
        let input = (limits(), 0usize..3, steps());
        let result = runner.run(&input, |(limits, of_owner, steps)| {
            test(limits, of_owner, steps)
        });
        result.unwrap();
        assert!(redis.is_available() && redis.failures() == 0);
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
        let left: i64 = server.command(&format!("TTL keytally:limits:{{{KEY}}}"))[1..]
            .parse()
            .unwrap();
        assert!((1..=86_461).contains(&left), "{left}");
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
        let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
        assert!(decision(handle.acquire(5, clock.now())).await.is_allowed());
        let first = decision(handle.acquire(1, clock.now())).await;
        let wait = first.wait().unwrap();
        clock.advance(Duration::from_millis(900));
        let LimitResponse::Ready(second) = handle.acquire(1, clock.now()) else {
            panic!("the rejection was not remembered");
        };
        assert_eq!(second.wait().unwrap(), wait - Duration::from_millis(900));
        clock.advance(Duration::from_millis(200));
        assert!(matches!(
            handle.acquire(1, clock.now()),
            LimitResponse::Pending(_)
        ));
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
        let admitted = decision(handle.acquire(1, Clock::system().now())).await;
        assert!(admitted.is_allowed());
        // The request that was given up on may have been charged once.
        assert!((98..=99).contains(&admitted.statuses()[0].remaining));
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

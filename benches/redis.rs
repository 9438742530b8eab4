//! Throughput and latency of [`RedisLimiter`], compared with a plain script over the same kind of connection, in
//! alternating rounds. `redis-server` must be installed; the benchmark starts a server of its own.
//!
//! ```text
//! cargo bench --features redis --bench redis -- 15
//! ```
//!
//! The arguments are the number of rounds, 5 by default, and `64-in-flight` or `256-in-flight` to measure only these.

use std::alloc::System;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keytally::limit::{
    LeaseConfig, LimitHandle, LimitResponse, Limiter, LocalLimiter, RateLimit, RedisConfig,
    RedisLimiter, SubjectLimits,
};
use keytally::{Clock, KeyId};
use redis::aio::MultiplexedConnection;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::task::JoinSet;

#[path = "../tests/redis/server.rs"]
mod server;

use server::Server;

const ROUND: Duration = Duration::from_millis(500);

/// Requests are of so many keys.
const KEYS: usize = 1_000;

/// One limit by the generic cell rate algorithm, with the time of the server and times as floating-point seconds.
const PLAIN: &str = r"
local interval = tonumber(ARGV[2]) / tonumber(ARGV[1])
local burst, cost = tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = (time[1] - 1483228800) + time[2] / 1000000
local arrival = redis.call('GET', KEYS[1])
arrival = arrival and math.max(tonumber(arrival), now) or now
local next_arrival = arrival + interval * cost
local room = now - (next_arrival - interval * burst)
if room < 0 then
    return {0, 0, tostring(-room), tostring(arrival - now)}
end
local reset = next_arrival - now
if reset > 0 then
    redis.call('SET', KEYS[1], next_arrival, 'EX', math.ceil(reset))
end
return {cost, room / interval, '-1', tostring(reset)}";

fn limits(number: u32) -> Vec<RateLimit> {
    let limit = |n| RateLimit::per_second(1_000_000).with_name(format!("n{n}"));
    (0..number).map(limit).collect()
}

fn ids() -> Vec<KeyId> {
    (0..KEYS)
        .map(|n| format!("{n:016}").parse().expect("a key id"))
        .collect()
}

fn attach(limiter: &impl Limiter, limits: &[RateLimit]) -> Arc<[Arc<dyn LimitHandle>]> {
    let now = Clock::system().now();
    let attach = |id| {
        let subjects = [SubjectLimits::new(id, limits)];
        limiter.attach(&subjects, now).expect("valid limits")
    };
    ids().into_iter().map(attach).collect()
}

async fn acquire(handle: &Arc<dyn LimitHandle>, clock: &Clock) -> bool {
    let decision = match handle.acquire(1, clock.now()) {
        LimitResponse::Ready(decision) => decision,
        LimitResponse::Pending(decision) => decision.await.expect("a decision"),
    };
    decision.is_allowed()
}

/// The plain script.
#[derive(Clone)]
struct Plain {
    redis: MultiplexedConnection,
    hash: Arc<str>,
}

impl Plain {
    async fn connect(server: &Server) -> Self {
        let client = redis::Client::open(server.url()).expect("a URL");
        let connected = client.get_multiplexed_async_connection().await;
        let mut redis = connected.expect("a connection");
        let mut load = redis::cmd("SCRIPT");
        let load = load.arg("LOAD").arg(PLAIN);
        let hash: String = load.query_async(&mut redis).await.expect("a hash");
        let hash = hash.into();
        Self { redis, hash }
    }

    /// Acquires from each of the limits of a key, in one pipeline.
    async fn acquire(&mut self, key: usize, limits: usize) {
        let mut pipeline = redis::pipe();
        for limit in 0..limits {
            let command = pipeline.cmd("EVALSHA").arg(&*self.hash).arg(1);
            let command = command.arg(format!("plain:{key}:{limit}"));
            command.arg(1_000_000).arg(1).arg(1_000_000).arg(1);
        }
        let done: redis::RedisResult<redis::Value> = pipeline.query_async(&mut self.redis).await;
        done.expect("a decision");
    }
}

/// Operations per second of this many tasks.
async fn throughput<F: Future<Output = ()> + Send + 'static>(
    tasks: usize,
    task: impl Fn(usize, Arc<AtomicBool>, Arc<AtomicU64>) -> F,
) -> f64 {
    let (stop, count) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let began = Instant::now();
    let mut running = JoinSet::new();
    for number in 0..tasks {
        running.spawn(task(number, stop.clone(), count.clone()));
    }
    tokio::time::sleep(ROUND).await;
    stop.store(true, Ordering::Relaxed);
    running.join_all().await;
    count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

async fn limiter_throughput(handles: &Arc<[Arc<dyn LimitHandle>]>, tasks: usize) -> f64 {
    throughput(tasks, |number, stop, count| {
        let handles = handles.clone();
        async move {
            let (clock, mut key) = (Clock::system(), number * 7);
            while !stop.load(Ordering::Relaxed) {
                key += 1;
                assert!(acquire(&handles[key % KEYS], &clock).await, "limited");
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await
}

async fn plain_throughput(plain: &Plain, tasks: usize, limits: usize) -> f64 {
    throughput(tasks, |number, stop, count| {
        let mut plain = plain.clone();
        async move {
            let mut key = number * 7;
            while !stop.load(Ordering::Relaxed) {
                key += 1;
                plain.acquire(key % KEYS, limits).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints the medians of two alternating figures, and their ratio.
async fn compare(
    name: &str,
    rounds: usize,
    mut ours: impl AsyncFnMut() -> f64,
    mut other: impl AsyncFnMut() -> f64,
) {
    let [mut a, mut b, mut ratios] = [const { Vec::new() }; 3];
    for round in 0..rounds {
        let (ours, other) = match round % 2 {
            0 => (ours().await, other().await),
            _ => {
                let other = other().await;
                (ours().await, other)
            }
        };
        a.push(ours);
        b.push(other);
        ratios.push(ours / other);
    }
    let (a, b, ratio) = (median(&mut a), median(&mut b), median(&mut ratios));
    let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
    println!("{name}: {a:.1}, other {b:.1}, ratio {ratio:.2} ({least:.2} to {most:.2})");
}

/// The median time of an operation, in microseconds.
async fn latency(mut operation: impl AsyncFnMut(usize)) -> f64 {
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < ROUND {
        let start = Instant::now();
        operation(times.len() % KEYS).await;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    median(&mut times)
}

/// Nanoseconds per decision without a call.
async fn local_time(handles: &[Arc<dyn LimitHandle>], is_allowed: bool) -> f64 {
    const DECISIONS: usize = 100_000;
    let clock = Clock::system();
    let began = Instant::now();
    for number in 0..DECISIONS {
        let allowed = acquire(&handles[number % handles.len()], &clock).await;
        assert_eq!(allowed, is_allowed);
    }
    began.elapsed().as_secs_f64() * 1e9 / DECISIONS as f64
}

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Requests of one key at this rate, for this time. Returns the part that was decided without waiting.
async fn paced(handle: &Arc<dyn LimitHandle>, rate: u32, time: Duration) -> f64 {
    let (clock, began) = (Clock::system(), Instant::now());
    let [mut ready, mut count] = [0, 0];
    while began.elapsed() < time {
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as u32;
        while count < due {
            count += 1;
            match handle.acquire(1, clock.now()) {
                LimitResponse::Ready(decision) => {
                    assert!(decision.is_allowed(), "limited");
                    ready += 1;
                }
                LimitResponse::Pending(decision) => {
                    let decision = decision.await.expect("a decision");
                    assert!(decision.is_allowed(), "limited");
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    f64::from(ready) / f64::from(count)
}

/// Nanoseconds per decision of as many as a lease has. Leases are refilled between the rounds.
async fn leased_time(handle: &Arc<dyn LimitHandle>) -> f64 {
    const DECISIONS: u32 = 20_000;
    let clock = Clock::system();
    let (mut elapsed, mut measured) = (0.0, 0);
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let began = Instant::now();
        for _ in 0..DECISIONS {
            match handle.acquire(1, clock.now()) {
                LimitResponse::Ready(decision) => assert!(decision.is_allowed(), "limited"),
                LimitResponse::Pending(decision) => drop(decision.await),
            }
        }
        elapsed += began.elapsed().as_secs_f64();
        measured += DECISIONS;
    }
    elapsed * 1e9 / f64::from(measured)
}

/// The figures of leases, on one key.
async fn leases(server: &Server, rounds: usize, config: RedisConfig) {
    let limiter = RedisLimiter::new(config.leases(LeaseConfig::new()));
    let now = Clock::system().now();
    let key = |limiter: &dyn Limiter, limits: &[RateLimit]| {
        let subjects = [SubjectLimits::new(ids()[0], limits)];
        limiter.attach(&subjects, now).expect("valid limits")
    };
    let limits = [RateLimit::per_second(2_000)];
    let handle = key(&limiter, &limits);
    let time = Duration::from_secs(5);
    paced(&handle, 1_000, Duration::from_secs(1)).await;
    let before = scripts(server);
    let ready = paced(&handle, 1_000, time).await;
    let calls = (scripts(server) - before) as f64 / time.as_secs_f64();
    println!(
        "leases, 1,000 requests/s: {calls:.1} calls/s, {:.2} % without waiting",
        ready * 100.0
    );

    // A lease of 100,000 units.
    let large = [RateLimit::per_second(1_000_000).with_name("large")];
    let (ours, local) = (key(&limiter, &large), key(&LocalLimiter::new(), &large));
    leased_time(&ours).await;
    let before = ALLOCATOR.stats().allocations;
    leased_time(&ours).await;
    let allocations = ALLOCATOR.stats().allocations - before;
    println!("leases: {allocations} allocations in 200,000 decisions, with refills");
    let ours = async || leased_time(&ours).await;
    compare("within a lease, ns", rounds, ours, async || {
        leased_time(&local).await
    })
    .await;
}

/// The number of scripts that the server has run.
fn scripts(server: &Server) -> u64 {
    let info = server.response("INFO commandstats");
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    let count = line.and_then(|line| line.split(',').next()?.parse().ok());
    count.expect("a count")
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(5);
    let in_flight = words
        .iter()
        .find_map(|word| word.strip_suffix("-in-flight"));
    let mut server = Server::start();
    let config = || {
        RedisConfig::new(&server.url())
            .expect("a URL")
            .timeout(Duration::from_secs(9))
    };
    let limiter = RedisLimiter::new(config());
    let plain = Plain::connect(&server).await;

    let (one, four) = (attach(&limiter, &limits(1)), attach(&limiter, &limits(4)));
    for (name, handles, number, tasks) in [
        ("one limit, 64 in flight, requests/s", &one, 1, 64),
        ("one limit, 256 in flight, requests/s", &one, 1, 256),
        ("four limits, 64 in flight, requests/s", &four, 4, 64),
    ] {
        if in_flight.is_some_and(|only| *only != *tasks.to_string()) {
            continue;
        }
        let ours = async || limiter_throughput(handles, tasks).await;
        compare(name, rounds, ours, async || {
            plain_throughput(&plain, tasks, number).await
        })
        .await;
    }
    if in_flight.is_some() {
        return;
    }
    let clock = Clock::system();
    let ours = async || latency(async |key| assert!(acquire(&one[key], &clock).await)).await;
    let mut bare = plain.clone();
    let other = async || latency(async |key| bare.acquire(key, 1).await).await;
    compare("one at a time, median, µs", rounds, ours, other).await;

    let local = LocalLimiter::new();
    let exhausted = [RateLimit::per_day(1).with_name("day")];
    let [ours, other]: [Arc<[_]>; 2] = [attach(&limiter, &exhausted), attach(&local, &exhausted)];
    for handle in ours.iter().chain(&*other) {
        acquire(handle, &clock).await;
        acquire(handle, &clock).await;
    }
    let before = scripts(&server);
    let began = Instant::now();
    compare(
        "rejected, ns",
        rounds,
        async || local_time(&ours[..1], false).await,
        async || local_time(&other[..1], false).await,
    )
    .await;
    let calls = scripts(&server) - before;
    println!(
        "calls of {} rejections in {:.1} s: {calls}",
        100_000 * rounds,
        began.elapsed().as_secs_f64()
    );

    leases(&server, rounds, config()).await;

    let other = attach(&local, &limits(1));
    server.kill();
    while limiter.is_available() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    compare(
        "without Redis, ns",
        rounds,
        async || local_time(&one, true).await,
        async || local_time(&other, true).await,
    )
    .await;
}

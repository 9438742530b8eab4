//! Charges random costs to random keys of an owner in Redis, in several tasks, until it is killed. Prints each admitted
//! cost with the key, and when it was requested and admitted, in nanoseconds since 1970.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keytally::limit::{
    LeaseConfig, LimitHandle, LimitResponse, Limiter, RateLimit, RedisConfig, RedisFallback,
    RedisLimiter, Subject, SubjectLimits,
};
use keytally::{Clock, KeyId};

use crate::given;

const TASKS: usize = 8;

pub(crate) async fn run() {
    let urls = given("KEYTALLY_TEST_URLS");
    let mut config = match urls.contains(',') {
        true => RedisConfig::cluster(urls.split(',')).unwrap(),
        false => RedisConfig::new(&urls).unwrap(),
    };
    if given("KEYTALLY_TEST_LEASES") == "true" {
        config = config.leases(LeaseConfig::new());
    }
    let limiter = RedisLimiter::new(config.fallback(RedisFallback::Reject));
    let limits = |name| -> Vec<RateLimit> { serde_json::from_str(&given(name)).unwrap() };
    let (of_key, of_owner) = (limits("KEYTALLY_TEST_KEY"), limits("KEYTALLY_TEST_OWNER"));
    let keys: u128 = given("KEYTALLY_TEST_KEYS").parse().unwrap();
    let now = Clock::system().now();
    let handles = (0..keys).map(|key| {
        let id: KeyId = format!("{key:016}").parse().unwrap();
        let subjects = [
            SubjectLimits::new(id, &of_key),
            SubjectLimits::new(Subject::Owner("customer-17"), &of_owner),
        ];
        limiter.attach(&subjects, now).unwrap()
    });
    let handles: Arc<[_]> = handles.collect();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        tasks.spawn(acquire(handles.clone()));
    }
    tasks.join_all().await;
}

async fn acquire(handles: Arc<[Arc<dyn LimitHandle>]>) {
    let clock = Clock::system();
    loop {
        let (key, cost) = (fastrand::usize(..handles.len()), fastrand::u32(1..=3));
        let requested = nanos();
        let decision = match handles[key].acquire(cost, clock.now()) {
            LimitResponse::Ready(decision) => Ok(decision),
            LimitResponse::Pending(decision) => decision.await,
        };
        if decision.is_ok_and(|decision| decision.is_allowed()) {
            println!("admitted {key} {cost} {requested} {}", nanos());
        } else {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
        }
    }
}

fn nanos() -> u128 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_nanos()
}

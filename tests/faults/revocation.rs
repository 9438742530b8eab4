//! How long a revoked key stays valid in other processes on the same database.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use keytally::async_trait;
use keytally::backend::{PostgresBackend, SqliteBackend};
use keytally::key::{
    Actor, CacheConfig, CachedStore, InvalidationFeed, Issued, KeyAdmin, KeyRecord, KeyStore,
    StoreError,
};
use keytally::{ApiKeyLayer, Clock, KeyId};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::Mutex;

use crate::children;
use crate::postgres_server as postgres;
use crate::service;

use children::{Process, given, some};
use service::{Service, issue};

const TTL: Duration = Duration::from_secs(1);
const PROCESSES: usize = 3;
const KEYS: usize = 50;
/// The time between two revocations. They take most of a TTL, so that they meet cache entries of any age.
const PAUSE: Duration = Duration::from_millis(16);

/// Serializes the tests, since they measure time.
static ALONE: Mutex<()> = Mutex::const_new(());

fn micros() -> i64 {
    Timestamp::now().as_microsecond()
}

/// A store that delays its results.
struct DelayedStore<S>(S, Duration);

#[async_trait]
impl<S: KeyStore> KeyStore for DelayedStore<S> {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let result = self.0.find(id).await;
        tokio::time::sleep(some(self.1)).await;
        result
    }

    fn invalidations(&self) -> Option<&InvalidationFeed> {
        self.0.invalidations()
    }
}

/// Helper process: sends requests with all active keys in a loop, and with one rejected key at a time. Prints when each
/// key was last admitted, and every key that was admitted again after a rejection.
#[tokio::test]
#[ignore = "a helper process of the tests below"]
async fn send_until_all_keys_are_rejected() {
    let slowness = Duration::from_millis(given("KEYTALLY_TEST_SLOWNESS").parse().unwrap());
    let url = given("KEYTALLY_TEST_URL");
    let config = CacheConfig::new().ttl(TTL);
    if let Some(path) = url.strip_prefix("sqlite:") {
        let backend = SqliteBackend::open(path).await.unwrap();
        send_requests(CachedStore::with_config(
            DelayedStore(backend, slowness),
            config,
            Clock::system(),
        ))
        .await;
    } else {
        let mut backend = PostgresBackend::connect(&url).await.unwrap();
        if given("KEYTALLY_TEST_LISTENING") == "no" {
            backend = backend.without_notifications();
        }
        send_requests(CachedStore::with_config(
            DelayedStore(backend, slowness),
            config,
            Clock::system(),
        ))
        .await;
    }
}

async fn send_requests(store: impl KeyStore) {
    let service = Service::behind(ApiKeyLayer::new(store));
    let keys = std::fs::read_to_string(given("KEYTALLY_TEST_KEYS")).unwrap();
    let mut active: Vec<&str> = keys.lines().collect();
    let mut rejected = Vec::new();
    let mut last: HashMap<&str, i64> = HashMap::new();
    let (mut ready, mut turn) = (false, 0);
    let start = Instant::now();
    println!();
    while !active.is_empty() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{} keys are still admitted",
            active.len()
        );
        // Concurrently, so that no request waits for another one's slow lookup.
        let requests = active.iter().map(|&secret| {
            let service = service.clone();
            async move { (secret, service.ask(secret).await.0, micros()) }
        });
        let mut still_active = Vec::new();
        for (secret, status, time) in join_all(requests).await {
            match status.as_u16() {
                200 => {
                    last.insert(secret, time);
                    still_active.push(secret);
                }
                401 => rejected.push(secret),
                _ => panic!("{status}"),
            }
        }
        active = still_active;
        if let Some(&secret) = rejected.get(turn % rejected.len().max(1)) {
            turn += 1;
            if service.ask(secret).await.0 == 200 {
                println!("again {secret}");
            }
        }
        if !ready {
            println!("ready");
            ready = true;
        }
        // Leave CPU time to the other processes.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Long enough for a stale cache entry to reappear.
    let end = Instant::now() + TTL / 2;
    while Instant::now() < end {
        let requests = rejected.iter().map(|&secret| {
            let service = service.clone();
            async move { (secret, service.ask(secret).await.0) }
        });
        for (secret, status) in join_all(requests).await {
            if status == 200 {
                println!("again {secret}");
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for (secret, time) in last {
        println!("last {secret} {time}");
    }
}

/// Polls all futures concurrently and returns their outputs in order.
async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.map(|it| (Box::pin(it), None)).collect();
    std::future::poll_fn(|context| {
        let mut ready = true;
        for (future, output) in &mut pending {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(it) => *output = Some(it),
                    std::task::Poll::Pending => ready = false,
                }
            }
        }
        if ready {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    pending
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}

/// The parameters of a test.
struct Trial {
    slowness: Duration,
    listening: bool,
}

impl Trial {
    fn new(listening: bool) -> Self {
        Self {
            slowness: Duration::ZERO,
            listening,
        }
    }
}

/// Microseconds from each revocation to the last admitted request, sorted.
struct Delays(Vec<i64>);

impl Delays {
    fn quantile(&self, share: f64) -> Duration {
        let index = ((self.0.len() - 1) as f64 * share) as usize;
        Duration::from_micros(u64::try_from(self.0[index]).unwrap_or(0))
    }
}

impl std::fmt::Display for Delays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| self.quantile(share));
        write!(f, "p50 {p50:?}, p99 {p99:?}, maximum {max:?}")
    }
}

/// Revokes keys one by one while helper processes use them, once `begin` returns. Panics if a key is admitted again
/// after a rejection.
async fn delays(
    trial: Trial,
    admin: &impl KeyAdmin,
    url: &str,
    begin: impl AsyncFnOnce(),
) -> Delays {
    let mut keys: Vec<Issued> = Vec::new();
    for _ in 0..KEYS {
        keys.push(issue(admin, "Revoked").await);
    }
    let name = format!("keytally-revoked-{}", keys[0].key.id);
    let file = std::env::temp_dir().join(name);
    let secrets: Vec<_> = keys.iter().map(|key| key.secret.expose()).collect();
    std::fs::write(&file, secrets.join("\n")).unwrap();
    let variables = [
        ("KEYTALLY_TEST_URL", url.to_owned()),
        ("KEYTALLY_TEST_KEYS", file.to_str().unwrap().to_owned()),
        (
            "KEYTALLY_TEST_SLOWNESS",
            trial.slowness.as_millis().to_string(),
        ),
        (
            "KEYTALLY_TEST_LISTENING",
            if trial.listening { "yes" } else { "no" }.to_owned(),
        ),
    ];
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (*name, &**value))
        .collect();
    let start = || {
        Process::start(
            module_path!(),
            "send_until_all_keys_are_rejected",
            &variables,
        )
    };
    let processes: Vec<_> = std::iter::repeat_with(start).take(PROCESSES).collect();
    for process in &processes {
        process.says("ready");
    }
    begin().await;
    let mut revoked = HashMap::new();
    for key in &keys {
        admin.revoke(key.key.id, Actor::SYSTEM).await.unwrap();
        revoked.insert(key.secret.expose(), micros());
        tokio::time::sleep(PAUSE).await;
    }
    let mut delays = Vec::new();
    for process in processes {
        let lines = tokio::task::spawn_blocking(|| process.finish())
            .await
            .unwrap();
        let mut words = lines.iter().map(|line| line.split_whitespace());
        assert!(
            !words.any(|mut line| line.next() == Some("again")),
            "a key was admitted again"
        );
        for line in &lines {
            if let ["last", secret, time] = line.split_whitespace().collect::<Vec<_>>()[..] {
                delays.push(time.parse::<i64>().unwrap() - revoked[secret]);
            }
        }
    }
    std::fs::remove_file(file).unwrap();
    // Otherwise keys were revoked before they were used.
    assert!(
        delays.len() >= KEYS * PROCESSES * 9 / 10,
        "{}",
        delays.len()
    );
    delays.sort_unstable();
    Delays(delays)
}

/// Waits until all helper processes listen.
async fn until_listening(own: &PgPool) {
    let listening = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND query ILIKE 'LISTEN%'";
    let deadline = Instant::now() + Duration::from_secs(30);
    // The administrator's backend listens, too.
    while postgres::number(own, listening).await < PROCESSES as i64 + 1 {
        assert!(Instant::now() < deadline, "the processes do not listen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_4_listening_processes_reject_a_revoked_key_at_once() {
    let _alone = ALONE.lock().await;
    let (admin, url) = postgres::backend().await;
    let own = postgres::pool(&url).await;
    let begin = async || until_listening(&own).await;
    let delays = delays(Trial::new(true), &admin, &url, begin).await;
    // On an idle machine, the target is 50 ms.
    let p99 = delays.quantile(0.99);
    assert!(p99 <= Duration::from_millis(500), "{delays}");
    assert!(delays.quantile(1.0) <= TTL + SLACK, "{delays}");
}

/// The delay beyond the TTL that is tolerated on a busy machine.
const SLACK: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn rule_4_slow_lookups_do_not_restore_a_revoked_key() {
    let _alone = ALONE.lock().await;
    let slow_lookups = |listening| Trial {
        slowness: Duration::from_millis(300),
        ..Trial::new(listening)
    };
    let (listening, others) = tokio::join!(
        async {
            let (admin, url) = postgres::backend().await;
            let own = postgres::pool(&url).await;
            let begin = async || until_listening(&own).await;
            delays(slow_lookups(true), &admin, &url, begin).await
        },
        async {
            let (admin, url) = postgres::backend().await;
            delays(slow_lookups(false), &admin, &url, async || {}).await
        },
    );
    for delays in [&listening, &others] {
        assert!(delays.quantile(1.0) <= TTL + SLACK, "{delays}");
    }
    // Lookups in progress are restarted.
    let p99 = listening.quantile(0.99);
    assert!(p99 <= Duration::from_millis(500), "{listening}");
    // Without notifications, the delay depends on the TTL.
    assert!(others.quantile(0.5) > TTL / 8, "{others}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_4_disconnected_listeners_reject_a_revoked_key_within_the_ttl() {
    let _alone = ALONE.lock().await;
    let (admin, url) = postgres::backend().await;
    let own = postgres::pool(&url).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut disconnecting = None;
    let begin = async || {
        until_listening(&own).await;
        let task = disconnect_listeners(own.clone(), stop.clone());
        disconnecting = Some(tokio::spawn(task));
    };
    let delays = delays(Trial::new(true), &admin, &url, begin).await;
    stop.store(true, Ordering::Relaxed);
    let disconnected = disconnecting.unwrap().await.unwrap();
    assert!(disconnected > 3, "only {disconnected} times");
    assert!(delays.quantile(1.0) <= TTL + SLACK, "{delays}");
}

async fn disconnect_listeners(own: PgPool, stop: Arc<AtomicBool>) -> i64 {
    // The last query of a listening session is either `LISTEN` or its keep-alive.
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND (query ILIKE 'LISTEN%' OR query = 'SELECT 1')";
    let mut sessions = 0;
    while !stop.load(Ordering::Relaxed) {
        let row = sqlx::query_scalar(AssertSqlSafe(terminate))
            .fetch_one(&own)
            .await;
        sessions += row.unwrap_or(0_i64);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sessions
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_4_processes_sharing_a_sqlite_file_reject_a_revoked_key_within_the_ttl() {
    let _alone = ALONE.lock().await;
    let path = std::env::temp_dir().join(format!("keytally-revocation-{}.db", std::process::id()));
    let admin = SqliteBackend::open(&path).await.unwrap();
    admin.migrate().await.unwrap();
    let url = format!("sqlite:{}", path.display());
    let delays = delays(Trial::new(false), &admin, &url, async || {}).await;
    assert!(delays.quantile(1.0) <= TTL + SLACK, "{delays}");
    drop(admin);
    remove(&path);
}

fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
}

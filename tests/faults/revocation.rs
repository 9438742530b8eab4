//! How long a key that was revoked works elsewhere: several processes on one database.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use keytally::async_trait;
use keytally::backend::{PostgresBackend, SqliteBackend};
use keytally::key::{
    CacheConfig, CachedStore, InvalidationFeed, Issued, KeyAdmin, KeyRecord, KeyStore, StoreError,
};
use keytally::{ApiKeyLayer, Clock, KeyId};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::Mutex;

use crate::children;
use crate::postgres_server as postgres;
use crate::service;

use children::{Process, given, some};
use service::{Service, issue};

const TTL: Duration = Duration::from_secs(2);
const PROCESSES: usize = 3;

/// One test at a time, since they measure.
static ALONE: Mutex<()> = Mutex::const_new(());

fn micros() -> i64 {
    Timestamp::now().as_microsecond()
}

/// A store that has read long before it answers.
struct Slow<S>(S, Duration);

#[async_trait]
impl<S: KeyStore> KeyStore for Slow<S> {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let found = self.0.find(id).await;
        tokio::time::sleep(some(self.1)).await;
        found
    }

    fn invalidations(&self) -> Option<&InvalidationFeed> {
        self.0.invalidations()
    }
}

/// What each of the processes does: asks with every key that still works, over and over, and with one
/// that no longer does. At the end it says when each was last let in, and which ones were let in
/// again after they had been refused.
///
/// It begins to ask with a key some time before that is revoked: with as many at a time as it was told.
#[tokio::test]
#[ignore = "run by the tests below, in processes of its own"]
async fn ask_until_all_are_refused() {
    let slowness = Duration::from_millis(given("KEYTALLY_TEST_SLOWNESS").parse().unwrap());
    let url = given("KEYTALLY_TEST_URL");
    let config = CacheConfig::new().ttl(TTL);
    if let Some(path) = url.strip_prefix("sqlite:") {
        let backend = SqliteBackend::open(path).await.unwrap();
        ask(CachedStore::with(
            Slow(backend, slowness),
            config,
            Clock::system(),
        ))
        .await;
    } else {
        let mut backend = PostgresBackend::connect(&url).await.unwrap();
        if given("KEYTALLY_TEST_LISTENING") == "no" {
            backend = backend.without_notifications();
        }
        ask(CachedStore::with(
            Slow(backend, slowness),
            config,
            Clock::system(),
        ))
        .await;
    }
}

async fn ask(store: impl KeyStore) {
    let service = Service::behind(ApiKeyLayer::new(store));
    let at_once: usize = given("KEYTALLY_TEST_AT_ONCE").parse().unwrap();
    let keys = std::fs::read_to_string(given("KEYTALLY_TEST_KEYS")).unwrap();
    let mut waiting: VecDeque<&str> = keys.lines().collect();
    let (mut active, mut refused) = (Vec::new(), Vec::new());
    let mut last: HashMap<&str, i64> = HashMap::new();
    let (mut said, mut turn) = (false, 0);
    println!();
    loop {
        while active.len() < at_once
            && let Some(secret) = waiting.pop_front()
        {
            active.push(secret);
        }
        if active.is_empty() {
            break;
        }
        // All at the same time, so that none waits for a slow answer about another.
        let asked = active.iter().map(|&secret| {
            let service = service.clone();
            async move { (secret, service.ask(secret).await.0, micros()) }
        });
        let mut still = Vec::new();
        for (secret, status, time) in all(asked).await {
            match status.as_u16() {
                200 => {
                    last.insert(secret, time);
                    still.push(secret);
                }
                401 => refused.push(secret),
                _ => panic!("{status}"),
            }
        }
        active = still;
        if let Some(&secret) = refused.get(turn % refused.len().max(1)) {
            turn += 1;
            if service.ask(secret).await.0 == 200 {
                println!("again {secret}");
            }
        }
        if !said {
            println!("asks");
            said = true;
        }
        // Others share the machine.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // For as long as anything could come back.
    let end = Instant::now() + TTL / 2;
    while Instant::now() < end {
        let asked = refused.iter().map(|&secret| {
            let service = service.clone();
            async move { (secret, service.ask(secret).await.0) }
        });
        for (secret, status) in all(asked).await {
            if status == 200 {
                println!("again {secret}");
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for (secret, time) in last {
        println!("last {secret} {time}");
    }
}

/// The answers to all of these, which wait together.
async fn all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.map(|it| (Box::pin(it), None)).collect();
    std::future::poll_fn(|context| {
        let mut ready = true;
        for (future, answer) in &mut pending {
            if answer.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(it) => *answer = Some(it),
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
        .filter_map(|(_, answer)| answer)
        .collect()
}

/// How one of the tests goes.
struct Trial {
    keys: usize,
    /// Keys that are asked with at a time.
    at_once: usize,
    /// Between one revocation and the next.
    pause: Duration,
    slowness: Duration,
    listening: bool,
}

/// What came of it: microseconds from each revocation to the last request that was let in, in order.
struct Delays(Vec<i64>);

impl Delays {
    fn at(&self, share: f64) -> Duration {
        let place = ((self.0.len() - 1) as f64 * share) as usize;
        Duration::from_micros(u64::try_from(self.0[place]).unwrap_or(0))
    }

    fn tell(&self, of: &str) {
        println!(
            "{of}: p50 {:?}, p99 {:?}, max {:?} of {} times",
            self.at(0.5),
            self.at(0.99),
            self.at(1.0),
            self.0.len()
        );
    }
}

/// Revokes one key after another, while processes ask with them; a key that was refused once is never
/// let in again.
async fn delays(trial: Trial, admin: &impl KeyAdmin, url: &str) -> Delays {
    let mut keys: Vec<Issued> = Vec::new();
    for _ in 0..trial.keys {
        keys.push(issue(admin, "Revoked").await);
    }
    let file = std::env::temp_dir().join(format!(
        "keytally-revoked-{}-{}",
        std::process::id(),
        micros()
    ));
    let secrets: Vec<_> = keys.iter().map(|key| key.secret.expose()).collect();
    std::fs::write(&file, secrets.join("\n")).unwrap();
    let variables = [
        ("KEYTALLY_TEST_URL", url.to_owned()),
        ("KEYTALLY_TEST_KEYS", file.to_str().unwrap().to_owned()),
        ("KEYTALLY_TEST_AT_ONCE", trial.at_once.to_string()),
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
    let start = || Process::start(module_path!(), "ask_until_all_are_refused", &variables);
    let processes: Vec<_> = std::iter::repeat_with(start).take(PROCESSES).collect();
    for process in &processes {
        process.says("asks");
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut revoked = HashMap::new();
    for key in &keys {
        admin.revoke(key.key.id).await.unwrap();
        revoked.insert(key.secret.expose(), micros());
        tokio::time::sleep(trial.pause).await;
    }
    let mut delays = Vec::new();
    for process in processes {
        let lines = tokio::task::spawn_blocking(|| process.finish())
            .await
            .unwrap();
        let mut words = lines.iter().map(|line| line.split_whitespace());
        assert!(
            !words.any(|mut line| line.next() == Some("again")),
            "a key was let in again"
        );
        for line in &lines {
            if let ["last", secret, time] = line.split_whitespace().collect::<Vec<_>>()[..] {
                delays.push(time.parse::<i64>().unwrap() - revoked[secret]);
            }
        }
    }
    std::fs::remove_file(file).unwrap();
    // Otherwise keys were revoked before anybody had asked with them.
    assert!(
        delays.len() >= trial.keys * PROCESSES * 9 / 10,
        "{}",
        delays.len()
    );
    delays.sort_unstable();
    Delays(delays)
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_4_processes_that_listen_see_a_revocation_at_once() {
    let _alone = ALONE.lock().await;
    let (admin, url) = postgres::backend().await;
    let trial = Trial {
        keys: 1_000,
        at_once: 8,
        pause: Duration::from_millis(4),
        slowness: Duration::ZERO,
        listening: true,
    };
    let delays = delays(trial, &admin, &url).await;
    delays.tell("listening");
    // Promised on a calm machine are 50 ms.
    assert!(delays.at(0.99) <= Duration::from_millis(500));
    assert!(delays.at(1.0) <= TTL + SLACK);
}

/// What a busy machine may add to the time to live.
const SLACK: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread")]
async fn rule_4_slow_look_ups_bring_no_revoked_key_back() {
    let _alone = ALONE.lock().await;
    for listening in [true, false] {
        let (admin, url) = postgres::backend().await;
        let trial = Trial {
            keys: 80,
            at_once: 80,
            pause: Duration::from_millis(20),
            slowness: Duration::from_millis(400),
            listening,
        };
        let delays = delays(trial, &admin, &url).await;
        delays.tell(if listening {
            "listening, slowly"
        } else {
            "not listening, slowly"
        });
        assert!(delays.at(1.0) <= TTL + SLACK);
        if listening {
            // Look-ups that were under way are begun anew.
            assert!(delays.at(0.99) <= Duration::from_millis(500));
        } else {
            // Nobody told them.
            assert!(delays.at(0.5) > TTL / 8);
        }
    }
}

/// Keys that are asked with from the beginning.
fn unheard(listening: bool) -> Trial {
    Trial {
        keys: 80,
        at_once: 80,
        pause: Duration::from_millis(20),
        slowness: Duration::ZERO,
        listening,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_4_listeners_that_are_cut_off_see_a_revocation_within_the_time_to_live() {
    let _alone = ALONE.lock().await;
    let (admin, url) = postgres::backend().await;
    let stop = Arc::new(AtomicBool::new(false));
    let cutting = tokio::spawn(cut_listeners(postgres::pool(&url).await, stop.clone()));
    let delays = delays(unheard(true), &admin, &url).await;
    stop.store(true, Ordering::Relaxed);
    let cut = cutting.await.unwrap();
    delays.tell(&format!("listeners cut off {cut} times"));
    assert!(cut > 3);
    assert!(delays.at(1.0) <= TTL + SLACK);
}

async fn cut_listeners(own: PgPool, stop: Arc<AtomicBool>) -> i64 {
    // A session that listens has asked for nothing else, or for a sign of life.
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND (query ILIKE 'LISTEN%' OR query = 'SELECT 1')";
    let mut sessions = 0;
    while !stop.load(Ordering::Relaxed) {
        let row = sqlx::query_scalar(AssertSqlSafe(cut)).fetch_one(&own).await;
        sessions += row.unwrap_or(0_i64);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sessions
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_4_processes_on_one_file_see_a_revocation_within_the_time_to_live() {
    let _alone = ALONE.lock().await;
    let path = std::env::temp_dir().join(format!("keytally-revocation-{}.db", std::process::id()));
    let admin = SqliteBackend::open(&path).await.unwrap();
    admin.migrate().await.unwrap();
    let url = format!("sqlite:{}", path.display());
    let delays = delays(unheard(false), &admin, &url).await;
    delays.tell("on one file");
    assert!(delays.at(1.0) <= TTL + SLACK);
    drop(admin);
    remove(&path);
}

fn remove(path: &Path) {
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", path.display()));
    }
}

//! How long a revoked key, or a key of a suspended owner, stays valid in other processes on the same database.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use keytally::backend::SqliteBackend;
use keytally::key::{Actor, Issued, Issuer, KeyAdmin, NewKey, OwnerAdmin};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::Mutex;

use crate::children;
use crate::postgres_server as postgres;

use children::Process;

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

/// Revokes keys or suspends their owners, one by one and in turn, while processes use them, once `begin` returns. Panics if a key is admitted again
/// after a rejection.
async fn delays(
    trial: Trial,
    admin: &(impl KeyAdmin + OwnerAdmin),
    url: &str,
    begin: impl AsyncFnOnce(),
) -> Delays {
    let mut keys: Vec<Issued> = Vec::new();
    for nth in 0..KEYS {
        let new = NewKey::new("Revoked").owner(format!("owner {nth}"));
        let issuer = Issuer::new("test").unwrap();
        keys.push(issuer.issue(admin, new, Actor::SYSTEM).await.unwrap());
    }
    let name = format!("keytally-revoked-{}", keys[0].key.id);
    let file = std::env::temp_dir().join(name);
    let secrets: Vec<_> = keys.iter().map(|key| key.secret.expose()).collect();
    std::fs::write(&file, secrets.join("\n")).unwrap();
    let variables = [
        ("KEYTALLY_TEST_URL", url.to_owned()),
        ("KEYTALLY_TEST_KEYS", file.to_str().unwrap().to_owned()),
        ("KEYTALLY_TEST_TTL", TTL.as_millis().to_string()),
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
    let start = || Process::start("send_until_rejected", &variables);
    let processes: Vec<_> = std::iter::repeat_with(start).take(PROCESSES).collect();
    for process in &processes {
        process.wait_for("ready");
    }
    begin().await;
    let mut revoked = HashMap::new();
    for (nth, key) in keys.iter().enumerate() {
        match nth % 2 {
            0 => drop(admin.revoke(key.key.id, Actor::SYSTEM).await.unwrap()),
            _ => {
                let owner = key.key.owner.as_deref().unwrap();
                admin.suspend_owner(owner, Actor::SYSTEM).await.unwrap();
            }
        }
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

/// Waits until all processes listen.
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

mod prompt_revocation {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn listening_processes_reject_a_revoked_key_at_once() {
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

    #[tokio::test(flavor = "multi_thread")]
    async fn slow_lookups_do_not_restore_a_revoked_key() {
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
    async fn disconnected_listeners_reject_a_revoked_key_within_the_ttl() {
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

    #[tokio::test(flavor = "multi_thread")]
    async fn processes_sharing_a_sqlite_file_reject_a_revoked_key_within_the_ttl() {
        let _alone = ALONE.lock().await;
        let path =
            std::env::temp_dir().join(format!("keytally-revocation-{}.db", std::process::id()));
        let admin = SqliteBackend::open(&path).await.unwrap();
        admin.migrate().await.unwrap();
        let url = format!("sqlite:{}", path.display());
        let delays = delays(Trial::new(false), &admin, &url, async || {}).await;
        assert!(delays.quantile(1.0) <= TTL + SLACK, "{delays}");
        drop(admin);
        remove(&path);
    }
}

/// The delay beyond the TTL that is tolerated on a busy machine.
const SLACK: Duration = Duration::from_millis(500);

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

fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
}

//! Merging of rollups in processes that are killed, and on servers that crash: no acknowledged event is missing, none
//! counts twice, and summaries equal the log.

use std::time::Duration;

use jiff::tz::TimeZone;
use keytally::backend::{PostgresBackend, SqliteBackend};
use keytally::usage::{Granularity, LogFilter, SummaryQuery, SummarySpec, UsageRange, UsageReader};
use sqlx::{PgPool, SqlitePool};

use crate::answers;
use crate::children::{Process, some};
use crate::postgres_server::{self as postgres, Cluster, number};

const LOGGED: &str = "SELECT count(*) FROM keytally_requests";

/// How often to kill a process or a server: `KEYTALLY_TEST_KILLS`, 10 by default.
fn kills() -> usize {
    let kills = std::env::var("KEYTALLY_TEST_KILLS");
    kills.map_or(10, |kills| kills.parse().unwrap())
}

fn start(url: &str) -> Process {
    Process::start("merge_until_killed", &[("KEYTALLY_TEST_URL", url)])
}

/// The number of events that a process has printed as written.
fn written(lines: &[String]) -> i64 {
    let mut lines = lines.iter().rev();
    let written = lines.find_map(|line| line.strip_prefix("written "));
    written.map_or(0, |number| number.parse().unwrap())
}

/// Asserts that summaries include each logged event once.
async fn assert_equal_to_log(reader: &impl UsageReader) {
    let logged = answers::all_requests(reader, &LogFilter::new()).await;
    let spec = SummarySpec::new()
        .by_key()
        .latency()
        .over_time(Granularity::Hour, TimeZone::UTC);
    for range in [
        UsageRange::new(),
        UsageRange::new().key("killedKey0000003".parse().unwrap()),
    ] {
        let events = logged
            .iter()
            .filter(|event| range.key.is_none_or(|key| event.key == Some(key)));
        let query = SummaryQuery::new(range.clone(), spec.clone());
        let summary = reader.summary(&query).await.unwrap();
        assert!(summary == spec.summarize(events), "{range:?}");
    }
}

async fn total(reader: &impl UsageReader) -> i64 {
    let query = SummaryQuery::new(UsageRange::new(), SummarySpec::new());
    let total = reader.summary(&query).await.unwrap().totals.total();
    i64::try_from(total).unwrap()
}

/// Kills two processes at random moments, again and again.
async fn kill_processes<R: UsageReader>(reader: &R, url: &str, logged: impl AsyncFn() -> i64) {
    let mut acknowledged = 0;
    for _ in 0..kills().div_ceil(2) {
        let processes = [start(url), start(url)];
        for process in processes {
            process.wait_for("written 300");
            std::thread::sleep(some(Duration::from_millis(100)));
            acknowledged += 300.max(written(&process.kill()));
        }
        let logged = logged().await;
        assert!(logged >= acknowledged, "{logged} {acknowledged}");
        assert_eq!(total(reader).await, logged);
    }
    assert_equal_to_log(reader).await;
}

/// Waits for the last transactions of killed processes.
async fn until_idle(db: &PgPool) {
    let active = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND state <> 'idle' AND pid <> pg_backend_pid()";
    while number(db, active).await > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_processes_lose_and_duplicate_nothing_in_postgres() {
    let (backend, url) = postgres::backend().await;
    let db = postgres::pool(&url).await;
    kill_processes(&backend, &url, async || {
        until_idle(&db).await;
        number(&db, LOGGED).await
    })
    .await;
    backend.merge_rollups().await.unwrap();
    assert_equal_to_log(&backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_processes_lose_and_duplicate_nothing_in_sqlite() {
    let dir = std::env::temp_dir().join(format!("keytally-killed-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let file = dir.join("usage.db");
    let backend = SqliteBackend::open(&file).await.unwrap();
    backend.migrate().await.unwrap();
    let file = file.to_str().unwrap();
    let db = SqlitePool::connect(&format!("sqlite://{file}"))
        .await
        .unwrap();
    kill_processes(&backend, file, async || {
        let logged = sqlx::query_scalar(LOGGED).fetch_one(&db).await;
        logged.unwrap()
    })
    .await;
    backend.merge_rollups().await.unwrap();
    assert_equal_to_log(&backend).await;
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashing_server_loses_and_duplicates_nothing() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let url = cluster.database().await;
    let backend = PostgresBackend::connect(&url).await.unwrap();
    backend.migrate().await.unwrap();
    let process = start(&url);
    process.wait_for("written 300");
    for _ in 0..kills() {
        tokio::time::sleep(some(Duration::from_millis(200))).await;
        cluster.stop("immediate");
        cluster.go_on();
    }
    let acknowledged = written(&process.kill());
    let db = postgres::pool(&url).await;
    until_idle(&db).await;
    let logged = number(&db, LOGGED).await;
    assert!(
        logged >= acknowledged && acknowledged > 0,
        "{logged} {acknowledged}"
    );
    assert_equal_to_log(&backend).await;
    backend.merge_rollups().await.unwrap();
    assert_equal_to_log(&backend).await;
}

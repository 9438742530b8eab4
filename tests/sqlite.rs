//! The SQLite backend, on real files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;
use keytally::backend::{BackendError, MemoryBackend, SqliteBackend};
use keytally::conformance;
use keytally::key::{
    CachedStore, Issuer, KeyAdmin, KeyQuery, KeyStatus, KeyStore, NewKey, StoreError,
};
use keytally::usage::{
    Batch, Cause, Count, LogFilter, LogQuery, Method, Outcome, Recorder, Status, StatusClass,
    SummaryQuery, SummarySpec, UsageEvent, UsageRange, UsageReader, UsageSink, Width,
};
use keytally::{KeyId, PageToken};
use proptest::prelude::*;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Row, SqlitePool};

/// All that a backend does, behind one pointer.
trait Backend: KeyAdmin + UsageSink + UsageReader {}

impl<T: KeyAdmin + UsageSink + UsageReader> Backend for T {}

/// A folder that is gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("keytally-sqlite-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("keys.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn open(path: &Path) -> SqliteBackend {
    let backend = SqliteBackend::open(path).await.unwrap();
    backend.migrate().await.unwrap();
    backend
}

/// The application's own connection to the same file.
async fn pool(path: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true);
    SqlitePoolOptions::new()
        .connect_with(options)
        .await
        .unwrap()
}

async fn number(pool: &SqlitePool, sql: &str) -> i64 {
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(pool).await;
    row.unwrap().get(0)
}

#[tokio::test]
async fn a_file_passes_as_its_own_type() {
    let folder = Folder::new();
    conformance::backend(&open(&folder.file()).await).await;
}

#[tokio::test]
async fn a_file_passes_behind_pointers() {
    let folder = Folder::new();
    let shared: Arc<dyn Backend> = Arc::new(open(&folder.file()).await);
    conformance::backend(&shared).await;
    let keys: Arc<dyn KeyAdmin> = Arc::new(open(&folder.file()).await);
    conformance::key_admin(&CachedStore::new(keys)).await;
}

#[tokio::test]
async fn memory_and_the_applications_own_pool_pass() {
    conformance::backend(&SqliteBackend::in_memory().await.unwrap()).await;
    let folder = Folder::new();
    let own = SqliteBackend::from_pool(pool(&folder.file()).await);
    let own = own.with_table_prefix("gateway_").unwrap();
    own.migrate().await.unwrap();
    conformance::backend(&own).await;
}

#[tokio::test]
async fn suites_can_run_at_once() {
    let folder = Folder::new();
    let backend = open(&folder.file()).await;
    let runs: Vec<_> = (0..3)
        .map(|_| {
            let backend = backend.clone();
            tokio::spawn(async move { conformance::backend(&backend).await })
        })
        .collect();
    for run in runs {
        run.await.unwrap();
    }
}

#[tokio::test]
async fn what_is_kept_is_there_when_the_file_is_opened_again() {
    let folder = Folder::new();
    let backend = open(&folder.file()).await;
    let issuer = Issuer::new("test").unwrap();
    let issued = issuer.issue(&backend, NewKey::named("Kept").owner("customer-17"));
    let issued = issued.await.unwrap();
    let mut event = UsageEvent::at(Timestamp::now());
    event.key = Some(issued.key.id);
    event.owner = issued.key.owner.clone();
    let batch = Batch::new(vec![event.clone()]);
    backend.write(&batch).await.unwrap();
    drop(backend);

    let backend = open(&folder.file()).await;
    let kept = backend.find(issued.key.id).await.unwrap().unwrap();
    assert_eq!(kept.key.last_used, Some(event.time));
    let page = backend.requests(&LogQuery::default()).await.unwrap();
    assert_eq!(page.items, [event]);
    // The answer got lost with the process: the batch comes again.
    backend.write(&batch).await.unwrap();
    let summary = backend.summary(&SummaryQuery::default()).await.unwrap();
    assert_eq!(summary.totals.total(), 1);
    // Neither the secret nor more of it than the hint is anywhere in the file.
    backend.revoke(issued.key.id).await.unwrap();
    drop(backend);
    for entry in std::fs::read_dir(&folder.0).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let secret = &issued.secret.expose().as_bytes()[issued.secret.expose().len() - 38..];
        assert!(!bytes.windows(secret.len()).any(|part| part == secret));
    }
}

#[tokio::test]
async fn a_change_reaches_the_caches_of_every_clone_at_once() {
    let folder = Folder::new();
    let backend = open(&folder.file()).await;
    let issuer = Issuer::new("test").unwrap();
    let issued = issuer.issue(&backend, NewKey::named("Revoked"));
    let id = issued.await.unwrap().key.id;
    let cached = CachedStore::new(backend.clone());
    let status = async || {
        cached
            .find(id)
            .await
            .unwrap()
            .unwrap()
            .key
            .status(Timestamp::now())
    };
    assert_eq!(status().await, KeyStatus::Active);
    backend.clone().revoke(id).await.unwrap();
    assert_eq!(status().await, KeyStatus::Revoked);
}

#[tokio::test]
async fn ten_can_migrate_at_once_beside_the_applications_own_tables() {
    let folder = Folder::new();
    let own = pool(&folder.file()).await;
    let tables =
        "CREATE TABLE _sqlx_migrations (version INTEGER); INSERT INTO _sqlx_migrations VALUES (7)";
    sqlx::raw_sql(tables).execute(&own).await.unwrap();
    let runs: Vec<_> = (0..10)
        .map(|_| {
            let path = folder.file();
            tokio::spawn(async move {
                for _ in 0..3 {
                    open(&path).await;
                }
            })
        })
        .collect();
    for run in runs {
        run.await.unwrap();
    }
    let steps = "SELECT count(*) FROM keytally_migrations";
    assert_eq!(number(&own, steps).await, 1);
    assert_eq!(
        number(&own, "SELECT version FROM _sqlx_migrations").await,
        7
    );
}

#[tokio::test]
async fn a_newer_or_another_schema_is_refused() {
    let folder = Folder::new();
    let backend = open(&folder.file()).await;
    let own = pool(&folder.file()).await;
    let sql = "INSERT INTO keytally_migrations VALUES (9, 'of the future', 'x', 0)";
    sqlx::query(sql).execute(&own).await.unwrap();
    let error = backend.migrate().await.unwrap_err();
    assert!(
        matches!(error, BackendError::NewerSchema { found: 9, known: 1 }),
        "{error}"
    );
    sqlx::raw_sql("DELETE FROM keytally_migrations WHERE version = 9; UPDATE keytally_migrations SET checksum = 'x'")
        .execute(&own)
        .await
        .unwrap();
    let error = backend.migrate().await.unwrap_err();
    assert!(
        matches!(error, BackendError::OtherSchema { version: 1 }),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_no_database_is_an_error() {
    let folder = Folder::new();
    std::fs::write(folder.file(), "not a database ".repeat(1_000)).unwrap();
    let opened = match SqliteBackend::open(folder.file()).await {
        Ok(backend) => backend.migrate().await,
        Err(error) => Err(error),
    };
    assert!(matches!(opened, Err(BackendError::Damaged(_))));
    let missing = SqliteBackend::open(folder.0.join("no/such/folder/keys.db")).await;
    assert!(matches!(missing, Err(BackendError::Unavailable(_))));
    // Without its tables, a store cannot tell; nothing of the database's text is in the message.
    let bare = SqliteBackend::open(folder.0.join("bare.db")).await.unwrap();
    let error = bare
        .find("3fK9aB0000zzZZ19".parse().unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)));
    assert!(!error.to_string().contains("keytally_keys"));
    let batch = Batch::new(vec![UsageEvent::at(Timestamp::now())]);
    let error = bare.write(&batch).await.unwrap_err();
    assert!(!error.to_string().contains("keytally_"));
}

#[tokio::test]
async fn rule_10_a_batch_that_fails_half_way_leaves_nothing() {
    let folder = Folder::new();
    let backend = open(&folder.file()).await;
    let own = pool(&folder.file()).await;
    let fail = "CREATE TRIGGER fail BEFORE INSERT ON keytally_minutes BEGIN SELECT raise(ABORT, 'no'); END";
    sqlx::query(fail).execute(&own).await.unwrap();
    let events = (0..200).map(|_| UsageEvent::at(Timestamp::now())).collect();
    let batch = Batch::new(events);
    backend.write(&batch).await.unwrap_err();
    for table in ["requests", "minutes", "batches"] {
        let rows = number(&own, &format!("SELECT count(*) FROM keytally_{table}")).await;
        assert_eq!(rows, 0, "{table}");
    }
    sqlx::query("DROP TRIGGER fail")
        .execute(&own)
        .await
        .unwrap();
    for _ in 0..2 {
        backend.write(&batch).await.unwrap();
    }
    assert_eq!(
        number(&own, "SELECT count(*) FROM keytally_requests").await,
        200
    );
    assert_eq!(
        number(&own, "SELECT sum(count) FROM keytally_minutes").await,
        200
    );
}

#[tokio::test]
async fn rule_9_a_recorder_writes_all_it_accepted() {
    let folder = Folder::new();
    let backend = open(&folder.file()).await;
    let recorder = Recorder::new(backend.clone());
    let issuer = Issuer::new("test").unwrap();
    let issued = issuer.issue(&backend, NewKey::named("Busy"));
    let issued = issued.await.unwrap();
    let layer = keytally::ApiKeyLayer::new(backend.clone()).recorder(recorder.clone());
    let service =
        tower::ServiceBuilder::new()
            .layer(layer)
            .service_fn(async |_: http::Request<String>| {
                Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
            });
    for _ in 0..3_000 {
        let request = http::Request::get("/v1/postings")
            .header("x-api-key", issued.secret.expose())
            .body(String::new())
            .unwrap();
        let response = tower::ServiceExt::oneshot(service.clone(), request)
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
    }
    let report = recorder.shutdown(std::time::Duration::from_secs(60)).await;
    assert_eq!((report.written, report.lost), (3_000, 0));
    let filter = LogFilter::new().key(issued.key.id);
    assert_eq!(backend.count(&filter).await.unwrap(), Count::Exactly(3_000));
    let summary = backend.summary(&SummaryQuery::default()).await.unwrap();
    assert_eq!(summary.totals.completed(), 3_000);
}

#[tokio::test]
async fn counts_are_bounded() {
    let backend = SqliteBackend::in_memory().await.unwrap();
    for events in [9_999, 1, 1] {
        let events = (0..events)
            .map(|_| UsageEvent::at(Timestamp::now()))
            .collect();
        backend.write(&Batch::new(events)).await.unwrap();
    }
    let count = backend.count(&LogFilter::new()).await.unwrap();
    assert_eq!(count, Count::MoreThan(10_000));
    let of_nobody = LogFilter::new().owner("nobody");
    assert_eq!(backend.count(&of_nobody).await.unwrap(), Count::Exactly(0));
}

#[tokio::test]
async fn every_odd_value_is_kept_or_finds_nothing() {
    let backend = SqliteBackend::in_memory().await.unwrap();
    let mut event = UsageEvent::at(Timestamp::MIN);
    event.path = "/\0/é/%FF".into();
    event.endpoint = "x".repeat(10_000).into();
    event.owner = Some("".into());
    event.resource_id = Some("'; DROP TABLE keytally_keys; --".into());
    event.request_id = Some("\0".into());
    (event.latency_us, event.request_bytes, event.response_bytes) = (u64::MAX, u64::MAX, u64::MAX);
    (event.status, event.cost) = (Status::Http(u16::MAX), u32::MAX);
    let mut last = event.clone();
    last.id = UsageEvent::at(Timestamp::MAX).id;
    last.time = UsageEvent::at(Timestamp::MAX).time;
    let batch = Batch::new(vec![last, event]);
    backend.write(&batch).await.unwrap();
    let events = batch.events;
    let page = backend.requests(&LogQuery::default()).await.unwrap();
    assert_eq!(page.items, *events);
    assert_eq!(&*events[1].path, "/\u{fffd}/é/%FF");
    let most = i64::MAX.cast_unsigned();
    assert_eq!(events[1].latency_us, most);
    let stored = LogFilter::new().request_id("\u{fffd}");
    assert_eq!(backend.count(&stored).await.unwrap(), Count::Exactly(2));
    let spec = SummarySpec::new().by_key().latency();
    let query = SummaryQuery::new(UsageRange::new(), spec.clone());
    let summary = backend.summary(&query).await.unwrap();
    assert_eq!(summary, spec.summarize(&*events));
    assert_eq!(summary.totals.request_bytes(), most);
    let long = "'\"\0%_".repeat(2_000);
    for filter in [
        LogFilter::new().owner(long.clone()),
        LogFilter::new().endpoint(long.clone()),
        LogFilter::new().resource_id(long.clone()),
        LogFilter::new().request_id(long.clone()),
    ] {
        assert_eq!(backend.count(&filter).await.unwrap(), Count::Exactly(0));
    }
    let keys = backend
        .list(&KeyQuery::new().name(long.clone()).owner(long))
        .await;
    assert!(keys.unwrap().items.is_empty());
    let token: PageToken = "5.not-an-id".parse().unwrap();
    let log = backend
        .requests(&LogQuery::default().after(token.clone()))
        .await;
    assert!(matches!(log, Err(keytally::usage::ReadError::Page(_))));
    let keys = backend.list(&KeyQuery::new().after(token)).await;
    assert!(matches!(keys, Err(StoreError::Page(_))));
}

const NOON: i64 = 1_793_275_200;

prop_compose! {
    fn event()(
        second in 0..4 * 3_600_i64,
        key in 0..4_usize,
        method in 0..Method::ALL.len(),
        endpoint in 0..3_usize,
        status in prop_oneof![
            Just(Status::None),
            (100..600_u16).prop_map(Status::Http),
            (0..17_u8).prop_map(Status::Grpc),
        ],
        limited in any::<bool>(),
        latency in 0..5_000_000_u64,
        resource in 0..3_usize,
    ) -> UsageEvent {
        let mut event = UsageEvent::at(Timestamp::from_second(NOON + second).unwrap());
        event.key = key_of(key);
        event.owner = [None, Some("a"), Some("b"), Some("a")][key].map(Into::into);
        event.method = Method::ALL[method];
        event.endpoint = ["/a", "/b/{id}", ""][endpoint].into();
        event.status = status;
        (event.outcome, event.cause) = if limited {
            (Outcome::RateLimited, None)
        } else {
            Outcome::of(status)
        };
        event.latency_us = latency;
        event.request_bytes = latency / 7;
        event.resource_id = [None, Some("r1"), Some("r2")][resource].map(Into::into);
        event.request_id = (latency % 2 == 0).then(|| "wire".into());
        event
    }
}

fn key_of(n: usize) -> Option<KeyId> {
    [None, Some("a"), Some("b"), Some("Z")][n].map(|c| c.repeat(16).parse().unwrap())
}

prop_compose! {
    fn filter()(
        fields in 0..1_024_u32,
        key in 1..4_usize,
        from in -1_000..15_000_i64,
        length in 0..10_000_i64,
        method in 0..Method::ALL.len(),
        class in 0..StatusClass::ALL.len(),
        cause in 0..Cause::ALL.len(),
        outcome in 0..Outcome::ALL.len(),
    ) -> LogFilter {
        let at = |second, nanos| Timestamp::new(NOON + second, nanos).unwrap();
        let set = |n: u32| fields >> n & 1 == 1;
        let mut filter = LogFilter::new();
        filter.key = key_of(key).filter(|_| set(0));
        filter.owner = set(1).then(|| "a".into());
        filter.from = set(2).then(|| at(from, 1));
        filter.to = set(3).then(|| at(from + length, 0));
        filter.method = (set(4) && set(5)).then(|| Method::ALL[method]);
        filter.status_class = (set(5) && set(6)).then(|| StatusClass::ALL[class]);
        filter.cause = (set(6) && set(7)).then(|| Cause::ALL[cause]);
        filter.outcome = (set(7) && set(8)).then(|| Outcome::ALL[outcome]);
        filter.resource_id = (set(8) && set(9)).then(|| "r1".into());
        filter.request_id = (set(4) && set(9)).then(|| "wire".into());
        filter.endpoint = (set(0) && set(9)).then(|| "/a".into());
        filter
    }
}

async fn all_requests<B: UsageReader>(backend: &B, filter: &LogFilter) -> Vec<UsageEvent> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let mut query = LogQuery::new(filter.clone()).limit(7);
        query.after = after;
        let page = backend.requests(&query).await.unwrap();
        found.extend(page.items);
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// For any events and any question, SQLite answers what the pure functions do.
    #[test]
    fn rule_11_answers_equal_the_pure_functions(
        batches in proptest::collection::vec(proptest::collection::vec(event(), 0..60), 1..4),
        filters in proptest::collection::vec(filter(), 8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let sqlite = SqliteBackend::in_memory().await.unwrap();
            let memory = MemoryBackend::new();
            for events in &batches {
                let batch = Batch::new(events.clone());
                for _ in 0..2 {
                    sqlite.write(&batch).await.unwrap();
                    memory.write(&batch).await.unwrap();
                }
            }
            for filter in filters {
                let expected = all_requests(&memory, &filter).await;
                prop_assert_eq!(all_requests(&sqlite, &filter).await, expected);
                prop_assert_eq!(sqlite.count(&filter).await.unwrap(), memory.count(&filter).await.unwrap());
                let mut range = UsageRange::new();
                (range.key, range.owner) = (filter.key, filter.owner.clone());
                (range.from, range.to) = (filter.from, filter.to);
                prop_assert_eq!(sqlite.rollups(&range).await.unwrap(), memory.rollups(&range).await.unwrap());
                let zone = jiff::tz::TimeZone::get("Asia/Kathmandu").unwrap();
                let spec = SummarySpec::new().by_key().latency().over_time(Width::QuarterHour, zone);
                let query = SummaryQuery::new(range, spec);
                prop_assert_eq!(sqlite.summary(&query).await.unwrap(), memory.summary(&query).await.unwrap());
            }
            Ok(())
        })?;
    }
}

/// What the process that is killed does: writes batches to the file that it is told of, each twice,
/// and says how many events it knows to be written.
#[tokio::test]
#[ignore = "run by the test below, in a process of its own"]
async fn write_until_killed() {
    let path = std::env::var("KEYTALLY_TEST_FILE").unwrap();
    let backend = open(Path::new(&path)).await;
    for written in 1.. {
        let events = (0..50).map(|_| UsageEvent::at(Timestamp::now())).collect();
        let batch = Batch::new(events);
        for _ in 0..2 {
            backend.write(&batch).await.unwrap();
        }
        println!("\nwritten {}", written * 50);
    }
}

#[tokio::test]
async fn a_process_that_is_killed_leaves_whole_batches() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let folder = Folder::new();
    let mut sure = 0;
    for round in 0..20_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["write_until_killed", "--exact", "--ignored", "--nocapture"])
            .env("KEYTALLY_TEST_FILE", folder.file())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let numbers = lines.map_while(Result::ok).filter_map(|line| {
            line.strip_prefix("written ")
                .and_then(|n| n.parse::<i64>().ok())
        });
        let killer = std::thread::spawn(move || {
            // Some moment of its life: before the tables are there, in the middle of a batch.
            std::thread::sleep(std::time::Duration::from_millis(round * 37 % 150));
            child.kill().unwrap();
            child.wait().unwrap();
        });
        sure += numbers.last().unwrap_or(0);
        killer.join().unwrap();

        let backend = open(&folder.file()).await;
        let own = pool(&folder.file()).await;
        let logged = number(&own, "SELECT count(*) FROM keytally_requests").await;
        // What it had no more time to tell of is one batch at most, there or not.
        assert!((sure..=sure + 50).contains(&logged), "{logged} of {sure}");
        let batches = number(&own, "SELECT count(*) FROM keytally_batches").await;
        assert_eq!(logged, batches * 50);
        let summary = backend.summary(&SummaryQuery::default()).await.unwrap();
        assert_eq!(summary.totals.total(), logged as u64);
        sure = logged;
    }
    assert!(sure > 0);
}

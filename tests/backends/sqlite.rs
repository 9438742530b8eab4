//! The SQLite backend, on real files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;
#[cfg(feature = "recoverable")]
use keytally::KeyId;
use keytally::backend::{BackendError, InvalidTablePrefix, SqliteBackend};
use keytally::conformance;
use keytally::key::{CachedStore, Issuer, KeyAdmin, KeyStatus, KeyStore, NewKey, StoreError};
use keytally::usage::{
    Batch, Count, LogFilter, LogQuery, ReadError, Recorder, SinkError, SummaryQuery, UsageEvent,
    UsageReader, UsageSink,
};
use proptest::prelude::*;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Row, SqlitePool};

use crate::answers;
use crate::checks;
use crate::children;

use checks::Backend;
use children::{Process, given, some};

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
    let issued = issuer.issue(&backend, NewKey::new("Kept").owner("customer-17"));
    let issued = issued.await.unwrap();
    let mut event = UsageEvent::at(Timestamp::now());
    event.key = Some(issued.key.id);
    event.owner = issued.key.owner.clone();
    let batch = Batch::new(vec![event.clone()]);
    backend.write(&batch).await.unwrap();
    drop(backend);

    let backend = open(&folder.file()).await;
    let kept = backend.find(issued.key.id).await.unwrap().unwrap();
    assert_eq!(kept.key.last_used_at, Some(event.time));
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

#[cfg(unix)]
#[tokio::test]
async fn new_files_are_their_owners_alone() {
    use std::fs::{Permissions, metadata, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use keytally::backend::SqliteSpool;

    let folder = Folder::new();
    let rights = |name: &str| metadata(folder.0.join(name)).unwrap().permissions().mode() & 0o777;
    let backend = open(&folder.file()).await;
    let spool = folder.0.join("spool.db");
    let _spool = SqliteSpool::open(&spool).await.unwrap();
    for name in ["keys.db", "keys.db-wal", "keys.db-shm", "spool.db"] {
        assert_eq!(rights(name), 0o600, "{name}");
    }
    drop(backend);
    // One that is there keeps what it has.
    set_permissions(folder.file(), Permissions::from_mode(0o640)).unwrap();
    open(&folder.file()).await;
    assert_eq!(rights("keys.db"), 0o640);
}

#[tokio::test]
async fn a_change_reaches_the_caches_of_every_clone_at_once() {
    let folder = Folder::new();
    let backend = open(&folder.file()).await;
    let issuer = Issuer::new("test").unwrap();
    let issued = issuer.issue(&backend, NewKey::new("Revoked"));
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
    assert_eq!(number(&own, steps).await, 2);
    assert_eq!(
        number(&own, "SELECT version FROM _sqlx_migrations").await,
        7
    );
}

#[tokio::test]
async fn another_encoding_than_utf_8_is_refused() {
    let folder = Folder::new();
    let own = pool(&folder.file()).await;
    let sql = "PRAGMA encoding = 'UTF-16le'; CREATE TABLE own (name TEXT)";
    sqlx::raw_sql(sql).execute(&own).await.unwrap();
    let backend = SqliteBackend::open(folder.file()).await.unwrap();
    let error = backend.migrate().await.unwrap_err();
    assert!(
        matches!(&error, BackendError::Encoding(it) if it == "UTF-16le"),
        "{error}"
    );
    assert_eq!(number(&own, "SELECT count(*) FROM sqlite_schema").await, 1);
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
        matches!(error, BackendError::NewerSchema { found: 9, known: 2 }),
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

/// Why a file is not a database that can be used.
async fn refusal(path: &Path) -> BackendError {
    match SqliteBackend::open(path).await {
        Ok(backend) => backend.migrate().await.expect_err("an error"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn what_is_no_database_is_an_error() {
    let folder = Folder::new();
    std::fs::write(folder.file(), "not a database ".repeat(1_000)).unwrap();
    let error = refusal(&folder.file()).await;
    assert!(matches!(error, BackendError::Damaged(_)), "{error:?}");
    for path in [folder.0.join("no/such/folder/keys.db"), folder.0.clone()] {
        let error = refusal(&path).await;
        assert!(matches!(error, BackendError::Unavailable(_)), "{error:?}");
    }
    for name in ["a\"b", "a'; DROP TABLE x; --", "", "A", "sqlite_x"] {
        let backend = SqliteBackend::in_memory().await.unwrap();
        let prefix = backend.with_table_prefix(name).unwrap_err();
        assert_eq!(prefix, InvalidTablePrefix);
    }
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_no_panic() {
    let folder = Folder::new();
    let backend = open(&folder.file()).await;
    let keys = checks::keys(&backend, 20).await;
    let events = (0..3_000).map(|n| checks::event(&keys, n)).collect();
    backend.write(&Batch::new(events)).await.unwrap();
    // All of it is in the file, and nothing beside it.
    let own = pool(&folder.file()).await;
    drop(backend);
    sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(&own)
        .await
        .unwrap();
    own.close().await;
    let whole = std::fs::read(folder.file()).unwrap();
    let damaged = |pages: std::ops::Range<usize>| {
        let mut bytes = whole.clone();
        bytes[pages.start * 4_096..pages.end * 4_096].fill(0xAA);
        let path = folder.0.join(format!("damaged-{}.db", pages.start));
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let pages = whole.len() / 4_096;
    assert!(pages > 60, "{pages}");
    let error = refusal(&damaged(1..pages)).await;
    assert!(matches!(error, BackendError::Damaged(_)), "{error:?}");

    // Wherever it is damaged: whoever asks is told so, and is told nothing else.
    let mut failed = 0;
    for page in (2..pages).step_by(3) {
        let Ok(backend) = SqliteBackend::open(damaged(page..page + 3.min(pages - page))).await
        else {
            continue;
        };
        match backend.summary(&SummaryQuery::default()).await {
            Ok(summary) => assert_eq!(summary.totals.total(), 3_000),
            Err(error) => {
                assert!(matches!(error, ReadError::Unavailable(_)));
                assert_eq!(error.to_string(), "the usage backend is unavailable");
                failed += 1;
            }
        }
        for &key in &keys {
            match backend.find(key).await {
                Ok(found) => assert_eq!(found.unwrap().key.id, key),
                Err(error) => {
                    assert_eq!(error.to_string(), "the key store is unavailable");
                    failed += 1;
                }
            }
        }
        if let Err(error) = backend.requests(&LogQuery::default()).await {
            assert_eq!(error.to_string(), "the usage backend is unavailable");
            failed += 1;
        }
    }
    assert!(failed > 0);
}

#[tokio::test]
async fn a_file_for_reading_only_is_read_and_never_written() {
    let folder = Folder::new();
    let backend = open(&folder.file()).await;
    let keys = checks::keys(&backend, 1).await;
    let reading = SqliteConnectOptions::new()
        .filename(folder.file())
        .read_only(true);
    let reading = SqlitePoolOptions::new()
        .connect_with(reading)
        .await
        .unwrap();
    let reading = SqliteBackend::from_pool(reading);
    // Its tables are there: it may be opened as always.
    reading.migrate().await.unwrap();
    let other = reading.clone().with_table_prefix("other_").unwrap();
    let error = other.migrate().await.unwrap_err();
    assert!(matches!(error, BackendError::Denied(_)), "{error:?}");
    assert!(reading.find(keys[0]).await.unwrap().is_some());
    let error = reading.revoke(keys[0]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)));
    let batch = Batch::new(vec![UsageEvent::at(Timestamp::now())]);
    let error = reading.write(&batch).await.unwrap_err();
    assert!(matches!(error, SinkError::Unavailable(_)));
}

#[tokio::test]
async fn rule_14_errors_say_nothing_of_the_database() {
    let folder = Folder::new();
    let bare = SqliteBackend::open(folder.file()).await.unwrap();
    checks::errors_say_nothing_of_the_database(&bare).await;
}

#[tokio::test]
async fn views_show_what_was_written() {
    let folder = Folder::new();
    let backend = open(&folder.file()).await;
    let own = pool(&folder.file()).await;
    let batch = Batch::new(vec![UsageEvent::at(Timestamp::now())]);
    backend.write(&batch).await.unwrap();
    for view in ["request_log", "usage_by_minute", "usage_by_hour"] {
        let rows = format!("SELECT count(*) FROM keytally_{view} WHERE method = 'GET'");
        assert_eq!(number(&own, &rows).await, 1, "{view}");
    }
}

/// Tables, indexes and views with this prefix.
async fn schema_of(pool: &SqlitePool, prefix: &str) -> Vec<String> {
    let steps = format!("SELECT 'step ' || version || ' ' || checksum FROM {prefix}migrations");
    let sql = format!(
        "SELECT replace(coalesce(sql, name), '{prefix}', '') AS line FROM sqlite_schema
        WHERE substr(tbl_name, 1, length('{prefix}')) = '{prefix}' UNION ALL {steps} ORDER BY 1"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(pool).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

/// What the process that is killed does: makes tables, and once more with another prefix.
#[tokio::test]
#[ignore = "run by the test below, in a process of its own"]
async fn migrate_until_killed() {
    let path = given("KEYTALLY_TEST_FILE");
    let backend = SqliteBackend::open(Path::new(&path)).await.unwrap();
    let first: u32 = given("KEYTALLY_TEST_FIRST").parse().unwrap();
    println!();
    for n in first.. {
        println!("begins {n}");
        let backend = backend.clone().with_table_prefix(&format!("t{n}_"));
        backend.unwrap().migrate().await.unwrap();
    }
}

#[tokio::test]
async fn a_process_that_is_killed_while_it_migrates_leaves_no_half_schema() {
    let folder = Folder::new();
    let path = folder.file();
    let whole = SqliteBackend::open(&path).await.unwrap();
    let whole = whole.with_table_prefix("whole_").unwrap();
    whole.migrate().await.unwrap();
    let whole = schema_of(&pool(&path).await, "whole_").await;
    assert!(whole.len() > 20, "{whole:?}");
    let mut next = 0;
    for _ in 0..10 {
        let first = next.to_string();
        let variables = [
            ("KEYTALLY_TEST_FILE", path.to_str().unwrap()),
            ("KEYTALLY_TEST_FIRST", &*first),
        ];
        let child = Process::start(module_path!(), "migrate_until_killed", &variables);
        child.says("begins ");
        std::thread::sleep(some(std::time::Duration::from_millis(60)));
        let lines = child.kill();
        let begun = lines.iter().filter_map(|line| line.strip_prefix("begins "));
        let last = begun
            .map(|n| n.parse().unwrap())
            .next_back()
            .unwrap_or(next);
        let prefix = format!("t{last}_");
        let again = SqliteBackend::open(&path).await.unwrap();
        let again = again.with_table_prefix(&prefix).unwrap();
        again.migrate().await.unwrap();
        assert_eq!(schema_of(&pool(&path).await, &prefix).await, whole);
        next = last + 1;
    }
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
    let issued = issuer.issue(&backend, NewKey::new("Busy"));
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
async fn a_reading_that_cannot_be_noted_reveals_nothing() {
    let folder = Folder::new();
    let backend = open(&folder.file()).await;
    let own = pool(&folder.file()).await;
    let id = checks::recoverable(&backend, b"sealed").await;
    let rename = |from, to| {
        let sql = format!("ALTER TABLE keytally_{from} RENAME TO keytally_{to}");
        let own = own.clone();
        async move {
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&own)
                .await
                .unwrap()
        }
    };
    rename("key_changes", "away").await;
    let refused = backend.reveal(id).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    rename("away", "key_changes").await;
    assert_eq!(checks::readings(&backend, id).await, 0);
    assert!(backend.reveal(id).await.unwrap().is_some());
    assert_eq!(checks::readings(&backend, id).await, 1);
}

#[cfg(feature = "recoverable")]
#[tokio::test]
async fn rule_1_a_secret_is_in_the_file_only_encrypted_and_goes_with_its_key() {
    let folder = Folder::new();
    let backend = open(&folder.file()).await;
    let vault = keytally::key::Vault::new([1; 32]);
    let issuer = Issuer::new("test").unwrap().vault(vault);
    let mut secrets = Vec::new();
    for _ in 0..3 {
        let new = NewKey::new("Recoverable").recoverable();
        let issued = issuer.issue(&backend, new).await.unwrap();
        let secret = issuer.reveal(&backend, issued.key.id).await.unwrap();
        assert_eq!(secret.as_ref(), Some(&issued.secret));
        secrets.push(issued.secret);
    }
    let own = pool(&folder.file()).await;
    let sealed = "SELECT count(sealed) FROM keytally_keys";
    assert_eq!(number(&own, sealed).await, 3);
    backend.revoke(secrets[0].id()).await.unwrap();
    assert_eq!(number(&own, sealed).await, 2);
    backend.delete(secrets[1].id()).await.unwrap();
    assert_eq!(number(&own, sealed).await, 1);
    for entry in std::fs::read_dir(&folder.0).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for secret in &secrets {
            // What stands behind the prefix and the id.
            let private = &secret.expose().as_bytes()["test_".len() + KeyId::LEN..];
            assert!(!bytes.windows(private.len()).any(|part| part == private));
        }
    }
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
    checks::odd_values_are_kept_or_find_nothing(&backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_10_a_batch_from_two_at_once_counts_once() {
    let folder = Folder::new();
    let (one, two) = (open(&folder.file()).await, open(&folder.file()).await);
    checks::a_batch_from_two_at_once_counts_once(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_wait_for_each_other_and_lose_nothing() {
    let folder = Folder::new();
    let mut writers = Vec::new();
    for _ in 0..8 {
        writers.push(open(&folder.file()).await);
    }
    checks::many_writers_add_up(writers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poller_reads_every_event_once() {
    let folder = Folder::new();
    let mut writers = Vec::new();
    for _ in 0..4 {
        writers.push(open(&folder.file()).await);
    }
    checks::a_poller_reads_every_event_once(writers).await;
}

#[tokio::test]
async fn a_clock_that_is_ahead_is_not_followed() {
    let backend = SqliteBackend::in_memory().await.unwrap();
    checks::a_clock_that_is_ahead_is_not_followed(&backend).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For any events and any question, SQLite answers what the pure functions do.
    #[test]
    fn rule_11_answers_equal_the_pure_functions(case in answers::case()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let backend = SqliteBackend::in_memory().await.unwrap();
            answers::answers_equal_the_pure_functions(&backend, &case).await
        })?;
    }
}

/// What the process that is killed does: writes batches to the file that it is told of, each twice,
/// and says how many events it knows to be written.
#[tokio::test]
#[ignore = "run by the test below, in a process of its own"]
async fn write_until_killed() {
    let backend = open(Path::new(&given("KEYTALLY_TEST_FILE"))).await;
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
    let folder = Folder::new();
    let file = folder.file();
    let mut sure = 0;
    for round in 0..20_u64 {
        let variables = [("KEYTALLY_TEST_FILE", file.to_str().unwrap())];
        let child = Process::start(module_path!(), "write_until_killed", &variables);
        // Some moment of its life: before the tables are there, in the middle of a batch.
        std::thread::sleep(std::time::Duration::from_millis(round * 37 % 150));
        let lines = child.kill();
        let numbers = lines
            .iter()
            .filter_map(|line| line.strip_prefix("written "));
        sure += numbers
            .map(|n| n.parse::<i64>().unwrap())
            .next_back()
            .unwrap_or(0);

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

#[tokio::test]
async fn rule_4_a_revocation_that_nobody_waits_for_is_seen_at_once() {
    let backend = SqliteBackend::in_memory().await.unwrap();
    let issuer = Issuer::new("test").unwrap();
    let issued = issuer.issue(&backend, NewKey::new("Revoked")).await;
    let id = issued.unwrap().key.id;
    let cached = CachedStore::new(backend.clone());
    // However far it gets before its caller goes away: what is cached is what the store has.
    for polls in 1..200 {
        cached.find(id).await.unwrap();
        let mut revoking = Box::pin(backend.revoke(id));
        let waker = std::task::Waker::noop();
        let mut context = std::task::Context::from_waker(waker);
        for _ in 0..polls {
            if revoking.as_mut().poll(&mut context).is_ready() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_micros(50)).await;
        }
        drop(revoking);
        let stored = backend.find(id).await.unwrap().unwrap();
        let known = cached.find(id).await.unwrap().unwrap();
        assert_eq!(
            known.key.revoked_at, stored.key.revoked_at,
            "after {polls} polls"
        );
        if stored.key.revoked_at.is_some() {
            return;
        }
    }
    panic!("it was never revoked");
}

#[tokio::test]
async fn a_database_in_memory_outlives_callers_that_go_away() {
    let backend = SqliteBackend::in_memory().await.unwrap();
    let id = "3fK9aB0000zzZZ19".parse().unwrap();
    for _ in 0..10 {
        for polls in 1..4 {
            let mut finding = Box::pin(backend.find(id));
            let waker = std::task::Waker::noop();
            let mut context = std::task::Context::from_waker(waker);
            for _ in 0..polls {
                if finding.as_mut().poll(&mut context).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(finding);
            // For the connection to be closed, if it is.
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            assert!(backend.find(id).await.unwrap().is_none());
        }
    }
}

//! The SQLite backend, with databases in files and in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::{Timestamp, ToSpan};
#[cfg(feature = "recoverable")]
use keytally::KeyId;
use keytally::backend::{BackendError, SqlName, SqliteBackend};
use keytally::conformance;
use keytally::key::{
    Actor, CachedStore, Issuer, KeyAdmin, KeyStatus, KeyStore, NewKey, StoreError,
};
use keytally::usage::{
    Batch, Count, LogFilter, LogQuery, ReadError, Recorder, SinkError, SummaryQuery, SummarySpec,
    UsageEvent, UsageRange, UsageReader, UsageSink,
};
use proptest::prelude::*;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Row, SqlitePool};

use crate::answers;
use crate::checks;
use crate::children;

use checks::Backend;
use children::{Process, some};

/// A temporary directory that is removed on drop.
struct TempDir(PathBuf);

impl TempDir {
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

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn open(path: &Path) -> SqliteBackend {
    let backend = SqliteBackend::open(path).await.unwrap();
    backend.migrate().await.unwrap();
    backend
}

/// The application's own pool for the same file.
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
async fn application_pool_with_prefix_passes_as_trait_object() {
    let dir = TempDir::new();
    let backend = SqliteBackend::from_pool(pool(&dir.file()).await)
        .with_table_prefix(SqlName::new("gateway_").unwrap());
    backend.migrate().await.unwrap();
    let shared: Arc<dyn Backend> = Arc::new(backend.clone());
    conformance::backend(&shared).await;
    let keys: Arc<dyn KeyAdmin> = Arc::new(backend);
    conformance::key_admin(&CachedStore::new(keys)).await;
}

#[tokio::test]
#[ignore = "slow: scripts/test --all runs it"]
async fn concurrent_suites_pass() {
    let dir = TempDir::new();
    let backend = open(&dir.file()).await;
    tokio::join!(
        conformance::backend(&backend),
        conformance::backend(&backend)
    );
}

#[tokio::test]
async fn in_memory_store_passes() {
    let backend = SqliteBackend::in_memory().await.unwrap();
    conformance::key_admin(&backend).await;
}

#[tokio::test]
async fn data_survives_reopening_the_file() {
    let dir = TempDir::new();
    let backend = open(&dir.file()).await;
    let issuer = Issuer::new("test").unwrap();
    let issued = issuer.issue(
        &backend,
        NewKey::new("Kept").owner("customer-17"),
        Actor::SYSTEM,
    );
    let issued = issued.await.unwrap();
    let mut event = UsageEvent::new(Timestamp::now());
    event.key = Some(issued.key.id);
    event.owner = issued.key.owner.clone();
    let batch = Batch::new(vec![event.clone()]);
    backend.write(&batch).await.unwrap();
    drop(backend);

    let backend = open(&dir.file()).await;
    let record = backend.find(issued.key.id).await.unwrap().unwrap();
    assert_eq!(record.key.last_accepted_at, Some(event.time));
    let page = backend.requests(&LogQuery::default()).await.unwrap();
    assert_eq!(page.items, [event]);
    // The recorder may retry a batch whose acknowledgement was lost.
    backend.write(&batch).await.unwrap();
    let summary = backend.summary(&SummaryQuery::default()).await.unwrap();
    assert_eq!(summary.totals.total(), 1);
    // No file contains any part of the secret beyond its hint.
    backend.revoke(issued.key.id, Actor::SYSTEM).await.unwrap();
    drop(backend);
    for entry in std::fs::read_dir(&dir.0).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let secret = &issued.secret.expose().as_bytes()[issued.secret.expose().len() - 38..];
        assert!(!bytes.windows(secret.len()).any(|part| part == secret));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn new_files_are_accessible_to_their_owner_only() {
    use std::fs::{Permissions, metadata, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use keytally::backend::SqliteSpool;

    let dir = TempDir::new();
    let mode = |name: &str| metadata(dir.0.join(name)).unwrap().permissions().mode() & 0o777;
    let backend = open(&dir.file()).await;
    let spool = dir.0.join("spool.db");
    let _spool = SqliteSpool::open(&spool).await.unwrap();
    for name in ["keys.db", "keys.db-wal", "keys.db-shm", "spool.db"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    drop(backend);
    // An existing file keeps its permissions.
    set_permissions(dir.file(), Permissions::from_mode(0o640)).unwrap();
    open(&dir.file()).await;
    assert_eq!(mode("keys.db"), 0o640);
}

#[tokio::test]
async fn change_invalidates_the_caches_of_all_clones_immediately() {
    let dir = TempDir::new();
    let backend = open(&dir.file()).await;
    let issuer = Issuer::new("test").unwrap();
    let issued = issuer.issue(&backend, NewKey::new("Revoked"), Actor::SYSTEM);
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
    backend.clone().revoke(id, Actor::SYSTEM).await.unwrap();
    assert_eq!(status().await, KeyStatus::Revoked);
}

/// Each switches the file to write-ahead mode.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn concurrent_first_opens_succeed() {
    for _ in 0..50 {
        let dir = TempDir::new();
        let opens: Vec<_> = (0..8)
            .map(|_| {
                let path = dir.file();
                tokio::spawn(async move { SqliteBackend::open(&path).await.map(drop) })
            })
            .collect();
        for open in opens {
            open.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn concurrent_migrations_apply_once_and_keep_application_tables() {
    let dir = TempDir::new();
    let db = pool(&dir.file()).await;
    let tables =
        "CREATE TABLE _sqlx_migrations (version INTEGER); INSERT INTO _sqlx_migrations VALUES (7)";
    sqlx::raw_sql(tables).execute(&db).await.unwrap();
    let runs: Vec<_> = (0..10)
        .map(|_| {
            let path = dir.file();
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
    assert_eq!(number(&db, steps).await, 4);
    assert_eq!(number(&db, "SELECT version FROM _sqlx_migrations").await, 7);
}

#[tokio::test]
async fn non_utf8_database_encoding_is_an_error() {
    let dir = TempDir::new();
    let db = pool(&dir.file()).await;
    let sql = "PRAGMA encoding = 'UTF-16le'; CREATE TABLE own (name TEXT)";
    sqlx::raw_sql(sql).execute(&db).await.unwrap();
    let backend = SqliteBackend::open(dir.file()).await.unwrap();
    let error = backend.migrate().await.unwrap_err();
    assert!(
        matches!(&error, BackendError::Encoding(it) if it == "UTF-16le"),
        "{error}"
    );
    assert_eq!(number(&db, "SELECT count(*) FROM sqlite_schema").await, 1);
}

#[tokio::test]
async fn newer_or_altered_schema_is_an_error() {
    let dir = TempDir::new();
    let backend = open(&dir.file()).await;
    let db = pool(&dir.file()).await;
    let sql = "INSERT INTO keytally_migrations VALUES (9, 'of the future', 'x', 0)";
    sqlx::query(sql).execute(&db).await.unwrap();
    let error = backend.migrate().await.unwrap_err();
    assert!(
        matches!(error, BackendError::NewerSchema { found: 9, known: 4 }),
        "{error}"
    );
    sqlx::raw_sql("DELETE FROM keytally_migrations WHERE version = 9; UPDATE keytally_migrations SET checksum = 'x'")
        .execute(&db)
        .await
        .unwrap();
    let error = backend.migrate().await.unwrap_err();
    assert!(
        matches!(error, BackendError::MigrationMismatch { version: 1 }),
        "{error}"
    );
}

/// The error from opening or migrating an unusable file.
async fn open_error(path: &Path) -> BackendError {
    match SqliteBackend::open(path).await {
        Ok(backend) => backend.migrate().await.expect_err("an error"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn unusable_files_and_invalid_prefixes_are_errors() {
    let dir = TempDir::new();
    std::fs::write(dir.file(), "not a database ".repeat(1_000)).unwrap();
    let error = open_error(&dir.file()).await;
    assert!(matches!(error, BackendError::Corrupt(_)), "{error:?}");
    for path in [dir.0.join("no/such/folder/keys.db"), dir.0.clone()] {
        let error = open_error(&path).await;
        assert!(matches!(error, BackendError::Unavailable(_)), "{error:?}");
    }
}

#[tokio::test]
async fn damaged_file_returns_errors_without_panicking() {
    let dir = TempDir::new();
    let backend = open(&dir.file()).await;
    let keys = checks::keys(&backend, 20).await;
    let events = (0..3_000).map(|n| checks::event(&keys, n)).collect();
    backend.write(&Batch::new(events)).await.unwrap();
    // Checkpoint, so that the main file holds all data.
    let db = pool(&dir.file()).await;
    drop(backend);
    sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(&db)
        .await
        .unwrap();
    db.close().await;
    let intact = std::fs::read(dir.file()).unwrap();
    let damaged = |pages: std::ops::Range<usize>| {
        let mut bytes = intact.clone();
        bytes[pages.start * 4_096..pages.end * 4_096].fill(0xAA);
        let path = dir.0.join(format!("damaged-{}.db", pages.start));
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let pages = intact.len() / 4_096;
    assert!(pages > 60, "{pages}");
    let error = open_error(&damaged(1..pages)).await;
    assert!(matches!(error, BackendError::Corrupt(_)), "{error:?}");

    // Wherever the damage is, a query succeeds or fails with a generic error.
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
                Ok(record) => assert_eq!(record.unwrap().key.id, key),
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
async fn read_only_file_serves_reads_and_fails_writes() {
    let dir = TempDir::new();
    let backend = open(&dir.file()).await;
    let keys = checks::keys(&backend, 1).await;
    let options = SqliteConnectOptions::new()
        .filename(dir.file())
        .read_only(true);
    let pool = SqlitePoolOptions::new()
        .connect_with(options)
        .await
        .unwrap();
    let read_only = SqliteBackend::from_pool(pool);
    // The schema is up to date, so that migrating writes nothing.
    read_only.migrate().await.unwrap();
    let other = read_only
        .clone()
        .with_table_prefix(SqlName::new("other_").unwrap());
    let error = other.migrate().await.unwrap_err();
    assert!(
        matches!(error, BackendError::PermissionDenied(_)),
        "{error:?}"
    );
    assert!(read_only.find(keys[0]).await.unwrap().is_some());
    let error = read_only.revoke(keys[0], Actor::SYSTEM).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)));
    let batch = Batch::new(vec![UsageEvent::new(Timestamp::now())]);
    let error = read_only.write(&batch).await.unwrap_err();
    assert!(matches!(error, SinkError::Unavailable(_)));
}

mod confined_backend_errors {
    use super::*;

    #[tokio::test]
    async fn errors_reveal_nothing_about_the_database() {
        let dir = TempDir::new();
        let bare = SqliteBackend::open(dir.file()).await.unwrap();
        checks::errors_say_nothing_of_the_database(&bare).await;
    }
}

#[tokio::test]
async fn views_return_written_events() {
    let dir = TempDir::new();
    let backend = open(&dir.file()).await;
    let db = pool(&dir.file()).await;
    let batch = Batch::new(vec![UsageEvent::new(Timestamp::now() - 2.minutes())]);
    backend.write(&batch).await.unwrap();
    backend.merge_rollups().await.unwrap();
    for view in ["request_log", "usage_by_minute", "usage_by_hour"] {
        let rows = format!("SELECT count(*) FROM keytally_{view} WHERE method = 'GET'");
        assert_eq!(number(&db, &rows).await, 1, "{view}");
    }
}

/// The definitions of all tables, indexes and views with this prefix, and the applied migrations.
async fn schema_of(pool: &SqlitePool, prefix: &str) -> Vec<String> {
    let steps = format!("SELECT 'step ' || version || ' ' || checksum FROM {prefix}migrations");
    let sql = format!(
        "SELECT replace(coalesce(sql, name), '{prefix}', '') AS line FROM sqlite_schema
        WHERE substr(tbl_name, 1, length('{prefix}')) = '{prefix}' UNION ALL {steps} ORDER BY 1"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(pool).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn killing_a_process_during_migration_leaves_no_partial_schema() {
    let dir = TempDir::new();
    let path = dir.file();
    let complete = SqliteBackend::open(&path).await.unwrap();
    let complete = complete.with_table_prefix(SqlName::new("whole_").unwrap());
    complete.migrate().await.unwrap();
    let expected = schema_of(&pool(&path).await, "whole_").await;
    assert!(expected.len() > 20, "{expected:?}");
    // Several processes at once, each with a file of its own.
    let children = [(); 10].map(|()| {
        let dir = TempDir::new();
        let file = dir.file();
        let variables = [
            ("KEYTALLY_TEST_URL", file.to_str().unwrap()),
            ("KEYTALLY_TEST_FIRST", "0"),
        ];
        let child = Process::start("migrate_until_killed", &variables);
        (dir, child)
    });
    let killed = children.map(|(dir, child)| {
        let first = child.wait_for("begins ");
        std::thread::sleep(some(std::time::Duration::from_millis(60)));
        (dir, first, child.kill())
    });
    for (dir, first, lines) in killed {
        let mut started = lines.iter().filter_map(|line| line.strip_prefix("begins "));
        let last = started.next_back().unwrap_or(&first);
        let prefix = format!("t{last}_");
        let again = SqliteBackend::open(&dir.file()).await.unwrap();
        let again = again.with_table_prefix(SqlName::new(&prefix).unwrap());
        again.migrate().await.unwrap();
        assert_eq!(schema_of(&pool(&dir.file()).await, &prefix).await, expected);
    }
}

mod batches_count_once {
    use super::*;

    #[tokio::test]
    async fn failed_batch_is_rolled_back_completely() {
        let dir = TempDir::new();
        let backend = open(&dir.file()).await;
        let db = pool(&dir.file()).await;
        let fail = "CREATE TRIGGER fail BEFORE INSERT ON keytally_rollup_records BEGIN SELECT raise(ABORT, 'no'); END";
        sqlx::query(fail).execute(&db).await.unwrap();
        let events = (0..200)
            .map(|_| UsageEvent::new(Timestamp::now()))
            .collect();
        let batch = Batch::new(events);
        backend.write(&batch).await.unwrap_err();
        for table in ["requests", "rollup_records", "batches"] {
            let rows = number(&db, &format!("SELECT count(*) FROM keytally_{table}")).await;
            assert_eq!(rows, 0, "{table}");
        }
        sqlx::query("DROP TRIGGER fail").execute(&db).await.unwrap();
        for _ in 0..2 {
            backend.write(&batch).await.unwrap();
        }
        assert_eq!(
            number(&db, "SELECT count(*) FROM keytally_requests").await,
            200
        );
        let all = SummaryQuery::new(UsageRange::new(), SummarySpec::new());
        assert_eq!(backend.summary(&all).await.unwrap().totals.total(), 200);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn batch_written_concurrently_counts_once() {
        let dir = TempDir::new();
        let (one, two) = (open(&dir.file()).await, open(&dir.file()).await);
        checks::a_batch_from_two_at_once_counts_once(&one, &two).await;
    }
}

mod complete_accounting {
    use super::*;

    #[tokio::test]
    async fn recorder_writes_every_accepted_event() {
        let dir = TempDir::new();
        let backend = open(&dir.file()).await;
        let recorder = Recorder::new(backend.clone());
        let issuer = Issuer::new("test").unwrap();
        let issued = issuer.issue(&backend, NewKey::new("Busy"), Actor::SYSTEM);
        let issued = issued.await.unwrap();
        let layer = keytally::ApiKeyLayer::new(backend.clone()).recorder(recorder.clone());
        let service = tower::ServiceBuilder::new().layer(layer).service_fn(
            async |_: http::Request<String>| {
                Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
            },
        );
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
}

#[tokio::test]
async fn reveal_fails_when_its_audit_entry_cannot_be_written() {
    let dir = TempDir::new();
    let backend = open(&dir.file()).await;
    let db = pool(&dir.file()).await;
    let id = checks::recoverable(&backend, b"sealed").await;
    let rename = |from, to| {
        let sql = format!("ALTER TABLE keytally_{from} RENAME TO keytally_{to}");
        let db = db.clone();
        async move {
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&db)
                .await
                .unwrap()
        }
    };
    rename("audit_log", "away").await;
    let result = backend.reveal(id, Actor::SYSTEM).await;
    assert!(matches!(result, Err(StoreError::Unavailable(_))));
    rename("away", "audit_log").await;
    assert_eq!(checks::readings(&backend, id).await, 0);
    assert!(backend.reveal(id, Actor::SYSTEM).await.unwrap().is_some());
    assert_eq!(checks::readings(&backend, id).await, 1);
}

mod secret_confidentiality {
    use super::*;

    #[cfg(feature = "recoverable")]
    #[tokio::test]
    async fn secrets_are_stored_encrypted_and_removed_with_their_key() {
        let dir = TempDir::new();
        let backend = open(&dir.file()).await;
        let vault = keytally::key::Vault::new([1; 32]);
        let issuer = Issuer::new("test").unwrap().vault(vault);
        let mut secrets = Vec::new();
        for _ in 0..3 {
            let new = NewKey::new("Recoverable").recoverable();
            let issued = issuer.issue(&backend, new, Actor::SYSTEM).await.unwrap();
            let secret = issuer
                .reveal(&backend, issued.key.id, Actor::SYSTEM)
                .await
                .unwrap();
            assert_eq!(secret.as_ref(), Some(&issued.secret));
            secrets.push(issued.secret);
        }
        let db = pool(&dir.file()).await;
        let stored = "SELECT count(encrypted_secret) FROM keytally_keys";
        assert_eq!(number(&db, stored).await, 3);
        backend
            .revoke(secrets[0].id(), Actor::SYSTEM)
            .await
            .unwrap();
        assert_eq!(number(&db, stored).await, 2);
        backend
            .delete(secrets[1].id(), Actor::SYSTEM)
            .await
            .unwrap();
        assert_eq!(number(&db, stored).await, 1);
        for entry in std::fs::read_dir(&dir.0).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            for secret in &secrets {
                // The part after the prefix and the id.
                let private = &secret.expose().as_bytes()["test_".len() + KeyId::LEN..];
                assert!(!bytes.windows(private.len()).any(|part| part == private));
            }
        }
    }
}

#[tokio::test]
async fn log_count_is_capped_at_ten_thousand() {
    let backend = SqliteBackend::in_memory().await.unwrap();
    for events in [9_999, 1, 1] {
        let events = (0..events)
            .map(|_| UsageEvent::new(Timestamp::now()))
            .collect();
        backend.write(&Batch::new(events)).await.unwrap();
    }
    let count = backend.count(&LogFilter::new()).await.unwrap();
    assert_eq!(count, Count::MoreThan(10_000));
    let unknown_owner = LogFilter::new().owner("nobody");
    assert_eq!(
        backend.count(&unknown_owner).await.unwrap(),
        Count::Exactly(0)
    );
}

#[tokio::test]
async fn edge_case_values_round_trip_or_match_nothing() {
    let backend = SqliteBackend::in_memory().await.unwrap();
    checks::odd_values_are_kept_or_find_nothing(&backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_lose_no_events() {
    let dir = TempDir::new();
    let mut writers = Vec::new();
    for _ in 0..8 {
        writers.push(open(&dir.file()).await);
    }
    checks::many_writers_add_up(writers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poller_reads_every_event_exactly_once() {
    let dir = TempDir::new();
    let mut writers = Vec::new();
    for _ in 0..4 {
        writers.push(open(&dir.file()).await);
    }
    checks::a_poller_reads_every_event_once(writers).await;
}

#[tokio::test]
async fn last_accepted_at_is_capped_at_the_current_time() {
    let dir = TempDir::new();
    let path = dir.file();
    let backends = [open(&path).await, open(&path).await, open(&path).await];
    checks::a_clock_that_is_ahead_is_not_followed(backends).await;
}

mod backend_equivalence {
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// For any events and queries, SQLite returns what the pure functions compute.
        #[test]
        fn query_results_equal_the_pure_functions(case in answers::case()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let backend = SqliteBackend::in_memory().await.unwrap();
                answers::answers_equal_the_pure_functions(&backend, &case).await
            })?;
        }
    }
}

#[tokio::test]
async fn killed_writer_leaves_only_complete_batches() {
    let dir = TempDir::new();
    let file = dir.file();
    let mut confirmed = 0;
    for round in 0..20_u64 {
        let variables = [("KEYTALLY_TEST_URL", file.to_str().unwrap())];
        let child = Process::start("write_until_killed", &variables);
        // Kill it at various moments: before the schema exists, or in the middle of a batch.
        std::thread::sleep(std::time::Duration::from_millis(round * 37 % 150));
        let lines = child.kill();
        let numbers = lines
            .iter()
            .filter_map(|line| line.strip_prefix("written "));
        confirmed += numbers
            .map(|n| n.parse::<i64>().unwrap())
            .next_back()
            .unwrap_or(0);

        let backend = open(&dir.file()).await;
        let db = pool(&dir.file()).await;
        let logged = number(&db, "SELECT count(*) FROM keytally_requests").await;
        // At most one batch was committed without being reported.
        assert!(
            (confirmed..=confirmed + 50).contains(&logged),
            "{logged} logged, {confirmed} confirmed"
        );
        let batches = number(&db, "SELECT count(*) FROM keytally_batches").await;
        assert_eq!(logged, batches * 50);
        let summary = backend.summary(&SummaryQuery::default()).await.unwrap();
        assert_eq!(summary.totals.total(), logged as u64);
        confirmed = logged;
    }
    assert!(confirmed > 0);
}

mod prompt_revocation {
    use super::*;

    #[tokio::test]
    async fn cancelled_revocation_leaves_no_stale_cache_entry() {
        let backend = SqliteBackend::in_memory().await.unwrap();
        let issuer = Issuer::new("test").unwrap();
        let issued = issuer
            .issue(&backend, NewKey::new("Revoked"), Actor::SYSTEM)
            .await;
        let id = issued.unwrap().key.id;
        let cached = CachedStore::new(backend.clone());
        // However far the revocation gets before it is cancelled, the cache agrees with the store.
        for polls in 1..200 {
            cached.find(id).await.unwrap();
            let mut revoking = Box::pin(backend.revoke(id, Actor::SYSTEM));
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
            let seen = cached.find(id).await.unwrap().unwrap();
            assert_eq!(
                seen.key.revoked_at, stored.key.revoked_at,
                "after {polls} polls"
            );
            if stored.key.revoked_at.is_some() {
                return;
            }
        }
        panic!("the key was never revoked");
    }
}

#[tokio::test]
async fn in_memory_database_survives_cancelled_calls() {
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
            // Give the pool time to close the connection, if it does.
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            assert!(backend.find(id).await.unwrap().is_none());
        }
    }
}

#[tokio::test]
async fn replaced_database_does_not_reuse_cached_numbers() {
    let dir = TempDir::new();
    let backend = open(&dir.file()).await;
    let db = pool(&dir.file()).await;
    let execute = async |sql: &str| {
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&db).await;
        done.unwrap();
    };
    let number = async |sql: &str| number(&db, sql).await;
    checks::restored_database_does_not_reuse_cached_numbers(&backend, execute, number).await;
}

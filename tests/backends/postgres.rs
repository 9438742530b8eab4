//! The PostgreSQL backend, against a real server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use keytally::async_trait;
use keytally::backend::{BackendError, PostgresBackend, Retention, SqlName};
use keytally::conformance;
use keytally::key::{
    Actor, CacheConfig, CachedStore, Issuer, KeyAdmin, KeyStore, NewKey, StoreError,
};
use keytally::usage::{
    Batch, Cause, LogFilter, LogQuery, Method, Outcome, Recorder, RejectionReason, SinkError,
    Status, SummaryQuery, SummarySpec, UsageEvent, UsageRange, UsageReader, UsageSink,
};
use keytally::{ApiKeyLayer, KeyId};
use proptest::prelude::*;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool, Row};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::answers;
use crate::checks;
use crate::children;
use crate::postgres_server as support;
use crate::service;

use checks::Backend;
use children::{Process, some};
use service::{Service, issue, logged_once};
use support::{Cluster, backend, database, number, pool};

async fn connect(url: &str) -> PostgresBackend {
    PostgresBackend::connect(url).await.unwrap()
}

async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(pool)
        .await
        .unwrap();
}

async fn texts(pool: &PgPool, sql: &str) -> Vec<String> {
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(pool).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
#[ignore = "slow: scripts/test --all runs it"]
async fn concurrent_suites_pass() {
    let (backend, _) = backend().await;
    tokio::join!(
        conformance::backend(&backend),
        conformance::backend(&backend)
    );
}

#[tokio::test]
async fn application_pool_with_schema_and_prefix_passes_as_trait_object() {
    let url = database().await;
    let db = pool(&url).await;
    let backend = PostgresBackend::from_pool(db.clone())
        .with_schema(SqlName::new("gateway").unwrap())
        .with_table_prefix(SqlName::new("api_").unwrap());
    backend.migrate().await.unwrap();
    let shared: Arc<dyn Backend> = Arc::new(backend.clone());
    conformance::backend(&shared).await;
    let keys: Arc<dyn KeyAdmin> = Arc::new(backend);
    conformance::key_admin(&CachedStore::new(keys)).await;
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(number(&db, tables).await, 0);
}

// --- The schema ---------------------------------------------------------------------------------

#[tokio::test]
async fn concurrent_migrations_apply_once_and_keep_application_tables() {
    for schema in [None, Some("gateway"), None] {
        let url = database().await;
        let db = pool(&url).await;
        let tables = "CREATE TABLE _sqlx_migrations (version bigint);
            INSERT INTO _sqlx_migrations VALUES (7)";
        run(&db, tables).await;
        let runs: Vec<_> = (0..10)
            .map(|_| {
                let url = url.clone();
                tokio::spawn(async move {
                    for _ in 0..3 {
                        let backend = connect(&url).await;
                        let backend = match schema {
                            Some(schema) => backend.with_schema(SqlName::new(schema).unwrap()),
                            None => backend,
                        };
                        backend.migrate().await.unwrap();
                    }
                })
            })
            .collect();
        for run in runs {
            run.await.unwrap();
        }
        let schema = schema.unwrap_or("public");
        let steps = format!("SELECT count(*) FROM {schema}.keytally_migrations");
        assert_eq!(number(&db, &steps).await, 4);
        let application = "SELECT version FROM _sqlx_migrations";
        assert_eq!(number(&db, application).await, 7);
    }
}

/// All columns with their comments, indexes and views with this prefix, and the applied migrations.
async fn schema_of(pool: &PgPool, prefix: &str) -> Vec<String> {
    let sql = format!(
        "SELECT replace(line, '{prefix}', '') AS line FROM (
            SELECT format('%s.%s %s %s %s', c.relname, a.attname,
                format_type(a.atttypid, a.atttypmod), a.attnotnull,
                col_description(c.oid, a.attnum)) AS line
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
            WHERE starts_with(c.relname, '{prefix}')
            UNION ALL SELECT indexdef FROM pg_indexes WHERE starts_with(tablename, '{prefix}')
            UNION ALL SELECT definition FROM pg_views WHERE starts_with(viewname, '{prefix}')
            UNION ALL SELECT 'step ' || (query_to_xml('SELECT version, checksum FROM {prefix}migrations',
                false, false, ''))::text
        ) AS lines ORDER BY 1"
    );
    texts(pool, &sql).await
}

#[tokio::test]
async fn killing_a_process_during_migration_leaves_no_partial_schema() {
    let url = database().await;
    let (db, backend) = (pool(&url).await, connect(&url).await);
    let complete = backend
        .clone()
        .with_table_prefix(SqlName::new("whole_").unwrap());
    complete.migrate().await.unwrap();
    let expected = schema_of(&db, "whole_").await;
    assert!(expected.len() > 80, "{expected:?}");
    // Several processes at once, with distinct prefixes, since the critical moments are short.
    let children = std::array::from_fn::<_, 6, _>(|n| {
        let first = n * 1_000;
        let variables = [
            ("KEYTALLY_TEST_URL", &*url),
            ("KEYTALLY_TEST_FIRST", &*first.to_string()),
        ];
        let child = Process::start("migrate_until_killed", &variables);
        (first, child)
    });
    let killed = children.map(|(first, child)| {
        child.wait_for("begins ");
        std::thread::sleep(some(Duration::from_millis(60)));
        (first, child.kill())
    });
    for (first, lines) in killed {
        let started = lines.iter().filter_map(|line| line.strip_prefix("begins "));
        let last = started
            .map(|n| n.parse().unwrap())
            .next_back()
            .unwrap_or(first);
        let prefix = format!("t{last}_");
        let again = backend
            .clone()
            .with_table_prefix(SqlName::new(&prefix).unwrap());
        again.migrate().await.unwrap();
        assert_eq!(schema_of(&db, &prefix).await, expected);
    }
}

#[tokio::test]
async fn newer_or_altered_schema_is_an_error() {
    let (backend, url) = backend().await;
    let db = pool(&url).await;
    let newer = "INSERT INTO keytally_migrations VALUES (9, 'of the future', 'x', now())";
    run(&db, newer).await;
    let error = backend.migrate().await.unwrap_err();
    assert!(
        matches!(error, BackendError::NewerSchema { found: 9, known: 4 }),
        "{error}"
    );
    let other = "DELETE FROM keytally_migrations WHERE version = 9;
        UPDATE keytally_migrations SET checksum = 'x'";
    run(&db, other).await;
    let error = backend.migrate().await.unwrap_err();
    assert!(
        matches!(error, BackendError::MigrationMismatch { version: 1 }),
        "{error}"
    );
}

#[tokio::test]
async fn tables_in_other_schemas_on_the_search_path_are_ignored() {
    let url = database().await;
    let db = pool(&url).await;
    run(&db, "CREATE SCHEMA first; CREATE SCHEMA other").await;
    let other = connect(&url)
        .await
        .with_schema(SqlName::new("other").unwrap());
    other.migrate().await.unwrap();
    let first = connect(&format!("{url}&options=-csearch_path%3Dfirst%2Cother")).await;
    first.migrate().await.unwrap();
    let steps = "SELECT count(*) FROM first.keytally_migrations";
    assert_eq!(number(&db, steps).await, 4);
    let batch = Batch::new(vec![UsageEvent::new(Timestamp::now())]);
    first.write(&batch).await.unwrap();
    let rows = "SELECT count(*) FROM first.keytally_requests";
    assert_eq!(number(&db, rows).await, 1);
}

#[tokio::test]
async fn views_return_written_events_and_every_column_has_a_comment() {
    let (backend, url) = backend().await;
    let db = pool(&url).await;
    let batch = Batch::new(vec![UsageEvent::new(Timestamp::now() - 2.minutes())]);
    backend.write(&batch).await.unwrap();
    backend.merge_rollups().await.unwrap();
    for view in ["request_log", "usage_by_minute", "usage_by_hour"] {
        let rows = format!("SELECT count(*) FROM keytally_{view} WHERE method = 'GET'");
        assert_eq!(number(&db, &rows).await, 1, "{view}");
    }
    let by_wire_id = format!(
        "SELECT count(*) FROM keytally_request_log WHERE request_id = '{}'",
        batch.events()[0].id
    );
    assert_eq!(number(&db, &by_wire_id).await, 1);
    let uncommented = "SELECT c.relname || coalesce('.' || a.attname, '') FROM pg_class c
        LEFT JOIN LATERAL (SELECT a.attname, a.attnum FROM pg_attribute a
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND c.relkind <> 'v'
            UNION ALL SELECT NULL, 0) a ON true
        WHERE starts_with(c.relname, 'keytally_') AND c.relkind IN ('r', 'p', 'v')
            AND NOT c.relispartition
            AND coalesce(CASE a.attnum WHEN 0 THEN obj_description(c.oid, 'pg_class')
                ELSE col_description(c.oid, a.attnum) END, '') = ''
        ORDER BY 1";
    assert_eq!(
        texts(&db, uncommented).await,
        [""; 0],
        "these lack a comment"
    );
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn postgres_and_sqlite_have_the_same_tables_and_columns() {
    let (_, url) = backend().await;
    let of_postgres = "SELECT format('%s.%s', c.relname, a.attname) FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE starts_with(c.relname, 'keytally_') AND c.relkind IN ('r', 'p', 'v')
            AND NOT c.relispartition";
    let of_postgres = texts(&pool(&url).await, of_postgres).await;
    let mut of_postgres: BTreeSet<_> = of_postgres.into_iter().collect();
    let db = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let db = db.connect("sqlite::memory:").await.unwrap();
    let sqlite = keytally::backend::SqliteBackend::from_pool(db.clone());
    sqlite.migrate().await.unwrap();
    let of_sqlite =
        "SELECT m.name || '.' || c.name FROM sqlite_schema m, pragma_table_info(m.name) c
        WHERE m.type IN ('table', 'view') AND m.name LIKE 'keytally%'";
    let rows = sqlx::query(of_sqlite).fetch_all(&db).await.unwrap();
    let mut of_sqlite: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    // The row id, to which indexes refer; in PostgreSQL, it is built in.
    assert!(of_sqlite.remove("keytally_requests.row"));
    // Only in PostgreSQL: the order in which batches were recorded.
    assert!(of_postgres.remove("keytally_requests.batch"));
    assert!(of_postgres.remove("keytally_batches.number"));
    of_postgres.retain(|name| !name.starts_with("keytally_log_batches."));
    // SQLite stores integers in as few bytes as they need.
    for large in ["large_latency_us", "large_response_bytes"] {
        assert!(of_postgres.remove(&format!("keytally_requests.{large}")));
    }
    // SQLite cannot decode records.
    of_postgres.retain(|name| !name.starts_with("keytally_unmerged_usage_by_minute."));
    assert_eq!(of_postgres, of_sqlite);
}

// --- Writing ------------------------------------------------------------------------------------

mod batches_count_once {
    use super::*;

    #[tokio::test]
    async fn failed_batch_is_rolled_back_completely() {
        let (backend, url) = backend().await;
        let db = pool(&url).await;
        let fail = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'no'; END $$;
            CREATE TRIGGER fail BEFORE INSERT ON keytally_rollup_records
                FOR EACH ROW EXECUTE FUNCTION fail()";
        run(&db, fail).await;
        let events = (0..200)
            .map(|_| UsageEvent::new(Timestamp::now()))
            .collect();
        let batch = Batch::new(events);
        let error = backend.write(&batch).await.unwrap_err();
        assert!(matches!(error, SinkError::Unavailable(_)));
        for table in ["requests", "rollup_records", "batches", "log_segments"] {
            let rows = number(&db, &format!("SELECT count(*) FROM keytally_{table}")).await;
            assert_eq!(rows, 0, "{table}");
        }
        run(&db, "DROP TRIGGER fail ON keytally_rollup_records").await;
        for _ in 0..2 {
            backend.write(&batch).await.unwrap();
        }
        assert_eq!(logged_once(&backend).await.len(), 200);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn batch_written_concurrently_counts_once() {
        let (backend, url) = backend().await;
        checks::a_batch_from_two_at_once_counts_once(&backend, &connect(&url).await).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn terminated_sessions_neither_lose_nor_duplicate_events() {
        let (backend, url) = backend().await;
        let issued = issue(&backend, "Busy").await;
        let sink = LosesAcknowledgements(connect(&url).await, AtomicU64::new(0));
        let recorder = Recorder::builder(sink)
            .batch_size(64)
            .batch_age(Duration::from_millis(5))
            .backoff(Duration::from_millis(1), Duration::from_millis(20))
            .start();
        let store = backend.clone().without_notifications();
        let cache = CacheConfig::new().ttl(Duration::from_secs(3_600));
        let layer = ApiKeyLayer::new(store)
            .cache(cache)
            .recorder(recorder.clone());
        let service = Service::behind(layer);
        let mut request_ids = BTreeSet::new();
        let (status, id) = service.ask(issued.secret.expose()).await;
        assert_eq!(status, 200);
        request_ids.insert(id);

        let stop = Arc::new(AtomicBool::new(false));
        let terminated = Arc::new(AtomicI64::new(0));
        let terminating = tokio::spawn({
            let (stop, terminated, url) = (stop.clone(), terminated.clone(), url.clone());
            let recorder = recorder.clone();
            async move {
                let db = pool(&url).await;
                let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid()
                        AND backend_type = 'client backend'";
                while !stop.load(Ordering::Relaxed) {
                    terminated.fetch_add(number(&db, cut).await, Ordering::Relaxed);
                    // Let a batch succeed before the next cut, so that the test ends on a busy machine.
                    let before = recorder.stats().written;
                    let end = tokio::time::Instant::now() + Duration::from_millis(500);
                    while recorder.stats().written == before && tokio::time::Instant::now() < end {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    tokio::time::sleep(some(Duration::from_millis(20))).await;
                }
            }
        });
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        while request_ids.len() < 1_000
            || terminated.load(Ordering::Relaxed) < 10
            || recorder.stats().retries < 10
        {
            let stats = recorder.stats();
            assert!(
                tokio::time::Instant::now() < deadline,
                "{terminated:?} sessions terminated: {stats:?}"
            );
            if stats.queued > 256 {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
            let (status, id) = service.ask(issued.secret.expose()).await;
            assert_eq!(status, 200);
            request_ids.insert(id);
        }
        let report = recorder.shutdown(Duration::from_secs(120)).await;
        stop.store(true, Ordering::Relaxed);
        terminating.await.unwrap();
        let sent = request_ids.len() as u64;
        assert_eq!((report.written, report.lost), (sent, 0));
        assert_eq!(logged_once(&connect(&url).await).await, request_ids);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_neither_deadlock_nor_lose_events() {
    let (_, url) = backend().await;
    let mut writers = Vec::new();
    for _ in 0..8 {
        writers.push(connect(&url).await);
    }
    checks::many_writers_add_up(writers).await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(number(&pool(&url).await, deadlocks).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn poller_reads_every_event_exactly_once() {
    let (_, url) = backend().await;
    let mut writers = Vec::new();
    for _ in 0..6 {
        writers.push(connect(&url).await);
    }
    checks::a_poller_reads_every_event_once(writers).await;
}

#[tokio::test]
async fn last_accepted_at_is_capped_at_the_current_time() {
    let (one, url) = backend().await;
    let backends = [one, connect(&url).await, connect(&url).await];
    checks::a_clock_that_is_ahead_is_not_followed(backends).await;
}

/// A sink that reports an error for every third batch although it has written it.
struct LosesAcknowledgements(PostgresBackend, AtomicU64);

#[async_trait]
impl UsageSink for LosesAcknowledgements {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        self.0.write(batch).await?;
        if self.1.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
            return Err(SinkError::unavailable("the acknowledgement was lost"));
        }
        Ok(())
    }
}

// --- Reading ------------------------------------------------------------------------------------

mod backend_equivalence {
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// For any events and queries, PostgreSQL returns what the pure functions compute.
        #[test]
        fn query_results_equal_the_pure_functions(case in answers::case()) {
            static RUNS: AtomicU64 = AtomicU64::new(0);
            static URL: std::sync::OnceLock<String> = std::sync::OnceLock::new();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                if URL.get().is_none() {
                    let _ = URL.set(database().await);
                }
                let prefix = format!("run{}_", RUNS.fetch_add(1, Ordering::Relaxed));
                let db = PgPoolOptions::new().max_connections(1);
                let db = db.connect(URL.get().unwrap()).await.unwrap();
                let backend = PostgresBackend::from_pool(db).with_table_prefix(SqlName::new(&prefix).unwrap());
                backend.migrate().await.unwrap();
                answers::answers_equal_the_pure_functions(&backend, &case).await
            })?;
        }
    }
}

#[tokio::test]
async fn edge_case_values_round_trip_or_match_nothing() {
    checks::odd_values_are_kept_or_find_nothing(&backend().await.0).await;
}

#[tokio::test]
async fn reveal_fails_when_its_audit_entry_cannot_be_written() {
    let (backend, url) = backend().await;
    let db = pool(&url).await;
    let id = checks::recoverable(&backend, b"sealed").await;
    run(&db, "ALTER TABLE keytally_audit_log RENAME TO away").await;
    let result = backend.reveal(id, Actor::SYSTEM).await;
    assert!(matches!(result, Err(StoreError::Unavailable(_))));
    run(&db, "ALTER TABLE away RENAME TO keytally_audit_log").await;
    assert_eq!(checks::readings(&backend, id).await, 0);
    assert!(backend.reveal(id, Actor::SYSTEM).await.unwrap().is_some());
    assert_eq!(checks::readings(&backend, id).await, 1);
}

#[tokio::test]
async fn revoking_a_key_erases_its_encrypted_secret() {
    let (backend, url) = backend().await;
    let db = pool(&url).await;
    let [first, second] = [
        checks::recoverable(&backend, b"first").await,
        checks::recoverable(&backend, b"second").await,
    ];
    backend.disable(first, Actor::SYSTEM).await.unwrap();
    backend.revoke(second, Actor::SYSTEM).await.unwrap();
    let stored = "SELECT convert_from(encrypted_secret, 'UTF8') FROM keytally_keys WHERE encrypted_secret IS NOT NULL";
    assert_eq!(texts(&db, stored).await, ["first"]);
}

mod confined_backend_errors {
    use super::*;

    #[tokio::test]
    async fn errors_reveal_nothing_about_the_database() {
        let bare = connect(&database().await).await;
        checks::errors_say_nothing_of_the_database(&bare).await;
        let db = PgPoolOptions::new().acquire_timeout(Duration::from_millis(50));
        let unreachable = db.connect_lazy("postgres:///gone?host=/nowhere").unwrap();
        let unreachable = PostgresBackend::from_pool(unreachable);
        checks::errors_say_nothing_of_the_database(&unreachable).await;
    }
}

/// The `n`th of 100,000 requests, spread over two and a half days and many series. Each day has several segments.
fn traffic(keys: &[KeyId], n: usize) -> UsageEvent {
    let time = checks::NOON * 1_000_000 + n as i64 * 5 * 43_200 * 1_000_000 / 100_000;
    let mut event = UsageEvent::new(Timestamp::from_microsecond(time).unwrap());
    let key = n * 7 % keys.len();
    event.key = Some(keys[key]);
    event.owner = Some(format!("owner-{}", key % 10).into());
    event.method = Method::ALL[n / 3 % 4];
    event.endpoint = format!("/v1/{}/{{id}}", n / 11 % 10).into();
    event.status = match n % 101 {
        0 => Status::None,
        1 => Status::Grpc(5),
        2..5 => Status::Http(503),
        5..20 => Status::Http(404),
        _ => Status::Http(200),
    };
    (event.outcome, event.cause) = match n % 103 {
        0 => (Outcome::RateLimited, None),
        _ => Outcome::of(event.status),
    };
    if event.outcome == Outcome::RateLimited {
        event.rejection_reason = Some(RejectionReason::RateLimited);
    }
    event.resource_id = n
        .is_multiple_of(3)
        .then(|| format!("posting-{}", n % 20_000).into());
    event.request_id = n.is_multiple_of(2).then(|| format!("wire-{n}").into());
    event.client_ip = Some([203, 0, 113, (n / 7 % 251) as u8].into());
    event
}

#[tokio::test]
#[ignore = "slow: scripts/test --all runs it"]
async fn every_log_filter_uses_an_index() {
    let (backend, url) = backend().await;
    let db = pool(&url).await;
    let keys: Vec<KeyId> = (0..60)
        .map(|n| format!("{n:016}").parse().unwrap())
        .collect();
    let mut some_id = Uuid::nil();
    for batch in 0..20 {
        let events = (0..5_000).map(|n| traffic(&keys, batch * 5_000 + n));
        let batch = Batch::new(events.collect());
        some_id = batch.events()[2_500].id;
        backend.write(&batch).await.unwrap();
    }
    assert_eq!(
        number(&db, "SELECT count(*) FROM keytally_requests").await,
        100_000
    );
    run(&db, "ANALYZE").await;
    let from = Timestamp::from_second(checks::NOON + 86_400).unwrap();
    let to = Timestamp::from_second(checks::NOON + 90_000).unwrap();
    let text = String::from;
    type Set<'a> = Box<dyn Fn(&mut LogFilter) + 'a>;
    let statuses = |list: &'static str| -> Set<'_> {
        let statuses = list.split(',').map(|it| it.parse().unwrap());
        let statuses: Vec<_> = statuses.collect();
        Box::new(move |it| it.statuses = statuses.clone())
    };
    let fields: Vec<(&str, Set<'_>)> = vec![
        ("key", Box::new(|it| it.key = Some(keys[17]))),
        ("owner", Box::new(|it| it.owner = Some(text("owner-3")))),
        (
            "part of an owner",
            Box::new(|it| it.owner_contains = Some(text("ER-3"))),
        ),
        ("from", Box::new(|it| it.from = Some(from))),
        ("to", Box::new(|it| it.to = Some(to))),
        (
            "hour",
            Box::new(|it| (it.from, it.to) = (Some(from), Some(to))),
        ),
        (
            "completed",
            Box::new(|it| it.outcomes = vec![Outcome::Completed]),
        ),
        (
            "rate limited",
            Box::new(|it| it.outcomes = vec![Outcome::RateLimited]),
        ),
        ("cause", Box::new(|it| it.cause = Some(Cause::ALL[0]))),
        (
            "rejection reason",
            Box::new(|it| it.rejection_reason = Some(RejectionReason::RateLimited)),
        ),
        (
            "methods",
            Box::new(|it| it.methods = Method::ALL[2..4].to_vec()),
        ),
        (
            "unused method",
            Box::new(|it| it.methods = vec![Method::ALL[9]]),
        ),
        (
            "endpoint",
            Box::new(|it| it.endpoint = Some(text("/v1/7/{id}"))),
        ),
        (
            "unknown endpoint",
            Box::new(|it| it.endpoint = Some(text("/v2"))),
        ),
        (
            "part of an endpoint",
            Box::new(|it| it.endpoint_contains = Some(text("V1/7"))),
        ),
        ("200", statuses("200")),
        ("404", statuses("404")),
        ("gRPC 5", statuses("grpc-5")),
        ("no response", statuses("none")),
        ("2xx", statuses("2xx")),
        ("404 and 5xx", statuses("404,5xx")),
        (
            "client",
            Box::new(|it| it.client_ip = Some([203, 0, 113, 7].into())),
        ),
        ("event id", Box::new(|it| it.event_id = Some(some_id))),
        (
            "resource",
            Box::new(|it| it.resource_id = Some(text("posting-300"))),
        ),
        (
            "request",
            Box::new(|it| it.request_id = Some(text("wire-77778"))),
        ),
        (
            "event",
            Box::new(|it| it.request_id = Some(some_id.to_string())),
        ),
        ("all", Box::new(|_| ())),
    ];
    // The server caches a generic plan for a statement that is executed often.
    let mut readers = Vec::new();
    for mode in ["force_custom_plan", "force_generic_plan"] {
        let options = url.parse::<PgConnectOptions>().unwrap();
        let options = options.options([("plan_cache_mode", mode)]);
        let reader = PgPoolOptions::new().max_connections(1);
        let reader = reader.connect_with(options).await.unwrap();
        let backend = PostgresBackend::from_pool(reader.clone()).without_notifications();
        readers.push((backend, reader));
    }
    let mut scanned = Vec::new();
    for (n, (one, set)) in fields.iter().enumerate() {
        for (other, set_other) in &fields[n..] {
            let mut filter = LogFilter::new();
            set(&mut filter);
            set_other(&mut filter);
            let before = scans(&db).await;
            for (backend, pool) in &readers {
                let page = backend.requests(&LogQuery::new(filter.clone())).await;
                let page = page.unwrap();
                if let Some(next) = page.next {
                    let next = LogQuery::new(filter.clone()).after(next);
                    backend.requests(&next).await.unwrap();
                }
                backend.count(&filter).await.unwrap();
                // Makes the statistics of the connection visible.
                run(pool, "SELECT pg_stat_force_next_flush()").await;
                run(pool, "SELECT 1").await;
            }
            let after = scans(&db).await;
            let (scans, rows) = (after.0 - before.0, after.1 - before.1);
            // A client alone has no index, which would take a sixteenth of the log.
            let is_client = [*one, *other].contains(&"client");
            let is_alone = [one, other]
                .iter()
                .all(|it| ["client", "to", "all"].contains(it));
            // Where nearly all requests match, a scan that stops early is the best plan.
            if rows > 10_001 * scans && !(is_client && is_alone) {
                scanned.push(format!("{one} and {other}: {rows} rows in {scans} scans"));
            }
        }
    }
    assert_eq!(scanned, [""; 0], "full scans of the log");
}

/// The number of sequential scans of the log, and of the rows that they read.
async fn scans(pool: &PgPool) -> (i64, i64) {
    let sql = "SELECT sum(seq_scan)::bigint, sum(seq_tup_read)::bigint FROM pg_stat_user_tables
        WHERE relname ~ '^keytally_requests' AND n_live_tup > 0";
    let row = sqlx::query(sql).fetch_one(pool).await.unwrap();
    (row.get(0), row.get(1))
}

// --- Connecting ---------------------------------------------------------------------------------

/// The error from connecting to or migrating an unusable database; it never contains the password.
async fn connect_error(url: &str) -> BackendError {
    let error = match PostgresBackend::connect(url).await {
        Ok(backend) => backend.migrate().await.expect_err(url),
        Err(error) => error,
    };
    let text = checks::all_texts(&error);
    assert!(!text.contains("pa55w0rd"), "{text}");
    error
}

#[tokio::test]
async fn unusable_urls_are_errors() {
    for url in [
        "",
        "not a URL",
        "keys.db",
        "mysql://user:pa55w0rd@localhost/app",
        "https://user:pa55w0rd@localhost/app",
        "postgres://user:pa55w0rd@localhost:port/app",
        "postgres://user:pa55w0rd@[::1/app",
        "postgres://user:pa55w0rd@localhost/app?sslmode=perhaps",
    ] {
        let error = connect_error(url).await;
        assert!(matches!(error, BackendError::Url(_)), "{url}: {error:?}");
    }
}

/// The paused clock skips the timeout of the pool, which repeats failed attempts to connect.
#[tokio::test(start_paused = true)]
async fn error_of_an_unreachable_server_has_the_cause() {
    for url in [
        "postgres://user:pa55w0rd@127.0.0.1:1/app",
        "postgres://user:pa55w0rd@no-such-host.invalid/app",
        "postgres:///app?host=/nowhere&user=user&password=pa55w0rd",
    ] {
        let error = connect_error(url).await;
        assert!(
            matches!(error, BackendError::Unavailable(_)),
            "{url}: {error:?}"
        );
    }
    // Not just the pool's timeout.
    let error = connect_error("postgres://user:pa55w0rd@127.0.0.1:1/app").await;
    let text = checks::all_texts(&error);
    assert!(text.contains("refused"), "{text}");
    assert!(!text.contains("pool timed out"), "{text}");
}

#[tokio::test]
async fn failed_logins_and_missing_privileges_are_access_errors() {
    let start = tokio::task::spawn_blocking(Cluster::start);
    let cluster = start.await.unwrap();
    let url = cluster.database().await;
    let db = pool(&url).await;
    let roles = "CREATE ROLE locked LOGIN PASSWORD 'pa55w0rd-right';
        CREATE ROLE reader LOGIN; CREATE ROLE outside LOGIN;
        REVOKE CREATE ON SCHEMA public FROM PUBLIC";
    run(&db, roles).await;
    cluster.ask_for_password("locked");
    cluster.shut_out("outside");
    run(&db, "SELECT pg_reload_conf()").await;
    let of = |user: &str| url.replace("user=postgres", &format!("user={user}"));
    // The server takes a moment to reload its configuration.
    while PostgresBackend::connect(&of("outside")).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for url in [
        of("locked"),
        format!("{}&password=pa55w0rd-wrong", of("locked")),
        of("outside"),
        of("nobody"),
        of("reader"),
        format!("{}&password=pa55w0rd-right", of("locked")),
    ] {
        let error = connect_error(&url).await;
        assert!(
            matches!(error, BackendError::PermissionDenied(_)),
            "{url}: {error:?}"
        );
    }
    let (before, _) = url.split_once('?').unwrap();
    let missing = url.replace(before, "postgres:///no_such_database");
    let error = connect_error(&missing).await;
    assert!(matches!(error, BackendError::Unavailable(_)), "{error:?}");

    // Where another role has created the tables, table privileges are enough.
    connect(&url).await.migrate().await.unwrap();
    let grant = "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader";
    run(&db, grant).await;
    let reader = connect(&of("reader")).await;
    let id = "3fK9aB0000zzZZ19".parse().unwrap();
    assert!(reader.find(id).await.unwrap().is_none());
    assert!(matches!(
        reader.delete(id, Actor::SYSTEM).await,
        Err(StoreError::NotFound(_) | StoreError::Unavailable(_))
    ));
    let batch = Batch::new(vec![UsageEvent::new(Timestamp::now())]);
    assert!(matches!(
        reader.write(&batch).await,
        Err(SinkError::Unavailable(_))
    ));
}

#[tokio::test]
async fn non_utf8_database_encoding_is_an_error() {
    let url = database().await;
    let name = format!("latin_{}", std::process::id());
    let db = pool(&url).await;
    run(&db, &format!("DROP DATABASE IF EXISTS {name}")).await;
    let make = "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
    run(&db, &format!("CREATE DATABASE {name} {make}")).await;
    let (server, query) = url.split_once('?').unwrap();
    let server = &server[..=server.rfind('/').unwrap()];
    let backend = connect(&format!("{server}{name}?{query}")).await;
    let error = backend.migrate().await.unwrap_err();
    assert!(
        matches!(&error, BackendError::Encoding(it) if it == "LATIN1"),
        "{error:?}"
    );
}

#[tokio::test]
async fn user_without_create_privilege_can_use_existing_tables() {
    let (backend, url) = backend().await;
    let db = pool(&url).await;
    let user = format!("guest_{}", std::process::id());
    for sql in [
        format!("DROP ROLE IF EXISTS {user}"),
        format!("CREATE ROLE {user} LOGIN"),
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC".into(),
        format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}"),
    ] {
        run(&db, &sql).await;
    }
    let guest = connect(&url.replace("user=postgres", &format!("user={user}"))).await;
    guest.migrate().await.unwrap();
    let page = guest.requests(&LogQuery::default()).await.unwrap();
    assert!(page.items.is_empty());
    drop((guest, backend));
    run(&db, &format!("DROP OWNED BY {user}")).await;
    run(&db, &format!("DROP ROLE {user}")).await;
}

#[tokio::test]
async fn batch_ids_expire_by_the_server_clock() {
    let (backend, url) = backend().await;
    let db = pool(&url).await;
    let batch = Batch::new(vec![UsageEvent::new(Timestamp::now())]);
    backend.write(&batch).await.unwrap();
    // From an instance whose clock is a year ahead.
    let ahead =
        "INSERT INTO keytally_batches VALUES (gen_random_uuid(), now() + interval '1 year')";
    run(&db, ahead).await;
    let report = backend.prune(&Retention::new(), Timestamp::now()).await;
    assert_eq!(report.unwrap().batches, 0);
    backend.write(&batch).await.unwrap();
    let rows = "SELECT count(*) FROM keytally_requests";
    assert_eq!(number(&db, rows).await, 1);
}

#[tokio::test]
async fn restored_database_does_not_reuse_cached_numbers() {
    let (backend, url) = backend().await;
    let db = pool(&url).await;
    let execute = async |sql: &str| run(&db, sql).await;
    let number = async |sql: &str| number(&db, &format!("SELECT ({sql})::bigint")).await;
    checks::restored_database_does_not_reuse_cached_numbers(&backend, execute, number).await;
}

/// A query can be cancelled at any time, for instance because a client disconnects.
mod prompt_revocation {
    use super::*;

    #[tokio::test]
    async fn lookups_after_cancelled_queries_see_later_changes() {
        let (other, url) = backend().await;
        let options = sqlx::postgres::PgPoolOptions::new().max_connections(1);
        let db = options.connect(&url).await.unwrap();
        let backend = PostgresBackend::from_pool(db.clone());
        let issuer = Issuer::new("test").unwrap();
        let summary = SummaryQuery::default();
        let observer = pool(&url).await;
        for round in 0..300 {
            let issued = issuer.issue(&other, NewKey::new("x"), Actor::SYSTEM);
            let id = issued.await.unwrap().key.id;
            let time = Duration::from_micros(fastrand::u64(..600));
            match round % 2 {
                0 => drop(tokio::time::timeout(time, backend.summary(&summary)).await),
                _ => drop(tokio::time::timeout(time, backend.disable(id, Actor::SYSTEM)).await),
            }
            other.revoke(id, Actor::SYSTEM).await.unwrap();
            let found = backend.find(id).await.unwrap().unwrap();
            assert!(found.key.revoked_at.is_some(), "{round}");
            let open = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
            assert_eq!(number(&observer, open).await, 0, "{round}");
        }
    }
}

// --- Partitions ---------------------------------------------------------------------------------

fn at(time: &str) -> UsageEvent {
    UsageEvent::new(time.parse().unwrap())
}

/// The number of requests in the rollups and in the log.
async fn counts(backend: &PostgresBackend, pool: &PgPool) -> (u64, i64) {
    let all = SummaryQuery::new(UsageRange::new(), SummarySpec::new());
    let summary = backend.summary(&all).await.unwrap();
    let log = "SELECT count(*) FROM keytally_requests";
    (summary.totals.total(), number(pool, log).await)
}

#[tokio::test]
async fn detached_partition_is_recreated() {
    let (backend, url) = backend().await;
    let db = pool(&url).await;
    let batch = || Batch::new(vec![at("2026-03-05T10:00:00Z")]);
    backend.write(&batch()).await.unwrap();
    for round in 1..4 {
        let name = match round {
            1 => "keytally_requests_20260305".to_owned(),
            _ => format!("keytally_requests_20260305_{round}"),
        };
        let detach = format!("ALTER TABLE keytally_requests DETACH PARTITION {name}");
        run(&db, &detach).await;
        // One instance has cached the partition, the other has not.
        for backend in [&backend, &connect(&url).await] {
            backend.write(&batch()).await.unwrap();
        }
        assert_eq!(counts(&backend, &db).await, (1 + round * 2, 2));
    }
    // Pruning drops the new partition despite its name, and leaves the detached tables alone.
    let partitions = "SELECT count(*) FROM pg_inherits
        WHERE inhparent = 'keytally_requests'::regclass AND inhrelid::regclass::text ~ '20260305'";
    assert_eq!(number(&db, partitions).await, 1);
    let retention = Retention::new().log(Duration::from_secs(3_600));
    let now = "2026-03-07T00:00:00Z".parse().unwrap();
    let report = backend.prune(&retention, now).await.unwrap();
    assert_eq!(report.log, 1);
    assert_eq!(number(&db, partitions).await, 0);
    let detached = "SELECT count(*) FROM keytally_requests_20260305_2";
    assert_eq!(number(&db, detached).await, 2);
}

#[tokio::test]
async fn unrelated_table_with_a_partition_name_does_not_block_writes() {
    let url = database().await;
    let db = pool(&url).await;
    let tables = "CREATE TABLE keytally_requests_20260305 (time timestamptz);
        CREATE SCHEMA other; CREATE TABLE other.keytally_requests_20260306 (time timestamptz)";
    run(&db, tables).await;
    let backend = connect(&format!("{url}&options=-csearch_path%3Dpublic%2Cother")).await;
    backend.migrate().await.unwrap();
    let events = vec![at("2026-03-05T10:00:00Z"), at("2026-03-06T10:00:00Z")];
    backend.write(&Batch::new(events)).await.unwrap();
    assert_eq!(counts(&backend, &db).await, (2, 2));
}

#[tokio::test]
async fn partitions_are_recognized_by_their_bounds_under_any_session_settings() {
    let (backend, url) = backend().await;
    let db = pool(&url).await;
    let partition = |name: &str, bounds: &str| {
        format!(
            "CREATE TABLE {name} (LIKE keytally_requests INCLUDING ALL);
            ALTER TABLE keytally_requests ATTACH PARTITION {name} {bounds}"
        )
    };
    let month = "FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-04-01 00:00+00')";
    run(&db, &partition("keytally_requests_march", month)).await;
    let past = "FOR VALUES FROM (MINVALUE) TO ('2026-01-01 00:00+00')";
    run(&db, &partition("past", past)).await;
    run(&db, &partition("rest", "DEFAULT")).await;
    let settings = "options=-cTimeZone%3DAsia%2FKolkata%20-cDateStyle%3DSQL%2CDMY";
    for backend in [backend.clone(), connect(&format!("{url}&{settings}")).await] {
        let events = ["2026-03-05T10:00:00Z", "2025-03-05T10:00:00Z"].map(at);
        backend.write(&Batch::new(events.into())).await.unwrap();
        let events = vec![at("2026-05-05T10:00:00Z")];
        backend.write(&Batch::new(events)).await.unwrap();
    }
    assert_eq!(counts(&backend, &db).await, (6, 6));
    for table in ["keytally_requests_march", "past", "rest"] {
        let rows = format!("SELECT count(*) FROM {table}");
        assert_eq!(number(&db, &rows).await, 2, "{table}");
    }
    // Partitions that the application created are not dropped.
    let retention = Retention::new().log(Duration::from_secs(3_600));
    let backend = connect(&url).await;
    let report = backend.prune(&retention, Timestamp::now()).await;
    assert_eq!(report.unwrap().log, 0);
}

#[tokio::test]
async fn events_that_the_log_cannot_store_are_still_counted() {
    let (backend, url) = backend().await;
    let db = pool(&url).await;
    let half = "CREATE TABLE half (LIKE keytally_requests INCLUDING ALL);
        ALTER TABLE keytally_requests ATTACH PARTITION half
            FOR VALUES FROM ('2026-03-05 12:00+00') TO ('2026-03-06 00:00+00')";
    run(&db, half).await;
    let events = || vec![at("2026-03-05T10:00:00Z"), at("2026-03-07T10:00:00Z")];
    for _ in 0..2 {
        backend.write(&Batch::new(events())).await.unwrap();
    }
    assert_eq!(counts(&backend, &db).await, (4, 2));
    // The same for a check constraint that rejects some requests.
    let check = "ALTER TABLE keytally_requests ADD CHECK (path <> '/odd')";
    run(&db, check).await;
    let mut odd = at("2026-03-07T10:00:00Z");
    odd.path = "/odd".into();
    backend.write(&Batch::new(vec![odd])).await.unwrap();
    backend.write(&Batch::new(events())).await.unwrap();
    assert_eq!(counts(&backend, &db).await, (7, 3));
    // Two half-day partitions cover the day.
    let other = half
        .replace("half", "other")
        .replace("06 00:00", "05 12:00");
    run(&db, &other.replacen("05 12:00", "05 00:00", 1)).await;
    backend.write(&Batch::new(events())).await.unwrap();
    assert_eq!(counts(&backend, &db).await, (9, 5));
}

#[tokio::test]
async fn blocked_writes_and_migrations_time_out() {
    let (backend, url) = backend().await;
    let db = pool(&url).await;
    let of_day = |day: &str| Batch::new(vec![at(&format!("{day}T10:00:00Z"))]);
    backend.write(&of_day("2026-03-05")).await.unwrap();
    let mut held = db.begin().await.unwrap();
    let hold = "LOCK TABLE keytally_requests IN SHARE UPDATE EXCLUSIVE MODE;
        LOCK TABLE keytally_migrations IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(hold).execute(&mut *held).await.unwrap();
    let limit = Duration::from_secs(30);
    // The partition of that day exists, so that the lock does not matter.
    backend.write(&of_day("2026-03-05")).await.unwrap();
    let blocked = of_day("2026-03-06");
    let written = tokio::time::timeout(limit, backend.write(&blocked));
    assert!(matches!(
        written.await.unwrap(),
        Err(SinkError::Unavailable(_))
    ));
    let migrated = tokio::time::timeout(limit, backend.migrate());
    assert!(matches!(
        migrated.await.unwrap(),
        Err(BackendError::Unavailable(_))
    ));
    held.rollback().await.unwrap();
    backend.migrate().await.unwrap();
    backend.write(&blocked).await.unwrap();
    assert_eq!(counts(&backend, &db).await, (3, 3));
}

// --- Listening ----------------------------------------------------------------------------------

/// Waits until exactly this many sessions of the application are listening.
async fn until_listening(pool: &PgPool, application: &str, sessions: i64) {
    let listening = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND query ILIKE 'LISTEN%' AND application_name = '{application}'"
    );
    for _ in 0..3_000 {
        if number(pool, &listening).await == sessions {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{sessions} sessions of {application:?} should be listening");
}

#[tokio::test]
async fn listener_reconnects_with_the_current_pool_options() {
    let url = database().await;
    let db = pool(&url).await;
    let options = (*db.connect_options()).clone();
    let named = |name| options.clone().application_name(name);
    let pool = PgPoolOptions::new().connect_with(named("before")).await;
    let pool = pool.unwrap();
    let backend = PostgresBackend::from_pool(pool.clone());
    backend.migrate().await.unwrap();
    until_listening(&db, "before", 1).await;
    pool.set_connect_options(named("after"));
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE application_name = 'before' AND datname = current_database()";
    number(&db, cut).await;
    until_listening(&db, "after", 1).await;
}

/// A TCP proxy for the server's socket that stops forwarding at the first `LISTEN`; returns its port, and
/// notifies when it stops.
async fn stalling_proxy(socket: std::path::PathBuf) -> (u16, Arc<Notify>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let held = Arc::new(AtomicBool::new(false));
    let stopped = Arc::new(Notify::new());
    let notify = stopped.clone();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = tokio::net::UnixStream::connect(&socket).await.unwrap();
            let (held, notify) = (held.clone(), notify.clone());
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
                });
                let mut bytes = [0; 8_192];
                while let Ok(n @ 1..) = from_client.read(&mut bytes).await {
                    let listens = bytes[..n].windows(6).any(|word| word == b"LISTEN");
                    if listens && !held.swap(true, Ordering::SeqCst) {
                        notify.notify_one();
                        std::future::pending::<()>().await;
                    }
                    let _ = to_server.write_all(&bytes[..n]).await;
                }
            });
        }
    });
    (port, stopped)
}

#[tokio::test]
async fn unresponsive_listener_connection_is_replaced() {
    let start = tokio::task::spawn_blocking(Cluster::start);
    let cluster = start.await.unwrap();
    let url = cluster.database().await;
    let db = pool(&url).await;
    let socket = (*db.connect_options()).clone();
    let socket = socket.get_socket().unwrap().join(".s.PGSQL.5432");
    let (port, stopped) = stalling_proxy(socket).await;
    let (name, _) = url.split_once('?').unwrap();
    let name = name.trim_start_matches("postgres:///");
    let url = format!("postgres://postgres@127.0.0.1:{port}/{name}?application_name=behind");
    let backend = connect(&url).await;
    backend.migrate().await.unwrap();
    let limit = Duration::from_secs(30);
    let stops = tokio::time::timeout(limit, stopped.notified()).await;
    stops.expect("the backend listens");
    // Skip the timeout of the listener.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(10)).await;
    tokio::time::resume();
    until_listening(&db, "behind", 1).await;
}

#[tokio::test]
async fn explicit_and_default_schema_share_invalidations() {
    let (one, url) = backend().await;
    let two = connect(&url)
        .await
        .with_schema(SqlName::new("public").unwrap());
    let db = pool(&url).await;
    until_listening(&db, "", 1).await;
    for (admin, other) in [(&one, &two), (&two, &one)] {
        let config = CacheConfig::new().ttl(Duration::from_secs(3_600));
        let cache = CachedStore::with_config(other.clone(), config, keytally::Clock::system());
        let id = issue(admin, "Revoked").await.key.id;
        assert!(cache.find(id).await.unwrap().is_some());
        until_listening(&db, "", 2).await;
        // This entry was loaded after the cache began to listen.
        assert!(cache.find(id).await.unwrap().is_some());
        admin.revoke(id, Actor::SYSTEM).await.unwrap();
        let revoked = async || {
            let record = cache.find(id).await.unwrap().unwrap();
            record.key.revoked_at.is_some()
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !revoked().await {
            assert!(
                tokio::time::Instant::now() < deadline,
                "no invalidation arrived"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The role that the guide describes, for processes that only serve requests.
#[tokio::test]
async fn role_of_the_guide_reads_keys_and_writes_usage_only() {
    let guide = include_str!("../../src/guide/backends.md");
    let (_, grants) = guide.split_once("```sql\nGRANT USAGE").unwrap();
    let (grants, _) = grants.split_once("```").unwrap();
    let role = format!("api_{}", std::process::id());
    let grants = format!("GRANT USAGE{grants}").replace(" api;", &format!(" {role};"));
    let url = database().await;
    let db = pool(&url).await;
    let owner = connect(&url).await;
    owner.migrate().await.unwrap();
    let maintenance = owner.maintain(Retention::new());
    let today = "SELECT count(*) FROM pg_class WHERE relname = 'keytally_requests_'
        || to_char(now() AT TIME ZONE 'UTC' + interval '2 days', 'YYYYMMDD')";
    while number(&db, today).await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    run(&db, &format!("CREATE ROLE {role} LOGIN; {grants}")).await;
    let key = issue(&owner, "served").await;

    let options: PgConnectOptions = url.parse().unwrap();
    let served = PgPoolOptions::new()
        .connect_with(options.username(&role))
        .await;
    let api = PostgresBackend::from_pool(served.unwrap());
    api.migrate().await.unwrap();
    let service =
        Service::behind(ApiKeyLayer::new(api.clone()).recorder(Recorder::new(api.clone())));
    assert_eq!(service.ask(key.secret.expose()).await.0, 200);
    let mut event = UsageEvent::new(Timestamp::now());
    event.key = Some(key.key.id);
    api.write(&Batch::new(vec![event.clone()])).await.unwrap();
    api.merge_rollups().await.unwrap();
    let found = owner.get(key.key.id).await.unwrap().unwrap();
    assert_eq!(
        found.last_accepted_at.map(|it| it.as_millisecond()),
        Some(event.time.as_millisecond())
    );
    let denied = [
        api.revoke(key.key.id, Actor::SYSTEM).await.map(drop),
        api.delete(key.key.id, Actor::SYSTEM).await,
        api.create(
            owner.find(key.key.id).await.unwrap().unwrap(),
            Actor::SYSTEM,
        )
        .await,
    ];
    for result in denied {
        assert!(
            matches!(result, Err(StoreError::Unavailable(_))),
            "{result:?}"
        );
    }
    drop(maintenance);
    drop((service, api));
    run(&db, &format!("DROP OWNED BY {role}")).await;
    run(&db, &format!("DROP ROLE {role}")).await;
}

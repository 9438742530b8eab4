//! Schema migrations of databases that earlier versions created.
//!
//! `tests/fixtures/` has a directory for each schema version. After adding a migration, generate the
//! fixture of the new version:
//!
//! ```text
//! cargo test --features full --test backends -- --ignored write_fixture
//! ```

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use keytally::backend::{PostgresBackend, SqliteBackend};
use keytally::key::{
    Actor, AddressList, AuditEntry, AuditQuery, EncryptedSecret, Issuer, Key, KeyChange, KeyQuery,
    NewKey, Owner, OwnerQuery, Rotation,
};
use keytally::limit::RateLimit;
use keytally::usage::{
    Batch, Cause, Count, Granularity, LogCursor, LogFilter, LogQuery, Outcome, RejectionReason,
    Rollup, Status, SummaryQuery, SummarySpec, UsageEvent, UsageRange,
};
use keytally::{ApiKeyLayer, Clock, KeyId, PageRequest};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use crate::answers;
use crate::checks;
use crate::postgres_server as postgres;
use crate::service;

use checks::Backend;
use service::Service;

/// The known content of a fixture.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Content {
    /// The secrets of an active and of a revoked key. Neither is used anywhere else.
    works: String,
    revoked: String,
    keys: Vec<Key>,
    /// The encrypted secret of a recoverable key.
    sealed: (KeyId, EncryptedSecret),
    /// Action, key and actor of each audit entry, newest first.
    audit: Vec<(String, KeyId, Option<String>)>,
    batches: Vec<Batch>,
}

/// Counts what migrations leave to the background task.
const INCOMPLETE: &str =
    "SELECT (SELECT count(*) FROM keytally_pruned WHERE kind = 'not_compacted')
    + (SELECT count(*) FROM keytally_caller_totals WHERE totals IS NULL)";

const DATABASE: &str = "sqlite.db";
const DUMP: &str = "postgres.sql";
const CONTENT: &str = "content.json";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Fills the empty backends with the same data and returns it.
async fn fill(backends: [&dyn Backend; 2]) -> Content {
    let issuer = Issuer::new("fixture").unwrap();
    let issuer = issuer.clock(Clock::manual(time("2026-11-01T09:00:00.000001Z")));
    let full = NewKey::new("Zapier integration, \"quoted\" – für Ärger")
        .owner("customer-17")
        .environment("live")
        .scopes(["postings:read", "postings:write"])
        .limit(RateLimit::per_minute(600).with_burst(100))
        .addresses(AddressList::parse(["203.0.113.0/24", "2001:db8::/32"]).unwrap())
        .metadata("plan", "large")
        .expires_at(time("9000-01-01T00:00:00Z"));
    let kinds = [
        full,
        NewKey::new("Works"),
        NewKey::new("Revoked").owner("customer-17"),
        NewKey::new("Disabled"),
        NewKey::new("Rotated").owner("customer-18"),
        NewKey::new("Deleted"),
        NewKey::new("Recoverable"),
    ];
    let mut prepared = kinds.map(|new| issuer.prepare(new).unwrap());
    let sealed = EncryptedSecret::from_bytes((0..=255).collect::<Vec<u8>>());
    let recoverable = &mut prepared[6].1;
    recoverable.key.recoverable = true;
    recoverable.encrypted_secret = Some(sealed.clone());
    let sealed = (recoverable.key.id, sealed);
    let ids = [0, 1, 2, 3, 4, 5].map(|n: usize| prepared[n].1.key.id);
    let (new, record) = issuer.prepare(NewKey::new("Its place is taken")).unwrap();
    let rotation = Rotation {
        id: new.id(),
        hint: new.hint(),
        digest: record.digest.clone(),
        encrypted_secret: None,
        rotated_at: time("2026-11-01T10:00:00Z"),
        old_expires_at: time("2026-11-02T10:00:00Z"),
    };
    let batches: Vec<_> = (0..3).map(|n| Batch::new(events(&ids, n))).collect();
    let mut contents = Vec::new();
    for backend in backends {
        let ops = Actor::new("ops@example.com");
        for (_, record) in &prepared {
            backend.create(record.clone(), ops).await.unwrap();
        }
        let at = time("2026-11-01T10:00:00.5Z");
        let change = KeyChange::Revoke { revoked_at: at };
        backend.change(ids[2], change, Actor::SYSTEM).await.unwrap();
        backend.disable(ids[3], Actor::SYSTEM).await.unwrap();
        backend.rotate(ids[4], rotation.clone(), ops).await.unwrap();
        backend.delete(ids[5], ops).await.unwrap();
        for batch in &batches {
            backend.write(batch).await.unwrap();
        }
        contents.push(Content {
            works: prepared[1].0.expose().into(),
            revoked: prepared[2].0.expose().into(),
            keys: all_keys(backend).await,
            sealed: sealed.clone(),
            audit: audit(backend).await,
            batches: batches.clone(),
        });
    }
    assert_eq!(contents[0], contents[1]);
    contents.remove(0)
}

fn events(keys: &[KeyId], batch: usize) -> Vec<UsageEvent> {
    let event = |n: usize| {
        let n = batch * 30 + n;
        let mut event = checks::event(&keys[..5], n);
        // Around the end of daylight saving time in New York.
        let second = time("2026-10-31T22:00:00Z").as_second() + n as i64 * 1_000;
        event.time = Timestamp::new(second, (n as i32 % 7) * 123_456_000).unwrap();
        event.request_id = n.is_multiple_of(4).then(|| format!("wire-{n}").into());
        event.resource_id = n
            .is_multiple_of(5)
            .then(|| format!("posting-{}", n % 10).into());
        if n.is_multiple_of(11) {
            event.status = Status::Grpc((n % 17) as u8);
            (event.outcome, event.cause) = Outcome::of(event.status);
        }
        if n.is_multiple_of(13) {
            (event.key, event.owner) = (None, None);
        }
        let addresses = [None, Some("203.0.113.7"), Some("2001:db8::1")];
        event.client_ip = addresses[n % 3].map(|address| address.parse().unwrap());
        event.cost = (n % 3) as u32;
        event.billable = !n.is_multiple_of(7);
        if n.is_multiple_of(17) {
            (event.outcome, event.cause) = (Outcome::Failed, Some(Cause::Rejected));
            // Fixtures of earlier versions do not have it.
            let mut reasons = RejectionReason::ALL.to_vec();
            reasons.retain(|&reason| reason != RejectionReason::OwnerSuspended);
            event.rejection_reason = Some(reasons[n % 15]);
        }
        event
    };
    (0..30).map(event).collect()
}

async fn all_keys(backend: &dyn Backend) -> Vec<Key> {
    let query = KeyQuery::new().limit(PageRequest::MAX_LIMIT);
    backend.list(&query).await.unwrap().items
}

async fn audit(backend: &dyn Backend) -> Vec<(String, KeyId, Option<String>)> {
    let query = AuditQuery::new().limit(PageRequest::MAX_LIMIT);
    let page = backend.audit_entries(&query).await.unwrap();
    let entry = |entry: AuditEntry| {
        let key = entry.subject.key().unwrap();
        (entry.action.as_str().into(), key, entry.actor)
    };
    page.items.into_iter().map(entry).collect()
}

/// Asserts that the backend has exactly this content, and that it can be extended.
async fn assert_content_preserved<B: Backend + Clone>(
    backend: &B,
    version: i64,
    content: &Content,
    merge: impl AsyncFn(),
) {
    // Before version 4, only the replacement referred to the replaced key.
    let mut keys = content.keys.clone();
    for new in &content.keys {
        let old = keys.iter_mut().find(|old| new.rotated_from == Some(old.id));
        if let Some(old) = old {
            old.replaced_by = Some(new.id);
        }
    }
    assert_eq!(all_keys(backend).await, keys);
    let owners = backend.owner_admin().unwrap();
    for id in keys.iter().filter_map(|key| key.owner.as_deref()) {
        let owner = owners.owner(id).await.unwrap().unwrap();
        assert_eq!(owner, Owner::new(id, owner.created_at));
    }
    let listed = owners.list_owners(&OwnerQuery::new()).await.unwrap().items;
    assert_eq!(listed.len(), 2);
    assert_eq!(audit(backend).await, content.audit);
    let (id, sealed) = &content.sealed;
    let revealed = backend.reveal(*id, Actor::SYSTEM).await.unwrap().unwrap();
    assert_eq!(revealed.encrypted_secret.as_ref(), Some(sealed));
    let service = Service::behind(ApiKeyLayer::new(backend.clone()));
    assert_eq!(service.ask(&content.works).await.0, 200);
    assert_eq!(service.ask(&content.revoked).await.0, 401);

    // Batches that are retried after the migration still count once.
    for batch in &content.batches {
        backend.write(batch).await.unwrap();
    }
    let mut events: Vec<_> = content
        .batches
        .iter()
        .flat_map(|it| it.events().iter().cloned())
        .collect();
    let without_reason: HashSet<Uuid> = match version {
        ..4 => events.iter().map(|event| event.id).collect(),
        _ => HashSet::new(),
    };
    assert_queries_match(backend, &mut events, &without_reason).await;
    let (recorded, cursor) = checks::recorded_after(backend, LogCursor::START).await;
    assert_eq!(sorted(&recorded), sorted(&events));
    // New events are appended.
    let more = events.iter().step_by(3).map(|event| {
        let mut event = event.clone();
        event.id = UsageEvent::new(event.time).id;
        event
    });
    let more = Batch::new(more.collect());
    backend.write(&more).await.unwrap();
    let (recorded, _) = checks::recorded_after(backend, cursor).await;
    assert_eq!(sorted(&recorded), sorted(more.events()));
    let (recorded, _) = checks::recorded_after(backend, LogCursor::START).await;
    assert_eq!(sorted(&recorded[..events.len()]), sorted(&events));
    assert_eq!(sorted(&recorded[events.len()..]), sorted(more.events()));
    events.extend(more.events().iter().cloned());
    assert_queries_match(backend, &mut events, &without_reason).await;
    // Later hours of the last day.
    let mut later = events[0].clone();
    for minutes in [90, 150] {
        let time = events[0].time + jiff::SignedDuration::from_mins(minutes);
        later.id = UsageEvent::new(time).id;
        later.time = time;
        backend
            .write(&Batch::new(vec![later.clone()]))
            .await
            .unwrap();
        merge().await;
        events.push(later.clone());
        assert_queries_match(backend, &mut events, &without_reason).await;
    }
    backend
        .revoke(content.keys[0].id, Actor::SYSTEM)
        .await
        .unwrap();
    assert_eq!(audit(backend).await.len(), content.audit.len() + 2);
}

fn sorted(events: &[UsageEvent]) -> Vec<UsageEvent> {
    let mut events = events.to_vec();
    events.sort_by_key(|event| (event.time, event.id));
    events
}

/// Rollups of the events `without_reason` lack their rejection reason.
async fn assert_queries_match<B: Backend>(
    backend: &B,
    events: &mut [UsageEvent],
    without_reason: &HashSet<Uuid>,
) {
    events.sort_by_key(|event| std::cmp::Reverse((event.time, event.id)));
    for filter in [
        LogFilter::new(),
        LogFilter::new().owner("customer-17"),
        LogFilter::new().request_id("wire-8"),
        LogFilter::new()
            .resource_id("posting-5")
            .status(Status::Http(200)),
        LogFilter::new().request_id(events[7].id.to_string()),
        LogFilter::new()
            .from(time("2026-11-01T06:00:00Z"))
            .to(time("2026-11-01T08:00:00Z")),
        LogFilter::new().cause(Cause::Rejected),
        LogFilter::new().rejection_reason(RejectionReason::ClientIp),
        LogFilter::new().rejection_reason(RejectionReason::Scope),
    ] {
        let expected = events.iter().filter(|event| filter.matches(event));
        let expected: Vec<_> = expected.cloned().collect();
        let is_by_reason = filter.cause.is_some() || filter.rejection_reason.is_some();
        assert!(!expected.is_empty() || is_by_reason, "{filter:?}");
        let count = backend.count(&filter).await.unwrap();
        assert_eq!(count, Count::Exactly(expected.len() as u64));
        assert_eq!(answers::all_requests(backend, &filter).await, expected);
    }
    let in_rollups = events.iter().cloned().map(|mut event| {
        if without_reason.contains(&event.id) {
            event.rejection_reason = None;
        }
        event
    });
    let in_rollups: Vec<_> = in_rollups.collect();
    let zone = TimeZone::get("America/New_York").unwrap();
    for width in [Granularity::Minute, Granularity::Hour, Granularity::Day] {
        let spec = SummarySpec::new()
            .by_key()
            .latency()
            .over_time(width, zone.clone());
        let query = SummaryQuery::new(UsageRange::new(), spec.clone());
        assert_eq!(
            backend.summary(&query).await.unwrap(),
            spec.summarize(&in_rollups)
        );
    }
    let by_series = |rollups: Vec<Rollup>| {
        let entry = |it: Rollup| {
            (
                format!(
                    "{:?}",
                    (
                        it.start,
                        it.key,
                        &it.endpoint,
                        it.method,
                        it.status,
                        it.rejection_reason
                    )
                ),
                it,
            )
        };
        rollups.into_iter().map(entry).collect::<BTreeMap<_, _>>()
    };
    let rollups = backend.rollups(&UsageRange::new()).await.unwrap();
    assert_eq!(
        by_series(rollups),
        by_series(Rollup::of_events(&in_rollups, Granularity::Minute))
    );
    let newest = backend
        .requests(&LogQuery::default().limit(1))
        .await
        .unwrap();
    assert_eq!(newest.items[0], events[0]);
}

/// All fixtures: schema version and directory.
fn all_fixtures() -> Vec<(i64, PathBuf)> {
    let dirs = std::fs::read_dir(fixtures())
        .unwrap()
        .map(|it| it.unwrap().path());
    let mut all: Vec<_> = dirs
        .map(|path| {
            (
                path.file_name().unwrap().to_str().unwrap().parse().unwrap(),
                path,
            )
        })
        .collect();
    all.sort();
    assert!(!all.is_empty());
    all
}

/// Views of the application, and causes that have another name since version 4.
const CHANGES_IN_3: &str = "CREATE VIEW own AS SELECT path FROM keytally_request_log;
    CREATE VIEW another AS SELECT path FROM keytally_requests;
    UPDATE keytally_series SET cause = 'refused' WHERE cause = 'client_error';
    UPDATE keytally_requests SET rejection_reason = 'client_ip' WHERE latency_us % 2 = 0
        AND series_id IN (SELECT id FROM keytally_series WHERE cause = 'refused')";

/// The content of a fixture after these changes.
fn changed_content(version: i64, dir: &Path) -> Content {
    let text = std::fs::read_to_string(dir.join(CONTENT)).unwrap();
    let mut content: serde_json::Value = serde_json::from_str(&text).unwrap();
    let batches = content["batches"].as_array_mut().unwrap();
    let events = batches
        .iter_mut()
        .flat_map(|batch| batch["events"].as_array_mut().unwrap());
    for event in events {
        if version == 3 && event["cause"] == "client_error" {
            event["cause"] = "rejected".into();
            if event["latency_us"].as_u64().unwrap().is_multiple_of(2) {
                event["rejection_reason"] = "client_ip".into();
            }
        }
        if version < 4 {
            event["billable"] = (event["outcome"] == "completed").into();
        }
    }
    serde_json::from_value(content).unwrap()
}

#[tokio::test]
async fn sqlite_files_of_earlier_versions_upgrade_without_data_loss() {
    for (version, dir) in all_fixtures() {
        let name = format!("keytally-fixture-{}-{version}.db", std::process::id());
        let file = std::env::temp_dir().join(name);
        std::fs::copy(dir.join(DATABASE), &file).unwrap();
        let db = SqlitePoolOptions::new().max_connections(1);
        let db = db.connect_with(SqliteConnectOptions::new().filename(&file));
        let db = db.await.unwrap();
        if version == 3 {
            sqlx::raw_sql(CHANGES_IN_3).execute(&db).await.unwrap();
        }
        let backend = SqliteBackend::open(&file).await.unwrap();
        backend.migrate().await.unwrap();
        if version == 3 {
            let rows = "SELECT (SELECT count(*) FROM own) + (SELECT count(*) FROM another)";
            let rows: i64 = sqlx::query_scalar(rows).fetch_one(&db).await.unwrap();
            assert_eq!(rows, 2 * 90);
        }
        if version % 2 == 1 {
            // Also completes what migrations cannot do in SQL.
            backend.merge_rollups().await.unwrap();
            let marks: i64 = sqlx::query_scalar(INCOMPLETE).fetch_one(&db).await.unwrap();
            assert_eq!(marks, 0);
        }
        db.close().await;
        let merge = async || {
            backend.merge_rollups().await.unwrap();
        };
        let content = changed_content(version, &dir);
        assert_content_preserved(&backend, version, &content, merge).await;
        drop(backend);
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", file.display()));
        }
    }
}

/// Restores the dump of a fixture and returns the URL of its database.
async fn fixture_in_postgres(dir: &Path) -> String {
    let url = postgres::database().await;
    run(Command::new(postgres::program("psql"))
        .args(["-v", "ON_ERROR_STOP=1", "-X", "-q", "-d", &url, "-f"])
        .arg(dir.join(DUMP)));
    url
}

#[tokio::test]
async fn postgres_databases_of_earlier_versions_upgrade_without_data_loss() {
    for (version, dir) in all_fixtures() {
        let url = fixture_in_postgres(&dir).await;
        // Bounds of partitions are printed according to these settings.
        let db = postgres::pool(&url).await;
        let settings = "DO $$ BEGIN
            EXECUTE format('ALTER DATABASE %I SET timezone = %L', current_database(), 'Asia/Kolkata');
            EXECUTE format('ALTER DATABASE %I SET datestyle = %L', current_database(), 'SQL, DMY');
            END $$;";
        sqlx::raw_sql(settings).execute(&db).await.unwrap();
        if version == 3 {
            sqlx::raw_sql(CHANGES_IN_3).execute(&db).await.unwrap();
            let backend = PostgresBackend::connect(&url).await.unwrap();
            backend.migrate().await.unwrap_err();
            sqlx::raw_sql("DROP VIEW another")
                .execute(&db)
                .await
                .unwrap();
        }
        let backend = PostgresBackend::connect(&url).await.unwrap();
        backend.migrate().await.unwrap();
        if version == 3 {
            assert_eq!(postgres::number(&db, "SELECT count(*) FROM own").await, 90);
        }
        if version % 2 == 1 {
            // Also completes what migrations cannot do in SQL.
            backend.merge_rollups().await.unwrap();
            assert_eq!(postgres::number(&db, INCOMPLETE).await, 0);
        }
        let merge = async || {
            backend.merge_rollups().await.unwrap();
        };
        let content = changed_content(version, &dir);
        assert_content_preserved(&backend, version, &content, merge).await;
    }
}

/// Adds a million requests and 1,440 minutes of each series to a database of schema version 3.
const MILLION_IN_POSTGRES: &str = "INSERT INTO keytally_requests (time, id, series_id, path, cost, latency_us,
        request_bytes, response_bytes, batch)
    SELECT timestamptz '2026-11-01 00:00Z' + n * interval '80 ms', gen_random_uuid(), s.id, s.endpoint, 1, n, 0, 100,
        CASE n % 3 WHEN 0 THEN 1 END
    FROM generate_series(1, 1000000) n
        JOIN (SELECT *, row_number() OVER () - 1 AS number, count(*) OVER () AS series FROM keytally_series) s
        ON s.number = n % s.series;
    INSERT INTO keytally_minutes
    SELECT id, timestamptz '2026-11-01 00:00Z' + n * interval '1 minute', 1, 1, 0, 100, '\x4101'
    FROM keytally_series, generate_series(0, 1439) n ON CONFLICT DO NOTHING";
const MILLION_IN_SQLITE: &str =
    "WITH RECURSIVE numbers AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000000)
    INSERT INTO keytally_requests (time, id, series_id, path, cost, latency_us, request_bytes, response_bytes)
    SELECT 1793491200000000 + n * 80000, randomblob(16), s.id, s.endpoint, 1, n, 0, 100
    FROM numbers
        JOIN (SELECT *, row_number() OVER () - 1 AS number, count(*) OVER () AS series FROM keytally_series) s
        ON s.number = n % s.series;
    WITH RECURSIVE numbers AS (SELECT 0 AS n UNION ALL SELECT n + 1 FROM numbers WHERE n < 1439)
    INSERT OR IGNORE INTO keytally_minutes
    SELECT id, 1793491200000000 + n * 60000000, 1, 1, 0, 100, x'4101' FROM keytally_series, numbers";

const REQUESTS: &str = "SELECT count(*) FROM keytally_requests";
const IN_MINUTES: &str = "SELECT CAST(sum(count) AS bigint) FROM keytally_usage_by_minute";

/// Other processes read the tables while they are migrated.
async fn million_requests_are_migrated_without_blocking_readers(
    migrate: impl Future<Output = ()>,
    number: impl AsyncFn(&str) -> i64,
) {
    let before = [number(REQUESTS).await, number(IN_MINUTES).await];
    assert!(before[0] > 1_000_000 && before[1] > 100_000);
    let (mut reads, mut longest) = (0, Duration::ZERO);
    let mut migrate = std::pin::pin!(migrate);
    let started = Instant::now();
    loop {
        let begun = Instant::now();
        tokio::select! {
            biased;
            () = &mut migrate => break,
            newest = number("SELECT max(start) IS NOT NULL FROM keytally_usage_by_minute") => {
                assert_eq!(newest, 1);
                (reads, longest) = (reads + 1, longest.max(begun.elapsed()));
            }
        }
    }
    let total = started.elapsed();
    println!("migrated in {total:.1?}, during {reads} reads of at most {longest:.1?}");
    assert!(reads > 10, "{reads}");
    assert_eq!([number(REQUESTS).await, number(IN_MINUTES).await], before);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: scripts/test --all runs it"]
async fn million_requests_are_migrated_without_blocking_readers_in_sqlite() {
    let file = std::env::temp_dir().join(format!("keytally-million-{}.db", std::process::id()));
    std::fs::copy(fixtures().join("3").join(DATABASE), &file).unwrap();
    let options = SqliteConnectOptions::new()
        .filename(&file)
        .journal_mode(SqliteJournalMode::Wal);
    let db = SqlitePoolOptions::new()
        .connect_with(options)
        .await
        .unwrap();
    sqlx::raw_sql(MILLION_IN_SQLITE).execute(&db).await.unwrap();
    let backend = SqliteBackend::open(&file).await.unwrap();
    let number = async |sql: &str| {
        let number = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
        number.fetch_one(&db).await.unwrap()
    };
    let migrate = async { backend.migrate().await.unwrap() };
    million_requests_are_migrated_without_blocking_readers(migrate, number).await;
    db.close().await;
    drop(backend);
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", file.display()));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: scripts/test --all runs it"]
async fn million_requests_are_migrated_without_blocking_readers_in_postgres() {
    let url = fixture_in_postgres(&fixtures().join("3")).await;
    let db = postgres::pool(&url).await;
    sqlx::raw_sql(MILLION_IN_POSTGRES)
        .execute(&db)
        .await
        .unwrap();
    let backend = PostgresBackend::connect(&url).await.unwrap();
    let number =
        async |sql: &str| postgres::number(&db, &format!("SELECT ({sql})::int::bigint")).await;
    let migrate = async { backend.migrate().await.unwrap() };
    million_requests_are_migrated_without_blocking_readers(migrate, number).await;
}

#[test]
fn fixtures_stay_below_200_kb() {
    for (_, dir) in all_fixtures() {
        for file in [DATABASE, DUMP, CONTENT] {
            let size = dir.join(file).metadata().unwrap().len();
            assert!(size < 200_000, "{file}: {size} bytes");
        }
    }
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {errors}");
    output.stdout
}

/// Generates the fixture of the latest schema version, replacing any existing one.
#[tokio::test]
#[ignore = "overwrites tests/fixtures"]
async fn write_fixture() {
    let file = std::env::temp_dir().join(format!("keytally-fixture-{}.db", std::process::id()));
    let options = SqliteConnectOptions::new()
        .filename(&file)
        .create_if_missing(true);
    let db = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await
        .unwrap();
    let script = async |sql: &str| {
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&db).await;
        done.unwrap();
    };
    script("PRAGMA page_size = 1024").await;
    let sqlite = SqliteBackend::from_pool(db.clone());
    sqlite.migrate().await.unwrap();
    let (postgres, url) = postgres::backend().await;
    let content = fill([&sqlite, &postgres]).await;
    let newest = sqlx::query("SELECT max(version) FROM keytally_migrations");
    let version: i64 = newest.fetch_one(&db).await.unwrap().get(0);
    let dir = fixtures().join(version.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    // Compact the database into a single file.
    script("VACUUM").await;
    db.close().await;
    std::fs::copy(&file, dir.join(DATABASE)).unwrap();
    std::fs::remove_file(&file).unwrap();
    let dump = run(Command::new(postgres::program("pg_dump")).args([
        "--inserts",
        "--no-owner",
        "--no-acl",
        "-d",
        &url,
    ]));
    let dump = String::from_utf8(dump).unwrap();
    // Older versions of psql do not support these commands.
    let lines = dump
        .lines()
        .filter(|line| !line.starts_with(r"\restrict") && !line.starts_with(r"\unrestrict"));
    let lines: Vec<_> = lines.collect();
    std::fs::write(dir.join(DUMP), lines.join("\n") + "\n").unwrap();
    let text = serde_json::to_string(&content).unwrap() + "\n";
    assert_eq!(serde_json::from_str::<Content>(&text).unwrap(), content);
    std::fs::write(dir.join(CONTENT), text).unwrap();
}

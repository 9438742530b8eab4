//! Merging of rollup records in both databases: summaries are exact at every moment.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use keytally::KeyId;
use keytally::backend::{BackendError, PostgresBackend, Retention, SqliteBackend};
use keytally::usage::{
    Batch, Count, Granularity, LogFilter, Outcome, SinkError, Status, SummaryQuery, SummarySpec,
    Totals, UsageEvent, UsageRange, UsageReader, UsageSink,
};
use sqlx::{AssertSqlSafe, PgPool, SqlitePool};

use crate::answers;
use crate::full_disk;
use crate::postgres_server as support;

trait Backend: UsageSink + UsageReader {
    async fn merge(&self) -> Result<u64, BackendError>;
}

impl Backend for SqliteBackend {
    async fn merge(&self) -> Result<u64, BackendError> {
        self.merge_rollups().await
    }
}

impl Backend for PostgresBackend {
    async fn merge(&self) -> Result<u64, BackendError> {
        self.merge_rollups().await
    }
}

/// A directory that is deleted on drop.
struct TempDir(PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Two backends that share a SQLite file, and a pool for it.
async fn in_sqlite() -> ([SqliteBackend; 2], SqlitePool, TempDir) {
    let name = format!(
        "keytally-merging-{}-{}",
        std::process::id(),
        fastrand::u64(..)
    );
    let dir = TempDir(std::env::temp_dir().join(name));
    std::fs::create_dir(&dir.0).unwrap();
    let file = dir.0.join("usage.db");
    let open = async || SqliteBackend::open(&file).await.unwrap();
    let backends = [open().await, open().await];
    backends[0].migrate().await.unwrap();
    let url = format!("sqlite://{}", file.display());
    (backends, SqlitePool::connect(&url).await.unwrap(), dir)
}

/// Two backends that share a PostgreSQL database, and a pool for it.
async fn in_postgres() -> ([PostgresBackend; 2], PgPool) {
    let (backend, url) = support::backend().await;
    let other = PostgresBackend::connect(&url).await.unwrap();
    ([backend, other], support::pool(&url).await)
}

const RECORDS: &str = "SELECT count(*) FROM keytally_rollup_records";
const MINUTES: &str = "SELECT coalesce(sum(count), 0) FROM keytally_usage_by_minute";

fn key(n: usize) -> KeyId {
    format!("MergedKey{n:07}").parse().unwrap()
}

/// Events of several keys around now: in minutes that have passed, in this one, and in future ones; some are days old.
pub(crate) fn events(count: usize) -> Vec<UsageEvent> {
    let now = Timestamp::now();
    let event = |_| {
        let seconds = match fastrand::u8(..8) {
            0 => fastrand::i64(600..300_000),
            _ => fastrand::i64(-120..600),
        };
        let mut event = UsageEvent::new(now - seconds.seconds());
        let n = fastrand::usize(..5);
        event.key = (n > 0).then(|| key(n));
        event.owner = (n > 1).then(|| format!("customer-{}", n % 2).into());
        event.endpoint = ["/v1/a", "/v1/b"][fastrand::usize(..2)].into();
        event.status = Status::Http([200, 404, 503][fastrand::usize(..3)]);
        (event.outcome, event.cause) = Outcome::of(event.status);
        event.latency_us = fastrand::u64(..100_000);
        event.request_bytes = fastrand::u64(..1_000);
        event.cost = fastrand::u32(..4);
        event
    };
    (0..count).map(event).collect()
}

/// Asserts that all queries return what the pure functions compute from the events.
async fn assert_exact<B: Backend>(backend: &B, events: &[UsageEvent]) {
    let now = Timestamp::now();
    let spec = SummarySpec::new()
        .latency()
        .by_key()
        .by_owner()
        .over_time(Granularity::Minute, TimeZone::UTC);
    let of_minutes = UsageRange::new()
        .from(Granularity::Minute.floor(now - 7.minutes()))
        .to(Granularity::Minute.floor(now + 1.minutes()));
    for range in [
        UsageRange::new(),
        UsageRange::new().key(key(1)),
        UsageRange::new().owner("customer-1"),
        of_minutes.clone(),
        of_minutes.key(key(2)),
    ] {
        let matching = events.iter().filter(|event| {
            range.key.is_none_or(|key| event.key == Some(key))
                && (range.owner.is_none() || event.owner.as_deref() == range.owner.as_deref())
                && range.from.is_none_or(|from| event.time >= from)
                && range.to.is_none_or(|to| event.time < to)
        });
        let expected = spec.summarize(matching);
        let query = SummaryQuery::new(range.clone(), spec.clone());
        assert_eq!(
            backend.summary(&query).await.unwrap(),
            expected,
            "{range:?}"
        );
        let rollups = backend.rollups(&range).await.unwrap();
        assert_eq!(spec.summarize(&rollups), expected, "{range:?}");
        let hours = SummarySpec::new().over_time(Granularity::Hour, TimeZone::UTC);
        let expected_hours = hours.summarize(rollups.iter()).over_time;
        let query = SummaryQuery::new(range.clone(), hours);
        let found_hours = backend.summary(&query).await.unwrap().over_time;
        assert_eq!(found_hours, expected_hours, "{range:?}");
        let by_key = backend.totals_by_key(&range).await.unwrap();
        assert_eq!(Some(by_key), expected.by_key, "{range:?}");
    }
}

/// Asserts that filters on the key or the owner and on other attributes find the same requests.
async fn assert_logged<B: Backend>(backend: &B, events: &[UsageEvent]) {
    let mut events = events.to_vec();
    events.sort_by_key(|event| std::cmp::Reverse((event.time, event.id)));
    let error = LogFilter::new().status(Status::Http(503));
    let other = LogFilter::new().endpoint("/v1/a");
    let now = Timestamp::now();
    for filter in [
        error.clone().key(key(1)),
        error.clone().owner("customer-1"),
        error.clone().owner("customer-1").endpoint("/v1/b"),
        error.clone().key(key(9)),
        other.clone().key(key(2)),
        other.clone().key(key(2)).from(now - 400.seconds()),
        other
            .clone()
            .key(key(2))
            .from(now - 50.hours())
            .to(now - 1.hours()),
    ] {
        let expected: Vec<_> = events
            .iter()
            .filter(|it| filter.matches(it))
            .cloned()
            .collect();
        let count = backend.count(&filter).await.unwrap();
        assert_eq!(count, Count::Exactly(expected.len() as u64), "{filter:?}");
        let found = answers::all_requests(backend, &filter).await;
        assert_eq!(found, expected, "{filter:?}");
    }
}

async fn summaries_are_exact_before_and_after_merging<B: Backend>(
    [one, other]: &[B; 2],
    number: impl AsyncFn(&str) -> i64,
) {
    let mut all = Vec::new();
    for _ in 0..4 {
        let more = events(300);
        one.write(&Batch::new(more.clone())).await.unwrap();
        let backlog = other.merge_backlog().await.unwrap().unwrap();
        let age = Timestamp::now().duration_since(backlog.oldest_at.unwrap());
        assert!(
            backlog.records > 0 && backlog.unreadable == 0 && age < SignedDuration::from_mins(1)
        );
        all.extend(more);
        assert_exact(other, &all).await;
        assert_logged(other, &all).await;
        one.merge().await.unwrap();
        assert_exact(other, &all).await;
        assert_logged(other, &all).await;
    }
    // Only the rollups of current minutes are left.
    let passed = Granularity::Minute.floor(Timestamp::now() - 6.seconds());
    let passed = all.iter().filter(|event| event.time < passed).count();
    let merged = number(MINUTES).await;
    assert!(merged >= passed as i64 && merged < all.len() as i64);
    assert!(number("SELECT count(*) FROM keytally_rollup_records WHERE ready").await == 0);
    assert_exact(one, &all).await;
}

#[tokio::test]
async fn summaries_are_exact_before_and_after_merging_in_sqlite() {
    let (backends, db, _dir) = in_sqlite().await;
    let number = async |sql: &str| number_in_sqlite(&db, sql).await;
    summaries_are_exact_before_and_after_merging(&backends, number).await;
}

#[tokio::test]
async fn summaries_are_exact_before_and_after_merging_in_postgres() {
    let (backends, db) = in_postgres().await;
    let number = async |sql: &str| support::number(&db, &format!("SELECT ({sql})::bigint")).await;
    summaries_are_exact_before_and_after_merging(&backends, number).await;
}

/// Totals of callers come from blocks of hours and of days, which late events replace.
async fn totals_of_long_ranges_are_exact<B: Backend>(
    [one, other]: &[B; 2],
    number: impl AsyncFn(&str) -> i64,
) {
    let today = Granularity::Day.floor(Timestamp::now());
    let event = |hours: i64, minutes: i64| {
        let mut event = UsageEvent::new(today - hours.hours() + minutes.minutes());
        let n = fastrand::usize(..5);
        event.key = (n > 0).then(|| key(n));
        event.owner = (n > 1).then(|| format!("customer-{}", n % 2).into());
        // The kinds differ from hour to hour.
        event.status = Status::Http([200, 404, 503][fastrand::usize(..3)]);
        event.endpoint = ["/v1/a", "/v1/b"][fastrand::usize(..2)].into();
        (event.outcome, event.cause) = Outcome::of(event.status);
        event.response_bytes = fastrand::u64(..1_000);
        event
    };
    let mut all: Vec<_> = (0..30 * 24)
        .filter(|hours| hours % 24 != 7)
        .flat_map(|hours| [event(hours, 5), event(hours, 50)])
        .collect();
    let blocks =
        |hours: i64| format!("SELECT count(*) FROM keytally_caller_totals WHERE hours = {hours}");
    one.write(&Batch::new(all.clone())).await.unwrap();
    for late in [
        Vec::new(),
        vec![event(25, 7)],
        vec![event(600, 0), event(7, 1), event(250, 59)],
    ] {
        one.write(&Batch::new(late.clone())).await.unwrap();
        all.extend(late);
        assert_long_ranges(other, &all, today).await;
        one.merge().await.unwrap();
        // A block without requests in its last hour is stored if there were late ones.
        assert!(
            number(&blocks(6)).await >= 80,
            "{}",
            number(&blocks(6)).await
        );
        assert!(number(&blocks(48)).await >= 12);
        assert!(number(&blocks(96)).await >= 5);
        assert!(number(&blocks(192)).await >= 2);
        assert_long_ranges(other, &all, today).await;
    }
    // New callers, and the same number of other ones.
    let mut more = event(3, 3);
    more.key = Some(key(77));
    one.write(&Batch::new(vec![more.clone()])).await.unwrap();
    all.push(more);
    assert_long_ranges(other, &all, today).await;
}

/// Asserts that totals of all callers are those computed from the events.
async fn assert_long_ranges<B: Backend>(backend: &B, events: &[UsageEvent], today: Timestamp) {
    let spec = SummarySpec::new().by_key().by_owner();
    for (from, to) in [
        (720, 0),
        (24, 0),
        (30, 5),
        (47, 23),
        (168, 0),
        (193, 1),
        (384, 192),
        (600, 300),
        (6, 0),
        (25, 24),
    ] {
        for minutes in [0, 10] {
            let start = today - from.hours() + minutes.minutes();
            let end = today - to.hours() + minutes.minutes();
            let within = || events.iter().filter(|it| it.time >= start && it.time < end);
            let range = UsageRange::new().from(start).to(end);
            let query = SummaryQuery::new(range.clone(), spec.clone());
            let mut expected = spec.summarize(within());
            let found = backend.summary(&query).await.unwrap();
            assert_eq!(found, expected, "{range:?}");
            let mut expected = expected.by_key.take().unwrap();
            assert_eq!(
                backend.totals_by_key(&range).await.unwrap(),
                expected,
                "{range:?}"
            );
            let keys = [None, Some(key(2)), Some(key(8))];
            expected.retain(|key, _| keys.contains(key));
            let found = backend.totals_of_keys(&range, &keys).await.unwrap();
            assert_eq!(found, expected, "{range:?}");
        }
    }
}

#[tokio::test]
async fn totals_of_long_ranges_are_exact_in_sqlite() {
    let (backends, db, _dir) = in_sqlite().await;
    let number = async |sql: &str| number_in_sqlite(&db, sql).await;
    totals_of_long_ranges_are_exact(&backends, number).await;
}

#[tokio::test]
async fn totals_of_long_ranges_are_exact_in_postgres() {
    let (backends, db) = in_postgres().await;
    let number = async |sql: &str| support::number(&db, sql).await;
    totals_of_long_ranges_are_exact(&backends, number).await;
}

/// Writes as if the clock was set forward and back by an hour.
async fn clock_steps_lose_and_duplicate_nothing<B: Backend>([one, other]: &[B; 2]) {
    let mut all = Vec::new();
    for hours in [0, 1, 0, -1, 1, 0] {
        let mut more = events(200);
        for event in &mut more {
            event.time += hours.hours();
        }
        one.write(&Batch::new(more.clone())).await.unwrap();
        all.extend(more);
        assert_exact(other, &all).await;
        other.merge().await.unwrap();
        assert_exact(one, &all).await;
        assert_logged(one, &all).await;
    }
}

#[tokio::test]
async fn clock_steps_lose_and_duplicate_nothing_in_sqlite() {
    clock_steps_lose_and_duplicate_nothing(&in_sqlite().await.0).await;
}

#[tokio::test]
async fn clock_steps_lose_and_duplicate_nothing_in_postgres() {
    clock_steps_lose_and_duplicate_nothing(&in_postgres().await.0).await;
}

async fn number_in_sqlite(db: &SqlitePool, sql: &str) -> i64 {
    let number = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
    number.fetch_one(db).await.unwrap()
}

/// Two processes write and merge at once, merging is often cancelled, and readers never see an event missing or
/// counted twice.
async fn concurrent_and_interrupted_merging_is_exact<B: Backend>(backends: &[B; 2]) {
    let (begun, written) = (AtomicU64::new(0), AtomicU64::new(0));
    let is_done = AtomicBool::new(false);
    let write = async |backend: &B| {
        let mut all = Vec::new();
        for _ in 0..40 {
            let more = events(50);
            begun.fetch_add(50, Ordering::SeqCst);
            backend.write(&Batch::new(more.clone())).await.unwrap();
            written.fetch_add(50, Ordering::SeqCst);
            all.extend(more);
        }
        all
    };
    let merge = async |backend: &B| {
        let mut cancelled = 0;
        while !is_done.load(Ordering::SeqCst) {
            let time = Duration::from_micros(fastrand::u64(..20_000));
            match tokio::time::timeout(time, backend.merge()).await {
                Ok(merged) => drop(merged.unwrap()),
                Err(_) => cancelled += 1,
            }
        }
        cancelled
    };
    let read = async |backend: &B| {
        let all = SummaryQuery::new(UsageRange::new(), SummarySpec::new());
        while !is_done.load(Ordering::SeqCst) {
            let least = written.load(Ordering::SeqCst);
            let found = backend.summary(&all).await.unwrap().totals.total();
            let most = begun.load(Ordering::SeqCst);
            assert!((least..=most).contains(&found), "{least} {found} {most}");
        }
    };
    let [one, other] = backends;
    let writing = async {
        let (mut all, more) = tokio::join!(write(one), write(other));
        all.extend(more);
        is_done.store(true, Ordering::SeqCst);
        all
    };
    let (all, cancelled, more, (), ()) =
        tokio::join!(writing, merge(one), merge(other), read(one), read(other));
    assert!(cancelled + more > 0);
    assert_exact(one, &all).await;
    while one.merge().await.unwrap() > 0 {}
    assert_exact(other, &all).await;
}

#[tokio::test]
async fn concurrent_and_interrupted_merging_is_exact_in_sqlite() {
    let (backends, _, _dir) = in_sqlite().await;
    concurrent_and_interrupted_merging_is_exact(&backends).await;
}

#[tokio::test]
async fn concurrent_and_interrupted_merging_is_exact_in_postgres() {
    concurrent_and_interrupted_merging_is_exact(&in_postgres().await.0).await;
}

#[tokio::test]
async fn full_disk_during_merging_loses_nothing_in_sqlite() {
    let (_, other, dir) = in_sqlite().await;
    let (pool, max_pages) = full_disk::pool(&dir.0.join("usage.db"), 3).await;
    let backend = SqliteBackend::from_pool(pool);
    let mut written = Vec::new();
    for _ in 0..8 {
        let events = events(250);
        backend.write(&Batch::new(events.clone())).await.unwrap();
        written.extend(events);
    }
    let pages = number_in_sqlite(&other, "PRAGMA page_count").await;
    let pages = u32::try_from(pages).unwrap();
    let mut failures = 0;
    for more in [0, 3, 10, 30, 100, 300, 1_000] {
        max_pages.set(pages + more);
        if let Err(error) = backend.merge().await {
            assert!(format!("{error:?}").contains("disk is full"), "{error:?}");
            failures += 1;
        }
        assert_exact(&backend, &written).await;
    }
    assert!((1..7).contains(&failures), "{failures}");
    assert_logged(&backend, &written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_during_merging_loses_nothing_in_postgres() {
    let cluster = support::Cluster::with_full_disk();
    let url = cluster.database().await;
    let one = PostgresBackend::connect(&url).await.unwrap();
    one.migrate().await.unwrap();
    let other = PostgresBackend::connect(&url).await.unwrap();
    let mut all = Vec::new();
    let [mut writes, mut merges] = [0, 0];
    for _ in 0..4 {
        let more = events(2_000);
        let batch = Batch::new(more.clone());
        cluster.set_disk_full(true);
        let written = one.write(&batch).await;
        if let Err(error) = &written {
            assert!(matches!(error, SinkError::Unavailable(_)), "{error:?}");
            writes += 1;
            assert_exact(&other, &all).await;
            cluster.set_disk_full(false);
            one.write(&batch).await.unwrap();
            cluster.set_disk_full(true);
        }
        all.extend(more);
        if let Err(error) = other.merge().await {
            assert!(format!("{error:?}").contains("No space left"), "{error:?}");
            merges += 1;
        }
        assert_exact(&other, &all).await;
        cluster.set_disk_full(false);
        one.merge().await.unwrap();
        assert_exact(&other, &all).await;
        assert_logged(&other, &all).await;
    }
    assert!(writes > 0 && merges > 0, "{writes} {merges}");
}

/// A damaged record fails queries until it is set aside by merging, which goes on with the others. A record of a later
/// format is left to processes that can read it.
async fn damaged_record_is_set_aside<B: Backend>(
    [one, other]: &[B; 2],
    value: impl Fn(&[u8]) -> String,
    time: &str,
    execute: impl AsyncFn(&str),
    number: impl AsyncFn(&str) -> i64,
) {
    let mut intact = events(60);
    for (index, event) in intact.iter_mut().enumerate() {
        // Some in hours that have passed.
        event.time -= (10 + index as i64 % 2 * 300).minutes();
    }
    one.write(&Batch::new(intact.clone())).await.unwrap();
    while number(RECORDS).await > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let all = SummaryQuery::new(UsageRange::new(), SummarySpec::new());
    let insert = async |format: u8, ready: bool, record: &[u8]| {
        execute(&format!(
            "INSERT INTO keytally_rollup_records (format, ready, first, last, rollups)
            VALUES ({format}, {ready}, {time}, {time}, {})",
            value(record)
        ))
        .await;
    };
    let unreadable = "SELECT count(*) FROM keytally_rollup_records WHERE unreadable";
    let damaged = [
        (false, &b""[..]),
        (true, b"\x01\0\0\0\0\x01"),
        (false, b"\x02"),
    ];
    for (set_aside, (ready, record)) in damaged.into_iter().enumerate() {
        insert(1, ready, record).await;
        // The last pass of the background task may still be running and set it aside.
        if other.summary(&all).await.is_ok() {
            assert_eq!(number(unreadable).await, set_aside as i64 + 1);
        }
        one.merge().await.unwrap();
        assert_exact(other, &intact).await;
    }
    insert(2, false, b"later").await;
    insert(2, true, b"later").await;
    one.merge().await.unwrap();
    assert_exact(other, &intact).await;
    assert_eq!(number(RECORDS).await, 5);
    assert_eq!(number(unreadable).await, 3);
    let backlog = other.merge_backlog().await.unwrap().unwrap();
    assert_eq!(
        (backlog.records, backlog.oldest_at, backlog.unreadable),
        (0, None, 5)
    );
    // Those without rollups are used, and those that are damaged are added up from other tables.
    execute("CREATE TABLE kept AS SELECT * FROM keytally_caller_minutes").await;
    for table in ["keytally_caller_minutes", "keytally_caller_totals"] {
        assert!(number(&format!("SELECT count(*) FROM {table}")).await > 0);
        let set_totals = async |totals: &[u8]| {
            let totals = value(totals);
            execute(&format!("UPDATE {table} SET totals = {totals}")).await;
        };
        set_totals(b"\x01\0\0\0\0").await;
        let totals = other.totals_by_key(&UsageRange::new()).await.unwrap();
        // Minutes of hours that have passed are not read.
        let hour = |time: Timestamp| time.as_second().div_euclid(3_600);
        let now = hour(Timestamp::now());
        if table == "keytally_caller_totals" || intact.iter().any(|it| hour(it.time) == now) {
            assert!(totals.values().map(Totals::total).sum::<u64>() < intact.len() as u64);
        }
        set_totals(b"\x01").await;
        assert_exact(other, &intact).await;
        execute(
            "UPDATE keytally_caller_minutes SET totals = (SELECT totals FROM kept
                WHERE kept.number = keytally_caller_minutes.number)",
        )
        .await;
    }
    // Outdated ones are stored again.
    execute("UPDATE keytally_caller_totals SET totals = NULL").await;
    assert_exact(other, &intact).await;
    one.merge().await.unwrap();
    let outdated = "SELECT count(*) FROM keytally_caller_totals WHERE totals IS NULL";
    assert_eq!(number(outdated).await, 0);
    assert_exact(other, &intact).await;
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn damaged_record_is_set_aside_in_sqlite() {
    let (backends, db, _dir) = in_sqlite().await;
    let execute = async |sql: &str| {
        let sql = sqlx::query(AssertSqlSafe(sql.to_owned()));
        sql.execute(&db).await.unwrap();
    };
    let number = async |sql: &str| number_in_sqlite(&db, sql).await;
    let value = |bytes: &[u8]| format!("x'{}'", hex(bytes));
    damaged_record_is_set_aside(&backends, value, "0", execute, number).await;
}

#[tokio::test]
async fn damaged_record_is_set_aside_in_postgres() {
    let (backends, db) = in_postgres().await;
    let execute = async |sql: &str| {
        let sql = sqlx::query(AssertSqlSafe(sql.to_owned()));
        sql.execute(&db).await.unwrap();
    };
    let number = async |sql: &str| support::number(&db, &format!("SELECT ({sql})::bigint")).await;
    let value = |bytes: &[u8]| format!(r"'\x{}'::bytea", hex(bytes));
    let time = "'2020-01-01T00:00:00Z'";
    damaged_record_is_set_aside(&backends, value, time, execute, number).await;
}

/// More records and more series than one step merges.
async fn many_records_and_series_are_merged<B: Backend>(
    [one, other]: &[B; 2],
    number: impl AsyncFn(&str) -> i64,
) {
    let mut all = Vec::new();
    for n in 0..70 {
        let mut more = events(150);
        for (m, event) in more.iter_mut().enumerate() {
            event.key = Some(key(n * 150 + m));
            event.time -= 10.minutes();
        }
        one.write(&Batch::new(more.clone())).await.unwrap();
        all.extend(more);
    }
    let query = SummaryQuery::new(UsageRange::new(), SummarySpec::new().by_key());
    let expected = query.spec.summarize(&all);
    assert_eq!(other.summary(&query).await.unwrap(), expected);
    while number(RECORDS).await > 0 {
        other.merge().await.unwrap();
        assert_eq!(one.summary(&query).await.unwrap(), expected);
    }
    assert_eq!(number(MINUTES).await, all.len() as i64);
}

#[tokio::test]
async fn many_records_and_series_are_merged_in_sqlite() {
    let (backends, db, _dir) = in_sqlite().await;
    let number = async |sql: &str| number_in_sqlite(&db, sql).await;
    many_records_and_series_are_merged(&backends, number).await;
}

#[tokio::test]
async fn many_records_and_series_are_merged_in_postgres() {
    let (backends, db) = in_postgres().await;
    let number = async |sql: &str| support::number(&db, &format!("SELECT ({sql})::bigint")).await;
    many_records_and_series_are_merged(&backends, number).await;
}

/// The rollups of all callers together show which minutes have rows. If they are missing, because their record was damaged,
/// later rollups are still added to the rows of their callers.
async fn minutes_without_rollups_of_all_callers_are_added_to<B: Backend>(
    [one, other]: &[B; 2],
    execute: impl AsyncFn(&str),
    number: impl AsyncFn(&str) -> i64,
) {
    let mut all = events(100);
    for event in &mut all {
        event.time = Timestamp::now() - 10.minutes();
    }
    for n in 1..3 {
        one.write(&Batch::new(all.clone())).await.unwrap();
        while number(RECORDS).await > 0 {
            other.merge().await.unwrap();
        }
        assert_eq!(number(MINUTES).await, n * 100);
        execute("DELETE FROM keytally_minutes WHERE caller_id = 0").await;
    }
}

#[tokio::test]
async fn minutes_without_rollups_of_all_callers_are_added_to_in_sqlite() {
    let (backends, db, _dir) = in_sqlite().await;
    let execute = async |sql: &str| {
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&db).await.unwrap();
    };
    let number = async |sql: &str| number_in_sqlite(&db, sql).await;
    minutes_without_rollups_of_all_callers_are_added_to(&backends, execute, number).await;
}

#[tokio::test]
async fn minutes_without_rollups_of_all_callers_are_added_to_in_postgres() {
    let (backends, db) = in_postgres().await;
    let execute = async |sql: &str| {
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&db).await.unwrap();
    };
    let number = async |sql: &str| support::number(&db, &format!("SELECT ({sql})::bigint")).await;
    minutes_without_rollups_of_all_callers_are_added_to(&backends, execute, number).await;
}

/// A process is killed while it merges.
#[tokio::test]
async fn terminated_merging_loses_nothing() {
    let (backends, db) = in_postgres().await;
    let mut all = Vec::new();
    for _ in 0..12 {
        let mut more = events(400);
        for event in &mut more {
            event.time -= 10.minutes();
        }
        backends[0].write(&Batch::new(more.clone())).await.unwrap();
        all.extend(more);
        let terminate = async {
            tokio::time::sleep(Duration::from_micros(fastrand::u64(..9_000))).await;
            let merging = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()
                    AND (state = 'active' OR state LIKE 'idle in transaction%')";
            support::number(&db, merging).await
        };
        // Fails if it is terminated.
        let (_, _) = tokio::join!(backends[1].merge(), terminate);
        assert_exact(&backends[0], &all).await;
    }
    while support::number(&db, RECORDS).await > 0 {
        let _ = backends[1].merge().await;
    }
    assert_exact(&backends[1], &all).await;
}

/// The background task merges without being asked.
#[tokio::test]
async fn rollups_are_merged_in_the_background() {
    let ([backend, _], db, _dir) = in_sqlite().await;
    let old = UsageEvent::new(Timestamp::now() - 5.minutes());
    backend.write(&Batch::new(vec![old])).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while number_in_sqlite(&db, RECORDS).await > 0 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(number_in_sqlite(&db, MINUTES).await, 1);
}

/// Pruning merges first.
#[tokio::test]
async fn old_rollups_are_merged_before_they_are_pruned() {
    let ([backend, _], db, _dir) = in_sqlite().await;
    let now = Timestamp::now();
    let times = [now - (500 * 24).hours(), now - 20.minutes()];
    let events = times.map(UsageEvent::new).to_vec();
    backend.write(&Batch::new(events)).await.unwrap();
    let report = backend.prune(&Retention::new(), now).await.unwrap();
    // The rollup of the key and that of all callers together.
    assert_eq!((report.hours, number_in_sqlite(&db, MINUTES).await), (2, 1));
}

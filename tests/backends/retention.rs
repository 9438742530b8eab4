//! Pruning of old usage in both databases: what is kept, and what queries return afterwards.

use std::num::NonZeroU32;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use keytally::backend::{
    BackendError, MemoryBackend, MemoryConfig, PostgresBackend, PruneReport, Retention,
    SqliteBackend,
};
use keytally::usage::{
    Batch, Count, Granularity, LogCursor, LogFilter, LogQuery, LogSampling, Method, ReadError,
    RecordedQuery, Rollup, SummaryQuery, SummarySpec, UsageEvent, UsageRange, UsageReader,
    UsageSink,
};
use keytally::{Clock, KeyId};

use sqlx::{AssertSqlSafe, PgPool};

use crate::checks;
use crate::postgres_server as support;

use checks::recorded_after;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

trait Backend: UsageSink + UsageReader {
    async fn prune(
        &self,
        retention: &Retention,
        now: Timestamp,
    ) -> Result<PruneReport, BackendError>;
}

impl Backend for SqliteBackend {
    async fn prune(
        &self,
        retention: &Retention,
        now: Timestamp,
    ) -> Result<PruneReport, BackendError> {
        self.prune(retention, now).await
    }
}

impl Backend for PostgresBackend {
    async fn prune(
        &self,
        retention: &Retention,
        now: Timestamp,
    ) -> Result<PruneReport, BackendError> {
        self.prune(retention, now).await
    }
}

fn key() -> KeyId {
    "RetentionKey0001".parse().unwrap()
}

/// Requests of the ten days before `end`, about one per quarter of an hour.
fn events(end: Timestamp) -> Vec<UsageEvent> {
    let quarters = 0..10 * 24 * 4_i64;
    quarters
        .map(|n| {
            let time = end - (n * 15).minutes() - (n % 13).seconds();
            let mut event = UsageEvent::new(time);
            event.key = (n % 3 > 0).then(key);
            event.method = Method::ALL[n as usize % 3];
            event.latency_us = n as u64;
            event.response_bytes = 10;
            event
        })
        .collect()
}

fn noon() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

async fn total<B: Backend>(backend: &B, query: &SummaryQuery) -> u64 {
    backend.summary(query).await.unwrap().totals.total()
}

async fn pruning_preserves_summaries<B: Backend>(backend: &B) {
    let end = noon();
    let events = events(end);
    for events in events.chunks(100) {
        backend.write(&Batch::new(events.to_vec())).await.unwrap();
    }
    let spec = || SummarySpec::new().by_key().latency();
    let berlin = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
    let kathmandu = jiff::tz::TimeZone::get("Asia/Kathmandu").unwrap();
    let by_day = spec().over_time(Granularity::Day, berlin);
    let by_quarter = spec().over_time(Granularity::QuarterHour, kathmandu);
    let everything = SummaryQuery::new(UsageRange::new(), by_day.clone());
    let of_key = SummaryQuery::new(UsageRange::new().key(key()), by_day.clone());
    let recent = UsageRange::new().from(end - 20.hours() + 7.minutes());
    let recent = SummaryQuery::new(recent, by_quarter.clone());
    let before = [
        backend.summary(&everything).await.unwrap(),
        backend.summary(&of_key).await.unwrap(),
        backend.summary(&recent).await.unwrap(),
    ];
    assert_eq!(before[0], by_day.summarize(&events));
    let counts = |event: &&UsageEvent| {
        recent
            .range
            .includes(&Rollup::of(event, Granularity::Minute))
    };
    assert_eq!(
        before[2],
        by_quarter.summarize(events.iter().filter(counts))
    );

    let retention = Retention::new()
        .log(2 * DAY)
        .minutes(DAY)
        .quarter_hours(3 * DAY)
        .hours(30 * DAY);
    let report = backend.prune(&retention, end).await.unwrap();
    assert!(report.log > 0, "{report:?}");
    assert!(report.minutes > 150 && report.quarters > 600, "{report:?}");
    assert_eq!(report.hours, 0);
    // A second run has nothing to prune.
    let again = backend.prune(&retention, end).await.unwrap();
    assert_eq!(again, PruneReport::default());

    // Summaries are unchanged: by day, and by quarter of an hour where minutes are kept.
    let after = [
        backend.summary(&everything).await.unwrap(),
        backend.summary(&of_key).await.unwrap(),
        backend.summary(&recent).await.unwrap(),
    ];
    assert_eq!(after, before);
    // The log has two full days, and part of the third.
    let Count::Exactly(logged) = backend.count(&LogFilter::new()).await.unwrap() else {
        panic!("an exact count was expected");
    };
    assert!((2 * 96..=3 * 96).contains(&logged), "{logged}");
    let oldest = LogFilter::new().to(end - 72.hours());
    assert_eq!(backend.count(&oldest).await.unwrap(), Count::Exactly(0));

    // Without minutes, an hour on the edge of a range counts entirely where it starts.
    let edge = end - 101.hours() + 30.minutes();
    let cut = SummaryQuery::new(UsageRange::new().from(edge), spec());
    assert_eq!(total(backend, &cut).await, 100 * 4);
    assert!(!backend.summary(&cut).await.unwrap().exact);
    let before = SummaryQuery::new(UsageRange::new().to(edge), spec());
    assert_eq!(total(backend, &before).await, 960 - 100 * 4);
    let rollups = backend.rollups(&UsageRange::new()).await.unwrap();
    let [quarters, minutes] = [72, 24].map(|hours| end - hours.hours());
    assert!(rollups.iter().all(|rollup| match rollup.start {
        start if start < quarters => rollup.granularity == Granularity::Hour,
        start if start < minutes => rollup.granularity == Granularity::QuarterHour,
        _ => rollup.granularity == Granularity::Minute,
    }));
    assert_eq!(rollups.iter().map(|rollup| rollup.count).sum::<u64>(), 960);

    // Events that are recorded days late are counted as well.
    let late = [99, 50].map(|hours| {
        let mut event = UsageEvent::new(end - hours.hours() + 7.minutes());
        event.key = Some(key());
        event
    });
    backend.write(&Batch::new(late.into())).await.unwrap();
    for _ in 0..2 {
        assert_eq!(total(backend, &everything).await, 962);
        assert_eq!(total(backend, &cut).await, 100 * 4 + 2);
        let quarter = UsageRange::new()
            .from(end - 50.hours())
            .to(end - 50.hours() + 15.minutes());
        let quarter = SummaryQuery::new(quarter, by_quarter.clone());
        let summary = backend.summary(&quarter).await.unwrap();
        assert!(summary.exact && summary.over_time.unwrap().buckets.len() == 1);
        assert_eq!(summary.totals.total(), 2);
        let rollups = backend.rollups(&quarter.range).await.unwrap();
        assert!(rollups.iter().all(|it| it.start == end - 50.hours()));
        backend.prune(&retention, end).await.unwrap();
    }

    // Hours are pruned as well, by whole days.
    let retention = retention.hours(4 * DAY);
    let report = backend.prune(&retention, end).await.unwrap();
    assert!(report.hours > 0);
    let kept = UsageRange::new().from(end - (4 * 24 + 12).hours());
    let kept = total(backend, &SummaryQuery::new(kept, spec())).await;
    assert_eq!(total(backend, &everything).await, kept);
    assert_eq!(kept, (4 * 24 + 12) * 4 + 2);
}

/// Daily totals in a time zone whose midnight lies within an hour of UTC, after minutes were pruned.
async fn no_request_counts_in_two_adjacent_days<B: Backend>(backend: &B) {
    let end = noon();
    backend.write(&Batch::new(events(end))).await.unwrap();
    let summaries = async |zone: &str| {
        let zone = TimeZone::get(zone).unwrap();
        let first: Date = "2026-11-09".parse().unwrap();
        let mut totals = Vec::new();
        for day in first.series(1.day()).take(13) {
            let start = |day: Date| zone.to_timestamp(day.at(0, 0, 0, 0)).unwrap();
            let range = UsageRange::new()
                .from(start(day))
                .to(start(day.tomorrow().unwrap()));
            let query = SummaryQuery::new(range, SummarySpec::new());
            let summary = backend.summary(&query).await.unwrap();
            totals.push((summary.totals.total(), summary.exact));
        }
        totals
    };
    for zone in ["Asia/Kolkata", "UTC"] {
        let before = summaries(zone).await;
        assert_eq!(before.iter().map(|(total, _)| total).sum::<u64>(), 960);
        assert!(before.iter().all(|(_, exact)| *exact));
    }
    let sum = |days: &[(u64, bool)]| days.iter().map(|(total, _)| total).sum::<u64>();
    let chart = async |zone: &str, width: Granularity| {
        let spec = SummarySpec::new().over_time(width, TimeZone::get(zone).unwrap());
        let query = SummaryQuery::new(UsageRange::new(), spec);
        backend.summary(&query).await.unwrap()
    };
    let zones = ["Asia/Kolkata", "Asia/Kathmandu", "UTC"];
    let mut before = Vec::new();
    for zone in zones {
        before.push((summaries(zone).await, chart(zone, Granularity::Day).await));
    }
    // With quarters of an hour, daily totals are unchanged.
    let retention = Retention::new().minutes(2 * DAY);
    backend.prune(&retention, end).await.unwrap();
    for (zone, before) in zones.into_iter().zip(before) {
        let after = (summaries(zone).await, chart(zone, Granularity::Day).await);
        assert_eq!(after, before, "{zone}");
        assert!(!chart(zone, Granularity::FiveMinutes).await.exact);
    }
    // With hours, no request counts twice.
    let retention = retention.quarter_hours(Duration::ZERO);
    backend.prune(&retention, end).await.unwrap();
    let after = summaries("Asia/Kolkata").await;
    assert_eq!(sum(&after), 960);
    // From the first request, on the 10th, to the 18th.
    assert!(after[1..=8].iter().all(|(_, exact)| !exact), "{after:?}");
    assert!(after[10..].iter().all(|(_, exact)| *exact), "{after:?}");
    let after = summaries("UTC").await;
    assert_eq!(sum(&after), 960);
    assert!(after.iter().all(|(_, exact)| *exact));
    // A chart over the whole range.
    for (zone, exact) in [("Asia/Kolkata", false), ("Europe/Berlin", true)] {
        assert_eq!(chart(zone, Granularity::Day).await.exact, exact);
    }
}

/// More rollups than one transaction folds, and histograms that were updated many times.
async fn quarter_hour_rollups_equal_their_minutes<B: Backend>(backend: &B) {
    let start = noon() - 50.hours();
    let events: Vec<UsageEvent> = (0..6_000_i64)
        .map(|n| {
            let mut event = UsageEvent::new(start + (n % 15).minutes());
            event.endpoint = format!("/v1/{}", n / 15 % 200).into();
            event.key = (n % 7 > 0).then(key);
            event.latency_us = 1 << (n % 25);
            event.response_bytes = n as u64;
            event
        })
        .collect();
    // One endpoint with many latencies, written in consecutive batches.
    let busy: Vec<UsageEvent> = (0..140_i64)
        .map(|n| {
            let mut event = UsageEvent::new(start + (1 + n % 14).minutes());
            event.latency_us = n as u64 % 10 * 1_000;
            event
        })
        .collect();
    for events in events.chunks(500).chain(busy.chunks(14)) {
        backend.write(&Batch::new(events.to_vec())).await.unwrap();
    }
    let retention = Retention::new().minutes(DAY);
    let report = backend.prune(&retention, noon()).await.unwrap();
    assert!(report.minutes > 2_500, "{report:?}");
    let spec = SummarySpec::new().by_key().latency();
    let spec = spec.over_time(Granularity::QuarterHour, TimeZone::UTC);
    let range = UsageRange::new().from(start).to(start + 15.minutes());
    let all = events.iter().chain(&busy);
    for key in [None, Some(key())] {
        let mut range = range.clone();
        range.key = key;
        let of_key = all.clone().filter(|it| key.is_none() || it.key == key);
        let query = SummaryQuery::new(range.clone(), spec.clone());
        let expected = spec.summarize(of_key);
        assert_eq!(backend.summary(&query).await.unwrap(), expected);
        let rollups = backend.rollups(&range).await.unwrap();
        assert!(
            rollups
                .iter()
                .all(|it| it.granularity == Granularity::QuarterHour)
        );
        assert_eq!(spec.summarize(&rollups), expected);
    }
}

#[tokio::test]
async fn quarter_hour_rollups_equal_their_minutes_in_sqlite() {
    let backend = SqliteBackend::in_memory().await.unwrap();
    quarter_hour_rollups_equal_their_minutes(&backend).await;
}

#[tokio::test]
async fn quarter_hour_rollups_equal_their_minutes_in_postgres() {
    let (backend, url) = support::backend().await;
    quarter_hour_rollups_equal_their_minutes(&backend).await;
    let pool = support::pool(&url).await;
    let long = "SELECT count(*) FROM keytally_minutes WHERE length(latency) > 256";
    assert_eq!(support::number(&pool, long).await, 0);
    // Each caller and kind has a single row for the quarter.
    let rows = "SELECT count(*) - count(DISTINCT (caller_id, kind_id)) FROM keytally_minutes";
    assert_eq!(support::number(&pool, rows).await, 0);
}

#[tokio::test]
async fn no_request_counts_in_two_adjacent_days_in_sqlite() {
    let backend = SqliteBackend::in_memory().await.unwrap();
    no_request_counts_in_two_adjacent_days(&backend).await;
}

#[tokio::test]
async fn no_request_counts_in_two_adjacent_days_in_postgres() {
    let (backend, _) = support::backend().await;
    no_request_counts_in_two_adjacent_days(&backend).await;
}

/// Cursors continue after the log was pruned, in part or entirely.
async fn cursors_stay_valid_after_pruning<B: Backend>(backend: &B) {
    let write = async |end: Timestamp, count: usize| {
        let mut events = events(end);
        events.truncate(count);
        let batch = Batch::new(events);
        backend.write(&batch).await.unwrap();
        batch.len()
    };
    let end = noon();
    let late = end - (20 * 24).hours();
    write(late, 5).await;
    let (events, early) = recorded_after(backend, LogCursor::START).await;
    assert_eq!(events.len(), 5);
    write(end, 3).await;
    write(late, 4).await;
    // Some events behind the cursor are older than the retention.
    let retention = Retention::new().log(5 * DAY);
    backend.prune(&retention, end).await.unwrap();
    let (events, cursor) = recorded_after(backend, early).await;
    assert_eq!(events.len(), 3);
    // The poller missed four events, which is reported as a gap.
    let page = async |cursor| backend.recorded(&RecordedQuery::after(cursor)).await;
    assert!(page(early).await.unwrap().has_gap);
    assert!(!page(LogCursor::START).await.unwrap().has_gap);
    let beyond = LogCursor::new(cursor.position() + 100);
    let error = page(beyond).await.unwrap_err();
    assert!(matches!(error, ReadError::Cursor), "{error}");
    let (events, _) = recorded_after(backend, LogCursor::START).await;
    assert_eq!(events.len(), 3);
    backend
        .prune(&retention, end + (30 * 24).hours())
        .await
        .unwrap();
    assert_eq!(recorded_after(backend, LogCursor::START).await.0, []);
    assert_eq!(recorded_after(backend, cursor).await.0, []);
    write(end, 2).await;
    write(late, 1).await;
    let (events, _) = recorded_after(backend, cursor).await;
    assert_eq!(events.len(), 3);
    assert!(!page(cursor).await.unwrap().has_gap);
    let (events, _) = recorded_after(backend, LogCursor::START).await;
    assert_eq!(events.len(), 3);
}

/// A reader that missed pruned events sees a gap, even if only part of a batch was pruned.
async fn pruned_events_are_reported_as_a_gap<B: Backend>(backend: &B) {
    let end = noon();
    backend
        .write(&Batch::new(vec![UsageEvent::new(end)]))
        .await
        .unwrap();
    let (_, cursor) = recorded_after(backend, LogCursor::START).await;
    let days = [end - (20 * 24).hours(), end].map(UsageEvent::new);
    backend.write(&Batch::new(days.into())).await.unwrap();
    let (_, seen) = recorded_after(backend, cursor).await;
    backend
        .prune(&Retention::new().log(5 * DAY), end)
        .await
        .unwrap();
    for (after, count, has_gap) in [(cursor, 1, true), (seen, 0, false)] {
        let page = backend
            .recorded(&RecordedQuery::after(after))
            .await
            .unwrap();
        assert_eq!(
            (page.items.len(), page.has_gap),
            (count, has_gap),
            "{after}"
        );
    }
}

#[tokio::test]
async fn pruned_events_are_reported_as_a_gap_in_sqlite() {
    pruned_events_are_reported_as_a_gap(&SqliteBackend::in_memory().await.unwrap()).await;
}

#[tokio::test]
async fn pruned_events_are_reported_as_a_gap_in_postgres() {
    pruned_events_are_reported_as_a_gap(&support::backend().await.0).await;
}

#[tokio::test]
async fn cursors_stay_valid_after_pruning_in_sqlite() {
    let backend = SqliteBackend::in_memory().await.unwrap();
    cursors_stay_valid_after_pruning(&backend).await;
}

#[tokio::test]
async fn cursors_stay_valid_after_pruning_in_postgres() {
    let (backend, url) = support::backend().await;
    cursors_stay_valid_after_pruning(&backend).await;
    let batches = "SELECT count(*) FROM keytally_log_batches";
    assert_eq!(
        support::number(&support::pool(&url).await, batches).await,
        2
    );
}

#[tokio::test]
async fn pruning_preserves_summaries_in_sqlite() {
    let backend = SqliteBackend::in_memory().await.unwrap();
    pruning_preserves_summaries(&backend).await;
}

#[tokio::test]
async fn pruning_preserves_summaries_in_postgres() {
    let (backend, _) = support::backend().await;
    pruning_preserves_summaries(&backend).await;
}

#[tokio::test]
async fn daily_partitions_are_created_ahead_and_dropped_whole() {
    let (backend, url) = support::backend().await;
    let pool = support::pool(&url).await;
    let partitions = "SELECT count(*) FROM pg_inherits
        WHERE inhparent = 'keytally_requests'::regclass";
    let end = Timestamp::now();
    let batch = Batch::new(events(end));
    backend.write(&batch).await.unwrap();
    // Those of the events' days, of today and of the next two days.
    let created = support::number(&pool, partitions).await;
    assert!((12..=13).contains(&created), "{created}");
    let other = PostgresBackend::connect(&url).await.unwrap();
    let retention = Retention::new().log(2 * DAY);
    let report = other.prune(&retention, end).await.unwrap();
    assert!((7..=8).contains(&report.log), "{report:?}");
    // The first instance does not know about it when a late event of such a day arrives.
    let late = Batch::new(vec![UsageEvent::new(end - 120.hours())]);
    backend.write(&late).await.unwrap();
    let query = LogQuery::new(LogFilter::new().to(end - 119.hours()));
    let page = backend.requests(&query).await.unwrap();
    assert_eq!(page.items, late.events().to_vec());
}

async fn assert_totals_match_events<B>(keep: LogSampling, backend: &B)
where
    B: UsageSink + UsageReader,
{
    let events = events(noon());
    let batch = Batch::new(events.clone());
    for _ in 0..2 {
        backend.write(&batch).await.unwrap();
    }
    let spec = SummarySpec::new().by_key().latency();
    let query = SummaryQuery::new(UsageRange::new(), spec.clone());
    assert_eq!(
        backend.summary(&query).await.unwrap(),
        spec.summarize(&events)
    );
    let kept = events.iter().filter(|event| keep.keeps(event)).count() as u64;
    let count = backend.count(&LogFilter::new()).await.unwrap();
    assert_eq!(count, Count::Exactly(kept), "{keep:?}");
}

#[tokio::test]
async fn totals_are_independent_of_log_sampling() {
    let tenth = LogSampling::OneIn(NonZeroU32::new(10).unwrap());
    for keep in [LogSampling::None, LogSampling::KeysOnly, tenth] {
        let sqlite = SqliteBackend::in_memory()
            .await
            .unwrap()
            .with_log_sampling(keep);
        assert_totals_match_events(keep, &sqlite).await;
        let postgres = support::backend().await.0.with_log_sampling(keep);
        assert_totals_match_events(keep, &postgres).await;
        let now = Clock::manual(noon());
        let memory = MemoryBackend::with_clock(MemoryConfig::new().log_sampling(keep), now);
        assert_totals_match_events(keep, &memory).await;
    }
}

#[tokio::test]
async fn batch_ids_expire_relative_to_the_newest_batch() {
    let backend = SqliteBackend::in_memory().await.unwrap();
    let batch = Batch::new(events(noon()));
    backend.write(&batch).await.unwrap();
    // The recorder may retry the batch, however long nothing else was written.
    let retention = Retention::new().log(Duration::MAX).batches(HOUR);
    let report = backend.prune(&retention, Timestamp::now() + 2_400.hours());
    assert_eq!(report.await.unwrap().batches, 0);
    backend.write(&batch).await.unwrap();
    let query = LogQuery::new(LogFilter::new());
    assert!(!backend.requests(&query).await.unwrap().items.is_empty());
    assert_eq!(
        backend.count(&LogFilter::new()).await.unwrap(),
        Count::Exactly(960)
    );
}

#[tokio::test]
async fn maintenance_task_prunes_in_the_background() {
    let backend = SqliteBackend::in_memory().await.unwrap();
    backend.write(&Batch::new(events(noon()))).await.unwrap();
    let retention = Retention::new().log(DAY);
    let maintenance = backend.maintain(retention);
    let filter = LogFilter::new();
    while backend.count(&filter).await.unwrap() != Count::Exactly(0) {
        tokio::task::yield_now().await;
    }
    drop(maintenance);
}

async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(pool)
        .await
        .unwrap();
}

/// SQL for a trigger that makes every `DELETE` from this table fail.
fn forbid_deletes(table: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION forbid_deletes() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'no'; END $$;
        CREATE TRIGGER forbid_deletes BEFORE DELETE ON {table}
            FOR EACH ROW EXECUTE FUNCTION forbid_deletes()"
    )
}

#[tokio::test]
async fn failure_to_prune_one_table_does_not_stop_the_others() {
    let (backend, url) = support::backend().await;
    let db = support::pool(&url).await;
    let end = noon();
    backend.write(&Batch::new(events(end))).await.unwrap();
    let old = "UPDATE keytally_batches SET applied_at = applied_at - interval '99 days'";
    run(&db, old).await;
    let another = Batch::new(vec![UsageEvent::new(end)]);
    backend.write(&another).await.unwrap();
    run(&db, &forbid_deletes("keytally_minutes")).await;
    run(&db, &forbid_deletes("keytally_days")).await;
    // Two of the partitions have dependent views and cannot be dropped.
    let views = "CREATE VIEW one AS SELECT * FROM keytally_requests_20261110;
        CREATE VIEW two AS SELECT * FROM keytally_requests_20261111";
    run(&db, views).await;
    let retention = Retention::new().log(DAY).minutes(DAY).hours(2 * DAY);
    let error = backend.prune(&retention, end).await.unwrap_err();
    assert!(matches!(error, BackendError::Unavailable(_)), "{error:?}");
    let edge = "'2026-11-18T00:00:00Z'";
    for (rows, expected) in [
        (format!("keytally_hours WHERE start < {edge}"), 0),
        (format!("keytally_hours_by_outcome WHERE start < {edge}"), 0),
        (format!("keytally_caller_totals WHERE start < {edge}"), 0),
        (format!("keytally_caller_minutes WHERE hour < {edge}"), 0),
        ("keytally_batches".into(), 1),
        (
            "pg_inherits WHERE inhparent = 'keytally_requests'::regclass
                AND inhrelid::regclass::text < 'keytally_requests_20261119'"
                .into(),
            2,
        ),
    ] {
        let count = format!("SELECT count(*) FROM {rows}");
        assert_eq!(support::number(&db, &count).await, expected, "{rows}");
    }
}

/// Asserts that totals, which are read from days, equal those over time, which are read from hours.
async fn assert_totals_agree<B: Backend>(backend: &B, expected: u64) {
    let spec = SummarySpec::new().over_time(Granularity::Day, jiff::tz::TimeZone::UTC);
    for range in [UsageRange::new(), UsageRange::new().key(key())] {
        let query = SummaryQuery::new(range, spec.clone());
        let summary = backend.summary(&query).await.unwrap();
        let over_time = summary.over_time.unwrap();
        let over_time: u64 = over_time.buckets.values().map(|it| it.total()).sum();
        assert_eq!(summary.totals.total(), over_time);
        if query.range.key.is_none() {
            assert_eq!(over_time, expected);
        }
    }
    let rollups = backend.rollups(&UsageRange::new()).await.unwrap();
    assert_eq!(rollups.iter().map(|it| it.count).sum::<u64>(), expected);
}

/// When pruning stops half way because rows of a table cannot be deleted, all queries still agree.
async fn totals_agree_after_partial_pruning<B: Backend>(
    backend: &B,
    lock: impl AsyncFn(&str),
    unlock: impl AsyncFn(&str),
) {
    let end = noon();
    backend.write(&Batch::new(events(end))).await.unwrap();
    assert_totals_agree(backend, 960).await;
    let retention = |days| Retention::new().log(DAY).minutes(DAY).hours(days * DAY);
    let kept = |days| {
        let from = Granularity::Day.floor(end) - (i64::from(days) * 24).hours();
        events(end).iter().filter(|it| it.time >= from).count() as u64
    };
    for (days, table) in [(6, "days"), (5, "hours")] {
        lock(table).await;
        backend.prune(&retention(days), end).await.unwrap_err();
        assert_totals_agree(backend, kept(days)).await;
        unlock(table).await;
        backend.prune(&retention(days), end).await.unwrap();
        assert_totals_agree(backend, kept(days)).await;
    }
    // An event that late counts until the next pruning.
    let late = UsageEvent::new(end - 200.hours());
    backend.write(&Batch::new(vec![late])).await.unwrap();
    assert_totals_agree(backend, kept(5) + 1).await;
    backend.prune(&retention(5), end).await.unwrap();
    assert_totals_agree(backend, kept(5)).await;
}

#[tokio::test]
async fn totals_agree_after_partial_pruning_in_postgres() {
    let (backend, url) = support::backend().await;
    let db = support::pool(&url).await;
    let lock = async |table: &str| run(&db, &forbid_deletes(&format!("keytally_{table}"))).await;
    let unlock = async |table: &str| {
        run(
            &db,
            &format!("DROP TRIGGER forbid_deletes ON keytally_{table}"),
        )
        .await;
    };
    totals_agree_after_partial_pruning(&backend, lock, unlock).await;
}

#[tokio::test]
async fn totals_agree_after_partial_pruning_in_sqlite() {
    let db = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let db = db.connect("sqlite::memory:").await.unwrap();
    let backend = SqliteBackend::from_pool(db.clone());
    backend.migrate().await.unwrap();
    let run = async |sql: String| {
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&db).await;
        done.unwrap();
    };
    let lock = async |table: &str| {
        run(format!(
            "CREATE TRIGGER forbid_deletes BEFORE DELETE ON keytally_{table}
            BEGIN SELECT RAISE(ABORT, 'no'); END"
        ))
        .await;
    };
    let unlock = async |_: &str| run("DROP TRIGGER forbid_deletes".into()).await;
    totals_agree_after_partial_pruning(&backend, lock, unlock).await;
}

/// Filters on both the key and other attributes find requests whose hours were pruned.
async fn requests_older_than_rollups_are_found<B: Backend>(backend: &B) {
    let end = noon();
    backend.write(&Batch::new(events(end))).await.unwrap();
    let filter = LogFilter::new().key(key()).method(Method::ALL[1]);
    let expected = events(end).iter().filter(|it| filter.matches(it)).count() as u64;
    assert!(expected > 0);
    let retention = Retention::new()
        .log(Duration::MAX)
        .minutes(DAY)
        .hours(2 * DAY);
    for _ in 0..2 {
        let count = backend.count(&filter).await.unwrap();
        assert_eq!(count, Count::Exactly(expected));
        assert!(backend.prune(&retention, end).await.is_ok());
    }
}

#[tokio::test]
async fn requests_older_than_rollups_are_found_in_sqlite() {
    let backend = SqliteBackend::in_memory().await.unwrap();
    requests_older_than_rollups_are_found(&backend).await;
}

#[tokio::test]
async fn requests_older_than_rollups_are_found_in_postgres() {
    let (backend, _) = support::backend().await;
    requests_older_than_rollups_are_found(&backend).await;
}

#[tokio::test]
async fn pruning_skips_kinds_locked_by_a_writer() {
    let (backend, url) = support::backend().await;
    let db = support::pool(&url).await;
    let events = (0..20).map(|n| {
        let mut event = UsageEvent::new(noon());
        event.endpoint = format!("/v1/{n}").into();
        event
    });
    backend.write(&Batch::new(events.collect())).await.unwrap();
    run(&db, "UPDATE keytally_kinds SET last_seen_day = 1").await;
    run(&db, "UPDATE keytally_callers SET last_seen_day = 1").await;
    let mut writing = db.begin().await.unwrap();
    let hold = "SELECT 1 FROM keytally_kinds ORDER BY id DESC LIMIT 5 FOR NO KEY UPDATE";
    sqlx::raw_sql(hold).execute(&mut *writing).await.unwrap();
    let retention = Retention::new().log(DAY).hours(2 * DAY);
    let later = noon() + 2_400.hours();
    let prune = backend.prune(&retention, later);
    let result = tokio::time::timeout(Duration::from_secs(20), prune).await;
    result.expect("pruning waited for locked kinds").unwrap();
    let kinds = "SELECT count(*) FROM keytally_kinds";
    assert_eq!(support::number(&db, kinds).await, 5);
    writing.rollback().await.unwrap();
    backend.prune(&retention, later).await.unwrap();
    for table in ["kinds", "callers", "log_segments"] {
        let rows = format!("SELECT count(*) FROM keytally_{table}");
        assert_eq!(support::number(&db, &rows).await, 0, "{table}");
    }
}

//! Summaries from a SQLite database.

use jiff::ToSpan;
use jiff::tz::TimeZone;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqlitePoolOptions;

use super::*;
use crate::backend::SqliteBackend;
use crate::backend::sql::{Dialect, Names, Value};
use crate::usage::{Batch, SummaryQuery, UsageEvent, UsageReader, UsageSink};

#[tokio::test]
async fn unfiltered_summaries_read_one_rollup_per_kind() {
    let pool = SqlitePoolOptions::new().max_connections(1);
    let pool = pool.connect("sqlite::memory:").await.unwrap();
    let backend = SqliteBackend::from_pool(pool.clone());
    backend.migrate().await.unwrap();
    let start = "2026-11-01T00:00:00Z".parse().unwrap();
    let events: Vec<_> = (0..1_000)
        .map(|n| {
            let mut event = UsageEvent::new(start);
            event.key = format!("{n:016}").parse().ok();
            event.owner = Some(if n % 4 == 0 { "few" } else { "many" }.into());
            event.owner = event.owner.filter(|_| n < 300 || n % 4 > 0);
            event.latency_us = n * 100;
            event
        })
        .collect();
    backend.write(&Batch::new(events.clone())).await.unwrap();
    for is_merged in [false, true] {
        if is_merged {
            backend.merge_rollups().await.unwrap();
        }
        for spec in [SummarySpec::new().latency(), SummarySpec::new().by_key()] {
            let query = SummaryQuery::new(UsageRange::new(), spec);
            let summary = backend.summary(&query).await.unwrap();
            assert_eq!(summary, query.spec.summarize(&events));
        }
        for owner in ["few", "many"] {
            let of_owner = events.iter();
            let of_owner = of_owner.filter(|event| event.owner.as_deref() == Some(owner));
            let range = UsageRange::new().owner(owner);
            let totals = backend.totals_by_key(&range).await.unwrap();
            assert_eq!(totals, crate::usage::summary::by_key(of_owner));
        }
    }

    let names = Names::new(Dialect::Sqlite);
    let day = start.as_microsecond()..start.as_microsecond() + 24 * HOUR;
    let parts = cover_range(
        &day,
        Granularity::Day,
        Widths::new(None, None, Merged::new(Some(i64::MAX), Some(i64::MAX))),
    );
    let range = UsageRange::new();
    for (callers, expected) in [(Callers::Together, 1), (Callers::Each, 1_000)] {
        let statement = by_series(&names, &range, callers, &parts, &TimeBuckets::None, true);
        let mut query = sqlx::query(AssertSqlSafe(statement.text));
        for value in statement.values {
            let Value::Time(time) = value else {
                panic!("{value:?}");
            };
            query = query.bind(time);
        }
        assert_eq!(query.fetch_all(&pool).await.unwrap().len(), expected);
    }
}

#[tokio::test]
async fn distant_timestamps_do_not_change_summaries() {
    let backend = SqliteBackend::in_memory().await.unwrap();
    let times = ["0001-01-03T12:00:00Z", "1970-01-01T00:00:01Z"]
        .into_iter()
        .chain(["2031-06-01T22:30:00Z", "9999-12-01T23:30:00Z"]);
    let mut events: Vec<_> = times
        .map(|time| UsageEvent::new(time.parse().unwrap()))
        .collect();
    let now = Timestamp::now();
    let recent = (0..500).map(|n| UsageEvent::new(now - (n * 20_011).seconds()));
    // Around the boundaries between the sections.
    let edges = [10, -1].map(|years| now - (years * 365 * 24).hours());
    let edges = edges.into_iter().flat_map(|edge| {
        let hours = -30..30;
        hours.map(move |n| UsageEvent::new(edge + (n * 3_607).seconds()))
    });
    events.extend(recent.chain(edges));
    for events in events.chunks(100) {
        backend.write(&Batch::new(events.to_vec())).await.unwrap();
    }
    for is_merged in [false, true] {
        for zone in ["Europe/Berlin", "America/St_Johns", "UTC"] {
            let zone = TimeZone::get(zone).unwrap();
            for width in [Granularity::Minute, Granularity::Hour, Granularity::Day] {
                let spec = SummarySpec::new().over_time(width, zone.clone());
                let query = SummaryQuery::new(UsageRange::new(), spec.clone());
                let summary = backend.summary(&query).await.unwrap();
                assert_eq!(
                    summary,
                    spec.summarize(&events),
                    "{width} {zone:?} {is_merged}"
                );
            }
        }
        backend.merge_rollups().await.unwrap();
    }
}

//! Searches of request logs with many segments.

use jiff::{Timestamp, ToSpan};
use keytally::KeyId;
use keytally::backend::{MemoryBackend, PostgresBackend, SqliteBackend};
use keytally::usage::{
    Batch, LogFilter, LogQuery, Method, Outcome, Status, StatusClass, UsageEvent, UsageReader,
    UsageSink,
};
use sqlx::Row as _;

use crate::postgres_server as support;

fn start() -> Timestamp {
    "2026-11-01T12:00:00Z".parse().unwrap()
}

fn key(n: usize) -> KeyId {
    format!("3fK9aB{n:010}").parse().unwrap()
}

/// The number of batches, each in a segment of its own.
const BATCHES: usize = 400;

/// Batches two hours apart. Some have the request of a long stream. One key and one status are rare.
fn batches() -> Vec<Batch> {
    let batch = |n: usize| {
        let time = start() + (2 * n as i64).hours();
        let event = |n: usize, time: Timestamp| {
            let mut event = UsageEvent::new(time);
            let number = if n % 603 == 2 { 9 } else { n % 4 };
            event.key = Some(key(number));
            event.owner = Some(format!("customer-{}", number % 2).into());
            event.method = Method::ALL[n % 3];
            event.endpoint = format!("/v1/{}", n % 5).into();
            event.status = Status::Http(if n % 397 == 5 { 500 } else { 200 });
            (event.outcome, event.cause) = Outcome::of(event.status);
            event.resource_id = (n % 100 == 7).then(|| format!("thing-{}", n % 3).into());
            event.request_id = (n % 50 == 9).then(|| format!("req-{n}").into());
            event
        };
        let mut events: Vec<_> = (0..3)
            .map(|i| event(3 * n + i, time + (i as i64).seconds()))
            .collect();
        if n % 5 == 1 {
            events.push(event(7 * n, time - 5.hours()));
        }
        Batch::new(events)
    };
    (0..BATCHES).map(batch).collect()
}

fn filters(events: &[UsageEvent]) -> Vec<LogFilter> {
    let late = events.iter().find(|event| event.time < start()).unwrap();
    let filter = LogFilter::new;
    vec![
        filter(),
        filter().key(key(1)),
        filter().key(key(9)),
        filter().key(key(5)),
        filter().owner("customer-1"),
        filter().status_class(StatusClass::ServerError),
        filter().key(key(9)).status_class(StatusClass::ServerError),
        filter().key(key(2)).method(Method::ALL[1]),
        filter().owner("customer-0").endpoint("/v1/3"),
        filter().resource_id("thing-1"),
        filter().resource_id("thing-1").key(key(3)),
        filter().request_id("req-9"),
        filter().request_id(late.id.to_string()),
        filter()
            .from(start() + 100.hours())
            .to(start() + 130.hours()),
        filter().to(start()),
        filter().key(key(0)).to(start() + 300.hours()),
    ]
}

/// Compares with the backend in memory.
async fn pages_and_counts_are_exact(
    backend: &(impl UsageReader + UsageSink),
    merge: impl AsyncFn(),
) {
    let memory = MemoryBackend::new();
    let batches = batches();
    for (n, batch) in batches.iter().enumerate() {
        backend.write(batch).await.unwrap();
        memory.write(batch).await.unwrap();
        // The others have no rollups in tables yet.
        if n == BATCHES / 2 {
            merge().await;
        }
    }
    let events: Vec<_> = batches
        .iter()
        .flat_map(|batch| batch.events().to_vec())
        .collect();
    for filter in filters(&events) {
        let expected = memory.count(&filter).await.unwrap();
        assert_eq!(
            backend.count(&filter).await.unwrap(),
            expected,
            "{filter:?}"
        );
        for size in [7, 60] {
            let mut query = LogQuery::new(filter.clone()).limit(size);
            loop {
                let page = backend.requests(&query).await.unwrap();
                let expected = memory.requests(&query).await.unwrap();
                let ids =
                    |events: &[UsageEvent]| -> Vec<_> { events.iter().map(|it| it.id).collect() };
                assert_eq!(ids(&page.items), ids(&expected.items), "{query:?}");
                assert_eq!(page.next, expected.next, "{query:?}");
                match page.next {
                    Some(next) => query = query.after(next),
                    None => break,
                }
            }
        }
    }
}

/// The numbers of the segments, ascending, and their numbers of requests.
const SEGMENTS: &str =
    "SELECT CAST(number AS BIGINT), events FROM keytally_log_segments ORDER BY number";

/// Late requests are in the first segment, and all others in those of their batches.
fn assert_segments(segments: &[(i64, i64)]) {
    let late = (BATCHES / 5) as i64;
    let numbers: Vec<_> = segments.iter().map(|(number, _)| *number).collect();
    let expected: Vec<_> = std::iter::once(-1).chain(1..=BATCHES as i64).collect();
    assert_eq!(numbers, expected);
    assert_eq!(segments[0], (-1, late));
    assert!(segments[1..].iter().all(|(_, events)| *events == 3));
}

#[tokio::test]
async fn pages_and_counts_of_many_segments_are_exact_in_sqlite() {
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let pool = pool.connect("sqlite::memory:").await.unwrap();
    let backend = SqliteBackend::from_pool(pool.clone());
    backend.migrate().await.unwrap();
    pages_and_counts_are_exact(&backend, async || {
        backend.merge_rollups().await.unwrap();
    })
    .await;
    let rows = sqlx::query(SEGMENTS).fetch_all(&pool).await.unwrap();
    let segments: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_segments(&segments);
}

#[tokio::test]
async fn pages_and_counts_of_many_segments_are_exact_in_postgres() {
    let (backend, url): (PostgresBackend, _) = support::backend().await;
    pages_and_counts_are_exact(&backend, async || {
        backend.merge_rollups().await.unwrap();
    })
    .await;
    let pool = support::pool(&url).await;
    let rows = sqlx::query(SEGMENTS).fetch_all(&pool).await.unwrap();
    let segments: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_segments(&segments);
}

/// Processes that write requests of different times, for instance from a spool, fill different segments.
#[tokio::test]
async fn each_segment_spans_a_short_time() {
    let (backend, url) = support::backend().await;
    let pool = support::pool(&url).await;
    for minute in 0..10 {
        for hours in [0, 10, 300] {
            let time = start() + hours.hours() + minute.minutes();
            backend
                .write(&Batch::new(vec![UsageEvent::new(time)]))
                .await
                .unwrap();
        }
    }
    let spans = "SELECT count(*) FROM keytally_log_segments
        WHERE events = 10 AND last - first = interval '9 minutes'";
    assert_eq!(support::number(&pool, spans).await, 3);
    let all = "SELECT count(*) FROM keytally_log_segments";
    assert_eq!(support::number(&pool, all).await, 3);
}

#[tokio::test]
async fn full_segments_are_followed_by_others() {
    let (backend, url) = support::backend().await;
    let pool = support::pool(&url).await;
    for _ in 0..3 {
        let events = (0..9_000).map(|_| UsageEvent::new(start()));
        backend.write(&Batch::new(events.collect())).await.unwrap();
    }
    let first = "SELECT events FROM keytally_log_segments WHERE number = 1";
    assert_eq!(support::number(&pool, first).await, 18_000);
    let second = "SELECT events FROM keytally_log_segments WHERE number = 2";
    assert_eq!(support::number(&pool, second).await, 9_000);
}

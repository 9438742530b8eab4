//! The functions and views for SQL in PostgreSQL, compared with the crate's own queries.

use std::collections::BTreeMap;

use jiff::{Timestamp, ToSpan};
use keytally::KeyId;
use keytally::backend::{PostgresBackend, SqlName};
use keytally::usage::{Batch, Granularity, LatencyHistogram, UsageEvent, UsageSink};
use sqlx::{AssertSqlSafe, PgPool, Row};

use crate::postgres_server as postgres;

async fn backend() -> (PostgresBackend, PgPool) {
    let url = postgres::database().await;
    let db = postgres::pool(&url).await;
    sqlx::raw_sql("CREATE SCHEMA gateway")
        .execute(&db)
        .await
        .unwrap();
    let backend = PostgresBackend::connect(&url).await.unwrap();
    // Functions also work in a schema that is not on the `search_path`.
    let backend = backend.with_schema(SqlName::new("gateway").unwrap());
    backend.migrate().await.unwrap();
    (backend, db)
}

#[tokio::test]
async fn unmerged_usage_completes_usage_by_minute() {
    let (backend, db) = backend().await;
    let now = Timestamp::now();
    let largest = UsageEvent::new(now);
    let mut events = vec![largest];
    (events[0].request_bytes, events[0].response_bytes) = (u64::MAX, i64::MAX as u64);
    for n in 0..3_000 {
        let seconds = [0, fastrand::i64(-100..300_000)][usize::from(n % 2 == 0)];
        let mut event = UsageEvent::new(now - seconds.seconds());
        let key = format!("Unmerged{:08}", fastrand::usize(..300));
        event.key = Some(key.parse::<KeyId>().unwrap());
        event.endpoint = format!("/v1/{}", fastrand::usize(..5)).into();
        event.latency_us = fastrand::u64(..1 << fastrand::u32(1..50));
        event.response_bytes = fastrand::u64(..1 << fastrand::u32(1..40));
        event.cost = fastrand::u32(..300);
        events.push(event);
    }
    for (n, batch) in events.chunks(500).enumerate() {
        backend.write(&Batch::new(batch.to_vec())).await.unwrap();
        if n == 2 {
            backend.merge_rollups().await.unwrap();
        }
    }
    let minutes = "SELECT key_id, endpoint, start::text, sum(count)::bigint, sum(cost)::bigint,
            sum(request_bytes)::text, sum(response_bytes)::bigint
        FROM (SELECT * FROM gateway.keytally_usage_by_minute
            UNION ALL SELECT * FROM gateway.keytally_unmerged_usage_by_minute) t
        GROUP BY 1, 2, 3";
    let rows = sqlx::query(minutes).fetch_all(&db).await.unwrap();
    let found = rows.iter().map(|row| {
        let start: Timestamp = row.get::<&str, _>(2).parse().unwrap();
        let numbers = [row.get(3), row.get(4), row.get(6)];
        let bytes: String = row.get(5);
        let key: (Option<String>, String) = (row.get(0), row.get(1));
        ((key, start), (numbers, bytes))
    });
    let found: BTreeMap<_, _> = found.collect();
    let mut expected: BTreeMap<_, ([i64; 3], u64)> = BTreeMap::new();
    for event in &events {
        let key = event.key.map(|key| key.to_string());
        let start = Granularity::Minute.floor(event.time);
        let (numbers, bytes) = expected
            .entry(((key, event.endpoint.to_string()), start))
            .or_default();
        numbers[0] += 1;
        numbers[1] += i64::from(event.cost);
        numbers[2] += event.response_bytes.cast_signed();
        *bytes += event.request_bytes.min(i64::MAX.cast_unsigned());
    }
    let expected = expected
        .into_iter()
        .map(|(key, (numbers, bytes))| (key, (numbers, bytes.to_string())));
    assert_eq!(found, expected.collect());
    let both = "SELECT min(a), min(b) FROM
        (SELECT count(*) a FROM gateway.keytally_usage_by_minute) x,
        (SELECT count(*) b FROM gateway.keytally_unmerged_usage_by_minute) y";
    let both = sqlx::query(both).fetch_one(&db).await.unwrap();
    assert!(both.get::<i64, _>(0) > 0 && both.get::<i64, _>(1) > 0);
}

/// `latency_quantile` returns what [`LatencyHistogram::quantile`] returns.
#[tokio::test]
async fn quantiles_in_sql_equal_those_of_the_crate() {
    let (backend, db) = backend().await;
    let day = Granularity::Hour.floor(Timestamp::now() - 40.hours());
    let mut events = Vec::new();
    for n in 0..4_000_u32 {
        let mut event = UsageEvent::new(day + i64::from(n % 50).minutes());
        // One histogram of a single latency, and histograms of all widths.
        let n = n % 40;
        event.endpoint = format!("/{n}").into();
        event.latency_us = match n {
            0 => 7,
            1 => u64::MAX,
            n => fastrand::u64(..1 << n),
        };
        events.push(event);
    }
    for batch in events.chunks(1_000) {
        backend.write(&Batch::new(batch.to_vec())).await.unwrap();
    }
    while backend.merge_rollups().await.unwrap() > 0 {}
    for n in 0..40 {
        let endpoint = format!("/{n}");
        let latencies = events.iter().filter(|it| *it.endpoint == *endpoint);
        let histogram: LatencyHistogram = latencies.map(|it| it.latency_us).collect();
        for quantile in [0.0, 0.07, 0.5, 0.95, 0.99, 1.0] {
            for table in ["minutes", "hours"] {
                let sql = format!(
                    "SELECT gateway.keytally_latency_quantile(string_agg(latency, ''), {quantile})
                    FROM gateway.keytally_{table} t
                        JOIN gateway.keytally_kinds k ON k.id = t.kind_id
                    WHERE k.endpoint = '{endpoint}' AND t.caller_id = 0"
                );
                let found: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
                    .fetch_one(&db)
                    .await
                    .unwrap();
                let expected = histogram.quantile(quantile).unwrap().as_micros();
                assert_eq!(found as u128, expected, "{endpoint} {quantile} {table}");
            }
        }
    }
    let none = "SELECT gateway.keytally_latency_quantile('', 0.5)";
    let none: Option<i64> = sqlx::query_scalar(none).fetch_one(&db).await.unwrap();
    assert_eq!(none, None);
}

//! Summaries of ten million events, and of thirty days of one key's rollups.
//!
//! `benches/peers/summary_duckdb.py` runs the same four groupings in DuckDB.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use keytally::KeyId;
use keytally::usage::{Granularity, Method, Outcome, Rollup, Status, SummarySpec, UsageEvent};

const EVENTS: usize = 10_000_000;
/// 2026-11-01T00:00:00Z.
const START: i64 = 1_793_491_200;
const DAY: u64 = 86_400_000_000;

/// A fixed pseudorandom sequence (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn one_of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[(self.next() >> 32) as usize % list.len()]
    }
}

/// Events ordered by time, as in a request log, spread over days, keys and endpoints.
fn events(count: usize, days: u64, keys: u64, endpoints: u64) -> impl Iterator<Item = UsageEvent> {
    let keys: Vec<KeyId> = (0..keys)
        .map(|n| format!("key{n:013}").parse().expect("sixteen digits"))
        .collect();
    let owner: Arc<str> = "acme".into();
    let endpoints: Vec<Arc<str>> = (0..endpoints)
        .map(|n| format!("/v1/resource{n}/{{id}}").into())
        .collect();
    let methods = &Method::ALL[..5];
    let statuses = [200, 200, 200, 201, 204, 304, 400, 404, 429, 500].map(Status::Http);
    let step = DAY * days / count as u64;
    let mut numbers = Numbers(1);
    (0..count as u64).map(move |n| {
        let micros = START * 1_000_000 + (n * step) as i64;
        let time = Timestamp::from_microsecond(micros).expect("in range");
        let mut event = UsageEvent::new(time);
        event.key = Some(*numbers.one_of(&keys));
        event.owner = Some(owner.clone());
        event.method = *numbers.one_of(methods);
        event.endpoint = numbers.one_of(&endpoints).clone();
        event.status = *numbers.one_of(&statuses);
        (event.outcome, event.cause) = match event.status {
            Status::Http(429) => (Outcome::RateLimited, None),
            status => Outcome::of(status),
        };
        event.latency_us = 200 << (numbers.next() % 10);
        event.request_bytes = numbers.next() % 4_096;
        event.response_bytes = numbers.next() % 65_536;
        // Left empty to save memory: no grouping reads it.
        event.path = Box::default();
        event
    })
}

fn ten_million(c: &mut Criterion) {
    let events: Vec<UsageEvent> = events(EVENTS, 1, 20, 40).collect();
    let four = SummarySpec::new();
    let mut group = c.benchmark_group("summary/10M events");
    group.sample_size(20);
    group.throughput(Throughput::Elements(EVENTS as u64));
    for threads in [1, 2] {
        group.bench_function(format!("four groupings, {threads} cores"), |b| {
            b.iter(|| {
                let summary = four.summarize_parallel(black_box(&events), threads);
                assert_eq!(summary.top_endpoints(10).len(), 10);
                summary
            });
        });
    }
    let zone = TimeZone::get("Europe/Berlin").unwrap_or(TimeZone::UTC);
    let everything = SummarySpec::new()
        .latency()
        .by_key()
        .over_time(Granularity::FiveMinutes, zone);
    group.bench_function("every part, 2 cores", |b| {
        b.iter(|| everything.summarize_parallel(black_box(&events), 2));
    });
    let latencies = SummarySpec::new().latency();
    group.bench_function("four groupings and latency, 2 cores", |b| {
        b.iter(|| latencies.summarize_parallel(black_box(&events), 2));
    });
    group.finish();
}

fn thirty_days(c: &mut Criterion) {
    let spec = SummarySpec::new()
        .latency()
        .over_time(Granularity::Day, TimeZone::UTC);
    let events: Vec<UsageEvent> = events(1_000_000, 30, 1, 5).collect();
    let mut group = c.benchmark_group("summary/30 days of one key");
    for (name, width) in [
        ("hours", Granularity::Hour),
        ("minutes", Granularity::Minute),
    ] {
        let rollups = Rollup::of_events(&events, width);
        group.throughput(Throughput::Elements(rollups.len() as u64));
        group.bench_function(format!("rollups of {name}"), |b| {
            b.iter(|| spec.summarize(black_box(&rollups)));
        });
    }
    group.finish();
}

criterion_group!(benches, ten_million, thirty_days);
criterion_main!(benches);

//! Property tests that compare a backend's query results with the pure functions of the crate.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use keytally::KeyId;
use keytally::usage::{
    Batch, Cause, Count, Granularity, LogFilter, LogQuery, Method, Outcome, RejectionReason,
    Rollup, Status, StatusClass, StatusFilter, SummaryQuery, SummarySpec, UsageEvent, UsageRange,
    UsageReader, UsageSink,
};
use proptest::prelude::*;

/// UTC offset changes: New York in spring and autumn, Lord Howe Island (by half an hour) in autumn and
/// spring; and an instant in 1969 without any change.
const CHANGES: [&str; 5] = [
    "2026-03-08T07:00:00Z",
    "2026-11-01T06:00:00Z",
    "2026-04-04T15:00:00Z",
    "2026-10-03T15:30:00Z",
    "1969-12-31T23:30:00Z",
];

const ZONES: [&str; 4] = [
    "America/New_York",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "UTC",
];

/// Two days in microseconds.
const TWO_DAYS: i64 = 2 * 86_400_000_000;

fn change() -> impl Strategy<Value = Timestamp> {
    (0..CHANGES.len()).prop_map(|n| CHANGES[n].parse().unwrap())
}

/// An offset from the change in microseconds: days or minutes away, often on a full minute or hour.
fn away() -> impl Strategy<Value = i64> {
    prop_oneof![
        -TWO_DAYS..TWO_DAYS,
        -5_400_000_000..5_400_000_000_i64,
        (-200..200_i64).prop_map(|minute| minute * 60_000_000),
        (-48..48_i64).prop_map(|hour| hour * 3_600_000_000),
    ]
}

fn at(change: Timestamp, micros: i64) -> Timestamp {
    change + SignedDuration::from_micros(micros)
}

fn key_of(n: usize) -> Option<KeyId> {
    [None, Some("a"), Some("b"), Some("Z")][n].map(|c| c.repeat(16).parse().unwrap())
}

fn status() -> impl Strategy<Value = Status> {
    prop_oneof![
        Just(Status::None),
        Just(Status::Http(200)),
        (100..600_u16).prop_map(Status::Http),
        (0..17_u8).prop_map(Status::Grpc),
    ]
}

prop_compose! {
    fn event(change: Timestamp)(
        away in away(),
        key in 0..4_usize,
        method in 0..Method::ALL.len(),
        endpoint in 0..3_usize,
        status in status(),
        limited in any::<bool>(),
        rejected in prop_oneof![Just(None), (0..RejectionReason::ALL.len()).prop_map(Some)],
        latency in prop_oneof![0..5_000_000_u64, any::<u64>()],
        resource in 0..3_usize,
        address in 0..3_usize,
    ) -> UsageEvent {
        let mut event = UsageEvent::new(at(change, away));
        event.key = key_of(key);
        event.owner = [None, Some("a"), Some("b"), Some("a")][key].map(Into::into);
        event.method = Method::ALL[method];
        event.endpoint = ["/a", "/b/{id}", ""][endpoint].into();
        event.status = status;
        (event.outcome, event.cause) = if limited {
            (Outcome::RateLimited, None)
        } else {
            Outcome::of(status)
        };
        // Of any outcome, and also none of a limited request: backends do not assume a relation.
        event.rejection_reason = rejected.map(|reason| RejectionReason::ALL[reason]);
        event.latency_us = latency;
        event.cost = (latency % 5) as u32;
        event.request_bytes = latency / 7;
        event.resource_id = [None, Some("r1"), Some("r2")][resource].map(Into::into);
        event.request_id = (latency % 2 == 0).then(|| "wire".into());
        event.client_ip = [None, Some("203.0.113.7"), Some("2001:db8::1")][address]
            .map(|address| address.parse().unwrap());
        event
    }
}

prop_compose! {
    fn filter(change: Timestamp)(
        fields in any::<u32>(),
        key in 1..4_usize,
        from in away(),
        to in away(),
        nanos in 0..3_i64,
        method in 0..Method::ALL.len(),
        status in status(),
        class in 0..StatusClass::ALL.len(),
        cause in 0..Cause::ALL.len(),
        outcome in 0..Outcome::ALL.len(),
        reason in 0..RejectionReason::ALL.len(),
        endpoint in 0..3_usize,
    ) -> LogFilter {
        // Most fields are set in a quarter of the filters, so that many filters match some events.
        let set = |n: u32| fields >> (2 * n) & 3 == 3;
        let nanos = SignedDuration::from_nanos(nanos - 1);
        let mut filter = LogFilter::new();
        filter.key = key_of(key).filter(|_| set(0));
        filter.owner = set(1).then(|| "a".into());
        filter.owner_contains = set(13).then(|| "A".into());
        filter.from = (set(2) || set(3)).then(|| at(change, from) + nanos);
        filter.to = (set(3) || set(4)).then(|| at(change, to) + nanos);
        filter.methods.extend(set(5).then(|| Method::ALL[method]));
        filter.statuses.extend(set(6).then_some(StatusFilter::Status(status)));
        let class = StatusFilter::Class(StatusClass::ALL[class]);
        filter.statuses.extend(set(7).then_some(class));
        filter.cause = set(8).then(|| Cause::ALL[cause]);
        filter.outcomes.extend(set(9).then(|| Outcome::ALL[outcome]));
        filter.rejection_reason = set(13).then(|| RejectionReason::ALL[reason]);
        filter.resource_id = set(10).then(|| "r1".into());
        filter.request_id = set(11).then(|| "wire".into());
        filter.endpoint = set(12).then(|| ["/a", "/b/{id}", ""][endpoint].into());
        filter.endpoint_contains = set(14).then(|| ["A", "/b/7", "{"][endpoint].into());
        filter.client_ip = set(15).then(|| [203, 0, 113, 7].into());
        filter
    }
}

prop_compose! {
    fn spec()(
        by_key in any::<bool>(),
        by_owner in any::<bool>(),
        latency in any::<bool>(),
        over_time in 0..4_u8,
        width in 0..Granularity::ALL.len(),
        zone in 0..ZONES.len(),
    ) -> SummarySpec {
        let mut spec = SummarySpec::new();
        if by_key {
            spec = spec.by_key();
        }
        if by_owner {
            spec = spec.by_owner();
        }
        if latency {
            spec = spec.latency();
        }
        if over_time > 0 {
            spec = spec.over_time(Granularity::ALL[width], TimeZone::get(ZONES[zone]).unwrap());
        }
        spec
    }
}

/// Batches of events within some days, and queries about them.
#[derive(Debug, Clone)]
pub struct Case {
    pub batches: Vec<Vec<UsageEvent>>,
    pub questions: Vec<(LogFilter, SummarySpec)>,
}

pub fn case() -> impl Strategy<Value = Case> {
    change().prop_flat_map(|change| {
        let batch = proptest::collection::vec(event(change), 0..60);
        let batches = proptest::collection::vec(batch, 1..4);
        let questions = proptest::collection::vec((filter(change), spec()), 8);
        (batches, questions).prop_map(|(batches, questions)| Case { batches, questions })
    })
}

/// Writes each batch twice and asserts that every query returns what the pure functions compute.
pub async fn answers_equal_the_pure_functions<B>(
    backend: &B,
    case: &Case,
) -> Result<(), TestCaseError>
where
    B: UsageSink + UsageReader,
{
    let mut events: Vec<UsageEvent> = Vec::new();
    for batch in &case.batches {
        let batch = Batch::new(batch.clone());
        for _ in 0..2 {
            backend.write(&batch).await.unwrap();
        }
        events.extend(batch.events().iter().cloned());
    }
    events.sort_by_key(|event| std::cmp::Reverse((event.time, event.id)));
    for (filter, spec) in &case.questions {
        let matching = events.iter().filter(|event| filter.matches(event));
        let matching: Vec<UsageEvent> = matching.cloned().collect();
        let count = backend.count(filter).await.unwrap();
        prop_assert_eq!(count, Count::Exactly(matching.len() as u64));
        prop_assert_eq!(all_requests(backend, filter).await, matching);

        let mut range = UsageRange::new();
        (range.key, range.owner) = (filter.key, filter.owner.clone());
        (range.from, range.to) = (filter.from, filter.to);
        // A minute on the edge of the range counts entirely where it starts.
        let counts = |event: &&UsageEvent| range.includes(&Rollup::of(event, Granularity::Minute));
        let within: Vec<&UsageEvent> = events.iter().filter(counts).collect();
        let query = SummaryQuery::new(range.clone(), spec.clone());
        let summary = backend.summary(&query).await.unwrap();
        let mut expected = spec.summarize(within.iter().copied());
        // A backend may report an inexact summary even if that minute has no requests.
        let minutes = Rollup::of_events(&events, Granularity::Minute);
        let is_cut = minutes.iter().any(|minute| range.splits(minute));
        prop_assert!(!(is_cut && summary.exact));
        expected.exact = summary.exact;
        prop_assert_eq!(&summary, &expected);
        let rollups = backend.rollups(&range).await.unwrap();
        prop_assert!(rollups.is_sorted_by_key(|rollup| rollup.start));
        let mut of_rollups = spec.summarize(&rollups);
        of_rollups.exact = summary.exact;
        prop_assert_eq!(of_rollups, summary);
        let by_key = |mut rollups: Vec<Rollup>| {
            rollups.sort_by_key(|it| format!("{:?}", (it.start, it.key, it)));
            rollups
        };
        let expected = Rollup::of_events(within.iter().copied(), Granularity::Minute);
        prop_assert_eq!(by_key(rollups), by_key(expected));
    }
    Ok(())
}

/// The whole log, page by page.
pub async fn all_requests<B>(backend: &B, filter: &LogFilter) -> Vec<UsageEvent>
where
    B: UsageReader + ?Sized,
{
    let (mut events, mut after) = (Vec::new(), None);
    loop {
        let mut query = LogQuery::new(filter.clone()).limit(7);
        query.page.after = after;
        let page = backend.requests(&query).await.unwrap();
        events.extend(page.items);
        after = page.next;
        if after.is_none() {
            return events;
        }
    }
}

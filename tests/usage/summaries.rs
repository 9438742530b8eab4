//! Properties of summaries: they merge in any order, and rollups summarize like their events.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use keytally::usage::summary::{self, Aggregate, OverTime, TooManyBuckets};
use keytally::usage::{
    Batch, Cause, Granularity, LatencyHistogram, Method, Outcome, RejectionReason, Rollup,
    RollupStore, Status, Summary, SummarySpec, Totals, UsageEvent,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Zones with offsets of half and three-quarter hours, half-hour DST shifts, shifts at or just after midnight, and
/// a skipped day.
const ZONES: [&str; 9] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "America/Sao_Paulo",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
];

/// Offset changes of those zones, the Unix epoch, and a time long before.
const MOMENTS: [&str; 10] = [
    "1890-01-01T00:00:00Z",
    "1969-12-31T23:59:59.9999995Z",
    "1987-10-25T02:00:00Z",
    "2011-12-30T10:00:00Z",
    "2018-11-04T03:00:00Z",
    "2026-03-08T07:00:00Z",
    "2026-03-29T01:00:00Z",
    "2026-10-03T15:30:00Z",
    "2026-04-04T15:00:00Z",
    "2026-11-01T06:00:00Z",
];

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn times() -> impl Strategy<Value = Timestamp> {
    let near = (select(&MOMENTS[..]), -100_000_000_000..100_000_000_000_i64)
        .prop_map(|(moment, micros)| at(moment) + SignedDuration::from_micros(micros));
    let ends = select(vec![Timestamp::MIN, Timestamp::MAX]);
    prop_oneof![200 => near, 1 => ends]
}

/// Times since 1970, when these zones have whole-minute offsets, so that minutes fit into every bucket.
fn modern_times() -> impl Strategy<Value = Timestamp> {
    times().prop_filter("since 1970", |time| {
        *time >= Timestamp::UNIX_EPOCH && *time < Timestamp::MAX
    })
}

/// A naive implementation: count, cost, request bytes, response bytes, billable count and cost by group.
fn naive(events: &[UsageEvent]) -> BTreeMap<(Method, Status, String), [u128; 6]> {
    let mut sums = BTreeMap::<_, [u128; 6]>::new();
    for event in events {
        let group = (event.method, event.status, event.endpoint.to_string());
        let sum = sums.entry(group).or_default();
        sum[0] += 1;
        sum[1] += u128::from(event.cost);
        sum[2] += u128::from(event.request_bytes);
        sum[3] += u128::from(event.response_bytes);
        if event.billable {
            sum[4] += 1;
            sum[5] += u128::from(event.cost);
        }
    }
    sums
}

fn statuses() -> impl Strategy<Value = Status> {
    prop_oneof![
        8 => select(vec![200, 201, 304, 404, 429, 500, 999]).prop_map(Status::Http),
        2 => (0..17_u8).prop_map(Status::Grpc),
        1 => Just(Status::None),
    ]
}

fn large_or_small() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..100_000_u64, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn events_at(times: impl Strategy<Value = Timestamp>) -> impl Strategy<Value = Vec<UsageEvent>> {
    let keys = select(vec![
        None,
        Some("3fK9aB0000zzZZ19"),
        Some("0000000000000001"),
    ]);
    let causes = select(vec![None, Some(Cause::Rejected), Some(Cause::Cancelled)]);
    let caller = (keys, select(vec![None, Some("acme"), Some("zen")]));
    let endpoint = (select(&Method::ALL[..]), 0..6_usize, statuses());
    let reasons = select(vec![
        None,
        Some(RejectionReason::Scope),
        Some(RejectionReason::RateLimited),
    ]);
    let outcome = (select(&Outcome::ALL[..]), causes, reasons);
    let price = (any::<bool>(), 0..10_u32);
    let sizes = (large_or_small(), large_or_small(), large_or_small());
    let event = (times, caller, endpoint, (outcome, price), sizes).prop_map(
        |(
            time,
            (key, owner),
            (method, endpoint, status),
            ((outcome, cause, reason), (billable, cost)),
            sizes,
        )| {
            let mut event = UsageEvent::new(time);
            event.key = key.map(|key| key.parse().unwrap());
            event.owner = owner.map(Arc::from);
            event.method = method;
            event.endpoint = format!("/v1/{endpoint}").into();
            event.status = status;
            (event.outcome, event.cause, event.rejection_reason) = (outcome, cause, reason);
            (event.billable, event.cost) = (billable, cost);
            (event.latency_us, event.request_bytes, event.response_bytes) = sizes;
            event
        },
    );
    vec(event, 0..80).prop_map(|mut events| {
        // Half of the events share the `Arc` of their endpoint, as the layer's events do.
        let texts: BTreeMap<_, _> = events
            .iter()
            .map(|event| (event.endpoint.to_string(), event.endpoint.clone()))
            .collect();
        for event in events.iter_mut().step_by(2) {
            event.endpoint = texts[&*event.endpoint].clone();
        }
        events
    })
}

fn specs() -> impl Strategy<Value = SummarySpec> {
    (select(&Granularity::ALL[..]), select(&ZONES[..]))
        .prop_map(|(width, name)| full_spec().over_time(width, zone(name)))
}

fn full_spec() -> SummarySpec {
    SummarySpec::new()
        .by_key()
        .by_owner()
        .latency()
        .latency_by_endpoint()
        .latency_over_time()
}

/// Asserts that the parts of a summary equal the results of the individual functions.
fn check_parts<T: Aggregate>(summary: &Summary, items: &[T]) {
    assert_eq!(summary.totals, summary::totals(items));
    assert_eq!(summary.by_method, summary::by_method(items));
    assert_eq!(summary.by_status, summary::by_status(items));
    assert_eq!(
        summary.by_rejection_reason,
        summary::by_rejection_reason(items)
    );
    assert_eq!(summary.by_key, Some(summary::by_key(items)));
    assert_eq!(summary.by_owner, Some(summary::by_owner(items)));
    let mut latency = LatencyHistogram::new();
    items.iter().for_each(|item| item.add_latency(&mut latency));
    assert_eq!(summary.latency, Some(latency));
    let mut by_endpoint = BTreeMap::<Arc<str>, LatencyHistogram>::new();
    for item in items {
        let latency = by_endpoint.entry(item.endpoint().clone()).or_default();
        item.add_latency(latency);
    }
    assert_eq!(summary.latency_by_endpoint, Some(by_endpoint));
    let over_time = summary.over_time.as_ref().unwrap();
    let mut in_buckets = 0;
    for (start, totals) in &over_time.buckets {
        let bucket = over_time.granularity.bucket(*start, &over_time.zone);
        let within = items.iter().filter(|item| bucket.contains(&item.time()));
        let mut latency = LatencyHistogram::new();
        within
            .clone()
            .for_each(|item| item.add_latency(&mut latency));
        let latencies = over_time.latency.as_ref().unwrap();
        assert_eq!(latencies.get(start), Some(&latency));
        assert_eq!(*totals, summary::totals(within));
        in_buckets += totals.total();
    }
    assert_eq!(in_buckets, summary.totals.total());
    let top = summary.top_endpoints(3).into_iter();
    let top: Vec<_> = top
        .map(|(name, totals)| (name.clone(), totals.clone()))
        .collect();
    assert_eq!(top, summary::top_endpoints(items, 3));
}

fn over_time(events: &[UsageEvent], width: Granularity, zone: TimeZone) -> OverTime {
    let spec = SummarySpec::new().over_time(width, zone);
    spec.summarize(events).over_time.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn summaries_merge_in_any_order(
        spec in specs(), a in events_at(times()), b in events_at(times()), c in events_at(times()),
    ) {
        let merged = |parts: [&[UsageEvent]; 3]| {
            let mut all = spec.empty();
            parts.into_iter().for_each(|part| all.merge(spec.summarize(part)));
            all
        };
        let whole = spec.summarize(a.iter().chain(&b).chain(&c));
        prop_assert_eq!(&merged([&a, &b, &c]), &whole);
        prop_assert_eq!(&merged([&c, &a, &b]), &whole);
        let backwards = spec.summarize(c.iter().rev().chain(b.iter().rev()).chain(a.iter().rev()));
        prop_assert_eq!(&backwards, &whole);
        let mut right = spec.summarize(&b);
        right.merge(spec.summarize(&c));
        let mut left = spec.summarize(&a);
        left.merge(right);
        prop_assert_eq!(&left, &whole);
    }

    #[test]
    fn summary_matches_its_parts_and_round_trips_through_json(spec in specs(), events in events_at(times())) {
        let summary = spec.summarize(&events);
        check_parts(&summary, &events);
        prop_assert_eq!(summary.totals.total(), events.len() as u64);
        let text = serde_json::to_string(&summary).unwrap();
        prop_assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), summary);
    }

    #[test]
    fn totals_match_a_naive_implementation(events in events_at(times())) {
        let summary = full_spec().summarize(&events);
        let naive = naive(&events);
        let check = |totals: &Totals, of: &dyn Fn(&(Method, Status, String)) -> bool| {
            let sum = |index: usize| -> u128 {
                naive.iter().filter(|(group, _)| of(group)).map(|(_, sums)| sums[index]).sum()
            };
            let actual = [
                totals.total(), totals.cost(), totals.request_bytes(), totals.response_bytes(),
                totals.billable(), totals.billable_cost(),
            ];
            let max = u128::from(i64::MAX.cast_unsigned());
            assert_eq!(actual.map(u128::from), [0, 1, 2, 3, 4, 5].map(|index| sum(index).min(max)));
        };
        check(&summary.totals, &|_| true);
        summary.by_method.iter().for_each(|(name, totals)| check(totals, &|group| group.0 == *name));
        summary.by_status.iter().for_each(|(name, totals)| check(totals, &|group| group.1 == *name));
        summary.by_endpoint.iter().for_each(|(name, totals)| check(totals, &|group| *group.2 == **name));
        prop_assert_eq!(summary.by_endpoint.len(), summary.top_endpoints(usize::MAX).len());
        for (owner, totals) in summary.by_owner.iter().flatten() {
            let of_owner = events.iter().filter(|event| event.owner.as_ref() == Some(owner));
            prop_assert_eq!(totals.total(), of_owner.count() as u64);
        }
        for reason in RejectionReason::ALL {
            let of_reason = events.iter().filter(|event| event.rejection_reason == Some(reason));
            let totals = summary.by_rejection_reason.get(&reason);
            prop_assert_eq!(totals.map_or(0, |it| it.total()), of_reason.count() as u64);
        }
    }

    #[test]
    fn rollups_summarize_like_their_events(
        spec in specs(), a in events_at(modern_times()), b in events_at(modern_times()),
    ) {
        let whole = spec.summarize(a.iter().chain(&b));
        let minutes = [Rollup::of_events(&a, Granularity::Minute), Rollup::of_events(&b, Granularity::Minute)];
        let of_minutes = spec.summarize(minutes.iter().flatten());
        check_parts(&of_minutes, &minutes.concat());
        prop_assert_eq!(&of_minutes, &whole);
        let mut mixed = spec.summarize(&a);
        mixed.merge(spec.summarize(&minutes[1]));
        prop_assert_eq!(&mixed, &whole);
        let added: RollupStore = minutes.into_iter().flatten().collect();
        prop_assert_eq!(&spec.summarize(added.iter()), &whole);
        let at_once = Rollup::of_events(a.iter().rev().chain(&b), Granularity::Minute);
        prop_assert_eq!(added.into_iter().collect::<Vec<_>>(), at_once);
    }

    #[test]
    fn utc_rollups_fit_wider_utc_buckets(
        narrow in 0..5_usize, wide in 0..5_usize, events in events_at(times()),
    ) {
        let (narrow, wide) = (Granularity::ALL[narrow.min(wide)], Granularity::ALL[narrow.max(wide)]);
        let spec = full_spec().over_time(wide, TimeZone::UTC);
        let rollups = Rollup::of_events(&events, narrow);
        prop_assert_eq!(spec.summarize(&rollups), spec.summarize(&events));
    }

    #[test]
    fn folding_equals_rolling_up_at_a_wider_granularity(
        events in events_at(times()), before in times(), wide in select(&Granularity::ALL[..]),
    ) {
        let mut folded = RollupStore::new();
        events.iter().for_each(|event| folded.add_event(event, Granularity::Minute));
        let mut together = RollupStore::new();
        together.add_batch(&Batch::new(events.clone()), Granularity::Minute);
        prop_assert_eq!(&together, &folded);
        folded.fold(before, wide);
        let end = wide.floor(before);
        let mut expected = RollupStore::new();
        for event in &events {
            let over = Granularity::Minute.floor(event.time) < end;
            expected.add_event(event, if over { wide } else { Granularity::Minute });
        }
        prop_assert_eq!(&folded, &expected);
        folded.fold(before, wide);
        prop_assert_eq!(&folded, &expected);
    }

    #[test]
    fn rollups_are_found_by_key_and_time(events in events_at(times()), a in times(), b in times()) {
        let rollups: RollupStore = Rollup::of_events(&events, Granularity::QuarterHour).into_iter().collect();
        let within: Vec<_> = rollups.within(a..b).collect();
        let expected = rollups.iter().filter(|rollup| (a..b).contains(&rollup.start));
        prop_assert_eq!(&within, &expected.collect::<Vec<_>>());
        for key in rollups.iter().map(|rollup| rollup.key) {
            let of_key = rollups.of_key(key, a..b).collect::<Vec<_>>();
            let expected = within.iter().copied().filter(|rollup| rollup.key == key);
            prop_assert_eq!(of_key, expected.collect::<Vec<_>>());
        }
        let mut kept = rollups.clone();
        kept.prune(a);
        let over = |rollup: &&Rollup| rollup.start >= Granularity::QuarterHour.floor(a);
        prop_assert_eq!(kept.into_iter().collect::<Vec<_>>(), rollups.iter().filter(over).cloned().collect::<Vec<_>>());
    }

    #[test]
    fn buckets_neither_overlap_nor_leave_gaps(
        time in times(), width in select(&Granularity::ALL[..]), name in select(&ZONES[..]),
    ) {
        let zone = zone(name);
        let bucket = width.bucket(time, &zone);
        prop_assert!(bucket.start <= time && (time < bucket.end || time == Timestamp::MAX));
        prop_assert_eq!(&width.bucket(bucket.start, &zone), &bucket);
        let nanosecond = SignedDuration::from_nanos(1);
        if let Ok(last) = bucket.end.checked_sub(nanosecond) {
            prop_assert_eq!(&width.bucket(last, &zone), &bucket);
        }
        if bucket.end < Timestamp::MAX {
            prop_assert_eq!(width.bucket(bucket.end, &zone).start, bucket.end);
        }
    }

    #[test]
    fn filled_buckets_keep_every_count(
        events in events_at(modern_times()), name in select(&ZONES[..]), back in 0..72_i64,
    ) {
        let over_time = over_time(&events, Granularity::Hour, zone(name));
        let from = at("2026-03-27T00:00:00Z");
        let to = from + SignedDuration::from_hours(back);
        let filled = over_time.filled(from..to, to).unwrap();
        let first = Granularity::Hour.bucket(from, &over_time.zone).start;
        let shown: u64 = filled.iter().map(|bucket| bucket.totals.total()).sum();
        let counted = over_time.buckets.range(first..to.max(first));
        prop_assert_eq!(shown, counted.map(|(_, totals)| totals.total()).sum::<u64>());
        prop_assert!(filled.windows(2).all(|pair| pair[0].end == pair[1].start));
        prop_assert!(filled.iter().all(|bucket| bucket.is_partial == (to < bucket.end)));
    }
}

fn sample_events() -> Vec<UsageEvent> {
    let endpoint: Arc<str> = "/v1/postings".into();
    [
        ("2026-11-01T05:30:00Z", Method::Get, 200, 10, 100),
        ("2026-11-01T06:30:00Z", Method::Get, 404, 12, 20),
        ("2026-11-01T07:00:00Z", Method::Post, 201, 14, 0),
        ("2026-11-02T04:59:59Z", Method::Get, 429, 1, 5),
    ]
    .map(|(time, method, code, latency_us, bytes)| {
        let mut event = UsageEvent::new(at(time));
        event.method = method;
        event.status = Status::Http(code);
        (event.outcome, event.cause) = Outcome::of(event.status);
        if code == 429 {
            (event.outcome, event.cause, event.cost) = (Outcome::RateLimited, None, 0);
        }
        event.latency_us = latency_us;
        event.response_bytes = bytes;
        event.endpoint = endpoint.clone();
        event
    })
    .into()
}

#[test]
fn summary_of_four_known_events_is_exact() {
    let events = sample_events();
    let summary = full_spec().summarize(&events);
    let totals = &summary.totals;
    assert_eq!((totals.total(), totals.completed()), (4, 2));
    assert_eq!((totals.failed(), totals.rate_limited()), (1, 1));
    assert_eq!(totals.failed_by(Cause::ClientError), 1);
    assert_eq!((totals.cost(), totals.response_bytes()), (3, 125));
    assert_eq!(summary.by_method[&Method::Get].total(), 3);
    assert_eq!(summary.by_status[&Status::Http(404)].failed(), 1);
    let classes = summary.by_status_class().into_iter();
    let classes: Vec<_> = classes
        .map(|(class, totals)| (class.as_str(), totals.total()))
        .collect();
    assert_eq!(classes, [("2xx", 2), ("4xx", 2)]);
    let quantiles = summary.latency.unwrap().quantiles();
    assert_eq!((quantiles.p50_us, quantiles.p99_us), (Some(10), Some(14)));
    assert_eq!(summary.by_key.unwrap()[&None].total(), 4);
}

#[test]
fn the_day_the_clocks_go_back_has_25_hours() {
    // Daylight saving time ends in New York on 2026-11-01 at 06:00 UTC.
    let new_york = zone("America/New_York");
    let over_time = over_time(&sample_events(), Granularity::Day, new_york);
    let now = at("2026-11-02T05:00:00Z");
    let days = over_time
        .filled(at("2026-10-31T12:00:00Z")..at("2026-11-03T00:00:00Z"), now)
        .unwrap();
    let shown: Vec<_> = days
        .iter()
        .map(|day| {
            (
                (day.end - day.start).as_hours(),
                day.totals.total(),
                day.is_partial,
            )
        })
        .collect();
    assert_eq!(shown, [(24, 0, false), (25, 4, false), (24, 0, true)]);
    assert_eq!(days[1].start, at("2026-11-01T04:00:00Z"));
}

#[test]
fn hour_and_day_buckets_follow_offset_changes() {
    let starts = |name: &str, width: Granularity, from: &str, to: &str| -> Vec<String> {
        let over_time = over_time(&[], width, zone(name));
        let filled = over_time.filled(at(from)..at(to), at(to)).unwrap();
        filled
            .iter()
            .map(|bucket| bucket.start.to_string())
            .collect()
    };
    assert_eq!(
        starts(
            "Asia/Kathmandu",
            Granularity::Hour,
            "2026-01-01T00:00:00Z",
            "2026-01-01T02:00:00Z"
        ),
        [
            "2025-12-31T23:15:00Z",
            "2026-01-01T00:15:00Z",
            "2026-01-01T01:15:00Z"
        ],
    );
    // Lord Howe moves from +10:30 to +11:00 on 2026-10-04 at 2:00, which leaves half an hour.
    assert_eq!(
        starts(
            "Australia/Lord_Howe",
            Granularity::Hour,
            "2026-10-03T14:30:00Z",
            "2026-10-03T17:00:00Z"
        ),
        [
            "2026-10-03T14:30:00Z",
            "2026-10-03T15:30:00Z",
            "2026-10-03T16:00:00Z"
        ],
    );
    // Samoa skipped 2011-12-30.
    assert_eq!(
        starts(
            "Pacific/Apia",
            Granularity::Day,
            "2011-12-29T10:00:00Z",
            "2011-12-31T10:00:00Z"
        ),
        ["2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"],
    );
    // Newfoundland moved from 0:01 back to 23:01: the repeated hour of the previous day counts towards the
    // day that had already begun.
    assert_eq!(
        starts(
            "America/St_Johns",
            Granularity::Day,
            "1987-10-24T12:00:00Z",
            "1987-10-26T00:00:00Z"
        ),
        ["1987-10-24T02:30:00Z", "1987-10-25T02:30:00Z"],
    );
}

#[test]
fn number_of_filled_buckets_is_bounded() {
    let over_time = over_time(&[], Granularity::Minute, TimeZone::UTC);
    let now = at("2026-01-01T00:00:00Z");
    let bucket_count = |from, to| over_time.filled(from..to, now).map(|filled| filled.len());
    assert_eq!(bucket_count(now, now), Ok(0));
    assert_eq!(
        bucket_count(now, now - SignedDuration::from_hours(1)),
        Ok(0)
    );
    let longest = SignedDuration::from_mins(OverTime::MAX_BUCKETS as i64);
    assert_eq!(bucket_count(now, now + longest), Ok(OverTime::MAX_BUCKETS));
    assert_eq!(
        bucket_count(Timestamp::MIN, Timestamp::MAX),
        Err(TooManyBuckets)
    );
}

#[test]
fn the_keys_with_the_most_requests_come_first() {
    let [one, two] = ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"].map(|id| id.parse().unwrap());
    let events = [Some(two), None, Some(one), Some(two)].map(|key| {
        let mut event = UsageEvent::new(Timestamp::UNIX_EPOCH);
        event.key = key;
        event
    });
    let summary = full_spec().summarize(&events);
    let top = |n| -> Vec<_> {
        let top = summary.top_keys(n).into_iter();
        top.map(|(key, totals)| (key, totals.total())).collect()
    };
    assert_eq!(top(9), [(Some(two), 2), (None, 1), (Some(one), 1)]);
    assert_eq!(top(1), [(Some(two), 2)]);
    assert!(SummarySpec::new().summarize(&events).top_keys(9).is_empty());
}

#[test]
fn ties_among_endpoints_are_ordered_by_name() {
    let names = ["/c", "/a", "/b", "/b"];
    let events: Vec<_> = names
        .iter()
        .map(|name| {
            let mut event = UsageEvent::new(Timestamp::UNIX_EPOCH);
            event.endpoint = Arc::from(*name);
            event
        })
        .collect();
    let summary = SummarySpec::new().summarize(&events);
    let names = |n| -> Vec<&str> {
        let top = summary.top_endpoints(n).into_iter();
        top.map(|(name, _)| &**name).collect()
    };
    assert_eq!(names(9), ["/b", "/a", "/c"]);
    assert_eq!(names(2), ["/b", "/a"]);
    assert!(names(0).is_empty());
}

#[test]
fn merge_omits_parts_that_only_one_side_has() {
    let events = sample_events();
    let hours = |name| {
        full_spec()
            .over_time(Granularity::Hour, zone(name))
            .summarize(&events)
    };
    let mut merged = hours("UTC");
    merged.merge(hours("Asia/Kathmandu"));
    assert_eq!(merged.over_time, None);
    assert!(merged.by_key.is_some());
    merged.merge(SummarySpec::new().summarize(&events));
    assert_eq!((merged.by_key, merged.latency), (None, None));
    assert_eq!(merged.totals.total(), 12);
}

#[test]
fn many_endpoints_and_statuses_are_all_kept() {
    let mut events = Vec::new();
    for n in 0..30_000_u32 {
        let mut event = UsageEvent::new(Timestamp::UNIX_EPOCH);
        event.endpoint = format!("/{}", n % 10_000).into();
        event.status = Status::Http(100 + (n % 700) as u16);
        event.method = Method::ALL[n as usize % Method::ALL.len()];
        events.push(event);
    }
    let summary = SummarySpec::new().summarize(&events);
    assert_eq!(
        (summary.by_endpoint.len(), summary.by_status.len()),
        (10_000, 700)
    );
    assert!(
        summary
            .by_endpoint
            .values()
            .all(|totals| totals.total() == 3)
    );
    assert_eq!(summary.by_status[&Status::Http(100)].total(), 43);
    assert_eq!(summary.totals.total(), 30_000);
}

#[test]
fn parallel_summary_equals_the_sequential_one() {
    let events: Vec<_> = sample_events().into_iter().cycle().take(100_000).collect();
    let spec = full_spec().over_time(Granularity::Hour, TimeZone::UTC);
    let one = spec.summarize(&events);
    for threads in [0, 1, 2, 3, 1_000] {
        assert_eq!(spec.summarize_parallel(&events, threads), one);
    }
    assert_eq!(spec.summarize_parallel::<UsageEvent>(&[], 2), spec.empty());
}

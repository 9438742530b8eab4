//! Summaries and rollups.

use std::collections::BTreeMap;

use jiff::ToSpan;
use jiff::tz::{Offset, TimeZone};

use super::steps::write_all;
use super::traffic::Traffic;
use crate::conformance::assert::{equal, holds, succeeds};
use crate::usage::summary::by_key;
use crate::usage::{
    Granularity, Rollup, SummaryQuery, SummarySpec, UsageEvent, UsageRange, UsageReader, UsageSink,
};

pub(super) async fn suite<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let mut traffic = Traffic::new(10);
    let mut events = traffic.events(250);
    for event in events.iter_mut().step_by(13) {
        (event.key, event.owner) = (None, None);
    }
    write_all(backend, &events).await;
    let mut specs = specs().into_iter().cycle();
    for range in ranges(&mut traffic) {
        for spec in specs.by_ref().take(2) {
            summary_equals_summarize(backend, &events, &range, spec).await;
        }
        totals_by_key_equal_summarize(backend, &events, &range).await;
        rollups_add_up(backend, &events, &range).await;
    }
    summary_of_all_keys_includes_run(backend, &traffic, &events).await;
}

/// Ranges by key, by owner and by both, each unbounded, and bounded at full minutes and between them.
fn ranges(traffic: &mut Traffic) -> Vec<UsageRange> {
    let mut filters = Vec::new();
    for &key in &traffic.keys {
        filters.push(UsageRange::new().key(key));
        for owner in traffic.owners.iter().take(2) {
            filters.push(UsageRange::new().key(key).owner(&**owner));
        }
    }
    for owner in &traffic.owners {
        filters.push(UsageRange::new().owner(&**owner));
        filters.push(UsageRange::new().owner(owner.to_uppercase()));
    }
    filters.push(UsageRange::new().owner(""));
    let hour = traffic.start + 1.hour();
    let mut ranges = Vec::new();
    for range in filters {
        let (one, two) = (traffic.time(), traffic.time());
        ranges.extend([
            range.clone().from(hour),
            range.clone().to(hour),
            range.clone().from(one.min(two)).to(one.max(two)),
            range.clone().from(hour).to(hour + 1.microsecond()),
            range.clone().from(hour).to(traffic.start),
            range,
        ]);
    }
    ranges
}

fn specs() -> [SummarySpec; 5] {
    // UTC+05:45, where hours start at a quarter past.
    let kathmandu = Offset::from_seconds(20_700).map_or(TimeZone::UTC, TimeZone::fixed);
    [
        SummarySpec::new(),
        SummarySpec::new().by_key().by_owner(),
        SummarySpec::new()
            .latency()
            .latency_by_endpoint()
            .over_time(Granularity::Minute, TimeZone::UTC),
        SummarySpec::new()
            .over_time(Granularity::Hour, kathmandu.clone())
            .latency_over_time(),
        SummarySpec::new()
            .by_key()
            .latency()
            .latency_over_time()
            .over_time(Granularity::Day, kathmandu),
    ]
}

/// The events that count towards a range: those in minutes that start within it.
fn within<'a>(events: &'a [UsageEvent], range: &UsageRange) -> Vec<&'a UsageEvent> {
    let counts = |event: &&UsageEvent| range.includes(&Rollup::of(event, Granularity::Minute));
    events.iter().filter(counts).collect()
}

async fn summary_equals_summarize<B>(
    backend: &B,
    events: &[UsageEvent],
    range: &UsageRange,
    spec: SummarySpec,
) where
    B: UsageReader + ?Sized,
{
    let mut expected = spec.summarize(within(events, range));
    let query = SummaryQuery::new(range.clone(), spec);
    let summary = backend.summary(&query).await;
    let summary = succeeds(summary, format_args!("a summary query succeeds: {query:?}"));
    let minutes = Rollup::of_events(events, Granularity::Minute);
    if minutes.iter().any(|minute| range.splits(minute)) {
        let rule = format!("a summary whose range splits a minute is not exact: {query:?}");
        holds(!summary.exact, rule);
    }
    // A backend need not know whether a split minute is empty.
    expected.exact = summary.exact;
    let rule = format!("a summary equals SummarySpec::summarize over the events: {query:?}");
    equal(&summary, &expected, rule);
}

async fn totals_by_key_equal_summarize<B>(backend: &B, events: &[UsageEvent], range: &UsageRange)
where
    B: UsageReader + ?Sized,
{
    let totals = backend.totals_by_key(range).await;
    let totals = succeeds(
        totals,
        format_args!("a query for totals by key succeeds: {range:?}"),
    );
    let expected = by_key(within(events, range));
    let rule = format!("totals by key equal those computed from the events: {range:?}");
    equal(&totals, &expected, rule);
    // No key, one, and several with anonymous requests.
    let all: Vec<_> = expected.keys().copied().collect();
    for keys in [
        &[],
        &all[..all.len().min(1)],
        &all[all.len() / 2..],
        &[None],
    ] {
        let totals = backend.totals_of_keys(range, keys).await;
        let totals = succeeds(
            totals,
            format_args!("a query for totals of keys succeeds: {range:?}"),
        );
        let mut expected = expected.clone();
        expected.retain(|key, _| keys.contains(key));
        let rule = format!("totals of keys equal those computed from the events: {range:?}");
        equal(&totals, &expected, rule);
    }
}

async fn rollups_add_up<B>(backend: &B, events: &[UsageEvent], range: &UsageRange)
where
    B: UsageReader + ?Sized,
{
    let rollups = succeeds(
        backend.rollups(range).await,
        format_args!("a rollup query succeeds: {range:?}"),
    );
    let rule = |text: &str| format!("{text}: {range:?}");
    for rollup in &rollups {
        holds(
            range.includes(rollup),
            rule("every rollup lies within the range"),
        );
        let start = rollup.granularity.floor(rollup.start);
        equal(
            &rollup.start,
            &start,
            rule("a rollup starts at a time bucket of its granularity"),
        );
    }
    let ordered = rollups.is_sorted_by_key(|rollup| rollup.start);
    holds(ordered, rule("rollups are ordered by time"));

    let events = within(events, range);
    let spec = SummarySpec::new()
        .by_key()
        .latency()
        .over_time(Granularity::Hour, TimeZone::UTC);
    equal(
        &spec.summarize(&rollups),
        &spec.summarize(events.iter().copied()),
        rule("rollups add up to the events"),
    );
    let mut expected = BTreeMap::<_, u64>::new();
    for event in events {
        let group = (
            event.key,
            event.owner.clone(),
            event.endpoint.clone(),
            event.method,
        );
        *expected
            .entry((
                group,
                event.status,
                (
                    event.outcome,
                    event.cause,
                    event.rejection_reason,
                    event.billable,
                ),
            ))
            .or_default() += 1;
    }
    let mut counted = BTreeMap::<_, u64>::new();
    for rollup in &rollups {
        let group = (
            rollup.key,
            rollup.owner.clone(),
            rollup.endpoint.clone(),
            rollup.method,
        );
        let group = (
            group,
            rollup.status,
            (
                rollup.outcome,
                rollup.cause,
                rollup.rejection_reason,
                rollup.billable,
            ),
        );
        *counted.entry(group).or_default() += rollup.count;
    }
    equal(
        &counted,
        &expected,
        rule("rollups add up to the events in each group"),
    );
}

/// Without a key and an owner, a summary includes anonymous and unrelated requests.
async fn summary_of_all_keys_includes_run<B>(backend: &B, traffic: &Traffic, events: &[UsageEvent])
where
    B: UsageReader + ?Sized,
{
    let range = UsageRange::new().from(traffic.start);
    let spec = SummarySpec::new().by_key().by_owner();
    let expected = spec.summarize(events);
    let totals = backend.totals_by_key(&range).await;
    let totals = Some(succeeds(totals, "a query for totals of all keys succeeds"));
    let query = SummaryQuery::new(range, spec);
    let summary = succeeds(
        backend.summary(&query).await,
        "a summary query for all keys succeeds",
    );
    let rule = "a summary of all keys includes the requests of each key";
    for key in traffic.keys.iter().map(|&key| Some(key)) {
        let of = |by_key: &Option<BTreeMap<_, _>>| {
            by_key.as_ref().and_then(|keys| keys.get(&key).cloned())
        };
        equal(&of(&summary.by_key), &of(&expected.by_key), rule);
        equal(
            &of(&totals),
            &of(&expected.by_key),
            "totals of all keys include each key",
        );
    }
    let rule = "a summary of all keys includes the requests of each owner";
    for owner in &traffic.owners {
        let of = |by_owner: &Option<BTreeMap<_, _>>| {
            by_owner
                .as_ref()
                .and_then(|owners| owners.get(owner).cloned())
        };
        equal(&of(&summary.by_owner), &of(&expected.by_owner), rule);
    }
    let rule = "a summary of all keys includes anonymous requests";
    for endpoint in &traffic.endpoints {
        let totals = summary.by_endpoint.get(endpoint);
        equal(&totals, &expected.by_endpoint.get(endpoint), rule);
    }
}

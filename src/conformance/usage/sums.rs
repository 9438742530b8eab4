//! Summaries and rollups.

use std::collections::BTreeMap;

use jiff::ToSpan;
use jiff::tz::{Offset, TimeZone};

use super::steps::write_all;
use super::traffic::Traffic;
use crate::conformance::assert::{done, holds, same};
use crate::usage::summary::by_key;
use crate::usage::{
    Granularity, Rollup, SummaryQuery, SummarySpec, UsageEvent, UsageRange, UsageReader, UsageSink,
};

pub(super) async fn suite<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    for seed in 10..12 {
        let mut traffic = Traffic::new(seed);
        let mut events = traffic.events(200);
        for event in events.iter_mut().step_by(13) {
            (event.key, event.owner) = (None, None);
        }
        write_all(backend, &events).await;
        let mut specs = specs().into_iter().cycle();
        for range in ranges(&mut traffic) {
            for spec in specs.by_ref().take(2) {
                a_summary_is_the_pure_one(backend, &events, &range, spec).await;
            }
            totals_by_key_are_those_of_the_summary(backend, &events, &range).await;
            rollups_add_up(backend, &events, &range).await;
        }
        everybodys_summary_has_ours(backend, &traffic, &events).await;
    }
}

/// By key, by owner, by both, each for all time and cut at full minutes and in between.
fn ranges(traffic: &mut Traffic) -> Vec<UsageRange> {
    let mut whose = Vec::new();
    for &key in &traffic.keys {
        whose.push(UsageRange::new().key(key));
        for owner in traffic.owners.iter().take(2) {
            whose.push(UsageRange::new().key(key).owner(&**owner));
        }
    }
    for owner in &traffic.owners {
        whose.push(UsageRange::new().owner(&**owner));
        whose.push(UsageRange::new().owner(owner.to_uppercase()));
    }
    whose.push(UsageRange::new().owner(""));
    let hour = traffic.start + 1.hour();
    let mut ranges = Vec::new();
    for range in whose {
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
    // Where hours begin at a quarter past.
    let kathmandu = Offset::from_seconds(20_700).map_or(TimeZone::UTC, TimeZone::fixed);
    [
        SummarySpec::new(),
        SummarySpec::new().by_key(),
        SummarySpec::new()
            .latency()
            .over_time(Granularity::Minute, TimeZone::UTC),
        SummarySpec::new().over_time(Granularity::Hour, kathmandu.clone()),
        SummarySpec::new()
            .by_key()
            .latency()
            .over_time(Granularity::Day, kathmandu),
    ]
}

/// The events that count for a range: those of the minutes that start in it.
fn within<'a>(events: &'a [UsageEvent], range: &UsageRange) -> Vec<&'a UsageEvent> {
    let counts = |event: &&UsageEvent| range.includes(&Rollup::of(event, Granularity::Minute));
    events.iter().filter(counts).collect()
}

async fn a_summary_is_the_pure_one<B>(
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
    let summary = done(summary, format_args!("a summary answers: {query:?}"));
    let minutes = Rollup::of_events(events, Granularity::Minute);
    if minutes.iter().any(|minute| range.cuts(minute)) {
        let rule = format!("a summary whose range cuts a minute is not exact: {query:?}");
        holds(!summary.exact, rule);
    }
    // A backend need not know that nothing happened in a minute that is cut.
    expected.exact = summary.exact;
    let rule = format!("a summary equals SummarySpec::summarize over the events: {query:?}");
    same(&summary, &expected, rule);
}

async fn totals_by_key_are_those_of_the_summary<B>(
    backend: &B,
    events: &[UsageEvent],
    range: &UsageRange,
) where
    B: UsageReader + ?Sized,
{
    let totals = backend.totals_by_key(range).await;
    let totals = done(totals, format_args!("totals by key answer: {range:?}"));
    let expected = by_key(within(events, range));
    let rule = format!("totals by key equal the pure function over the events: {range:?}");
    same(&totals, &expected, rule);
}

async fn rollups_add_up<B>(backend: &B, events: &[UsageEvent], range: &UsageRange)
where
    B: UsageReader + ?Sized,
{
    let rollups = done(
        backend.rollups(range).await,
        format_args!("rollups answer: {range:?}"),
    );
    let rule = |what: &str| format!("{what}: {range:?}");
    for rollup in &rollups {
        holds(
            range.includes(rollup),
            rule("every rollup belongs to the range"),
        );
        let start = rollup.granularity.floor(rollup.start);
        same(
            &rollup.start,
            &start,
            rule("a rollup starts with a bucket of its width"),
        );
    }
    let ordered = rollups.is_sorted_by_key(|rollup| rollup.start);
    holds(ordered, rule("rollups are ordered by time"));

    let events = within(events, range);
    let spec = SummarySpec::new()
        .by_key()
        .latency()
        .over_time(Granularity::Hour, TimeZone::UTC);
    same(
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
            .entry((group, event.status, event.outcome, event.cause))
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
        let group = (group, rollup.status, rollup.outcome, rollup.cause);
        *counted.entry(group).or_default() += rollup.count;
    }
    same(
        &counted,
        &expected,
        rule("rollups add up to the events, group by group"),
    );
}

/// Without a key and an owner the summary has other people's requests too, and anonymous ones.
async fn everybodys_summary_has_ours<B>(backend: &B, traffic: &Traffic, events: &[UsageEvent])
where
    B: UsageReader + ?Sized,
{
    let range = UsageRange::new().from(traffic.start);
    let spec = SummarySpec::new().by_key();
    let expected = spec.summarize(events);
    let totals = backend.totals_by_key(&range).await;
    let totals = Some(done(totals, "everybody's totals by key answer"));
    let query = SummaryQuery::new(range, spec);
    let summary = done(backend.summary(&query).await, "everybody's summary answers");
    let rule = "everybody's summary has the requests of each";
    for key in traffic.keys.iter().map(|&key| Some(key)) {
        let of = |by_key: &Option<BTreeMap<_, _>>| {
            by_key.as_ref().and_then(|keys| keys.get(&key).cloned())
        };
        same(&of(&summary.by_key), &of(&expected.by_key), rule);
        same(
            &of(&totals),
            &of(&expected.by_key),
            "everybody's totals by key have those of each",
        );
    }
    let rule = "everybody's summary has anonymous requests too";
    for endpoint in &traffic.endpoints {
        let ours = summary.by_endpoint.get(endpoint);
        same(&ours, &expected.by_endpoint.get(endpoint), rule);
    }
}

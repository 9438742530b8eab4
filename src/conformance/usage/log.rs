//! The request log and its filters.

use std::collections::HashSet;
use std::fmt::Display;

use jiff::{Timestamp, ToSpan};
use uuid::Uuid;

use super::steps::{write, write_all};
use super::traffic::Traffic;
use crate::conformance::assert::{done, holds, same};
use crate::usage::{Count, LogFilter, LogQuery, StatusClass, UsageEvent, UsageReader, UsageSink};

pub(super) async fn suite<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let mut traffic = Traffic::new(4);
    let mut events = traffic.events(250);
    // Requests that were let in without a key.
    for event in events.iter_mut().step_by(11) {
        (event.key, event.owner) = (None, None);
    }
    write_all(backend, &events).await;
    each_filter_holds_alone(backend, &traffic, &events).await;
    filters_hold_together(backend, &mut traffic, &events).await;
    both_ids_are_found(backend, &mut traffic).await;
}

async fn each_filter_holds_alone<B>(backend: &B, traffic: &Traffic, events: &[UsageEvent])
where
    B: UsageReader + ?Sized,
{
    // Names of this run: only its own events match.
    let mut own: Vec<LogFilter> = Vec::new();
    own.extend(traffic.keys.iter().map(|&key| LogFilter::new().key(key)));
    own.extend(
        traffic
            .owners
            .iter()
            .map(|owner| LogFilter::new().owner(&**owner)),
    );
    own.extend(
        traffic
            .endpoints
            .iter()
            .map(|name| LogFilter::new().endpoint(&**name)),
    );
    for event in events.iter().take(40) {
        own.extend(
            event
                .resource_id
                .as_deref()
                .map(|id| LogFilter::new().resource_id(id)),
        );
        own.push(LogFilter::new().request_id(event.wire_id()));
    }
    own.extend([
        LogFilter::new().owner(""),
        LogFilter::new().endpoint(""),
        LogFilter::new().resource_id("%"),
        LogFilter::new().request_id("no such request"),
        LogFilter::new().request_id("'"),
    ]);
    for filter in own {
        agrees(backend, events, filter).await;
    }

    // Names that others use too: what is not of this run is overlooked.
    let ids: HashSet<Uuid> = events.iter().map(|event| event.id).collect();
    let oldest = events.iter().map(|event| event.time).min();
    let middle = traffic.start + 1.hour();
    let mut shared = vec![LogFilter::new()];
    for time in [middle, events[0].time] {
        shared.extend([LogFilter::new().from(time), LogFilter::new().to(time)]);
    }
    for event in events.iter().take(40) {
        shared.extend([
            LogFilter::new().outcome(event.outcome),
            LogFilter::new().method(event.method),
            LogFilter::new().status(event.status),
        ]);
        shared.extend(event.cause.map(|cause| LogFilter::new().cause(cause)));
    }
    shared.extend(StatusClass::ALL.map(|class| LogFilter::new().status_class(class)));
    let mut tried: Vec<LogFilter> = Vec::new();
    for filter in shared {
        if tried.contains(&filter) {
            continue;
        }
        let mut logged = walk(backend, filter.clone(), LogQuery::MAX_LIMIT, oldest).await;
        logged.retain(|event| ids.contains(&event.id));
        same_events(&logged, &expected(events, &filter), &filter);
        tried.push(filter);
    }
}

async fn filters_hold_together<B>(backend: &B, traffic: &mut Traffic, events: &[UsageEvent])
where
    B: UsageReader + ?Sized,
{
    for _ in 0..150 {
        // Mostly what some events have, now and then what no two filters of have in common.
        let rng = &mut traffic.rng;
        let model = &events[rng.usize(..events.len())];
        let other = match rng.u8(..4) {
            0 => &events[rng.usize(..events.len())],
            _ => model,
        };
        let mut filter = match (model.key, rng.bool()) {
            (Some(key), true) => LogFilter::new().key(key),
            _ => LogFilter::new().endpoint(&*traffic.endpoints[rng.usize(..4)]),
        };
        let mut on = || rng.u8(..3) == 0;
        filter.owner = other.owner.as_deref().filter(|_| on()).map(Into::into);
        filter.from = on().then(|| model.time.min(other.time));
        filter.to = on().then(|| model.time.max(other.time));
        filter.outcome = on().then_some(other.outcome);
        filter.cause = other.cause.filter(|_| on());
        filter.method = on().then_some(model.method);
        filter.status = on().then_some(model.status);
        filter.status_class = on().then(|| model.status.class());
        filter.resource_id = other
            .resource_id
            .as_deref()
            .filter(|_| on())
            .map(Into::into);
        filter.request_id = (on() && on()).then(|| model.wire_id().into());
        if filter.endpoint.is_none() && on() {
            filter.endpoint = Some(model.endpoint.as_ref().into());
        }
        agrees(backend, events, filter).await;
    }
}

/// The log has what the filter matches, and counts it.
pub(super) async fn agrees<B>(backend: &B, events: &[UsageEvent], filter: LogFilter)
where
    B: UsageReader + ?Sized,
{
    let expected = expected(events, &filter);
    let logged = walk(backend, filter.clone(), 40, None).await;
    same_events(&logged, &expected, &filter);
    let rule = "a count agrees with LogFilter::matches";
    count_is(backend, &filter, expected.len(), rule).await;
}

async fn both_ids_are_found<B>(backend: &B, traffic: &mut Traffic)
where
    B: UsageSink + UsageReader + ?Sized,
{
    let time = traffic.start;
    let mut named = traffic.event(time);
    let silent = UsageEvent {
        request_id: None,
        ..traffic.event(time)
    };
    // A client that sends another event's id as its own finds both.
    let echo = UsageEvent {
        request_id: Some(silent.id.to_string().into()),
        ..traffic.event(time)
    };
    named.request_id = Some(format!("'named'-{}", named.id).into());
    let events = [named.clone(), silent.clone(), echo.clone()];
    write(backend, events.to_vec()).await;
    for (id, rule) in [
        (
            named.wire_id().into_owned(),
            "an event is found by its id on the wire",
        ),
        (
            named.id.to_string(),
            "an event is found by its own id beside that on the wire",
        ),
        (
            echo.id.to_string(),
            "an event is found by its own id beside that on the wire",
        ),
        (
            silent.id.to_string(),
            "an id finds who has it as its own and who has it on the wire",
        ),
        (
            silent.id.simple().to_string(),
            "an event id is an id, however it is written",
        ),
        (
            silent.id.to_string().to_uppercase(),
            "an event id is an id, however it is written",
        ),
    ] {
        let filter = LogFilter::new().request_id(id);
        let logged = walk(backend, filter.clone(), 40, None).await;
        same(&logged, &expected(&events, &filter), rule);
    }
}

/// A count tells how many there are, or that there are more than it cares to count.
pub(super) async fn count_is<B>(backend: &B, filter: &LogFilter, expected: usize, rule: &str)
where
    B: UsageReader + ?Sized,
{
    let count = done(backend.count(filter).await, "a count answers");
    let fits = match count {
        Count::Exactly(count) => count == expected as u64,
        Count::MoreThan(count) => count < expected as u64,
    };
    holds(
        fits,
        format_args!("{rule}\n  filter: {filter:?}\n  expected: {expected}\n  got: {count:?}"),
    );
}

/// What the pure filter leaves, in the order of the log.
pub(super) fn expected(events: &[UsageEvent], filter: &LogFilter) -> Vec<UsageEvent> {
    let mut events: Vec<_> = events
        .iter()
        .filter(|event| filter.matches(event))
        .cloned()
        .collect();
    events.sort_by_key(|event| std::cmp::Reverse((event.time, event.id)));
    events
}

fn same_events(logged: &[UsageEvent], expected: &[UsageEvent], filter: &LogFilter) {
    let rule = format_args!("the log agrees with LogFilter::matches, newest first: {filter:?}");
    same_log(logged, expected, rule);
}

/// These events in this order, as the rule says, and each as it was written.
pub(super) fn same_log(logged: &[UsageEvent], expected: &[UsageEvent], rule: impl Display) {
    let ids = |events: &[UsageEvent]| events.iter().map(|event| event.id).collect::<Vec<_>>();
    same(&ids(logged), &ids(expected), rule);
    for (logged, expected) in logged.iter().zip(expected) {
        same(logged, expected, "the log has an event as it was written");
    }
}

/// Turns all pages, or those down to the oldest event of interest.
pub(super) async fn walk<B>(
    backend: &B,
    filter: LogFilter,
    limit: usize,
    oldest: Option<Timestamp>,
) -> Vec<UsageEvent>
where
    B: UsageReader + ?Sized,
{
    let mut query = LogQuery::new(filter).limit(limit);
    let mut logged = Vec::new();
    loop {
        let page = backend.requests(&query).await;
        let page = done(page, format_args!("the log answers: {query:?}"));
        holds(
            page.items.len() <= query.page_size(),
            "a page has at most as many events as asked for",
        );
        holds(
            page.next.is_none() || !page.items.is_empty(),
            "no page but the last is empty",
        );
        let matches = page.items.iter().all(|event| query.filter.matches(event));
        holds(
            matches,
            format_args!("the log has only events that match: {:?}", query.filter),
        );
        let before = logged.len().saturating_sub(1);
        logged.extend(page.items);
        in_order(&logged[before..]);
        let Some(next) = page.next else { break };
        if oldest.is_some_and(|oldest| next.time() < oldest) {
            break;
        }
        query.after = next.to_string().parse().ok();
        same(
            &query.after,
            &Some(next),
            "a page token can be sent as text",
        );
    }
    logged
}

/// Nothing comes twice, and newer events come first.
pub(super) fn in_order(logged: &[UsageEvent]) {
    let place = |event: &UsageEvent| (event.time, event.id);
    for pair in logged.windows(2) {
        holds(
            place(&pair[0]) > place(&pair[1]),
            format_args!(
                "the log is ordered by time and then by id from high to low, and repeats nothing\n  \
                 {:?} came before\n  {:?}",
                place(&pair[0]),
                place(&pair[1])
            ),
        );
    }
}

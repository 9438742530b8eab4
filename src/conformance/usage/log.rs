//! The request log and its filters.

use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Arc;

use jiff::{Timestamp, ToSpan};
use uuid::Uuid;

use super::steps::{write, write_all};
use super::traffic::Traffic;
use crate::conformance::assert::{equal, holds, succeeds};
use crate::page::PageRequest;
use crate::usage::{Count, LogFilter, LogQuery, StatusClass, UsageEvent, UsageReader, UsageSink};

pub(super) async fn suite<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let mut traffic = Traffic::new(4);
    let mut events = traffic.events(250);
    // Requests admitted without a key.
    for event in events.iter_mut().step_by(11) {
        (event.key, event.owner) = (None, None);
    }
    write_all(backend, &events).await;
    filters_work_alone(backend, &traffic, &events).await;
    endpoints_are_listed(backend, &traffic).await;
    filters_work_combined(backend, &mut traffic, &events).await;
    both_ids_are_found(backend, &mut traffic).await;
}

async fn filters_work_alone<B>(backend: &B, traffic: &Traffic, events: &[UsageEvent])
where
    B: UsageReader + ?Sized,
{
    // Values unique to this run: only its own events match.
    let mut own: Vec<LogFilter> = Vec::new();
    own.extend(traffic.keys.iter().map(|&key| LogFilter::new().key(key)));
    own.extend(
        traffic
            .owners
            .iter()
            .map(|owner| LogFilter::new().owner(&**owner)),
    );
    for owner in &traffic.owners {
        let all_but_first = owner.chars().skip(1).collect::<String>();
        for part in [owner.to_uppercase(), owner.to_lowercase(), all_but_first] {
            own.push(LogFilter::new().owner_contains(part));
        }
    }
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
        own.push(LogFilter::new().request_id(event.request_id_or_id()));
        own.push(LogFilter::new().event_id(event.id));
    }
    for endpoint in &traffic.endpoints {
        let all_but_first = endpoint.chars().skip(1).collect::<String>();
        for part in [endpoint.to_uppercase(), all_but_first] {
            own.push(LogFilter::new().endpoint_contains(part));
        }
    }
    own.extend([
        LogFilter::new().owner(""),
        LogFilter::new().owner_contains("no such owner"),
        LogFilter::new().owner_contains("\0"),
        LogFilter::new().endpoint(""),
        LogFilter::new().endpoint_contains("no such endpoint"),
        LogFilter::new().endpoint_contains("\0"),
        LogFilter::new().event_id(Uuid::nil()),
        LogFilter::new().resource_id("%"),
        LogFilter::new().request_id("no such request"),
        LogFilter::new().request_id("'"),
    ]);
    for filter in distinct(own) {
        filter_agrees(backend, events, filter).await;
    }

    // Values that other runs share: their events are ignored.
    let ids: HashSet<Uuid> = events.iter().map(|event| event.id).collect();
    let oldest = events.iter().map(|event| event.time).min();
    let middle = traffic.start + 1.hour();
    let mut shared = vec![LogFilter::new()];
    for time in [middle, events[0].time] {
        shared.extend([LogFilter::new().from(time), LogFilter::new().to(time)]);
    }
    for event in events.iter().take(15) {
        shared.extend([
            LogFilter::new().outcome(event.outcome),
            LogFilter::new().method(event.method),
            LogFilter::new().status(event.status),
        ]);
        shared.extend(event.cause.map(|cause| LogFilter::new().cause(cause)));
        shared.extend(event.client_ip.map(|ip| LogFilter::new().client_ip(ip)));
        let reason = event.rejection_reason;
        shared.extend(reason.map(|reason| LogFilter::new().rejection_reason(reason)));
    }
    shared.extend(StatusClass::ALL.map(|class| LogFilter::new().status_class(class)));
    for pair in events.chunks_exact(2).take(15) {
        let [one, other] = pair else { continue };
        let filter = LogFilter::new().outcome(one.outcome);
        shared.push(filter.outcome(other.outcome));
        let filter = LogFilter::new().method(one.method);
        shared.push(filter.method(other.method));
        let filter = LogFilter::new().status(one.status);
        shared.push(filter.status_class(other.status.class()));
    }
    for filter in distinct(shared) {
        let mut logged = read_log(backend, filter.clone(), PageRequest::MAX_LIMIT, oldest).await;
        logged.retain(|event| ids.contains(&event.id));
        expect_log(&logged, &expected(events, &filter), &filter);
    }
}

async fn endpoints_are_listed<B>(backend: &B, traffic: &Traffic)
where
    B: UsageReader + ?Sized,
{
    let listed = succeeds(
        backend.endpoints(usize::MAX).await,
        "listing endpoints succeeds",
    );
    let is_listed = |name: &&Arc<str>| listed.iter().any(|it| **it == ***name);
    let missing: Vec<_> = traffic
        .endpoints
        .iter()
        .filter(|it| !is_listed(it))
        .collect();
    equal(&missing, &vec![], "every endpoint with requests is listed");
    holds(
        listed.is_sorted_by(|one, other| one < other),
        "endpoints are listed once, in byte order",
    );
    let first = succeeds(backend.endpoints(2).await, "listing endpoints succeeds");
    equal(
        &first,
        &listed[..listed.len().min(2)].to_vec(),
        "a limited list has the first endpoints",
    );
}

fn distinct(filters: Vec<LogFilter>) -> Vec<LogFilter> {
    let mut distinct = Vec::new();
    for filter in filters {
        if !distinct.contains(&filter) {
            distinct.push(filter);
        }
    }
    distinct
}

async fn filters_work_combined<B>(backend: &B, traffic: &mut Traffic, events: &[UsageEvent])
where
    B: UsageReader + ?Sized,
{
    for _ in 0..100 {
        // Mostly the values of one event, sometimes mixed with those of another.
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
        let part = other.owner.as_deref().filter(|_| on());
        filter.owner_contains = part.map(str::to_uppercase);
        filter.from = on().then(|| model.time.min(other.time));
        filter.to = on().then(|| model.time.max(other.time));
        filter.outcomes = several(on(), other.outcome, model.outcome);
        filter.cause = other.cause.filter(|_| on());
        filter.rejection_reason = other.rejection_reason.filter(|_| on());
        filter.methods = several(on(), model.method, other.method);
        filter.statuses = several(on(), model.status.into(), other.status.class().into());
        filter.client_ip = other.client_ip.filter(|_| on());
        filter.event_id = (on() && on()).then_some(other.id);
        filter.resource_id = other
            .resource_id
            .as_deref()
            .filter(|_| on())
            .map(Into::into);
        filter.request_id = (on() && on()).then(|| model.request_id_or_id().into());
        if filter.endpoint.is_none() && on() {
            filter.endpoint = Some(model.endpoint.as_ref().into());
        }
        filter.endpoint_contains = on().then(|| model.endpoint.to_uppercase());
        filter_agrees(backend, events, filter).await;
    }
}

/// No values, one or two.
fn several<T: PartialEq>(any: bool, one: T, other: T) -> Vec<T> {
    let other = (one != other).then_some(other);
    let values = [Some(one), other].into_iter().flatten();
    values.filter(|_| any).collect()
}

/// Checks that the log and its count agree with a filter.
pub(super) async fn filter_agrees<B>(backend: &B, events: &[UsageEvent], filter: LogFilter)
where
    B: UsageReader + ?Sized,
{
    let expected = expected(events, &filter);
    let logged = read_log(backend, filter.clone(), 40, None).await;
    expect_log(&logged, &expected, &filter);
    let rule = "a count agrees with LogFilter::matches";
    expect_count(backend, &filter, expected.len(), rule).await;
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
    // A client may send another event's id as its request id. Both events are found by it.
    let echo = UsageEvent {
        request_id: Some(silent.id.to_string().into()),
        ..traffic.event(time)
    };
    named.request_id = Some(format!("'named'-{}", named.id).into());
    let events = [named.clone(), silent.clone(), echo.clone()];
    write(backend, events.to_vec()).await;
    for (id, rule) in [
        (
            named.request_id_or_id().into_owned(),
            "an event is found by its request id",
        ),
        (
            named.id.to_string(),
            "an event is found by its own id as well as by its request id",
        ),
        (
            echo.id.to_string(),
            "an event is found by its own id as well as by its request id",
        ),
        (
            silent.id.to_string(),
            "an id finds the event with that id and the events with that request id",
        ),
        (
            silent.id.simple().to_string(),
            "an event id is accepted in any UUID notation",
        ),
        (
            silent.id.to_string().to_uppercase(),
            "an event id is accepted in any UUID notation",
        ),
    ] {
        let filter = LogFilter::new().request_id(id);
        let logged = read_log(backend, filter.clone(), 40, None).await;
        equal(&logged, &expected(&events, &filter), rule);
    }
    for event in &events {
        let filter = LogFilter::new().event_id(event.id);
        let ids = [
            event.request_id_or_id().into_owned(),
            event.id.to_string(),
            "no such request".into(),
        ];
        filter_agrees(backend, &events, filter.clone()).await;
        for id in ids {
            filter_agrees(backend, &events, filter.clone().request_id(id)).await;
        }
    }
}

/// Checks a count, which is either exact or a lower bound.
pub(super) async fn expect_count<B>(backend: &B, filter: &LogFilter, expected: usize, rule: &str)
where
    B: UsageReader + ?Sized,
{
    let count = succeeds(backend.count(filter).await, "a count query succeeds");
    let agrees = match count {
        Count::Exactly(count) => count == expected as u64,
        Count::MoreThan(count) => count < expected as u64,
    };
    holds(
        agrees,
        format_args!("{rule}\n  filter: {filter:?}\n  expected: {expected}\n  got: {count:?}"),
    );
}

/// The events that match according to [`LogFilter::matches`], in the order of the log.
pub(super) fn expected(events: &[UsageEvent], filter: &LogFilter) -> Vec<UsageEvent> {
    let mut events: Vec<_> = events
        .iter()
        .filter(|event| filter.matches(event))
        .cloned()
        .collect();
    events.sort_by_key(|event| std::cmp::Reverse((event.time, event.id)));
    events
}

fn expect_log(logged: &[UsageEvent], expected: &[UsageEvent], filter: &LogFilter) {
    let rule = format_args!("the log agrees with LogFilter::matches, newest first: {filter:?}");
    equal_events(logged, expected, rule);
}

/// Checks that the log has these events in this order, each as it was written.
pub(super) fn equal_events(logged: &[UsageEvent], expected: &[UsageEvent], rule: impl Display) {
    let ids = |events: &[UsageEvent]| events.iter().map(|event| event.id).collect::<Vec<_>>();
    equal(&ids(logged), &ids(expected), rule);
    for (logged, expected) in logged.iter().zip(expected) {
        equal(
            logged,
            expected,
            "the log holds each event as it was written",
        );
    }
}

/// Reads all pages, or those down to the oldest event of interest.
pub(super) async fn read_log<B>(
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
        let page = succeeds(page, format_args!("a log query succeeds: {query:?}"));
        holds(
            page.items.len() <= query.page.size(),
            "a page has at most the requested number of events",
        );
        holds(
            page.next.is_none() || !page.items.is_empty(),
            "only the last page can be empty",
        );
        let matches = page.items.iter().all(|event| query.filter.matches(event));
        holds(
            matches,
            format_args!(
                "a log query returns only matching events: {:?}",
                query.filter
            ),
        );
        let before = logged.len().saturating_sub(1);
        logged.extend(page.items);
        check_order(&logged[before..]);
        let Some(next) = page.next else { break };
        if oldest.is_some_and(|oldest| next.time() < oldest) {
            break;
        }
        query.page.after = next.to_string().parse().ok();
        equal(
            &query.page.after,
            &Some(next),
            "a page token round-trips through its text form",
        );
    }
    logged
}

/// Checks that events are ordered newest first, without duplicates.
pub(super) fn check_order(logged: &[UsageEvent]) {
    let position = |event: &UsageEvent| (event.time, event.id);
    for pair in logged.windows(2) {
        holds(
            position(&pair[0]) > position(&pair[1]),
            format_args!(
                "the log is ordered by time and then by id, newest first, without duplicates\n  \
                 {:?} came before\n  {:?}",
                position(&pair[0]),
                position(&pair[1])
            ),
        );
    }
}

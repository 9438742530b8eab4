//! Paging through the request log.

use std::collections::HashSet;

use jiff::SignedDuration;

use super::log::{check_order, expected, read_log};
use super::steps::write;
use super::traffic::Traffic;
use crate::conformance::assert::{equal, fails_with, succeeds};
use crate::conformance::fixture::{id, micros};
use crate::page::{PageRequest, PageToken};
use crate::usage::{
    Format, LogFilter, LogQuery, Next, ReadError, UsageEvent, UsageReader, UsageSink,
};

pub(super) async fn suite<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    page_sizes(backend).await;
    foreign_page_tokens_are_rejected(backend).await;
    times_within_a_microsecond_do_not_break_paging(backend).await;
    paging_is_stable(backend).await;
}

async fn page_sizes<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let mut traffic = Traffic::new(5);
    traffic.keys.truncate(1);
    let events = traffic.events(1_100);
    write(backend, events.clone()).await;
    let filter = LogFilter::new().key(traffic.keys[0]);
    let all = expected(&events, &filter);
    for size in [1_000, 550, 7] {
        let logged = read_log(backend, filter.clone(), size, None).await;
        let rule = format!("pages of {size} neither skip nor repeat events");
        equal(&logged, &all, rule);
    }
    let rule = "an export contains the whole log as it was written";
    equal(&exported(backend, filter.clone()).await, &all, rule);
    for (limit, size, rule) in [
        (0, 1, "a page size of 0 is raised to 1"),
        (
            usize::MAX,
            PageRequest::MAX_LIMIT,
            "a page size above the maximum is reduced to the maximum",
        ),
    ] {
        let query = LogQuery::new(filter.clone()).limit(limit);
        let page = succeeds(backend.requests(&query).await, rule);
        equal(&page.items.len(), &size, rule);
        equal(
            &page.next,
            &Some(LogQuery::page_token(&all[size - 1])),
            "the next page token is the position of the last item",
        );
    }
}

/// Exports events and parses them back.
async fn exported<B: UsageReader + ?Sized>(backend: &B, filter: LogFilter) -> Vec<UsageEvent> {
    let mut events = Vec::new();
    let query = LogQuery::new(filter).limit(PageRequest::MAX_LIMIT);
    let mut next = Some(Next::Requests(query));
    while let Some(Next::Requests(query)) = next {
        let chunk = Format::JsonLines.chunk(backend, None, query).await;
        let chunk = succeeds(chunk, "an export runs to completion");
        let lines = serde_json::Deserializer::from_slice(&chunk.bytes).into_iter();
        events.extend(lines.map(|line| succeeds(line, "an export consists of JSON lines")));
        next = chunk.next;
    }
    events
}

async fn foreign_page_tokens_are_rejected<B: UsageReader + ?Sized>(backend: &B) {
    for item_id in ["1".to_owned(), id().to_string()] {
        let query = LogQuery::default().after(PageToken::new(micros(0), item_id));
        fails_with(
            backend.requests(&query).await,
            "ReadError::Page",
            |error| matches!(error, ReadError::Page(_)),
            "a page token of another list fails with ReadError::Page",
        );
    }
}

async fn times_within_a_microsecond_do_not_break_paging<B: UsageSink + UsageReader + ?Sized>(
    backend: &B,
) {
    let mut traffic = Traffic::new(7);
    traffic.keys.truncate(1);
    let mut events = traffic.events(6);
    let start = traffic.start;
    for (event, n) in events.iter_mut().zip(0..) {
        event.time = start + SignedDuration::from_nanos(n * 300);
    }
    write(backend, events.clone()).await;
    for event in &mut events {
        event.time = micros(event.time.as_microsecond());
    }
    let filter = LogFilter::new().key(traffic.keys[0]);
    let logged = read_log(backend, filter.clone(), 1, None).await;
    let rule = "times are truncated to whole microseconds, and pages skip no events within the same microsecond";
    equal(&logged, &expected(&events, &filter), rule);
}

/// Newer and older events arrive while a client pages through the log.
async fn paging_is_stable<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let mut traffic = Traffic::new(6);
    traffic.keys.truncate(1);
    let start = traffic.start.as_microsecond();
    let mut at = |time: i64| -> UsageEvent { traffic.event(micros(start + time)) };
    // Four per microsecond, so that pages end within one.
    let first: Vec<_> = (0..40).map(|n| at(1_000 + n / 4)).collect();
    write(backend, first.clone()).await;
    let key = first.first().and_then(|event| event.key);
    let filter = LogFilter {
        key,
        ..LogFilter::default()
    };
    let mut query = LogQuery::new(filter).limit(3);
    let mut logged: Vec<UsageEvent> = Vec::new();
    for step in 0..40 {
        let page = succeeds(
            backend.requests(&query).await,
            "paging through the log succeeds while events arrive",
        );
        logged.extend(page.items);
        let Some(next) = page.next else { break };
        query.page.after = Some(next);
        // Before, between and after the existing events.
        let new = [2_000 + step, 1_000 + step % 10, 999 - step].map(&mut at);
        write(backend, new.into()).await;
    }
    check_order(&logged);
    let seen: HashSet<_> = logged.iter().map(|event| event.id).collect();
    let missed: Vec<_> = first
        .iter()
        .filter(|event| !seen.contains(&event.id))
        .collect();
    equal(
        &missed,
        &vec![],
        "pages skip no event that existed throughout",
    );
}

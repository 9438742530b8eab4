//! The pages of the request log.

use std::collections::HashSet;

use jiff::SignedDuration;

use super::log::{expected, in_order, walk};
use super::steps::write;
use super::traffic::Traffic;
use crate::conformance::assert::{done, refused, same};
use crate::conformance::fixture::{id, micros};
use crate::page::PageToken;
use crate::usage::{
    Form, LogFilter, LogQuery, Next, ReadError, UsageEvent, UsageReader, UsageSink,
};

pub(super) async fn suite<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    sizes(backend).await;
    foreign_tokens_are_refused(backend).await;
    nanoseconds_are_no_places(backend).await;
    pages_stay_whole(backend).await;
}

async fn sizes<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let mut traffic = Traffic::new(5);
    traffic.keys.truncate(1);
    let events = traffic.events(1_100);
    write(backend, events.clone()).await;
    let filter = LogFilter::new().key(traffic.keys[0]);
    let all = expected(&events, &filter);
    for size in [1_000, 550, 7] {
        let logged = walk(backend, filter.clone(), size, None).await;
        let rule = format!("pages of {size} neither skip nor repeat events");
        same(&logged, &all, rule);
    }
    let rule = "an export has the whole log, as it was written";
    same(&exported(backend, filter.clone()).await, &all, rule);
    for (limit, size, rule) in [
        (0, 1, "a limit of zero is one"),
        (
            usize::MAX,
            LogQuery::MAX_LIMIT,
            "a limit beyond the largest is the largest",
        ),
    ] {
        let query = LogQuery::new(filter.clone()).limit(limit);
        let page = done(backend.requests(&query).await, rule);
        same(&page.items.len(), &size, rule);
        same(
            &page.next,
            &Some(LogQuery::place(&all[size - 1])),
            "the next page begins where this ends",
        );
    }
}

/// What an export writes down, read back.
async fn exported<B: UsageReader + ?Sized>(backend: &B, filter: LogFilter) -> Vec<UsageEvent> {
    let mut events = Vec::new();
    let query = LogQuery::new(filter).limit(LogQuery::MAX_LIMIT);
    let mut next = Some(Next::Requests(query));
    while let Some(Next::Requests(query)) = next {
        let chunk = Form::JsonLines.chunk(backend, query).await;
        let chunk = done(chunk, "an export goes on to its end");
        let lines = serde_json::Deserializer::from_slice(&chunk.bytes).into_iter();
        events.extend(lines.map(|line| done(line, "an export is lines of JSON")));
        next = chunk.next;
    }
    events
}

async fn foreign_tokens_are_refused<B: UsageReader + ?Sized>(backend: &B) {
    for place in ["1".to_owned(), id().to_string()] {
        let query = LogQuery::default().after(PageToken::new(micros(0), place));
        refused(
            backend.requests(&query).await,
            "ReadError::Page",
            |error| matches!(error, ReadError::Page(_)),
            "a page token of another list is ReadError::Page",
        );
    }
}

async fn nanoseconds_are_no_places<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
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
    let logged = walk(backend, filter.clone(), 1, None).await;
    let rule = "times are cut to whole microseconds, and pages skip no event of the same one";
    same(&logged, &expected(&events, &filter), rule);
}

/// Events arrive, newer and older ones, while somebody turns the pages.
async fn pages_stay_whole<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let mut traffic = Traffic::new(6);
    traffic.keys.truncate(1);
    let start = traffic.start.as_microsecond();
    let mut at = |time: i64| -> UsageEvent { traffic.event(micros(start + time)) };
    // Four of each microsecond, so that pages end in the middle of one.
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
        let page = done(
            backend.requests(&query).await,
            "the log goes on while events arrive",
        );
        logged.extend(page.items);
        let Some(next) = page.next else { break };
        query.after = Some(next);
        // Around the events there are, and into their midst.
        let new = [2_000 + step, 1_000 + step % 10, 999 - step].map(&mut at);
        write(backend, new.into()).await;
    }
    in_order(&logged);
    let seen: HashSet<_> = logged.iter().map(|event| event.id).collect();
    let missed: Vec<_> = first
        .iter()
        .filter(|event| !seen.contains(&event.id))
        .collect();
    same(
        &missed,
        &vec![],
        "pages skip no event that was there all the time",
    );
}

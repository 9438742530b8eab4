//! The log in the order of recording.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use uuid::Uuid;

use super::log::same_log;
use super::steps::write;
use super::traffic::Traffic;
use crate::conformance::assert::{done, holds, together};
use crate::usage::{
    LogCursor, LogFilter, ReadError, RecordedEvent, RecordedPage, RecordedQuery, UsageEvent,
    UsageReader, UsageSink,
};

pub(super) async fn suite<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let first = backend.recorded(&RecordedQuery::default().limit(1)).await;
    if matches!(first, Err(ReadError::Unsupported)) {
        return;
    }
    let end = end(backend, LogCursor::START).await;
    late_events_come_last(backend, end).await;
    writers_at_the_same_time(backend, end).await;
}

async fn page<B: UsageReader + ?Sized>(backend: &B, query: &RecordedQuery) -> RecordedPage {
    let page = done(
        backend.recorded(query).await,
        "the log is read in the order of recording",
    );
    let last = page.items.last().map(|item| item.cursor);
    let is_full = page.items.len() == query.page_size();
    holds(
        !is_full || last == Some(page.cursor),
        "a full page ends with the cursor of its last item",
    );
    page
}

/// The cursor behind all that is recorded.
async fn end<B: UsageReader + ?Sized>(backend: &B, mut cursor: LogCursor) -> LogCursor {
    loop {
        let page = page(backend, &RecordedQuery::after(cursor)).await;
        cursor = page.cursor;
        if !page.more {
            return cursor;
        }
    }
}

/// All that is recorded after a cursor; what is not of these events is overlooked.
async fn walk<B: UsageReader + ?Sized>(
    backend: &B,
    query: &RecordedQuery,
    ids: &HashSet<Uuid>,
) -> Vec<RecordedEvent> {
    let mut query = query.clone();
    let mut found = Vec::new();
    loop {
        let page = page(backend, &query).await;
        // As it comes back from a client.
        let cursor = page.cursor.to_string().parse();
        query.after = done(cursor, "a cursor is read from its text");
        found.extend(page.items);
        if !page.more {
            found.retain(|item| ids.contains(&item.event.id));
            return found;
        }
    }
}

fn events(items: &[RecordedEvent]) -> Vec<UsageEvent> {
    items.iter().map(|item| item.event.clone()).collect()
}

fn sorted(mut events: Vec<UsageEvent>) -> Vec<UsageEvent> {
    events.sort_by_key(|event| (event.time, event.id));
    events
}

async fn late_events_come_last<B>(backend: &B, start: LogCursor)
where
    B: UsageSink + UsageReader + ?Sized,
{
    let mut traffic = Traffic::new(8);
    let mut written = traffic.events(60);
    // Each batch is of an earlier time than the one before.
    written.sort_by_key(|event| std::cmp::Reverse((event.time, event.id)));
    let ids: HashSet<_> = written.iter().map(|event| event.id).collect();
    let mut cursor = start;
    let mut in_order = Vec::new();
    for batch in written.chunks(7) {
        write(backend, batch.to_vec()).await;
        let new = walk(backend, &RecordedQuery::after(cursor), &ids).await;
        same_log(
            &sorted(events(&new)),
            &sorted(batch.to_vec()),
            "a batch comes after all that were written before, whatever its events' times",
        );
        cursor = end(backend, cursor).await;
        in_order.extend(new);
    }
    for size in [1, 7, 1_000] {
        let query = RecordedQuery::after(start).limit(size);
        let all = walk(backend, &query, &ids).await;
        let rule = format!("pages of {size} neither skip nor repeat recorded events");
        same_log(&events(&all), &events(&in_order), rule);
    }
    for (nth, item) in in_order.iter().enumerate().step_by(5) {
        let rest = walk(backend, &RecordedQuery::after(item.cursor), &ids).await;
        same_log(
            &events(&rest),
            &events(&in_order[nth + 1..]),
            "an event's cursor continues after that event",
        );
    }
    let filter = LogFilter {
        key: traffic.keys.first().copied(),
        ..LogFilter::default()
    };
    let matching = RecordedQuery::after(start).filter(filter.clone()).limit(3);
    let matching = walk(backend, &matching, &ids).await;
    let mut expected = events(&in_order);
    expected.retain(|event| filter.matches(event));
    same_log(
        &events(&matching),
        &expected,
        "recorded events agree with LogFilter::matches",
    );
}

type Running<'a> = Pin<Box<dyn Future<Output = Vec<RecordedEvent>> + Send + 'a>>;

async fn writers_at_the_same_time<B>(backend: &B, start: LogCursor)
where
    B: UsageSink + UsageReader + ?Sized,
{
    const WRITERS: usize = 6;
    let mut traffic = Traffic::new(9);
    let written: Vec<_> = (0..WRITERS).map(|_| traffic.events(60)).collect();
    let ids: HashSet<_> = written.iter().flatten().map(|event| event.id).collect();
    let writing = AtomicUsize::new(WRITERS);
    let (writing, ids) = (&writing, &ids);
    let mut running: Vec<Running<'_>> = Vec::new();
    for events in &written {
        running.push(Box::pin(async move {
            for batch in events.chunks(5) {
                write(backend, batch.to_vec()).await;
                tokio::task::yield_now().await;
            }
            writing.fetch_sub(1, Ordering::SeqCst);
            Vec::new()
        }));
    }
    running.push(Box::pin(async move {
        let mut polled = Vec::new();
        let mut cursor = start;
        loop {
            let is_last = writing.load(Ordering::SeqCst) == 0;
            let page = page(backend, &RecordedQuery::after(cursor).limit(11)).await;
            cursor = page.cursor;
            polled.extend(page.items);
            if is_last && !page.more {
                polled.retain(|item| ids.contains(&item.event.id));
                return polled;
            }
            tokio::task::yield_now().await;
        }
    }));
    let polled = together(running).await.concat();
    same_log(
        &sorted(events(&polled)),
        &sorted(written.concat()),
        "a poller reads every event once while several write",
    );
}

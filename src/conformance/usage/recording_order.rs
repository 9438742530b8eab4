//! The request log in recording order.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use uuid::Uuid;

use super::log::equal_events;
use super::steps::write;
use super::traffic::Traffic;
use crate::conformance::assert::{holds, join_all, succeeds};
use crate::usage::{
    LogCursor, LogFilter, ReadError, RecordedEvent, RecordedPage, RecordedQuery, UsageEvent,
    UsageReader, UsageSink,
};

pub(super) async fn suite<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    revision_follows_writes(backend).await;
    let first = backend.recorded(&RecordedQuery::default().limit(1)).await;
    if matches!(first, Err(ReadError::Unsupported)) {
        return;
    }
    let end = end(backend, LogCursor::START).await;
    late_events_are_appended(backend, end).await;
    concurrent_writers(backend, end).await;
}

async fn revision_follows_writes<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let revision = async || {
        let revision = backend.revision().await;
        succeeds(revision, "reading the revision succeeds")
    };
    let before = revision().await;
    write(backend, Traffic::new(fastrand::u64(..)).events(1)).await;
    let after = revision().await;
    holds(
        before.is_none() == after.is_none(),
        "a backend either supports revisions or does not",
    );
    holds(
        before.is_none() || before != after,
        "the revision changes when a batch is written",
    );
}

async fn page<B: UsageReader + ?Sized>(backend: &B, query: &RecordedQuery) -> RecordedPage {
    let page = succeeds(
        backend.recorded(query).await,
        "reading the log in recording order succeeds",
    );
    let last = page.items.last().map(|item| item.cursor);
    let is_full = page.items.len() == query.page_size();
    holds(
        !is_full || last == Some(page.cursor),
        "a full page ends with the cursor of its last item",
    );
    page
}

/// The cursor after everything recorded so far.
async fn end<B: UsageReader + ?Sized>(backend: &B, mut cursor: LogCursor) -> LogCursor {
    loop {
        let page = page(backend, &RecordedQuery::after(cursor)).await;
        cursor = page.cursor;
        if !page.more {
            return cursor;
        }
    }
}

/// Reads everything recorded after a cursor, and ignores events with other ids.
async fn read_recorded<B: UsageReader + ?Sized>(
    backend: &B,
    query: &RecordedQuery,
    ids: &HashSet<Uuid>,
) -> Vec<RecordedEvent> {
    let mut query = query.clone();
    let mut found = Vec::new();
    loop {
        let page = page(backend, &query).await;
        // Sent as text, as by a client.
        let cursor = page.cursor.to_string().parse();
        query.after = succeeds(cursor, "a cursor round-trips through its text form");
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

async fn late_events_are_appended<B>(backend: &B, start: LogCursor)
where
    B: UsageSink + UsageReader + ?Sized,
{
    let mut traffic = Traffic::new(8);
    let mut written = traffic.events(60);
    // The events of each batch are older than those of the batch before.
    written.sort_by_key(|event| std::cmp::Reverse((event.time, event.id)));
    let ids: HashSet<_> = written.iter().map(|event| event.id).collect();
    let mut cursor = start;
    let mut in_order = Vec::new();
    for batch in written.chunks(7) {
        write(backend, batch.to_vec()).await;
        let new = read_recorded(backend, &RecordedQuery::after(cursor), &ids).await;
        equal_events(
            &sorted(events(&new)),
            &sorted(batch.to_vec()),
            "a batch follows all batches written before, whatever the times of its events",
        );
        cursor = end(backend, cursor).await;
        in_order.extend(new);
    }
    for size in [1, 7, 1_000] {
        let query = RecordedQuery::after(start).limit(size);
        let all = read_recorded(backend, &query, &ids).await;
        let rule = format!("pages of {size} neither skip nor repeat recorded events");
        equal_events(&events(&all), &events(&in_order), rule);
    }
    for (nth, item) in in_order.iter().enumerate().step_by(5) {
        let rest = read_recorded(backend, &RecordedQuery::after(item.cursor), &ids).await;
        equal_events(
            &events(&rest),
            &events(&in_order[nth + 1..]),
            "reading from an event's cursor continues after that event",
        );
    }
    let filter = LogFilter {
        key: traffic.keys.first().copied(),
        ..LogFilter::default()
    };
    let matching = RecordedQuery::after(start).filter(filter.clone()).limit(3);
    let matching = read_recorded(backend, &matching, &ids).await;
    let mut expected = events(&in_order);
    expected.retain(|event| filter.matches(event));
    equal_events(
        &events(&matching),
        &expected,
        "recorded events agree with LogFilter::matches",
    );
}

type Running<'a> = Pin<Box<dyn Future<Output = Vec<RecordedEvent>> + Send + 'a>>;

async fn concurrent_writers<B>(backend: &B, start: LogCursor)
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
    let polled = join_all(running).await.concat();
    equal_events(
        &sorted(events(&polled)),
        &sorted(written.concat()),
        "a poller reads every event exactly once while several writers are active",
    );
}

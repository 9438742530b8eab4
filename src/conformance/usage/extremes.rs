//! What lies at the bounds of a batch: the largest numbers, and texts with U+0000.

use super::log::{agrees, expected, walk};
use super::traffic::Traffic;
use crate::conformance::assert::{done, same};
use crate::usage::{
    Batch, LogFilter, SummaryQuery, SummarySpec, UsageEvent, UsageRange, UsageReader, UsageSink,
};

pub(super) async fn suite<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let mut traffic = Traffic::new(8);
    traffic.keys.truncate(1);
    let time = traffic.start;
    let mut model = traffic.event(time);
    let owner = format!("{}\0", traffic.owners[0]);
    let endpoint = format!("{}\0", traffic.endpoints[0]);
    model.owner = Some(owner.as_str().into());
    model.endpoint = endpoint.as_str().into();
    model.path = "\0/\0".into();
    (model.latency_us, model.request_bytes) = (u64::MAX, u64::MAX);
    model.response_bytes = 1 << 62;
    // One group of a sum, whose parts come in batches of their own.
    let mut events = Vec::new();
    for _ in 0..3 {
        let id = traffic.event(time).id;
        let text = format!("\0{id}\0");
        let batch = Batch::new(vec![UsageEvent {
            id,
            request_id: Some(text.as_str().into()),
            resource_id: Some(text.into()),
            ..model.clone()
        }]);
        done(backend.write(&batch).await, "a batch is written");
        events.extend(batch.events.iter().cloned());
    }
    texts_are_found_as_they_are_kept(backend, &events, [&owner, &endpoint]).await;
    sums_stop(backend, &events).await;
}

async fn texts_are_found_as_they_are_kept<B>(
    backend: &B,
    events: &[UsageEvent],
    [owner, endpoint]: [&str; 2],
) where
    B: UsageReader + ?Sized,
{
    let of_key = LogFilter {
        key: events[0].key,
        ..LogFilter::default()
    };
    let logged = walk(backend, of_key.clone(), 2, None).await;
    let rule = "texts and numbers are kept as the batch has them";
    same(&logged, &expected(events, &of_key), rule);
    let mut filters = vec![
        LogFilter::new().owner(owner),
        LogFilter::new().endpoint(endpoint),
        LogFilter::new().resource_id("\0"),
        LogFilter::new().request_id("\0"),
    ];
    for event in events {
        filters.push(LogFilter::new().endpoint(&*event.endpoint));
        filters.push(LogFilter::new().request_id(event.wire_id()));
        filters.extend(event.owner.as_deref().map(|it| LogFilter::new().owner(it)));
        let resource = event.resource_id.as_deref();
        filters.extend(resource.map(|it| LogFilter::new().resource_id(it)));
    }
    for filter in filters {
        agrees(backend, events, filter).await;
    }
    let query = SummaryQuery::new(UsageRange::new().owner(owner), SummarySpec::new());
    let summary = done(backend.summary(&query).await, "a summary answers");
    let rule = "nobody has an owner with U+0000";
    same(&summary, &SummarySpec::new().empty(), rule);
}

async fn sums_stop<B: UsageReader + ?Sized>(backend: &B, events: &[UsageEvent]) {
    let rule = "sums stop at 2⁶³ − 1";
    let range = UsageRange {
        key: events[0].key,
        ..UsageRange::default()
    };
    let spec = SummarySpec::new().by_key().latency();
    let expected = spec.summarize(events);
    let rollups = done(backend.rollups(&range).await, "rollups answer");
    same(&spec.summarize(&rollups), &expected, rule);
    let query = SummaryQuery::new(range, spec);
    let summary = done(backend.summary(&query).await, "a summary answers");
    same(&summary, &expected, rule);
}

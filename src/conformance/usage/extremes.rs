//! Extreme values: the largest numbers, and text with U+0000.

use super::log::{expected, filter_agrees, read_log};
use super::traffic::Traffic;
use crate::conformance::assert::{equal, succeeds};
use crate::usage::{
    Batch, LogFilter, SummaryQuery, SummarySpec, UsageEvent, UsageRange, UsageReader, UsageSink,
};

pub(super) async fn suite<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let mut traffic = Traffic::new(8);
    traffic.keys.truncate(1);
    let time = traffic.start;
    let mut template = traffic.event(time);
    let owner = format!("{}\0", traffic.owners[0]);
    let endpoint = format!("{}\0", traffic.endpoints[0]);
    template.owner = Some(owner.as_str().into());
    template.endpoint = endpoint.as_str().into();
    template.path = "\0/\0".into();
    (template.latency_us, template.request_bytes) = (u64::MAX, u64::MAX);
    template.response_bytes = 1 << 62;
    // One rollup group, with each event in a batch of its own.
    let mut events = Vec::new();
    for _ in 0..3 {
        let id = traffic.event(time).id;
        let text = format!("\0{id}\0");
        let batch = Batch::new(vec![UsageEvent {
            id,
            request_id: Some(text.as_str().into()),
            resource_id: Some(text.into()),
            ..template.clone()
        }]);
        succeeds(backend.write(&batch).await, "writing a batch succeeds");
        events.extend(batch.events().iter().cloned());
    }
    text_is_found_as_stored(backend, &events, [&owner, &endpoint]).await;
    sums_saturate(backend, &events).await;
}

async fn text_is_found_as_stored<B>(
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
    let logged = read_log(backend, of_key.clone(), 2, None).await;
    let rule = "text and numbers are stored as they are in the batch";
    equal(&logged, &expected(events, &of_key), rule);
    let mut filters = vec![
        LogFilter::new().owner(owner),
        LogFilter::new().endpoint(endpoint),
        LogFilter::new().resource_id("\0"),
        LogFilter::new().request_id("\0"),
    ];
    for event in events {
        filters.push(LogFilter::new().endpoint(&*event.endpoint));
        filters.push(LogFilter::new().request_id(event.request_id_or_id()));
        filters.extend(event.owner.as_deref().map(|it| LogFilter::new().owner(it)));
        let resource = event.resource_id.as_deref();
        filters.extend(resource.map(|it| LogFilter::new().resource_id(it)));
    }
    for filter in filters {
        filter_agrees(backend, events, filter).await;
    }
    let query = SummaryQuery::new(UsageRange::new().owner(owner), SummarySpec::new());
    let summary = succeeds(backend.summary(&query).await, "a summary query succeeds");
    let rule = "a query for an owner with U+0000 matches nothing";
    equal(&summary, &SummarySpec::new().empty(), rule);
}

async fn sums_saturate<B: UsageReader + ?Sized>(backend: &B, events: &[UsageEvent]) {
    let rule = "sums saturate at 2⁶³ − 1";
    let range = UsageRange {
        key: events[0].key,
        ..UsageRange::default()
    };
    let spec = SummarySpec::new().by_key().latency();
    let expected = spec.summarize(events);
    let rollups = succeeds(backend.rollups(&range).await, "a rollup query succeeds");
    equal(&spec.summarize(&rollups), &expected, rule);
    let query = SummaryQuery::new(range, spec);
    let summary = succeeds(backend.summary(&query).await, "a summary query succeeds");
    equal(&summary, &expected, rule);
}

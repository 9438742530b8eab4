//! Batches are written completely and exactly once.

use super::log::{expect_count, read_log};
use super::steps::write;
use super::traffic::Traffic;
use crate::conformance::assert::{equal, join_all, succeeds};
use crate::usage::{
    Batch, LogFilter, Summary, SummaryQuery, SummarySpec, UsageEvent, UsageRange, UsageReader,
    UsageSink,
};

pub(super) async fn suite<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    write(backend, Vec::new()).await;
    repeated_batch_counts_once(backend).await;
    concurrent_batch_counts_once(backend).await;
    large_batches_are_complete(backend).await;
}

async fn repeated_batch_counts_once<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let mut traffic = Traffic::new(1);
    let batch = Batch::new(traffic.events(20));
    let other = Batch::new(traffic.events(5));
    for batch in [&batch, &batch, &other, &batch] {
        succeeds(backend.write(batch).await, "writing a batch again succeeds");
    }
    let all = [batch.events(), other.events()].concat();
    counted_once(backend, &traffic, &all, "a batch written twice counts once").await;
}

async fn concurrent_batch_counts_once<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let mut traffic = Traffic::new(2);
    let batch = Batch::new(traffic.events(20));
    let results = join_all((0..4).map(|_| backend.write(&batch))).await;
    let rule = "a batch written twice concurrently counts once";
    if results.iter().any(Result::is_err) {
        // A concurrent write may fail; the recorder would retry it.
        succeeds(backend.write(&batch).await, rule);
    }
    counted_once(backend, &traffic, batch.events(), rule).await;
}

async fn large_batches_are_complete<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let mut traffic = Traffic::new(3);
    let events = traffic.events(3_000);
    write(backend, events.clone()).await;
    counted_once(
        backend,
        &traffic,
        &events,
        "a batch of thousands of events is written completely",
    )
    .await;
}

/// Checks that the request log and the summaries count each event once.
async fn counted_once<B>(backend: &B, traffic: &Traffic, events: &[UsageEvent], rule: &str)
where
    B: UsageReader + ?Sized,
{
    for &key in &traffic.keys {
        let filter = LogFilter::new().key(key);
        let expected = events.iter().filter(|event| event.key == Some(key)).count();
        expect_count(backend, &filter, expected, rule).await;
        let logged = read_log(backend, filter, 1_000, None).await;
        equal(
            &logged.len(),
            &expected,
            format_args!("{rule}, in the request log"),
        );
        let summary = summary_of(backend, UsageRange::new().key(key)).await;
        equal(
            &summary.totals.total(),
            &(expected as u64),
            format_args!("{rule}, in summaries"),
        );
    }
}

async fn summary_of<B: UsageReader + ?Sized>(backend: &B, range: UsageRange) -> Summary {
    let query = SummaryQuery::new(range, SummarySpec::new());
    succeeds(backend.summary(&query).await, "a summary query succeeds")
}

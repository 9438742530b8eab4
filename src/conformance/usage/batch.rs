//! Writing: all of a batch, and once.

use super::log::{count_is, walk};
use super::steps::write;
use super::traffic::Traffic;
use crate::conformance::assert::{done, same, together};
use crate::usage::{
    Batch, LogFilter, Summary, SummaryQuery, SummarySpec, UsageEvent, UsageRange, UsageReader,
    UsageSink,
};

pub(super) async fn suite<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    write(backend, Vec::new()).await;
    again_counts_once(backend).await;
    at_the_same_time_counts_once(backend).await;
    large_batches_are_whole(backend).await;
}

async fn again_counts_once<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let mut traffic = Traffic::new(1);
    let batch = Batch::new(traffic.events(20));
    let other = Batch::new(traffic.events(5));
    for batch in [&batch, &batch, &other, &batch] {
        done(backend.write(batch).await, "a batch may be written again");
    }
    let all = [batch.events, other.events].concat();
    counted_once(
        backend,
        &traffic,
        &all,
        "a batch that is written twice counts once",
    )
    .await;
}

async fn at_the_same_time_counts_once<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let mut traffic = Traffic::new(2);
    let batch = Batch::new(traffic.events(20));
    let answers = together((0..4).map(|_| backend.write(&batch))).await;
    let rule = "a batch that is written twice at the same time counts once";
    if answers.iter().any(Result::is_err) {
        // One may lose against the other; the recorder tries it again then.
        done(backend.write(&batch).await, rule);
    }
    counted_once(backend, &traffic, &batch.events, rule).await;
}

async fn large_batches_are_whole<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    let mut traffic = Traffic::new(3);
    let events = traffic.events(3_000);
    write(backend, events.clone()).await;
    counted_once(
        backend,
        &traffic,
        &events,
        "a batch of thousands is written whole",
    )
    .await;
}

/// In the log and in the sums.
async fn counted_once<B>(backend: &B, traffic: &Traffic, events: &[UsageEvent], rule: &str)
where
    B: UsageReader + ?Sized,
{
    for &key in &traffic.keys {
        let filter = LogFilter::new().key(key);
        let expected = events.iter().filter(|event| event.key == Some(key)).count();
        count_is(backend, &filter, expected, rule).await;
        let logged = walk(backend, filter, 1_000, None).await;
        same(&logged.len(), &expected, format_args!("{rule}: in the log"));
        let summary = sum_of(backend, UsageRange::new().key(key)).await;
        same(
            &summary.totals.total(),
            &(expected as u64),
            format_args!("{rule}: in the sums"),
        );
    }
}

async fn sum_of<B: UsageReader + ?Sized>(backend: &B, range: UsageRange) -> Summary {
    let query = SummaryQuery::new(range, SummarySpec::new());
    done(backend.summary(&query).await, "a summary answers")
}

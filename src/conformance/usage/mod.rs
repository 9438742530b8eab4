//! Suites for usage storage.

mod batch;
mod extremes;
mod log;
mod pages;
mod recording_order;
mod steps;
mod summaries;
mod traffic;

use crate::usage::{UsageReader, UsageSink};

/// Checks a usage backend: events that are written can be read as log entries, rollups and summaries.
///
/// # Panics
///
/// If the backend breaks one of these rules:
///
/// - A batch written again under its id, later or concurrently, counts once. A batch can be empty or have
///   thousands of events.
/// - The request log holds every event as it was written. Each filter, alone or combined, agrees with
///   [`LogFilter::matches`](crate::usage::LogFilter::matches). An event is found by its request id and by its
///   own id. Counts agree with the log.
/// - The log is ordered by time and then by id, newest first. Pages neither skip nor repeat events while others
///   arrive. An export contains the whole log.
/// - In recording order, the log has every event exactly once, in the order in which events become visible to
///   readers, whatever their times and however many writers are active. A backend passes if its
///   [`recorded`](UsageReader::recorded) returns
///   [`ReadError::Unsupported`](crate::usage::ReadError::Unsupported).
/// - The [`revision`](UsageReader::revision) changes with every batch of new events. A backend passes if it returns `None`.
/// - A summary, by key, owner and range, equals
///   [`SummarySpec::summarize`](crate::usage::SummarySpec::summarize) over the events. Rollups add up to the
///   events. Sums saturate at 2⁶³ − 1, however their parts are ordered and batched.
/// - Text is stored and found as it is in the batch. A query for text with U+0000 matches nothing.
pub async fn usage<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    batch::suite(backend).await;
    log::suite(backend).await;
    pages::suite(backend).await;
    recording_order::suite(backend).await;
    summaries::suite(backend).await;
    extremes::suite(backend).await;
}

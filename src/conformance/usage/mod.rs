//! Suites for who keeps usage and reads it.

mod batch;
mod extremes;
mod log;
mod pages;
mod recorded;
mod steps;
mod sums;
mod traffic;

use crate::usage::{UsageReader, UsageSink};

/// Checks a backend of usage: what is written into it is what is read from it.
///
/// # Panics
///
/// When the backend breaks one of these rules:
///
/// - A batch that is written again under its id, later or at the same time, counts once. An empty batch
///   and one of thousands are batches.
/// - The log has every event as it was written. Each filter, alone and with others, agrees with
///   [`LogFilter::matches`](crate::usage::LogFilter::matches); an event is found by its id on the wire
///   and by its own. Counts agree with the log.
/// - The log is ordered by time and then by id, newest first; its pages neither skip nor repeat while
///   events arrive. An export has all of it.
/// - In the order of recording, the log has every event once, in the order in which readers can see them, whatever
///   their times and however many write at the same time. A backend whose
///   [`recorded`](UsageReader::recorded) is [`ReadError::Unsupported`](crate::usage::ReadError::Unsupported) passes.
/// - A summary, by key, owner and range, equals
///   [`SummarySpec::summarize`](crate::usage::SummarySpec::summarize) over the events. Rollups add up to
///   the events. Sums stop at 2⁶³ − 1, whatever order and batches their parts come in.
/// - Texts are kept and found as the batch has them; one that is asked for with U+0000 is nowhere.
pub async fn usage<B: UsageSink + UsageReader + ?Sized>(backend: &B) {
    batch::suite(backend).await;
    log::suite(backend).await;
    pages::suite(backend).await;
    recorded::suite(backend).await;
    sums::suite(backend).await;
    extremes::suite(backend).await;
}

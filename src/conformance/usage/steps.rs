//! Steps that several suites have in common.

use crate::conformance::assert::done;
use crate::usage::{Batch, UsageEvent, UsageSink};

pub(in crate::conformance) async fn write<B: UsageSink + ?Sized>(
    backend: &B,
    events: Vec<UsageEvent>,
) {
    done(
        backend.write(&Batch::new(events)).await,
        "a batch is written",
    );
}

/// Writes events in batches of several sizes.
pub(super) async fn write_all<B: UsageSink + ?Sized>(backend: &B, mut events: &[UsageEvent]) {
    for size in [1, 2, 7, 40].into_iter().cycle() {
        if events.is_empty() {
            break;
        }
        let (batch, rest) = events.split_at(size.min(events.len()));
        write(backend, batch.to_vec()).await;
        events = rest;
    }
}

//! Steps shared by several suites.

use crate::conformance::assert::succeeds;
use crate::usage::{Batch, UsageEvent, UsageSink};

pub(in crate::conformance) async fn write<B: UsageSink + ?Sized>(
    backend: &B,
    events: Vec<UsageEvent>,
) {
    succeeds(
        backend.write(&Batch::new(events)).await,
        "writing a batch succeeds",
    );
}

/// Writes events in batches of various sizes.
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

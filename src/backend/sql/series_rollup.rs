//! Rollups by caller and kind, as they are stored.

use std::collections::BTreeMap;

use super::micros::floor;
use crate::usage::{LatencyHistogram, UsageEvent, saturating};

/// The number that stands for all callers.
pub(in crate::backend) const ALL_CALLERS: i32 = 0;

/// The amounts of a rollup. Sums saturate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::backend) struct Amounts {
    pub(in crate::backend) count: u64,
    pub(in crate::backend) cost: u64,
    pub(in crate::backend) request_bytes: u64,
    pub(in crate::backend) response_bytes: u64,
    pub(in crate::backend) latency: LatencyHistogram,
}

/// The rollup of a series, which is a caller and a kind of requests, in a time bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backend) struct SeriesRollup {
    pub(in crate::backend) series: Series,
    /// The start of the bucket, in microseconds since 1970.
    pub(in crate::backend) start: i64,
    pub(in crate::backend) amounts: Amounts,
}

/// The numbers of a caller and a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::backend) struct Series {
    pub(in crate::backend) caller: i32,
    pub(in crate::backend) kind: i32,
}

impl Amounts {
    pub(super) fn add_event(&mut self, event: &UsageEvent) {
        saturating::add(&mut self.count, 1);
        self.latency.record(event.latency_us);
        self.add_sums(event.cost.into(), event.request_bytes, event.response_bytes);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.merge_sums(other);
        self.latency.merge(&other.latency);
    }

    fn merge_sums(&mut self, other: &Self) {
        saturating::add(&mut self.count, other.count);
        self.add_sums(other.cost, other.request_bytes, other.response_bytes);
    }

    fn add_sums(&mut self, cost: u64, request_bytes: u64, response_bytes: u64) {
        saturating::add(&mut self.cost, cost);
        saturating::add(&mut self.request_bytes, request_bytes);
        saturating::add(&mut self.response_bytes, response_bytes);
    }
}

/// Rollups by caller, start and kind: the order of the tables.
#[derive(Default)]
pub(super) struct Rollups(BTreeMap<(i32, i64, i32), Amounts>);

impl Rollups {
    pub(super) fn add(&mut self, Series { caller, kind }: Series, start: i64, amounts: &Amounts) {
        let sums = self.0.entry((caller, start, kind)).or_default();
        sums.merge(amounts);
    }

    /// Without latencies.
    pub(super) fn add_sums(
        &mut self,
        Series { caller, kind }: Series,
        start: i64,
        amounts: &Amounts,
    ) {
        let sums = self.0.entry((caller, start, kind)).or_default();
        sums.merge_sums(amounts);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The rollups in parts of up to this many, in order.
    pub(super) fn into_parts(self, most: usize) -> impl Iterator<Item = Vec<SeriesRollup>> + Send {
        let mut rollups = self.into_rollups();
        std::iter::from_fn(move || {
            let part: Vec<_> = rollups.by_ref().take(most).collect();
            (!part.is_empty()).then_some(part)
        })
    }

    /// The rollups in order.
    pub(super) fn into_rollups(self) -> impl Iterator<Item = SeriesRollup> + Send {
        let rollups = self.0.into_iter();
        rollups.map(|((caller, start, kind), amounts)| SeriesRollup {
            series: Series { caller, kind },
            start,
            amounts,
        })
    }
}

/// Merges rollups into wider time buckets, in microseconds. The result is ordered by caller, start and kind.
pub(super) fn coarser<'a>(
    narrow: impl Iterator<Item = &'a SeriesRollup>,
    width: i64,
) -> Vec<SeriesRollup> {
    let mut wide = Rollups::default();
    for rollup in narrow {
        let start = floor(rollup.start, width);
        wide.add(rollup.series, start, &rollup.amounts);
    }
    wide.into_rollups().collect()
}

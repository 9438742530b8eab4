//! Rollups by series, and by key and outcome, as they are stored.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::hash::{Hash, hash_of};
use super::micros::floor;
use crate::id::KeyId;
use crate::usage::{Cause, LatencyHistogram, Outcome, UsageEvent, saturating};

/// The amounts of a rollup. Sums saturate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::backend) struct Amounts {
    pub(in crate::backend) count: u64,
    pub(in crate::backend) cost: u64,
    pub(in crate::backend) request_bytes: u64,
    pub(in crate::backend) response_bytes: u64,
    pub(in crate::backend) latency: LatencyHistogram,
}

/// The rollup of a series in a time bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backend) struct SeriesRollup {
    /// The id of the series.
    pub(in crate::backend) series: i64,
    /// The start of the bucket, in microseconds since 1970.
    pub(in crate::backend) start: i64,
    pub(in crate::backend) amounts: Amounts,
}

/// The rollup of a key, owner, outcome and cause in a time bucket, without latencies.
#[derive(Debug)]
pub(in crate::backend) struct KeyRollup<'a> {
    pub(in crate::backend) start: i64,
    pub(in crate::backend) by: &'a KeyOutcome,
    pub(in crate::backend) amounts: Amounts,
}

/// The attributes of series by which [`KeyRollup`] aggregates them.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::backend) struct KeyOutcome {
    /// The hash of the other fields.
    pub(in crate::backend) hash: Hash,
    pub(in crate::backend) key: Option<KeyId>,
    pub(in crate::backend) owner: Option<Arc<str>>,
    pub(in crate::backend) outcome: Outcome,
    pub(in crate::backend) cause: Option<Cause>,
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

impl KeyOutcome {
    pub(super) fn new(
        key: Option<KeyId>,
        owner: Option<Arc<str>>,
        outcome: Outcome,
        cause: Option<Cause>,
    ) -> Self {
        let hash = hash_of(&[
            key.as_ref().map(KeyId::as_str),
            owner.as_deref(),
            Some(outcome.as_str()),
            cause.map(|cause| cause.as_str()),
        ]);
        Self {
            hash,
            key,
            owner,
            outcome,
            cause,
        }
    }
}

/// Rollups by series and start.
#[derive(Default)]
pub(super) struct Rollups(BTreeMap<(i64, i64), Amounts>);

impl Rollups {
    pub(super) fn add(&mut self, rollup: SeriesRollup) {
        let amounts = self.0.entry((rollup.series, rollup.start)).or_default();
        amounts.merge(&rollup.amounts);
    }

    /// The rollups in parts of up to this many, ordered by series and start.
    pub(super) fn into_parts(self, most: usize) -> impl Iterator<Item = Vec<SeriesRollup>> + Send {
        let mut rollups = self.into_rollups();
        std::iter::from_fn(move || {
            let part: Vec<_> = rollups.by_ref().take(most).collect();
            (!part.is_empty()).then_some(part)
        })
    }

    /// The rollups, ordered by series and start.
    pub(super) fn into_rollups(self) -> impl Iterator<Item = SeriesRollup> + Send {
        let rollups = self.0.into_iter();
        rollups.map(|((series, start), amounts)| SeriesRollup {
            series,
            start,
            amounts,
        })
    }
}

/// Merges rollups, ordered by series and time, into wider time buckets, in microseconds.
pub(super) fn coarser(narrow: &[SeriesRollup], width: i64) -> Vec<SeriesRollup> {
    let mut wide: Vec<SeriesRollup> = Vec::new();
    for rollup in narrow {
        let start = floor(rollup.start, width);
        match wide.last_mut() {
            Some(last) if (last.series, last.start) == (rollup.series, start) => {
                last.amounts.merge(&rollup.amounts);
            }
            _ => wide.push(SeriesRollup {
                start,
                ..rollup.clone()
            }),
        }
    }
    wide
}

/// Merges rollups by key, owner, outcome and cause, ordered by time and hash. Leaves out series without attributes.
pub(super) fn by_key<'a>(
    rollups: &[SeriesRollup],
    attributes: &'a HashMap<i64, KeyOutcome, RandomState>,
) -> Vec<KeyRollup<'a>> {
    let mut by_key: BTreeMap<(i64, Hash), KeyRollup<'a>> = BTreeMap::new();
    for SeriesRollup {
        series,
        start,
        amounts,
    } in rollups
    {
        let Some(by) = attributes.get(series) else {
            continue;
        };
        let rollup = by_key
            .entry((*start, by.hash))
            .or_insert_with(|| KeyRollup {
                start: *start,
                by,
                amounts: Amounts::default(),
            });
        rollup.amounts.merge_sums(amounts);
    }
    by_key.into_values().collect()
}

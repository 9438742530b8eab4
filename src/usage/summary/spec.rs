//! The parts of a summary and the pass that computes it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::RandomState;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::accumulator::Accumulator;
use super::aggregate::Aggregate;
use super::groups::Groups;
use super::over_time::Buckets;
use super::{Summary, Totals};
use crate::id::KeyId;
use crate::usage::{Granularity, LatencyHistogram, Rollup};

/// The optional parts of a [`Summary`], besides totals overall and by method, status, rejection reason and endpoint.
///
/// By default a summary has none of them, since they take extra time, and totals by key may be numerous.
/// Serialization fails for zones that [`OverTime`](super::OverTime) cannot serialize.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[must_use]
pub struct SummarySpec {
    by_key: bool,
    by_owner: bool,
    over_time: Option<Grid>,
    latency: bool,
    latency_by_endpoint: bool,
    latency_over_time: bool,
}

/// Time buckets of a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Grid {
    width: Granularity,
    #[serde(with = "jiff::fmt::serde::tz::required")]
    zone: TimeZone,
}

impl SummarySpec {
    /// Creates a spec without optional parts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds totals by key, in [`Summary::by_key`].
    pub fn by_key(mut self) -> Self {
        self.by_key = true;
        self
    }

    /// Adds totals by owner, in [`Summary::by_owner`].
    pub fn by_owner(mut self) -> Self {
        self.by_owner = true;
        self
    }

    /// Adds totals over time in buckets of this width and zone, in [`Summary::over_time`].
    pub fn over_time(mut self, width: Granularity, zone: TimeZone) -> Self {
        self.over_time = Some(Grid { width, zone });
        self
    }

    /// Adds totals over time in [`Summary::over_time`], in buckets of this zone and of a width that suits the
    /// range ([`Granularity::for_range`]).
    ///
    /// The range only determines the width; it does not filter the items.
    pub fn over_range(self, range: Range<Timestamp>, zone: TimeZone) -> Self {
        self.over_time(Granularity::for_range(range), zone)
    }

    /// Adds latencies, in [`Summary::latency`].
    pub fn latency(mut self) -> Self {
        self.latency = true;
        self
    }

    /// Adds latencies by endpoint, in [`Summary::latency_by_endpoint`].
    pub fn latency_by_endpoint(mut self) -> Self {
        self.latency_by_endpoint = true;
        self
    }

    /// Adds latencies to the [totals over time](Self::over_time), in [`OverTime::latency`](super::OverTime::latency).
    pub fn latency_over_time(mut self) -> Self {
        self.latency_over_time = true;
        self
    }

    /// The requested buckets for totals over time.
    #[cfg_attr(not(feature = "_sql"), expect(dead_code))]
    pub(crate) fn grid(&self) -> Option<(Granularity, &TimeZone)> {
        self.over_time.as_ref().map(|grid| (grid.width, &grid.zone))
    }

    /// The same spec without totals over time.
    #[cfg_attr(not(feature = "_sql"), expect(dead_code))]
    pub(crate) fn without_grid(&self) -> Self {
        Self {
            over_time: None,
            ..self.clone()
        }
    }

    /// Whether totals by key are requested.
    #[cfg_attr(not(feature = "_sql"), expect(dead_code))]
    pub(crate) fn has_keys(&self) -> bool {
        self.by_key
    }

    /// Whether totals by owner are requested.
    #[cfg_attr(not(feature = "_sql"), expect(dead_code))]
    pub(crate) fn has_owners(&self) -> bool {
        self.by_owner
    }

    /// Whether latencies are requested.
    #[cfg_attr(not(feature = "_sql"), expect(dead_code))]
    pub(crate) fn has_latency(&self) -> bool {
        self.latency || self.latency_by_endpoint
    }

    /// Whether latencies over time are requested.
    #[cfg_attr(not(feature = "_sql"), expect(dead_code))]
    pub(crate) fn has_latency_over_time(&self) -> bool {
        self.over_time.is_some() && self.latency_over_time
    }

    /// The same spec with totals over time only.
    #[cfg_attr(not(feature = "_sql"), expect(dead_code))]
    pub(crate) fn only_grid(&self) -> Self {
        Self {
            over_time: self.over_time.clone(),
            latency_over_time: self.latency_over_time,
            ..Self::default()
        }
    }

    /// Whether a rollup wider than a minute spans several of the requested buckets.
    pub(crate) fn cuts(&self, rollup: &Rollup) -> bool {
        let Some(grid) = self.over_time.as_ref() else {
            return false;
        };
        let width = SignedDuration::from_secs(rollup.granularity.seconds());
        let end = rollup.start.saturating_add(width).unwrap_or(Timestamp::MAX);
        rollup.granularity > Granularity::Minute
            && grid.width.bucket(rollup.start, &grid.zone).end < end
    }

    /// An empty summary to merge others into.
    pub fn empty(&self) -> Summary {
        Pass::new(self).finish()
    }

    /// Summarizes events or rollups in one pass.
    pub fn summarize<'a, T: Aggregate + 'a>(
        &self,
        items: impl IntoIterator<Item = &'a T>,
    ) -> Summary {
        let mut pass = Pass::new(self);
        for item in items {
            pass.add(item);
        }
        pass.finish()
    }

    /// Summarizes a slice on up to this many threads, including the calling one.
    ///
    /// The result equals that of [`SummarySpec::summarize`]. Uses fewer threads for short slices (16,384 items per
    /// thread) or if the system cannot start more.
    pub fn summarize_parallel<T: Aggregate + Sync>(&self, items: &[T], threads: usize) -> Summary {
        /// For fewer items, starting a thread costs more than it saves.
        const WORTH_A_THREAD: usize = 1 << 14;
        let share = items.len().div_ceil(threads.max(1)).max(WORTH_A_THREAD);
        let mut shares = items.chunks(share);
        let mine = shares.next().unwrap_or_default();
        std::thread::scope(|scope| {
            let others: Vec<_> = shares
                .map(|share| {
                    let work = move || self.summarize(share);
                    let thread = std::thread::Builder::new().spawn_scoped(scope, work);
                    (share, thread)
                })
                .collect();
            let mut summary = self.summarize(mine);
            for (share, thread) in others {
                let thread = thread.map(std::thread::ScopedJoinHandle::join);
                summary.merge(match thread {
                    Ok(Ok(done)) => done,
                    Ok(Err(panic)) => std::panic::resume_unwind(panic),
                    Err(_) => self.summarize(share),
                });
            }
            summary
        })
    }
}

/// The state of one pass.
struct Pass<'a> {
    cells: Accumulator<'a>,
    keys: Option<Groups<Option<KeyId>>>,
    owners: Option<Groups<&'a Arc<str>>>,
    buckets: Option<Buckets>,
    latency: Option<LatencyHistogram>,
    latency_by_endpoint: Option<HashMap<&'a Arc<str>, LatencyHistogram, RandomState>>,
}

impl<'a> Pass<'a> {
    fn new(spec: &SummarySpec) -> Self {
        let buckets = spec.over_time.as_ref();
        Self {
            cells: Accumulator::new(),
            keys: spec.by_key.then(Groups::new),
            owners: spec.by_owner.then(Groups::new),
            buckets: buckets
                .map(|grid| Buckets::new(grid.width, &grid.zone, spec.latency_over_time)),
            latency: spec.latency.then(LatencyHistogram::new),
            latency_by_endpoint: spec.latency_by_endpoint.then(HashMap::default),
        }
    }

    #[inline]
    fn add<T: Aggregate>(&mut self, item: &'a T) {
        let amounts = item.amounts();
        self.cells
            .add(item.method(), item.status(), item.endpoint(), &amounts);
        if let Some(keys) = &mut self.keys {
            keys.add(item.key(), &amounts);
        }
        if let (Some(owners), Some(owner)) = (&mut self.owners, item.owner()) {
            owners.add(owner, &amounts);
        }
        if let Some(buckets) = &mut self.buckets {
            buckets.add(item, &amounts);
        }
        if let Some(latency) = &mut self.latency {
            item.add_latency(latency);
        }
        if let Some(endpoints) = &mut self.latency_by_endpoint {
            item.add_latency(endpoints.entry(item.endpoint()).or_default());
        }
    }

    fn finish(self) -> Summary {
        let sums = self.cells.finish();
        let by_method = sums.methods.finish();
        let mut totals = Totals::default();
        by_method.values().for_each(|part| totals.merge(part));
        Summary {
            totals,
            by_method,
            by_status: sums.statuses.finish(),
            by_rejection_reason: sums.rejections.finish(),
            by_endpoint: super::owned(sums.endpoints),
            by_key: self.keys.map(Groups::finish),
            by_owner: self.owners.map(super::owned),
            over_time: self.buckets.map(Buckets::finish),
            latency: self.latency,
            latency_by_endpoint: self.latency_by_endpoint.map(|endpoints| {
                let counted = endpoints
                    .into_iter()
                    .filter(|(_, latency)| latency.count() > 0);
                counted
                    .map(|(endpoint, latency)| (endpoint.clone(), latency))
                    .collect()
            }),
            exact: true,
        }
    }
}

#[cfg(all(test, feature = "_sql"))]
mod tests {
    use super::*;

    #[test]
    fn requested_parts_are_reported() {
        let nothing = SummarySpec::new();
        assert_eq!(nothing.grid(), None);
        assert!(!nothing.has_keys() && !nothing.has_owners() && !nothing.has_latency());
        let hourly = nothing.clone().over_time(Granularity::Hour, TimeZone::UTC);
        assert_eq!(hourly.grid(), Some((Granularity::Hour, &TimeZone::UTC)));
        assert!(nothing.clone().latency_by_endpoint().has_latency());
        assert!(!nothing.clone().latency_over_time().has_latency_over_time());
        assert!(!hourly.has_latency_over_time());
        let latency = hourly.clone().latency_over_time();
        assert!(latency.has_latency_over_time() && !latency.has_latency());
        assert_eq!(latency.clone().by_key().latency().only_grid(), latency);
        let all = hourly.by_key().by_owner().latency();
        assert!(all.has_keys() && all.has_owners() && all.has_latency());
        assert_eq!(all.without_grid(), nothing.by_key().by_owner().latency());
    }
}

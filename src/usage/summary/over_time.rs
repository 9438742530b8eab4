//! Totals by time bucket.

use std::collections::BTreeMap;
use std::ops::Range;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::aggregate::Aggregate;
use super::groups::counted;
use super::totals::{Amounts, Totals};
use crate::usage::{Granularity, LatencyHistogram, LatencyQuantiles};

/// Totals by time bucket in a zone's local time (see [`Granularity::bucket`]).
///
/// Serialization fails for a zone that has neither an IANA name, a fixed offset nor a POSIX rule. This can be the
/// case for [`TimeZone::system`] if `/etc/localtime` is a copy rather than a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OverTime {
    /// The width of the buckets.
    pub granularity: Granularity,
    /// The time zone of the buckets.
    #[serde(with = "jiff::fmt::serde::tz::required")]
    pub zone: TimeZone,
    /// The totals by the start of the bucket. Empty buckets are absent; [`OverTime::filled`] includes them.
    pub buckets: BTreeMap<Timestamp, Totals>,
    /// The latencies by the start of the bucket, if [requested](super::SummarySpec::latency_over_time). Empty buckets are
    /// absent.
    #[serde(default)]
    pub latency: Option<BTreeMap<Timestamp, LatencyHistogram>>,
}

/// One time bucket, for a chart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TimeBucket {
    /// The start of the bucket, inclusive.
    pub start: Timestamp,
    /// The end of the bucket, exclusive.
    pub end: Timestamp,
    /// Whether the bucket has not ended yet, so that its totals may still grow.
    pub is_partial: bool,
    /// The totals of the bucket.
    pub totals: Totals,
    /// The latency percentiles of the bucket, if [requested](super::SummarySpec::latency_over_time).
    #[serde(default)]
    pub latency: Option<LatencyQuantiles>,
}

/// The error for a range that has more than [`OverTime::MAX_BUCKETS`] buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the range has more than {} time buckets", OverTime::MAX_BUCKETS)]
pub struct TooManyBuckets;

impl OverTime {
    /// The maximum number of buckets that [`OverTime::filled`] returns, 50,000. A month has 44,640 minutes.
    pub const MAX_BUCKETS: usize = 50_000;

    /// Returns all buckets that overlap the range, in order, including empty ones.
    ///
    /// The first and the last bucket may extend beyond the range. The buckets are contiguous, also across daylight
    /// saving transitions. An empty or reversed range has no buckets. Buckets that end after `now` are marked as
    /// [`unfinished`](TimeBucket::is_partial).
    ///
    /// # Errors
    ///
    /// [`TooManyBuckets`] if the range has more than [`OverTime::MAX_BUCKETS`] buckets.
    pub fn filled(
        &self,
        range: Range<Timestamp>,
        now: Timestamp,
    ) -> Result<Vec<TimeBucket>, TooManyBuckets> {
        let mut filled = Vec::new();
        let mut time = range.start;
        while time < range.end {
            if filled.len() == Self::MAX_BUCKETS {
                return Err(TooManyBuckets);
            }
            let Range { start, end } = self.granularity.bucket(time, &self.zone);
            filled.push(TimeBucket {
                start,
                end,
                is_partial: now < end,
                totals: self.buckets.get(&start).cloned().unwrap_or_default(),
                latency: self.latency.as_ref().map(|latency| {
                    let latency = latency.get(&start).map(LatencyHistogram::quantiles);
                    latency.unwrap_or_default()
                }),
            });
            time = end;
        }
        Ok(filled)
    }
}

/// Aggregates totals by time. Items mostly arrive in order, so the latest bucket is tried first.
#[derive(Debug)]
pub(super) struct Buckets {
    width: Granularity,
    zone: TimeZone,
    latest: Range<Timestamp>,
    latest_slot: usize,
    /// The end and slot of each bucket, by its start.
    slots: BTreeMap<Timestamp, (Timestamp, usize)>,
    totals: Vec<Totals>,
    /// As many as there are totals; `None` if they are not wanted.
    latencies: Option<Vec<LatencyHistogram>>,
}

impl Buckets {
    pub(super) fn new(width: Granularity, zone: &TimeZone, has_latency: bool) -> Self {
        Self {
            width,
            zone: zone.clone(),
            latest: Timestamp::MAX..Timestamp::MIN,
            latest_slot: 0,
            slots: BTreeMap::new(),
            totals: Vec::new(),
            latencies: has_latency.then(Vec::new),
        }
    }

    #[inline]
    pub(super) fn add<T: Aggregate>(&mut self, item: &T, amounts: &Amounts) {
        let time = item.time();
        if !self.latest.contains(&time) {
            self.turn_to(time);
        }
        self.totals[self.latest_slot].add(amounts);
        if let Some(latencies) = &mut self.latencies {
            item.add_latency(&mut latencies[self.latest_slot]);
        }
    }

    fn turn_to(&mut self, time: Timestamp) {
        let (range, slot) = match self.slots.range(..=time).next_back() {
            Some((&start, &(end, slot))) if time < end => (start..end, slot),
            _ => {
                let range = self.width.bucket(time, &self.zone);
                let fresh = (range.end, self.totals.len());
                let (_, slot) = *self.slots.entry(range.start).or_insert(fresh);
                (range, slot)
            }
        };
        if slot == self.totals.len() {
            self.totals.push(Totals::default());
            if let Some(latencies) = &mut self.latencies {
                latencies.push(LatencyHistogram::new());
            }
        }
        (self.latest, self.latest_slot) = (range, slot);
    }

    pub(super) fn finish(self) -> OverTime {
        let (mut totals, latencies) = (self.totals, self.latencies);
        let latency = latencies.map(|mut latencies| {
            let starts = self.slots.iter();
            let latencies =
                starts.map(|(start, (_, slot))| (*start, std::mem::take(&mut latencies[*slot])));
            latencies
                .filter(|(_, latency)| !latency.is_empty())
                .collect()
        });
        let starts = self.slots.into_iter();
        let buckets = starts.map(|(start, (_, slot))| (start, std::mem::take(&mut totals[slot])));
        OverTime {
            granularity: self.width,
            zone: self.zone,
            buckets: counted(buckets),
            latency,
        }
    }
}

//! Totals by bucket of time.

use std::collections::BTreeMap;
use std::ops::Range;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::groups::counted;
use super::totals::{Amounts, Totals};
use crate::usage::Granularity;

/// Totals by bucket of a zone's time: minutes, hours or calendar days (see [`Granularity::bucket`]).
///
/// A zone without a name, a fixed offset or a POSIX rule cannot be serialized (this happens to
/// [`TimeZone::system`] where `/etc/localtime` is a bare copy).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OverTime {
    /// How wide the buckets are.
    pub width: Granularity,
    /// Whose clocks they follow.
    #[serde(with = "jiff::fmt::serde::tz::required")]
    pub zone: TimeZone,
    /// Totals by the bucket's start, where anything was counted; [`OverTime::filled`] has the empty
    /// ones too.
    pub buckets: BTreeMap<Timestamp, Totals>,
}

/// One point of a chart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TimeBucket {
    /// The bucket's first instant.
    pub start: Timestamp,
    /// The first instant after it.
    pub end: Timestamp,
    /// Whether it is not over yet, so that its totals may still grow.
    pub unfinished: bool,
    /// What was counted.
    pub totals: Totals,
}

/// A range of time of more than [`OverTime::MAX_BUCKETS`] buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a range of more than {} buckets of time", OverTime::MAX_BUCKETS)]
pub struct TooManyBuckets;

impl OverTime {
    /// The most buckets that [`OverTime::filled`] makes: a month of minutes is 44,640.
    pub const MAX_BUCKETS: usize = 50_000;

    /// Every bucket that overlaps the range, in order, with zeros where nothing was counted.
    ///
    /// The first and the last bucket may reach beyond the range. None is left out or counted twice
    /// where the clocks change. An empty or backward range has no buckets.
    ///
    /// # Errors
    ///
    /// [`TooManyBuckets`] rather than a list of more than [`OverTime::MAX_BUCKETS`].
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
            let Range { start, end } = self.width.bucket(time, &self.zone);
            filled.push(TimeBucket {
                start,
                end,
                unfinished: now < end,
                totals: self.buckets.get(&start).cloned().unwrap_or_default(),
            });
            time = end;
        }
        Ok(filled)
    }
}

/// Adds up by time. Items mostly come in order, so the latest bucket is asked first.
#[derive(Debug)]
pub(super) struct Buckets {
    width: Granularity,
    zone: TimeZone,
    latest: Range<Timestamp>,
    latest_slot: usize,
    /// Ends and slots by start.
    slots: BTreeMap<Timestamp, (Timestamp, usize)>,
    totals: Vec<Totals>,
}

impl Buckets {
    pub(super) fn new(width: Granularity, zone: &TimeZone) -> Self {
        Self {
            width,
            zone: zone.clone(),
            latest: Timestamp::MAX..Timestamp::MIN,
            latest_slot: 0,
            slots: BTreeMap::new(),
            totals: Vec::new(),
        }
    }

    #[inline]
    pub(super) fn add(&mut self, time: Timestamp, amounts: &Amounts) {
        if !self.latest.contains(&time) {
            self.turn_to(time);
        }
        self.totals[self.latest_slot].add(amounts);
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
        }
        (self.latest, self.latest_slot) = (range, slot);
    }

    pub(super) fn finish(self) -> OverTime {
        let mut totals = self.totals;
        let starts = self.slots.into_iter();
        let buckets = starts.map(|(start, (_, slot))| (start, std::mem::take(&mut totals[slot])));
        OverTime {
            width: self.width,
            zone: self.zone,
            buckets: counted(buckets),
        }
    }
}

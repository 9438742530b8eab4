//! The rollups that cover a range of time.

use std::ops::Range;

use crate::backend::sql::merging::Merged;
use crate::backend::sql::micros::{DAY, HOUR, MINUTE, QUARTER, ceil, floor};
use crate::backend::sql::value::ceil_micros;
use crate::usage::{Granularity, UsageRange};

/// The widths of the rollups that are kept for a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Widths {
    /// Before this time, hours are the narrowest rollups.
    pub(super) hours: i64,
    /// Before this time, quarters of an hour are the narrowest rollups. Not earlier than `hours`.
    pub(super) quarters: i64,
    /// The times up to which there are hours and days.
    pub(super) merged: Merged,
}

impl Widths {
    pub(super) fn new(hours: Option<i64>, quarters: Option<i64>, merged: Merged) -> Self {
        let hours = hours.unwrap_or(i64::MIN);
        let quarters = quarters.map_or(hours, |quarters| quarters.max(hours));
        Self {
            hours,
            quarters,
            merged,
        }
    }

    /// The width of the narrowest rollups at a time.
    pub(super) fn narrowest(&self, time: i64) -> Granularity {
        if time < self.hours {
            Granularity::Hour
        } else if time < self.quarters {
            Granularity::QuarterHour
        } else {
            Granularity::Minute
        }
    }
}

/// Rollups of one width whose buckets start in a range, in microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RangePart {
    pub(super) width: Granularity,
    pub(super) starts: Range<i64>,
}

/// The minute starts of a range. An end of the range beyond all rollups is extended to the end of a day, so that a
/// day is read instead of many smaller buckets.
pub(super) fn bounded(range: &UsageRange, first: i64, last: i64) -> Range<i64> {
    let from = range.from.map_or(i64::MIN, ceil_micros);
    let from = if from <= first {
        floor(first, DAY)
    } else {
        ceil(from, MINUTE)
    };
    let to = range.to.map_or(i64::MAX, ceil_micros);
    let to = if to > last {
        ceil(last + MINUTE, DAY)
    } else {
        to
    };
    from..to
}

/// Whether a range starts and ends at bucket boundaries, or beyond all rollups.
pub(super) fn is_exact(range: &UsageRange, first: i64, last: i64, widths: Widths) -> bool {
    let mut edges = range.from.into_iter().chain(range.to);
    edges.all(|edge| {
        let edge = ceil_micros(edge);
        let width = widths.narrowest(edge).seconds() * 1_000_000;
        edge <= first || edge >= last + MINUTE || edge % width == 0
    })
}

/// The rollups that cover a range: the widest inside, up to this width, and narrower ones at its ends. A rollup
/// that is wider than a minute is included as a whole if it starts in the range.
pub(super) fn cover_range(
    starts: &Range<i64>,
    widest: Granularity,
    widths: Widths,
) -> Vec<RangePart> {
    let mut parts = Vec::new();
    cover(starts.clone(), widest, widths, &mut parts);
    parts
}

fn cover(starts: Range<i64>, widest: Granularity, widths: Widths, parts: &mut Vec<RangePart>) {
    if starts.is_empty() {
        return;
    }
    let (length, narrower, merged) = match widest {
        Granularity::Day => (DAY, Granularity::Hour, widths.merged.days),
        Granularity::Hour => (HOUR, Granularity::Minute, widths.merged.hours),
        _ => return cover_narrowest(starts, widths, parts),
    };
    let (from, to) = (
        ceil(starts.start, length),
        floor(starts.end.min(merged), length),
    );
    if from < to {
        cover(starts.start..from, narrower, widths, parts);
        parts.push(RangePart {
            width: widest,
            starts: from..to,
        });
        cover(to..starts.end, narrower, widths, parts);
    } else {
        cover(starts, narrower, widths, parts);
    }
}

fn cover_narrowest(starts: Range<i64>, widths: Widths, parts: &mut Vec<RangePart>) {
    let periods = [
        (Granularity::Hour, HOUR, i64::MIN..widths.hours),
        (
            Granularity::QuarterHour,
            QUARTER,
            widths.hours..widths.quarters,
        ),
        (Granularity::Minute, MINUTE, widths.quarters..i64::MAX),
    ];
    for (width, length, period) in periods {
        let (start, end) = (starts.start.max(period.start), starts.end.min(period.end));
        if start < end {
            let starts = ceil(start, length)..ceil(end, length);
            if !starts.is_empty() {
                parts.push(RangePart { width, starts });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    const MINUTES: Granularity = Granularity::Minute;
    const HOURS: Granularity = Granularity::Hour;
    const DAYS: Granularity = Granularity::Day;

    const QUARTERS: Granularity = Granularity::QuarterHour;
    const ALL: Merged = Merged {
        hours: i64::MAX,
        days: i64::MAX,
    };
    const NARROW: Widths = Widths {
        hours: i64::MIN,
        quarters: i64::MIN,
        merged: ALL,
    };

    fn all(
        starts: Range<i64>,
        widest: Granularity,
        widths: Widths,
    ) -> Vec<(Granularity, i64, i64)> {
        let parts = cover_range(&starts, widest, widths);
        parts
            .iter()
            .map(|part| (part.width, part.starts.start, part.starts.end))
            .collect()
    }

    #[test]
    fn widest_rollups_cover_the_inside_and_narrower_ones_the_ends() {
        let starts = 30 * MINUTE..2 * DAY + 3 * HOUR + 5 * MINUTE;
        let (from, to) = (starts.start, starts.end);
        let expected = [
            (MINUTES, from, HOUR),
            (HOURS, HOUR, DAY),
            (DAYS, DAY, 2 * DAY),
            (HOURS, 2 * DAY, 2 * DAY + 3 * HOUR),
            (MINUTES, 2 * DAY + 3 * HOUR, to),
        ];
        assert_eq!(all(starts.clone(), DAYS, NARROW), expected);
        let hours = 2 * DAY + 3 * HOUR;
        let expected = [
            (MINUTES, from, HOUR),
            (HOURS, HOUR, hours),
            (MINUTES, hours, to),
        ];
        assert_eq!(all(starts.clone(), HOURS, NARROW), expected);
        assert_eq!(all(starts, MINUTES, NARROW), [(MINUTES, from, to)]);
        let short = 30 * MINUTE..HOUR + 5 * MINUTE;
        let expected = [(MINUTES, short.start, short.end)];
        assert_eq!(all(short, DAYS, NARROW), expected);
        assert_eq!(all(0..DAY, DAYS, NARROW), [(DAYS, 0, DAY)]);
        assert_eq!(all(5 * HOUR..5 * HOUR, DAYS, NARROW), []);
    }

    #[test]
    fn hours_replace_pruned_minutes() {
        let starts = 30 * MINUTE..5 * HOUR + 5 * MINUTE;
        let end = starts.end;
        let pruned = |hours: i64| Widths::new(Some(hours * HOUR), None, ALL);
        let expected = [(HOURS, HOUR, 5 * HOUR), (MINUTES, 5 * HOUR, end)];
        assert_eq!(all(starts.clone(), DAYS, pruned(2)), expected);
        let expected = [(HOURS, HOUR, 2 * HOUR), (MINUTES, 2 * HOUR, end)];
        assert_eq!(all(starts.clone(), MINUTES, pruned(2)), expected);
        assert_eq!(
            all(starts.clone(), MINUTES, pruned(9)),
            [(HOURS, HOUR, 6 * HOUR)]
        );
        let expected = [(HOURS, HOUR, 5 * HOUR), (HOURS, 5 * HOUR, 6 * HOUR)];
        assert_eq!(all(starts, HOURS, pruned(9)), expected);
    }

    #[test]
    fn narrower_rollups_cover_what_is_not_rolled_up() {
        let starts = 0..2 * DAY;
        let merged = |hours, days| Widths::new(None, None, Merged::new(hours, days));
        let some = merged(Some(DAY + 3 * HOUR), Some(DAY));
        let expected = [
            (DAYS, 0, DAY),
            (HOURS, DAY, DAY + 3 * HOUR),
            (MINUTES, DAY + 3 * HOUR, 2 * DAY),
        ];
        assert_eq!(all(starts.clone(), DAYS, some), expected);
        let none = merged(None, None);
        assert_eq!(all(starts.clone(), DAYS, none), [(MINUTES, 0, 2 * DAY)]);
        // Both were rolled up beyond the range.
        let beyond = merged(Some(9 * DAY), Some(9 * DAY));
        assert_eq!(all(starts, DAYS, beyond), [(DAYS, 0, 2 * DAY)]);
    }

    #[test]
    fn quarters_of_an_hour_replace_merged_minutes() {
        let widths = Widths::new(Some(2 * HOUR), Some(4 * HOUR), ALL);
        let starts = 30 * MINUTE..5 * HOUR + 5 * MINUTE;
        let end = starts.end;
        let expected = [
            (HOURS, HOUR, 2 * HOUR),
            (QUARTERS, 2 * HOUR, 4 * HOUR),
            (MINUTES, 4 * HOUR, end),
        ];
        assert_eq!(all(starts, MINUTES, widths), expected);
        let cut = 2 * HOUR + 20 * MINUTE..3 * HOUR + 20 * MINUTE;
        let starts = 2 * HOUR + 30 * MINUTE..3 * HOUR + 30 * MINUTE;
        assert_eq!(
            all(cut.clone(), MINUTES, widths),
            [(QUARTERS, starts.start, starts.end)]
        );
        let micros = |n| Timestamp::from_microsecond(n).unwrap();
        let is_exact = |range: Range<i64>| {
            let range = UsageRange::new()
                .from(micros(range.start))
                .to(micros(range.end));
            is_exact(&range, 0, DAY, widths)
        };
        assert!(is_exact(starts.clone()) && !is_exact(cut));
        assert!(is_exact(HOUR..starts.end) && !is_exact(HOUR + QUARTER..starts.end));
        assert!(is_exact(starts.start..5 * HOUR + MINUTE));
        assert_eq!(Widths::new(Some(HOUR), Some(0), ALL).quarters, HOUR);
    }

    #[test]
    fn ends_beyond_all_rollups_are_extended_to_days() {
        let micros = |n| Timestamp::from_microsecond(n).unwrap();
        let (first, last) = (DAY + HOUR, 2 * DAY + 5 * MINUTE);
        let all = UsageRange::new();
        assert_eq!(bounded(&all, first, last), DAY..3 * DAY);
        let exact = all.from(micros(DAY + HOUR + 1)).to(micros(last));
        assert_eq!(bounded(&exact, first, last), DAY + HOUR + MINUTE..last);
        let beyond = UsageRange::new().to(micros(last + 1));
        assert_eq!(bounded(&beyond, first, last).end, 3 * DAY);
    }
}

//! Which sums make up a range of time.

use std::ops::Range;

use crate::backend::sql::value::ceil_micros;
use crate::usage::{UsageRange, Width};

pub(super) const MINUTE: i64 = 60_000_000;
pub(super) const HOUR: i64 = 3_600_000_000;
pub(super) const DAY: i64 = 86_400_000_000;

/// Sums of one width whose buckets start in a range, in microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) width: Width,
    pub(super) starts: Range<i64>,
}

/// The starts of the minutes of a range. Where it goes beyond all there is, it ends with a day:
/// that whole bucket is one row instead of many.
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

/// Whether a range begins and ends where buckets do, or beyond all there is. Where minutes have been dropped, hours
/// are the buckets.
pub(super) fn is_exact(range: &UsageRange, first: i64, last: i64, dropped: i64) -> bool {
    let mut edges = range.from.into_iter().chain(range.to);
    edges.all(|edge| {
        let edge = ceil_micros(edge);
        let width = if edge < dropped { HOUR } else { MINUTE };
        edge <= first || edge >= last + MINUTE || edge % width == 0
    })
}

pub(super) fn floor(time: i64, width: i64) -> i64 {
    time.div_euclid(width) * width
}

fn ceil(time: i64, width: i64) -> i64 {
    floor(time.saturating_add(width - 1), width)
}

/// Which sums make up a range: the widest within, up to this width, and narrower ones at its ends.
/// Where minutes have been dropped, the hours that start in the range stand for them.
pub(super) fn parts(starts: &Range<i64>, widest: Width, dropped: i64) -> Vec<Part> {
    let mut parts = Vec::new();
    cover(starts.clone(), widest, dropped, &mut parts);
    parts
}

fn cover(starts: Range<i64>, widest: Width, dropped: i64, parts: &mut Vec<Part>) {
    if starts.is_empty() {
        return;
    }
    let (length, narrower) = match widest {
        Width::Day => (DAY, Width::Hour),
        Width::Hour => (HOUR, Width::Minute),
        _ => {
            let gone = starts.end.min(dropped);
            if starts.start < gone {
                let gone = ceil(starts.start, HOUR)..ceil(gone, HOUR);
                if !gone.is_empty() {
                    parts.push(Part {
                        width: Width::Hour,
                        starts: gone,
                    });
                }
            }
            let kept = starts.start.max(dropped)..starts.end;
            if !kept.is_empty() {
                parts.push(Part {
                    width: Width::Minute,
                    starts: kept,
                });
            }
            return;
        }
    };
    let (from, to) = (ceil(starts.start, length), floor(starts.end, length));
    if from < to {
        cover(starts.start..from, narrower, dropped, parts);
        parts.push(Part {
            width: widest,
            starts: from..to,
        });
        cover(to..starts.end, narrower, dropped, parts);
    } else {
        cover(starts, narrower, dropped, parts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    const MINUTES: Width = Width::Minute;
    const HOURS: Width = Width::Hour;
    const DAYS: Width = Width::Day;

    fn all(starts: Range<i64>, widest: Width, dropped: i64) -> Vec<(Width, i64, i64)> {
        let parts = parts(&starts, widest, dropped);
        parts
            .iter()
            .map(|part| (part.width, part.starts.start, part.starts.end))
            .collect()
    }

    #[test]
    fn the_widest_are_read_within_and_narrower_ones_at_the_ends() {
        let starts = 30 * MINUTE..2 * DAY + 3 * HOUR + 5 * MINUTE;
        let (from, to) = (starts.start, starts.end);
        let expected = [
            (MINUTES, from, HOUR),
            (HOURS, HOUR, DAY),
            (DAYS, DAY, 2 * DAY),
            (HOURS, 2 * DAY, 2 * DAY + 3 * HOUR),
            (MINUTES, 2 * DAY + 3 * HOUR, to),
        ];
        assert_eq!(all(starts.clone(), DAYS, i64::MIN), expected);
        let hours = 2 * DAY + 3 * HOUR;
        let expected = [
            (MINUTES, from, HOUR),
            (HOURS, HOUR, hours),
            (MINUTES, hours, to),
        ];
        assert_eq!(all(starts.clone(), HOURS, i64::MIN), expected);
        assert_eq!(all(starts, MINUTES, i64::MIN), [(MINUTES, from, to)]);
        let short = 30 * MINUTE..HOUR + 5 * MINUTE;
        let expected = [(MINUTES, short.start, short.end)];
        assert_eq!(all(short, DAYS, i64::MIN), expected);
        assert_eq!(all(0..DAY, DAYS, i64::MIN), [(DAYS, 0, DAY)]);
        assert_eq!(all(5 * HOUR..5 * HOUR, DAYS, i64::MIN), []);
    }

    #[test]
    fn hours_stand_for_minutes_that_were_dropped() {
        let starts = 30 * MINUTE..5 * HOUR + 5 * MINUTE;
        let end = starts.end;
        let expected = [(HOURS, HOUR, 5 * HOUR), (MINUTES, 5 * HOUR, end)];
        assert_eq!(all(starts.clone(), DAYS, 2 * HOUR), expected);
        let expected = [(HOURS, HOUR, 2 * HOUR), (MINUTES, 2 * HOUR, end)];
        assert_eq!(all(starts.clone(), MINUTES, 2 * HOUR), expected);
        assert_eq!(
            all(starts.clone(), MINUTES, 9 * HOUR),
            [(HOURS, HOUR, 6 * HOUR)]
        );
        let expected = [(HOURS, HOUR, 5 * HOUR), (HOURS, 5 * HOUR, 6 * HOUR)];
        assert_eq!(all(starts, HOURS, 9 * HOUR), expected);
    }

    #[test]
    fn what_goes_beyond_all_there_is_ends_with_a_day() {
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

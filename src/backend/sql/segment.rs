//! The segments of the request log that a batch is added to.
//!
//! Readers search segments from the latest to the earliest, so each should span a short time. The late requests of
//! batches, such as long streams, are in segments of their own, with negative numbers.

use std::ops::Range;

use super::engine::{Statement, Value};
use super::micros::{HOUR, MINUTE};
use super::names::Names;

/// The number of requests after which a segment is full.
const FULL: i64 = 1 << 14;

/// A request is late if it arrived more than this before the median of its batch.
const LATE: i64 = 10 * MINUTE;

/// The longest gap between a segment and a batch that is added to it.
const GAP: i64 = HOUR;

/// The number of newest segments to consider for a batch. Several processes may write requests of different times, for
/// instance from a spool.
const OPEN: i64 = 8;

/// The requests of a batch in one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) struct SegmentPart {
    /// The time of the first one, in microseconds since 1970.
    pub(in crate::backend) first: i64,
    pub(in crate::backend) last: i64,
    pub(in crate::backend) events: i64,
}

/// A batch, divided into segments.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::backend) struct SegmentParts {
    pub(in crate::backend) timely: Option<SegmentPart>,
    pub(in crate::backend) late: Option<SegmentPart>,
}

impl SegmentParts {
    /// Divides requests with these times, in microseconds since 1970.
    pub(in crate::backend) fn new(times: impl Iterator<Item = i64>) -> Self {
        let mut parts = Self::default();
        let mut times: Vec<_> = times.collect();
        let Some(&last) = times.iter().max() else {
            return parts;
        };
        let middle = times.len() / 2;
        let median = *times.select_nth_unstable(middle).1;
        // An import may have batches that span a long time.
        let tolerance = last.saturating_sub(median).saturating_mul(4).max(LATE);
        for time in times {
            let part = match time < median.saturating_sub(tolerance) {
                true => &mut parts.late,
                false => &mut parts.timely,
            };
            let part = part.get_or_insert(SegmentPart {
                first: time,
                last: time,
                events: 0,
            });
            part.first = time.min(part.first);
            part.last = time.max(part.last);
            part.events += 1;
        }
        parts
    }

    /// The whole batch; `None` without requests.
    #[cfg(feature = "postgres")]
    pub(in crate::backend) fn all(&self) -> Option<SegmentPart> {
        let timely = self.timely?;
        Some(match self.late {
            None => timely,
            // All late requests are earlier.
            Some(late) => SegmentPart {
                first: late.first,
                last: timely.last,
                events: late.events + timely.events,
            },
        })
    }

    /// The times of the requests that are not late.
    fn times(&self) -> Range<i64> {
        self.timely.map_or(0..0, |part| part.first..part.last)
    }

    /// The segment of a request, given those of the parts.
    pub(in crate::backend) fn segment_of<T>(&self, time: i64, timely: T, late: T) -> T {
        match time < self.times().start {
            true => late,
            false => timely,
        }
    }

    /// The parts with the numbers of their segments, ascending.
    pub(in crate::backend) fn numbered<T>(&self, timely: T, late: T) -> Vec<(T, SegmentPart)> {
        let parts = [(late, self.late), (timely, self.timely)].into_iter();
        parts
            .filter_map(|(number, part)| Some((number, part?)))
            .collect()
    }

    /// Appends the columns `segment` and `late_segment`: the numbers of the segments to add the parts to.
    pub(in crate::backend) fn push_numbers(&self, sql: &mut Statement, names: &Names) {
        let time = |sql: &mut Statement, time| sql.placeholder(Value::Time(Some(time)));
        let Range { start, end } = self.times();
        let before = time(sql, start.saturating_add(LATE));
        let until = time(sql, end.saturating_add(LATE));
        let since = time(sql, start.saturating_sub(GAP));
        sql.push_sql(
            names,
            &format!(
                "coalesce(
                    (SELECT number FROM (SELECT * FROM {{prefix}}log_segments WHERE number > 0
                        ORDER BY number DESC LIMIT {OPEN}) s
                    WHERE events < {FULL} AND first <= {before} AND last <= {until} AND last >= {since}
                    ORDER BY last DESC LIMIT 1),
                    (SELECT max(number) + 1 FROM {{prefix}}log_segments WHERE number > 0), 1) AS segment,
                coalesce((SELECT CASE WHEN events < {FULL} THEN number ELSE number - 1 END
                    FROM {{prefix}}log_segments WHERE number < 0 ORDER BY number LIMIT 1), -1) AS late_segment"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_requests_are_apart() {
        let part = |first, last, events| {
            Some(SegmentPart {
                first,
                last,
                events,
            })
        };
        let parts = |times: &[i64]| SegmentParts::new(times.iter().copied());
        assert_eq!(parts(&[]), SegmentParts::default());
        let of_one = parts(&[HOUR]);
        assert_eq!((of_one.timely, of_one.late), (part(HOUR, HOUR, 1), None));
        let of_all = parts(&[HOUR, HOUR - LATE, HOUR, HOUR - LATE - 1, HOUR, HOUR, 5]);
        assert_eq!(of_all.timely, part(HOUR - LATE, HOUR, 5));
        assert_eq!(of_all.late, part(5, HOUR - LATE - 1, 2));
        assert_eq!(of_all.segment_of(HOUR - LATE, 7, -1), 7);
        assert_eq!(of_all.segment_of(HOUR - LATE - 1, 7, -1), -1);
        let import: Vec<_> = (0..100).map(|n| n * HOUR).collect();
        assert_eq!(parts(&import).timely, part(0, 99 * HOUR, 100));
        let extreme = parts(&[i64::MIN, i64::MAX, i64::MAX]);
        assert_eq!(extreme.late, part(i64::MIN, i64::MIN, 1));
    }
}

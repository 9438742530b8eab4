//! Time buckets in SQL, without relying on the time zones of the database.

use std::ops::Range;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use sqlx::Error as SqlError;

use crate::backend::sql::micros::{DAY, floor};
use crate::backend::sql::names::Names;
use crate::backend::sql::value::timestamp;
use crate::usage::{Granularity, offsets_within};

const YEAR: i64 = 365 * DAY;

/// How rollups are grouped by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TimeBuckets {
    /// Not at all: a single group.
    None,
    /// By buckets of a width in seconds. Each UTC offset applies from a second since 1970, given first.
    Buckets {
        seconds: i64,
        offsets: Vec<(i64, i64)>,
    },
    /// By the start of each rollup.
    Each,
}

/// A range of time with its grouping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) starts: Range<i64>,
    pub(super) grid: TimeBuckets,
    /// The widest rollups that align with the time buckets.
    pub(super) widest: Granularity,
}

impl Section {
    fn new(starts: Range<i64>, grid: TimeBuckets, widest: Granularity) -> Self {
        Self {
            starts,
            grid,
            widest,
        }
    }
}

/// The sections of a range for totals over time.
///
/// A single request with a timestamp decades off extends the range to more UTC offset transitions than a statement
/// can list. In this case, rollups that far away are grouped by start.
pub(super) fn sections(
    width: Granularity,
    zone: &TimeZone,
    starts: &Range<i64>,
    now: i64,
) -> Result<Vec<Section>, SqlError> {
    if let Some((grid, widest)) = grid(width, zone, starts)? {
        return Ok(vec![Section::new(starts.clone(), grid, widest)]);
    }
    let cut = |time: i64| floor(time, DAY).clamp(starts.start, starts.end);
    let (from, to) = (cut(now - 10 * YEAR), cut(now + YEAR));
    let each = |starts| Section::new(starts, TimeBuckets::Each, Granularity::Minute);
    let near = match grid(width, zone, &(from..to))? {
        Some((grid, widest)) => Section::new(from..to, grid, widest),
        None => each(from..to),
    };
    let mut sections = vec![each(starts.start..from), near, each(to..starts.end)];
    sections.retain(|section| !section.starts.is_empty());
    Ok(sections)
}

/// The time buckets of a range, and the widest rollups that align with them; `None` if there are too many UTC
/// offset transitions.
fn grid(
    width: Granularity,
    zone: &TimeZone,
    starts: &Range<i64>,
) -> Result<Option<(TimeBuckets, Granularity)>, SqlError> {
    // The last day ends after the maximum timestamp.
    let end = timestamp(starts.end).unwrap_or(Timestamp::MAX);
    let range = timestamp(starts.start)?..end;
    let Some(pieces) = offsets_within(range, zone) else {
        return Ok(None);
    };
    let pieces = pieces.into_iter();
    let offsets: Vec<(i64, i64)> = pieces
        .map(|(from, offset)| (from.as_second(), offset.into()))
        .collect();
    let fits = |wide: &Granularity| {
        let whole = |seconds: i64| seconds % wide.seconds() == 0;
        let mut pieces = offsets.iter().enumerate();
        width >= *wide
            && pieces.all(|(n, (from, offset))| whole(*offset) && (n == 0 || whole(*from)))
    };
    let wider = [Granularity::Hour, Granularity::QuarterHour];
    let widest = wider.into_iter().find(fits).unwrap_or(Granularity::Minute);
    let seconds = width.seconds();
    Ok(Some((TimeBuckets::Buckets { seconds, offsets }, widest)))
}

/// The `GROUP BY` expression of the time bucket, with a leading comma.
pub(super) fn bucket(names: &Names, grid: &TimeBuckets) -> String {
    let (width, offsets) = match grid {
        TimeBuckets::None => return String::new(),
        TimeBuckets::Each => return ", t.start".into(),
        TimeBuckets::Buckets { seconds, offsets } => (seconds, offsets),
    };
    // Division truncates towards zero, so all numbers are made positive by adding whole days, more than there are
    // between the years 1 and 1970.
    const SHIFT: i64 = 86_400 * 1_000_000;
    let second = names.dialect.seconds("t.start");
    let number = |offset: i64| format!("({second} + {}) / {width}", offset + SHIFT);
    let mut pieces = offsets.windows(2).enumerate();
    let last = offsets.last().map_or(0, |&(_, offset)| offset);
    let until = pieces.by_ref().map(|(piece, pair)| {
        let (offset, end) = (pair[0].1, pair[1].0);
        let number = number(offset);
        format!("WHEN {second} < {end} THEN {number} * 64 + {piece} ")
    });
    let until: String = until.collect();
    let rest = format!(
        "{} * 64 + {}",
        number(last),
        offsets.len().saturating_sub(1)
    );
    if until.is_empty() {
        format!(", {rest}")
    } else {
        format!(", CASE {until}ELSE {rest} END")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_microsecond()
    }

    #[test]
    fn distant_timestamps_do_not_affect_recent_sections() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let now = micros("2026-11-25T10:00:00Z");
        let sections = |from: &str, to: &str| {
            let starts = micros(from)..micros(to);
            let sections = sections(Granularity::Day, &berlin, &starts, now).unwrap();
            assert_eq!(sections[0].starts.start, starts.start);
            assert_eq!(sections[sections.len() - 1].starts.end, starts.end);
            let pairs = sections.windows(2);
            let mut pairs = pairs.map(|pair| (pair[0].starts.end, pair[1].starts.start));
            assert!(pairs.all(|(end, start)| end == start && end % DAY == 0));
            let groupings = sections.iter().map(|section| match section.grid {
                TimeBuckets::Each => ("each", section.widest),
                _ => ("buckets", section.widest),
            });
            groupings.collect::<Vec<_>>()
        };
        let (near, far) = (
            ("buckets", Granularity::Hour),
            ("each", Granularity::Minute),
        );
        let usual = sections("2026-01-01T00:07:00Z", "2026-11-26T00:00:00Z");
        assert_eq!(usual, [near]);
        let ahead = sections("2026-01-01T00:07:00Z", "9999-01-01T00:00:00Z");
        assert_eq!(ahead, [near, far]);
        let behind = sections("1970-01-01T00:00:00Z", "2026-11-25T10:05:00Z");
        assert_eq!(behind, [far, near]);
        let both = sections("0001-01-01T00:00:00Z", "9999-01-01T00:00:00Z");
        assert_eq!(both, [far, near, far]);
        let past = sections("1900-01-01T00:00:00Z", "2000-01-01T00:00:00Z");
        assert_eq!(past, [far]);
    }
}

//! By which buckets of time sums are added up, where the database knows no zones or other ones.

use std::ops::Range;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use sqlx::Error as SqlError;

use super::range_cover::{DAY, floor};
use crate::backend::sql::names::Names;
use crate::backend::sql::value::timestamp;
use crate::usage::{Granularity, offsets_within};

const YEAR: i64 = 365 * DAY;

/// How sums are added up by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Grid {
    /// All together.
    None,
    /// By the buckets of a width, in seconds, at these offsets from UTC: each from a second on.
    Buckets {
        seconds: i64,
        offsets: Vec<(i64, i64)>,
    },
    /// Not at all.
    Each,
}

/// A range of time whose sums are added up in one way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) starts: Range<i64>,
    pub(super) grid: Grid,
    /// The widest sums that fit the grid.
    pub(super) widest: Granularity,
}

impl Section {
    fn new(starts: Range<i64>, grid: Grid, widest: Granularity) -> Self {
        Self {
            starts,
            grid,
            widest,
        }
    }
}

/// How totals over time are added up.
///
/// A single request of a clock that is decades ahead or behind lets the range have more changes of the
/// zone's clocks than a statement may tell of. Then only what is that far away is not added up.
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
    let each = |starts| Section::new(starts, Grid::Each, Granularity::Minute);
    let near = match grid(width, zone, &(from..to))? {
        Some((grid, widest)) => Section::new(from..to, grid, widest),
        None => each(from..to),
    };
    let mut sections = vec![each(starts.start..from), near, each(to..starts.end)];
    sections.retain(|section| !section.starts.is_empty());
    Ok(sections)
}

/// The grid of totals over time, and the widest sums that fit it; `None` where the clocks change too often.
fn grid(
    width: Granularity,
    zone: &TimeZone,
    starts: &Range<i64>,
) -> Result<Option<(Grid, Granularity)>, SqlError> {
    // The last day there is ends after the last time there is.
    let end = timestamp(starts.end).unwrap_or(Timestamp::MAX);
    let range = timestamp(starts.start)?..end;
    let Some(pieces) = offsets_within(range, zone) else {
        return Ok(None);
    };
    let pieces = pieces.into_iter();
    let offsets: Vec<(i64, i64)> = pieces
        .map(|(from, offset)| (from.as_second(), offset.into()))
        .collect();
    let fits = |sums: &Granularity| {
        let whole = |seconds: i64| seconds % sums.seconds() == 0;
        let mut pieces = offsets.iter().enumerate();
        width >= *sums
            && pieces.all(|(n, (from, offset))| whole(*offset) && (n == 0 || whole(*from)))
    };
    let wider = [Granularity::Hour, Granularity::QuarterHour];
    let widest = wider.into_iter().find(fits).unwrap_or(Granularity::Minute);
    let seconds = width.seconds();
    Ok(Some((Grid::Buckets { seconds, offsets }, widest)))
}

/// By what sums are added up beside their series.
pub(super) fn bucket(names: &Names, grid: &Grid) -> String {
    let (width, offsets) = match grid {
        Grid::None => return String::new(),
        Grid::Each => return ", t.start".into(),
        Grid::Buckets { seconds, offsets } => (seconds, offsets),
    };
    // Divisions cut towards zero, so that all numbers are made positive: by whole days, and by more of
    // them than lie between the year 1 and 1970.
    const UPWARDS: i64 = 86_400 * 1_000_000;
    let second = names.dialect.seconds("t.start");
    let number = |offset: i64| format!("({second} + {}) / {width}", offset + UPWARDS);
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
    fn a_clock_that_is_far_away_leaves_what_is_near_added_up() {
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
            let told = sections.iter().map(|section| match section.grid {
                Grid::Each => ("each", section.widest),
                _ => ("buckets", section.widest),
            });
            told.collect::<Vec<_>>()
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

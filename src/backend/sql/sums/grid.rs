//! By which buckets of time sums are added up, where the database knows no zones or other ones.

use std::ops::Range;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use sqlx::Error as SqlError;

use crate::backend::sql::names::Names;
use crate::backend::sql::value::timestamp;
use crate::usage::{Width, offsets_within};

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

/// The grid of totals over time, and whether hours fit it.
pub(super) fn grid(
    width: Width,
    zone: &TimeZone,
    starts: &Range<i64>,
) -> Result<(Grid, bool), SqlError> {
    // The last day there is ends after the last time there is.
    let end = timestamp(starts.end).unwrap_or(Timestamp::MAX);
    let range = timestamp(starts.start)?..end;
    let Some(pieces) = offsets_within(range, zone) else {
        return Ok((Grid::Each, false));
    };
    let pieces = pieces.into_iter();
    let offsets: Vec<(i64, i64)> = pieces
        .map(|(from, offset)| (from.as_second(), offset.into()))
        .collect();
    let whole = |seconds: i64| seconds % Width::Hour.seconds() == 0;
    let mut pieces = offsets.iter().enumerate();
    let hours = width >= Width::Hour
        && pieces.all(|(n, (from, offset))| whole(*offset) && (n == 0 || whole(*from)));
    let seconds = width.seconds();
    Ok((Grid::Buckets { seconds, offsets }, hours))
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

//! The rollups of a range that are still in records.

use std::ops::Range;

use sqlx::Error as SqlError;

use super::range_cover::PrunedBefore;
use super::row::{kinds_of, of_kind};
use super::statement::{series, series_with_ids};
use crate::backend::sql::engine::{Row, Session, Statement, Value};
use crate::backend::sql::micros::{HOUR, floor};
use crate::backend::sql::names::Names;
use crate::backend::sql::rollup_record::{READABLE, rollups_of};
use crate::backend::sql::series_rollup::{Rollups, SeriesRollup};
use crate::backend::sql::value::required;
use crate::usage::{Rollup, UsageRange};

/// Reads the rollups that start in a range, in microseconds, and match its key and owner. They have the width of the
/// narrowest rollups that are kept for their time.
pub(super) async fn unmerged<S: Session>(
    session: &mut S,
    names: &Names,
    range: &UsageRange,
    starts: &Range<i64>,
    coarse: PrunedBefore,
) -> Result<Vec<Rollup>, SqlError> {
    // The rollup of a minute may start up to an hour before it.
    let records = format!(
        "SELECT rollups FROM §rollup_records WHERE {READABLE} AND last >= $1 AND first < $2"
    );
    let records = Statement::new(names, &records)
        .bind(Value::Time(Some(starts.start)))
        .bind(Value::Time(Some(starts.end.saturating_add(HOUR))));
    let rows = session.fetch(records).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let of_range = match range.key.is_some() || range.owner.is_some() {
        true => Some(kinds_of(&session.fetch(series(names, range)).await?)?),
        false => None,
    };
    let is_wanted = |series: i64, start: i64| {
        starts.contains(&place(start, coarse))
            && of_range
                .as_ref()
                .is_none_or(|kinds| kinds.contains_key(&series))
    };
    let mut found = Rollups::default();
    for row in rows {
        // Merging excludes a record that cannot be read, and reports it.
        for rollup in rollups_of(required(row.bytes("rollups")?)?, is_wanted)? {
            let start = place(rollup.start, coarse);
            found.add(SeriesRollup { start, ..rollup });
        }
        drop(row);
        tokio::task::yield_now().await;
    }
    let found: Vec<_> = found.into_rollups().collect();
    let kinds = match of_range {
        Some(kinds) => kinds,
        None => {
            let mut ids: Vec<i64> = found.iter().map(|rollup| rollup.series).collect();
            ids.dedup();
            kinds_of(&session.fetch(series_with_ids(names, &ids)).await?)?
        }
    };
    let rollups = found.into_iter().filter_map(|rollup| {
        let kind = kinds.get(&rollup.series)?;
        let width = coarse.narrowest(rollup.start);
        Some(of_kind(kind, rollup.start, width, rollup.amounts))
    });
    rollups.collect()
}

/// The start of the narrowest rollup that is kept for the time of a minute.
fn place(minute: i64, coarse: PrunedBefore) -> i64 {
    floor(minute, coarse.narrowest(minute).seconds() * 1_000_000)
}

//! The rollups of a range that are still in records.

use std::ops::Range;

use sqlx::Error as SqlError;

use super::range_cover::Widths;
use super::row::Attributes;
use super::statement::Callers;
use crate::backend::sql::engine::{Row, Session, Statement, Value};
use crate::backend::sql::micros::{HOUR, floor};
use crate::backend::sql::names::Names;
use crate::backend::sql::rollup_record::{READABLE, rollups_of};
use crate::backend::sql::series_rollup::{ALL_CALLERS, Rollups, SeriesRollup};
use crate::backend::sql::value::required;

/// Reads the rollups that start in a range, in microseconds, and whose callers have attributes. They have the width of
/// the narrowest rollups that are kept for their time.
pub(super) async fn unmerged<S: Session>(
    session: &mut S,
    names: &Names,
    callers: Callers,
    attributes: &Attributes,
    starts: &Range<i64>,
    widths: Widths,
) -> Result<Vec<SeriesRollup>, SqlError> {
    // The rollup of a minute may start up to an hour before it.
    let records = format!(
        "SELECT ready, rollups FROM {{prefix}}rollup_records
        WHERE {READABLE} AND last >= $1 AND first < $2"
    );
    let records = Statement::new(names, &records)
        .bind(Value::Time(Some(starts.start)))
        .bind(Value::Time(Some(starts.end.saturating_add(HOUR))));
    let mut found = Rollups::default();
    for row in session.fetch(records).await? {
        // Only ready records have rollups of all callers together, which may be merged before those of each caller.
        let is_ready = row.boolean("ready")?;
        let is_wanted = |caller: i32, start: i64| {
            starts.contains(&place(start, widths))
                && match callers {
                    Callers::Together => !is_ready || caller == ALL_CALLERS,
                    Callers::Each => attributes.callers.position(caller).is_some(),
                }
        };
        // Merging excludes a record that cannot be read, and reports it.
        for SeriesRollup {
            mut series,
            start,
            amounts,
        } in rollups_of(required(row.bytes("rollups")?)?, is_wanted)?
        {
            if callers == Callers::Together {
                series.caller = ALL_CALLERS;
            }
            found.add(series, place(start, widths), &amounts);
        }
        drop(row);
        tokio::task::yield_now().await;
    }
    Ok(found.into_rollups().collect())
}

/// The start of the narrowest rollup that is kept for the time of a minute.
fn place(minute: i64, widths: Widths) -> i64 {
    floor(minute, widths.narrowest(minute).seconds() * 1_000_000)
}

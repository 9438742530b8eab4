//! The totals of callers in blocks of several hours or days, since those of thousands of callers take long to read for
//! each hour.
//!
//! A block is stored with its last hour or day, or later, unless any totals in it are outdated. Readers use shorter
//! blocks, hours or days instead of blocks that are not stored.

use std::collections::BTreeSet;

use sqlx::Error as SqlError;

use super::caller_minutes::representatives;
use crate::backend::sql::engine::{Row, Session, Statement, Value};
use crate::backend::sql::micros::{DAY, HOUR, floor};
use crate::backend::sql::names::Names;
use crate::backend::sql::rollup_record::{RollupRecord, for_each_rollup};
use crate::backend::sql::series_rollup::{Rollups, Series, SeriesRollup};
use crate::backend::sql::value::required;

/// The widths of blocks of hours or of days, in microseconds, the longest first.
pub(in crate::backend::sql) fn blocks_of(width: i64) -> &'static [i64] {
    match width {
        HOUR => &[6 * HOUR],
        DAY => &[8 * DAY, 4 * DAY, 2 * DAY],
        _ => &[],
    }
}

/// Stores the totals of the blocks of an hour or a day. `until` is the time up to which hours or days are rolled up.
pub(super) async fn store_blocks<S: Session>(
    session: &mut S,
    names: &Names,
    start: i64,
    width: i64,
    until: i64,
) -> Result<(), SqlError> {
    for &length in blocks_of(width) {
        store_block(session, names, start, width, length, until).await?;
    }
    Ok(())
}

/// Stores the totals of a block, if those of all of its hours or days are stored.
async fn store_block<S: Session>(
    session: &mut S,
    names: &Names,
    start: i64,
    width: i64,
    length: i64,
    until: i64,
) -> Result<(), SqlError> {
    let start = floor(start, length);
    let end = start.saturating_add(length);
    if end > until {
        return Ok(());
    }
    let select = "SELECT start, totals FROM {prefix}caller_totals
        WHERE hours = $1 AND start >= $2 AND start < $3 ORDER BY start";
    let select = Statement::new(names, select)
        .bind(width / HOUR)
        .bind(Value::Time(Some(start)))
        .bind(Value::Time(Some(end)));
    let rows = session.fetch(select).await?;
    // Records have no starts before the year 1, as that of a block may be.
    let Some(first) = rows.first().map(|row| row.time("start")).transpose()? else {
        return Ok(());
    };
    let first = required(first)?;
    let mut kinds = BTreeSet::new();
    for row in &rows {
        let Some(record) = row.bytes("totals")? else {
            // They are stored again later, and the block with them.
            return Ok(());
        };
        // Readers report damaged totals.
        let add_kind = |it: SeriesRollup| {
            kinds.insert(it.series.kind);
        };
        if for_each(record, add_kind).is_err() {
            return Ok(());
        }
    }
    let representatives = representatives(session, names, kinds).await?;
    let mut totals = Rollups::default();
    for row in rows {
        for_each(
            required(row.bytes("totals")?)?,
            |SeriesRollup {
                 series, amounts, ..
             }| {
                let kind = *representatives.get(&series.kind).unwrap_or(&series.kind);
                totals.add_sums(Series { kind, ..series }, first, &amounts);
            },
        )?;
        drop(row);
        tokio::task::yield_now().await;
    }
    let totals: Vec<_> = totals.into_rollups().collect();
    let Some(record) = RollupRecord::new(&totals) else {
        return Ok(());
    };
    let upsert = "INSERT INTO {prefix}caller_totals (hours, start, totals) VALUES ($1, $2, $3)
        ON CONFLICT (hours, start) DO UPDATE SET totals = excluded.totals";
    let upsert = Statement::new(names, upsert)
        .bind(length / HOUR)
        .bind(Value::Time(Some(start)))
        .bind(Value::Bytes(Some(record.bytes)));
    session.execute(upsert).await?;
    Ok(())
}

fn for_each(record: &[u8], mut use_rollup: impl FnMut(SeriesRollup)) -> Result<(), SqlError> {
    for_each_rollup(record, |_, _| Some(()), |(), rollup| use_rollup(rollup))
}

/// Deletes the totals of the blocks of an hour or a day.
pub(super) async fn delete_blocks<S: Session>(
    session: &mut S,
    names: &Names,
    start: i64,
    width: i64,
) -> Result<(), SqlError> {
    for &length in blocks_of(width) {
        let delete = "DELETE FROM {prefix}caller_totals WHERE hours = $1 AND start = $2";
        let delete = Statement::new(names, delete)
            .bind(length / HOUR)
            .bind(Value::Time(Some(floor(start, length))));
        session.execute(delete).await?;
    }
    Ok(())
}

//! The totals of callers by minute, outcome and cause, so that totals by key of a range that starts or ends within an
//! hour need not read the rollups of each key.
//!
//! Each merged record adds its own, one for each hour.

use std::collections::{BTreeSet, HashMap};

use sqlx::Error as SqlError;

use crate::backend::sql::engine::{Row, Session, Statement, Value};
use crate::backend::sql::micros::{HOUR, floor};
use crate::backend::sql::names::Names;
use crate::backend::sql::rollup_record::RollupRecord;
use crate::backend::sql::series_rollup::{ALL_CALLERS, Rollups, Series, SeriesRollup};
use crate::backend::sql::value::{decode, required};

/// The maximum number of rows per statement.
const ROWS: usize = 1_000;

/// Stores the totals of merged rollups.
pub(super) async fn store_minutes<S: Session>(
    session: &mut S,
    names: &Names,
    merged: &[SeriesRollup],
) -> Result<(), SqlError> {
    let merged = || merged.iter().filter(|it| it.series.caller != ALL_CALLERS);
    let kinds: BTreeSet<_> = merged().map(|it| it.series.kind).collect();
    let representatives = representatives(session, names, kinds).await?;
    let mut totals = Rollups::default();
    for SeriesRollup {
        series: Series { caller, kind },
        start,
        amounts,
    } in merged()
    {
        let kind = *representatives.get(kind).unwrap_or(kind);
        let series = Series {
            caller: *caller,
            kind,
        };
        totals.add_sums(series, *start, amounts);
    }
    let mut totals: Vec<_> = totals.into_rollups().collect();
    totals.sort_unstable_by_key(|it| (it.start, it.series));
    let hour = |rollup: &SeriesRollup| floor(rollup.start, HOUR);
    let hours = totals.chunk_by(|one, other| hour(one) == hour(other));
    let records = hours.filter_map(|of_hour| {
        let record = RollupRecord::new(of_hour)?;
        Some((floor(record.first, HOUR), record.bytes))
    });
    let records: Vec<_> = records.collect();
    for records in records.chunks(ROWS) {
        let insert = "INSERT INTO {prefix}caller_minutes (hour, totals) VALUES ";
        let mut insert = Statement::new(names, insert);
        insert.push_rows(records, |(hour, totals)| {
            [Value::Time(Some(*hour)), Value::Bytes(Some(totals.clone()))]
        });
        session.execute(insert).await?;
    }
    Ok(())
}

/// Maps kinds to one of those with the same outcome and cause, billable or not.
pub(super) async fn representatives<S: Session>(
    session: &mut S,
    names: &Names,
    kinds: BTreeSet<i32>,
) -> Result<HashMap<i32, i32>, SqlError> {
    let kinds: Vec<_> = kinds.into_iter().map(i64::from).collect();
    let select = "SELECT id, min(id) OVER (PARTITION BY outcome, cause, billable) AS representative
        FROM {prefix}kinds WHERE ";
    let mut select = Statement::new(names, select);
    let is_one = select.is_one_of(names, "id", &kinds);
    select.push(&is_one);
    let rows = session.fetch(select).await?;
    let pairs = rows.iter().map(|row| {
        let id = |column: &str| i32::try_from(required(row.integer(column)?)?).map_err(decode);
        Ok((id("id")?, id("representative")?))
    });
    pairs.collect()
}

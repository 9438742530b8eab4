//! The totals of callers, stored as records: one for each hour, each day and each block of these, and several for the
//! minutes of an hour.

use std::ops::Range;

use sqlx::Error as SqlError;

use super::range_cover::RangePart;
use super::totals_by_caller::TotalsByCaller;
use crate::backend::sql::engine::{Row, Session, Statement, Value};
use crate::backend::sql::merging::blocks_of;
use crate::backend::sql::micros::{HOUR, ceil, floor};
use crate::backend::sql::names::Names;
use crate::backend::sql::value::required;
use crate::usage::Granularity;

/// The number of records that are in memory at once. Those of minutes are small.
const AT_ONCE: usize = 32;
const MINUTES_AT_ONCE: usize = 256;

/// Adds the stored totals of a part of a range.
pub(super) async fn add_stored<S: Session>(
    session: &mut S,
    names: &Names,
    part: &RangePart,
    totals: &mut TotalsByCaller,
) -> Result<(), SqlError> {
    if part.width < Granularity::Hour {
        return add_minutes(session, names, &part.starts, totals).await;
    }
    let width = part.width.seconds() * 1_000_000;
    // What is in no block yet.
    let mut rest = vec![part.starts.clone()];
    for &block in blocks_of(width) {
        let mut uncovered = Vec::new();
        for starts in rest {
            let whole = ceil(starts.start, block)..floor(starts.end, block);
            let mut from = starts.start;
            for start in add(session, names, block, whole, totals).await? {
                uncovered.push(from..start);
                from = start + block;
            }
            uncovered.push(from..starts.end);
        }
        rest = uncovered;
    }
    for starts in rest {
        add(session, names, width, starts, totals).await?;
    }
    Ok(())
}

/// Adds the totals of hours, of days or of blocks of them that start in a range. Returns where they start.
async fn add<S: Session>(
    session: &mut S,
    names: &Names,
    width: i64,
    starts: Range<i64>,
    totals: &mut TotalsByCaller,
) -> Result<Vec<i64>, SqlError> {
    let mut found = Vec::new();
    let mut rest = starts.clone();
    while !rest.is_empty() {
        let select = format!(
            "SELECT start, totals FROM {{prefix}}caller_totals
            WHERE hours = {} AND start >= $1 AND start < $2 ORDER BY start LIMIT {AT_ONCE}",
            width / HOUR
        );
        let select = Statement::new(names, &select)
            .bind(Value::Time(Some(rest.start)))
            .bind(Value::Time(Some(rest.end)));
        let rows = session.fetch(select).await?;
        if rows.len() < AT_ONCE {
            rest.start = rest.end;
        }
        for row in rows {
            let start = required(row.time("start")?)?;
            totals
                .add_record(required(row.bytes("totals")?)?, &starts)
                .await?;
            found.push(start);
            rest.start = rest.start.max(start + 1);
        }
    }
    Ok(found)
}

async fn add_minutes<S: Session>(
    session: &mut S,
    names: &Names,
    starts: &Range<i64>,
    totals: &mut TotalsByCaller,
) -> Result<(), SqlError> {
    // The last record that was read.
    let (mut hour, mut number) = (floor(starts.start, HOUR) - 1, i64::MAX);
    loop {
        let select = format!(
            "SELECT hour, number, totals FROM {{prefix}}caller_minutes
            WHERE hour < $1 AND (hour, number) > ($2, $3) ORDER BY hour, number LIMIT {MINUTES_AT_ONCE}"
        );
        let select = Statement::new(names, &select)
            .bind(Value::Time(Some(starts.end)))
            .bind(Value::Time(Some(hour)))
            .bind(number);
        let rows = session.fetch(select).await?;
        let is_last = rows.len() < MINUTES_AT_ONCE;
        for row in rows {
            hour = required(row.time("hour")?)?;
            number = required(row.integer("number")?)?;
            totals
                .add_record(required(row.bytes("totals")?)?, starts)
                .await?;
        }
        if is_last {
            return Ok(());
        }
    }
}

//! The totals of callers, stored as records: one for each hour and each day, and several for the minutes of an hour.

use sqlx::Error as SqlError;

use super::range_cover::RangePart;
use super::totals_by_caller::TotalsByCaller;
use crate::backend::sql::engine::{Row, Session, Statement, Value};
use crate::backend::sql::micros::{HOUR, floor};
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
    totals: &mut TotalsByCaller<'_>,
) -> Result<(), SqlError> {
    let starts = &part.starts;
    // The last record that was read.
    let (mut start, mut number) = (starts.start - 1, i64::MAX);
    let is_of_minutes = part.width < Granularity::Hour;
    let at_once = if is_of_minutes {
        MINUTES_AT_ONCE
    } else {
        AT_ONCE
    };
    let select = if is_of_minutes {
        start = floor(starts.start, HOUR) - 1;
        format!(
            "SELECT hour AS start, number, totals FROM {{prefix}}caller_minutes
            WHERE hour < $1 AND (hour, number) > ($2, $3) ORDER BY hour, number LIMIT {at_once}"
        )
    } else {
        format!(
            "SELECT start, $3 AS number, totals FROM {{prefix}}caller_totals
            WHERE hours = {} AND start < $1 AND start > $2 ORDER BY start LIMIT {at_once}",
            part.width.seconds() / 3_600
        )
    };
    loop {
        let select = Statement::new(names, &select)
            .bind(Value::Time(Some(starts.end)))
            .bind(Value::Time(Some(start)))
            .bind(number);
        let rows = session.fetch(select).await?;
        let is_last = rows.len() < at_once;
        for row in rows {
            start = required(row.time("start")?)?;
            number = required(row.integer("number")?)?;
            totals.add_record(required(row.bytes("totals")?)?, starts)?;
            drop(row);
            tokio::task::yield_now().await;
        }
        if is_last {
            return Ok(());
        }
    }
}

//! Rollups by outcome, cause and whether requests are billable, from those by kind.
//!
//! Charts and totals by key need no other attributes. In the table of hours, they would read a row for each endpoint
//! and status. For the totals of thousands of keys, even one row per key and day would take too long to read.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};

use sqlx::Error as SqlError;
use tokio::time::Instant;

use super::blocks::{delete_blocks, store_blocks};
use super::merged::Merged;
use crate::backend::sql::batched::pause_since;
use crate::backend::sql::engine::{Engine, Row, Session, Statement, Value};
use crate::backend::sql::micros::{DAY, HOUR, floor};
use crate::backend::sql::names::Names;
use crate::backend::sql::rollup_record::RollupRecord;
use crate::backend::sql::series_rollup::{ALL_CALLERS, SeriesRollup};
use crate::backend::sql::value::{amounts, required, series};

/// Aggregates the hours that start at a time by outcome, for a range of callers. Replaces earlier results.
pub(super) async fn aggregate_hour<S: Session>(
    session: &mut S,
    names: &Names,
    start: i64,
    callers: RangeInclusive<i32>,
) -> Result<(), SqlError> {
    let bound = |template: &str| {
        Statement::new(names, template)
            .bind(Value::Time(Some(start)))
            .bind(i64::from(*callers.start()))
            .bind(i64::from(*callers.end()))
    };
    let delete = "DELETE FROM {prefix}hours_by_outcome WHERE start = $1 AND caller_id >= $2 AND caller_id <= $3";
    session.execute(bound(delete)).await?;
    let insert = format!(
        "INSERT INTO {{prefix}}hours_by_outcome (caller_id, start, kind_id, count, cost, request_bytes, response_bytes,
            latency)
        SELECT t.caller_id, $1, min(t.kind_id), {}, {}
        FROM {{prefix}}hours t JOIN {{prefix}}kinds k ON k.id = t.kind_id
        WHERE t.start = $1 AND t.caller_id >= $2 AND t.caller_id <= $3
        GROUP BY t.caller_id, k.outcome, k.cause, k.billable ORDER BY 1, 3",
        sums(names),
        names.dialect.concat_bytes("t.latency"),
    );
    session.execute(bound(&insert)).await?;
    Ok(())
}

/// Stores the totals of each caller in an hour or a day, in microseconds, as one record, if there are any, and those of
/// the blocks that contain it. Replaces the previous ones. `until` is the time up to which hours or days are rolled up.
pub(super) async fn store_totals<S: Session>(
    session: &mut S,
    names: &Names,
    bucket: Range<i64>,
    until: i64,
) -> Result<(), SqlError> {
    let select = format!(
        "SELECT t.caller_id, min(t.kind_id) AS kind_id, {}
        FROM {{prefix}}hours_by_outcome t JOIN {{prefix}}kinds k ON k.id = t.kind_id
        WHERE t.start >= $1 AND t.start < $2 AND t.caller_id <> {ALL_CALLERS}
        GROUP BY t.caller_id, k.outcome, k.cause, k.billable ORDER BY 1, 2",
        sums(names),
    );
    let select = Statement::new(names, &select)
        .bind(Value::Time(Some(bucket.start)))
        .bind(Value::Time(Some(bucket.end)));
    let rows = session.fetch(select).await?;
    let rollups = rows.iter().map(|row| {
        Ok::<_, SqlError>(SeriesRollup {
            series: series(row)?,
            start: bucket.start,
            amounts: amounts(row)?,
        })
    });
    let rollups: Vec<_> = rollups.collect::<Result<_, _>>()?;
    drop(rows);
    let hours = (bucket.end - bucket.start) / HOUR;
    if let Some(record) = RollupRecord::new(&rollups) {
        let upsert = "INSERT INTO {prefix}caller_totals (hours, start, totals) VALUES ($1, $2, $3)
            ON CONFLICT (hours, start) DO UPDATE SET totals = excluded.totals";
        let upsert = Statement::new(names, upsert)
            .bind(hours)
            .bind(Value::Time(Some(bucket.start)))
            .bind(Value::Bytes(Some(record.bytes)));
        session.execute(upsert).await?;
    } else {
        let delete = "DELETE FROM {prefix}caller_totals WHERE hours = $1 AND start = $2";
        let delete = Statement::new(names, delete)
            .bind(hours)
            .bind(Value::Time(Some(bucket.start)));
        session.execute(delete).await?;
    }
    let width = bucket.end - bucket.start;
    store_blocks(session, names, bucket.start, width, until).await
}

fn sums(names: &Names) -> String {
    let sums = ["count", "cost", "request_bytes", "response_bytes"].map(|column| {
        let sum = names.dialect.capped_sum(&format!("t.{column}"));
        format!("{sum} AS {column}")
    });
    sums.join(", ")
}

/// Recomputes the aggregates that late rollups change, and marks stored totals as outdated. The rollups must be ordered
/// by caller.
pub(super) async fn aggregate_late<S: Session>(
    session: &mut S,
    names: &Names,
    late_hours: &[SeriesRollup],
    days_until: i64,
) -> Result<(), SqlError> {
    let (Some(first), Some(last)) = (late_hours.first(), late_hours.last()) else {
        return Ok(());
    };
    let callers = first.series.caller..=last.series.caller;
    let hours: BTreeSet<_> = late_hours.iter().map(|it| it.start).collect();
    for &hour in &hours {
        aggregate_hour(session, names, hour, callers.clone()).await?;
    }
    let days: BTreeSet<_> = hours.iter().map(|hour| floor(*hour, DAY)).collect();
    let days = days.into_iter().filter(|day| *day < days_until);
    let buckets = hours.into_iter().map(|hour| (HOUR, hour));
    for (width, start) in buckets.chain(days.map(|day| (DAY, day))) {
        let mark = "INSERT INTO {prefix}caller_totals (hours, start, totals) VALUES ($1, $2, NULL)
            ON CONFLICT (hours, start) DO UPDATE SET totals = NULL";
        let mark = Statement::new(names, mark)
            .bind(width / HOUR)
            .bind(Value::Time(Some(start)));
        session.execute(mark).await?;
        delete_blocks(session, names, start, width).await?;
    }
    Ok(())
}

/// Stores outdated totals and those that a migration has left out, newest first, up to a number of hours and days. Does
/// nothing if another process is merging.
pub(super) async fn store_outdated_totals<E: Engine>(
    engine: &E,
    waits: bool,
    most: usize,
) -> Result<(), SqlError> {
    let names = engine.names();
    for _ in 0..most {
        let start = Instant::now();
        let mut reader = engine.reader().await?;
        if next_outdated(&mut reader, names).await?.is_none() {
            return Ok(());
        }
        drop(reader);
        let Some(mut session) = engine.merger(waits).await? else {
            return Ok(());
        };
        let Some(bucket) = next_outdated(&mut session, names).await? else {
            return Ok(());
        };
        let merged = Merged::read(&mut session, names).await?;
        let until = match bucket.end - bucket.start {
            HOUR => merged.hours,
            _ => merged.days,
        };
        store_totals(&mut session, names, bucket, until).await?;
        session.commit().await?;
        pause_since(start).await;
    }
    Ok(())
}

/// The newest hour or day whose totals are outdated.
async fn next_outdated<S: Session>(
    session: &mut S,
    names: &Names,
) -> Result<Option<Range<i64>>, SqlError> {
    let next = "SELECT CAST(hours AS bigint) AS hours, start FROM {prefix}caller_totals
        WHERE totals IS NULL ORDER BY start DESC LIMIT 1";
    let rows = session.fetch(Statement::new(names, next)).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let (hours, start) = (
        required(row.integer("hours")?)?,
        required(row.time("start")?)?,
    );
    Ok(Some(start..start + hours * HOUR))
}

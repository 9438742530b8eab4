//! Rollups by outcome and cause, from those by kind.
//!
//! Charts and totals by key need no other attributes. In the table of hours, they would read a row for each endpoint
//! and status. For the totals of thousands of keys, even one row per key and day would take too long to read.

use std::ops::{Range, RangeInclusive};

use sqlx::Error as SqlError;
use tokio::time::Instant;

use super::merged::Merged;
use crate::backend::sql::batched::pause_since;
use crate::backend::sql::engine::{Engine, Row, Session, Statement, Value};
use crate::backend::sql::micros::{DAY, HOUR, floor};
use crate::backend::sql::names::Names;
use crate::backend::sql::rollup_record::RollupRecord;
use crate::backend::sql::series_rollup::{ALL_CALLERS, Amounts, Series, SeriesRollup};
use crate::backend::sql::value::{decode, number, required};

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
    let delete =
        "DELETE FROM §hours_by_outcome WHERE start = $1 AND caller_id >= $2 AND caller_id <= $3";
    session.execute(bound(delete)).await?;
    let insert = format!(
        "INSERT INTO §hours_by_outcome (caller_id, start, kind_id, count, cost, request_bytes, response_bytes)
        SELECT t.caller_id, $1, min(t.kind_id), {}
        FROM §hours t JOIN §kinds k ON k.id = t.kind_id
        WHERE t.start = $1 AND t.caller_id >= $2 AND t.caller_id <= $3
        GROUP BY t.caller_id, k.outcome, k.cause ORDER BY 1, 3",
        sums(names),
    );
    session.execute(bound(&insert)).await?;
    Ok(())
}

/// Stores the totals of each caller in an hour or a day, in microseconds, as one record, if there are any.
/// Replaces the previous one.
pub(super) async fn store_totals<S: Session>(
    session: &mut S,
    names: &Names,
    bucket: Range<i64>,
) -> Result<(), SqlError> {
    let select = format!(
        "SELECT t.caller_id, min(t.kind_id) AS kind_id, {}
        FROM §hours_by_outcome t JOIN §kinds k ON k.id = t.kind_id
        WHERE t.start >= $1 AND t.start < $2 AND t.caller_id <> {ALL_CALLERS}
        GROUP BY t.caller_id, k.outcome, k.cause ORDER BY 1, 2",
        sums(names),
    );
    let select = Statement::new(names, &select)
        .bind(Value::Time(Some(bucket.start)))
        .bind(Value::Time(Some(bucket.end)));
    let rows = session.fetch(select).await?;
    let rollups = rows.iter().map(|row| rollup(row, bucket.start));
    let rollups: Vec<_> = rollups.collect::<Result<_, _>>()?;
    drop(rows);
    if let Some(record) = RollupRecord::new(&rollups) {
        let upsert = "INSERT INTO §caller_totals (hours, start, totals) VALUES ($1, $2, $3)
            ON CONFLICT (hours, start) DO UPDATE SET totals = excluded.totals";
        let upsert = Statement::new(names, upsert)
            .bind((bucket.end - bucket.start) / HOUR)
            .bind(Value::Time(Some(bucket.start)))
            .bind(Value::Bytes(Some(record.bytes)));
        session.execute(upsert).await?;
    }
    Ok(())
}

fn sums(names: &Names) -> String {
    let sums = ["count", "cost", "request_bytes", "response_bytes"].map(|column| {
        let sum = names.dialect.capped_sum(&format!("t.{column}"));
        format!("{sum} AS {column}")
    });
    sums.join(", ")
}

fn rollup(row: &impl Row, start: i64) -> Result<SeriesRollup, SqlError> {
    let id = |column: &str| i32::try_from(required(row.integer(column)?)?).map_err(decode);
    Ok(SeriesRollup {
        series: Series {
            caller: id("caller_id")?,
            kind: id("kind_id")?,
        },
        start,
        amounts: Amounts {
            count: number(row, "count")?,
            cost: number(row, "cost")?,
            request_bytes: number(row, "request_bytes")?,
            response_bytes: number(row, "response_bytes")?,
            ..Amounts::default()
        },
    })
}

/// Recomputes the aggregates that late rollups change. The rollups must be ordered by caller.
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
    let mut hours: Vec<_> = late_hours.iter().map(|it| it.start).collect();
    hours.sort_unstable();
    hours.dedup();
    for &hour in &hours {
        aggregate_hour(session, names, hour, callers.clone()).await?;
    }
    if *callers.end() == ALL_CALLERS {
        return Ok(());
    }
    for &hour in &hours {
        store_totals(session, names, hour..hour + HOUR).await?;
    }
    let mut days: Vec<_> = hours.iter().map(|hour| floor(*hour, DAY)).collect();
    days.dedup();
    for day in days.into_iter().filter(|day| *day < days_until) {
        store_totals(session, names, day..day + DAY).await?;
    }
    Ok(())
}

/// Stores the totals of the hours and days that a migration has left without them, newest first, up to a number of
/// hours. Does nothing if another process is merging.
pub(super) async fn store_migrated_totals<E: Engine>(
    engine: &E,
    waits: bool,
    most: usize,
) -> Result<(), SqlError> {
    let names = engine.names();
    for _ in 0..most {
        let start = Instant::now();
        let mut reader = engine.reader().await?;
        if left_until(&mut reader, names).await?.is_none() {
            return Ok(());
        }
        drop(reader);
        let Some(mut session) = engine.merger(waits).await? else {
            return Ok(());
        };
        let Some(until) = left_until(&mut session, names).await? else {
            return Ok(());
        };
        let last = "SELECT max(start) AS last FROM §hours_by_outcome WHERE start < $1";
        let last = Statement::new(names, last).bind(Value::Time(Some(until)));
        let rows = session.fetch(last).await?;
        let last = required(rows.first())?.time("last")?;
        drop(rows);
        let done = match last {
            Some(hour) => {
                store_totals(&mut session, names, hour..hour + HOUR).await?;
                store_day_of(&mut session, names, hour).await?;
                let done = "UPDATE §pruned SET before = $1 WHERE kind = 'no_totals'";
                Statement::new(names, done).bind(Value::Time(Some(hour)))
            }
            None => Statement::new(names, "DELETE FROM §pruned WHERE kind = 'no_totals'"),
        };
        session.execute(done).await?;
        session.commit().await?;
        pause_since(start).await;
    }
    Ok(())
}

/// The time before which totals are missing; `None` if none are.
async fn left_until<S: Session>(session: &mut S, names: &Names) -> Result<Option<i64>, SqlError> {
    let mark = "SELECT before FROM §pruned WHERE kind = 'no_totals'";
    let rows = session.fetch(Statement::new(names, mark)).await?;
    rows.first()
        .map_or(Ok(None), |row| required(row.time("before")?).map(Some))
}

/// Stores the totals of the day of an hour, unless they are stored or the day has not been rolled up.
async fn store_day_of<S: Session>(
    session: &mut S,
    names: &Names,
    hour: i64,
) -> Result<(), SqlError> {
    let day = floor(hour, DAY);
    let stored = "SELECT 1 FROM §caller_totals WHERE hours = 24 AND start = $1";
    let stored = Statement::new(names, stored).bind(Value::Time(Some(day)));
    let is_stored = !session.fetch(stored).await?.is_empty();
    if is_stored || day >= Merged::read(session, names).await?.days {
        return Ok(());
    }
    store_totals(session, names, day..day + DAY).await
}

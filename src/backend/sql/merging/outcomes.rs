//! Rollups by outcome and cause, from those by kind.
//!
//! Charts and totals by key need no other attributes. Of the table of hours, they would read a row for each endpoint and
//! status; and for the totals of thousands of keys, even one row per key and day would take too long to read.

use std::ops::{Range, RangeInclusive};

use sqlx::Error as SqlError;

use crate::backend::sql::batched::PAUSE;
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

/// Stores the totals of each caller in an hour or a day, in microseconds, as one record. Replaces the previous one.
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

/// Aggregates again what late rollups, ordered by caller, have changed: the hours in which they start, and the totals of
/// these hours and their days if these have been rolled up.
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
        store_totals(session, names, hour..hour + HOUR).await?;
    }
    let mut days: Vec<_> = hours.iter().map(|hour| floor(*hour, DAY)).collect();
    days.dedup();
    for day in days.into_iter().filter(|day| *day < days_until) {
        store_totals(session, names, day..day + DAY).await?;
    }
    Ok(())
}

/// Stores the totals of all hours and days, which a migration cannot do, if it has not been done.
pub(super) async fn store_migrated_totals<E: Engine>(engine: &E) -> Result<(), SqlError> {
    let names = engine.names();
    let mark = "SELECT before FROM §pruned WHERE kind = 'no_totals'";
    for (table, width) in [("§hours", HOUR), ("§days", DAY)] {
        let mut after = i64::MIN;
        loop {
            let mut session = required(engine.merger(true).await?)?;
            let rows = session.fetch(Statement::new(names, mark)).await?;
            let Some(row) = rows.first() else {
                return Ok(());
            };
            let until = row.time("before")?;
            drop(rows);
            // Later ones are stored when they are rolled up.
            let next =
                format!("SELECT min(start) AS start FROM {table} WHERE start > $1 AND start < $2");
            let next = Statement::new(names, &next)
                .bind(Value::Time(Some(after)))
                .bind(Value::Time(until));
            let rows = session.fetch(next).await?;
            let Some(start) = required(rows.first())?.time("start")? else {
                break;
            };
            drop(rows);
            store_totals(&mut session, names, start..start + width).await?;
            session.commit().await?;
            after = start;
            tokio::time::sleep(PAUSE).await;
        }
    }
    let mut session = engine.writer().await?;
    let done = Statement::new(names, "DELETE FROM §pruned WHERE kind = 'no_totals'");
    session.execute(done).await?;
    session.commit().await
}

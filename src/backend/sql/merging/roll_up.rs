//! Rolling up minutes into hours, and hours into days, once they have passed.

use sqlx::Error as SqlError;
use tokio::time::Instant;

use crate::backend::sql::batched::{FirstFailure, pause_since};
use crate::backend::sql::compact::compact_histograms;
use crate::backend::sql::engine::{Engine, Row, Session, Statement, Value};
use crate::backend::sql::micros::{DAY, HOUR, floor};
use crate::backend::sql::value::required;

use super::merged::Merged;
use super::outcomes::{aggregate_hour, store_totals};

/// A step from narrower to wider rollups.
struct Step {
    from: &'static str,
    to: &'static str,
    /// The tables with histograms of the bucket, which are concatenated.
    compacted: &'static [&'static str],
    width: i64,
    /// The entry in the table `pruned`.
    mark: &'static str,
    merged: fn(&Merged) -> i64,
    /// The time up to which the narrower rollups are complete.
    complete: fn(&Merged) -> i64,
}

const STEPS: [Step; 2] = [
    Step {
        from: "{prefix}minutes",
        to: "{prefix}hours",
        compacted: &["{prefix}hours", "{prefix}hours_by_outcome"],
        width: HOUR,
        mark: "merged_hours",
        merged: |merged| merged.hours,
        complete: |_| i64::MAX,
    },
    Step {
        from: "{prefix}hours",
        to: "{prefix}days",
        compacted: &["{prefix}days"],
        width: DAY,
        mark: "merged_days",
        merged: |merged| merged.days,
        complete: |merged| merged.hours,
    },
];

/// Rolls up all hours and days that end by a time, each in a transaction. Does nothing if another process is merging.
pub(in crate::backend::sql) async fn roll_up<E: Engine>(
    engine: &E,
    until: i64,
    waits: bool,
) -> Result<(), SqlError> {
    let mut failure = FirstFailure::default();
    for step in STEPS {
        loop {
            let start = Instant::now();
            let Some(bucket) = roll_up_next(engine, &step, until, waits).await? else {
                break;
            };
            // Otherwise they are long, but correct.
            for table in step.compacted {
                failure.record(compact_histograms(engine, table, bucket).await);
            }
            pause_since(start).await;
        }
    }
    failure.into_result(())
}

/// Rolls up the next hour or day. Returns its start, or `None` if there is none.
async fn roll_up_next<E: Engine>(
    engine: &E,
    step: &Step,
    until: i64,
    waits: bool,
) -> Result<Option<i64>, SqlError> {
    let Step {
        from, to, width, ..
    } = *step;
    let (names, dialect) = (engine.names(), engine.names().dialect);
    let Some(mut session) = engine.merger(waits).await? else {
        return Ok(None);
    };
    let marks = Merged::read(&mut session, names).await?;
    let merged = (step.merged)(&marks);
    let until = floor(until.min((step.complete)(&marks)), width);
    if merged >= until {
        return Ok(None);
    }
    let first = format!("SELECT min(start) AS first FROM {from} WHERE start >= $1 AND start < $2");
    let first = Statement::new(names, &first)
        .bind(Value::Time(Some(merged)))
        .bind(Value::Time(Some(until)));
    let rows = session.fetch(first).await?;
    let first = required(rows.first())?.time("first")?;
    drop(rows);
    let bucket = first.map(|first| floor(first, width));
    if let Some(bucket) = bucket {
        let sums = ["count", "cost", "request_bytes", "response_bytes"];
        let insert = format!(
            "INSERT INTO {to} (caller_id, start, kind_id, {}, latency)
            SELECT caller_id, $1, kind_id, {}, {} FROM {from} WHERE start >= $1 AND start < $2
            GROUP BY caller_id, kind_id ORDER BY caller_id, kind_id",
            sums.join(", "),
            sums.map(|column| dialect.capped_sum(column)).join(", "),
            dialect.concat_bytes("latency"),
        );
        let insert = Statement::new(names, &insert)
            .bind(Value::Time(Some(bucket)))
            .bind(Value::Time(Some(bucket + width)));
        session.execute(insert).await?;
        if width == HOUR {
            aggregate_hour(&mut session, names, bucket, 0..=i32::MAX).await?;
        }
        let bucket = bucket..bucket + width;
        store_totals(&mut session, names, bucket.clone(), bucket.end).await?;
    }
    let mark = "INSERT INTO {prefix}pruned (kind, before) VALUES ($1, $2)
        ON CONFLICT (kind) DO UPDATE SET before = excluded.before";
    let mark = Statement::new(names, mark)
        .bind(step.mark)
        .bind(Value::Time(Some(bucket.map_or(until, |it| it + width))));
    session.execute(mark).await?;
    session.commit().await?;
    Ok(bucket)
}

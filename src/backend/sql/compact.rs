//! Compacting latency histograms, which are merged by concatenation.

use sqlx::Error as SqlError;

use super::batched::{PAUSE, write};
use super::engine::{Engine, Row, Session, Statement, Value};
use super::histogram::{from_bytes, to_bytes};
use super::series_rollup::ALL_CALLERS;
use super::value::required;

/// The length of a histogram, in bytes, above which it is compacted to one pair per bucket.
const MAX_LENGTH: i64 = 256;
/// The number of rows per transaction.
const ROWS: i64 = 1_000;
/// The same for rows whose histograms may be as long as those of all callers.
const FEW_ROWS: i64 = 32;

/// Compacts the histograms of the rows of a table that start at a time.
pub(super) async fn compact_histograms<E: Engine>(
    engine: &E,
    table: &str,
    start: i64,
) -> Result<(), SqlError> {
    let lock = engine.names().dialect.lock_rows();
    let read = format!(
        "SELECT caller_id, kind_id, latency FROM {table}
        WHERE start = $1 AND (caller_id, kind_id) > ($2, $3) AND length(latency) > {MAX_LENGTH}
        ORDER BY caller_id, kind_id LIMIT {ROWS}{lock}"
    );
    let update = format!(
        "UPDATE {table} SET latency = $4 WHERE start = $1 AND caller_id = $2 AND kind_id = $3"
    );
    let mut last = (i64::MIN, i64::MIN);
    loop {
        let mut session = engine.writer().await?;
        let statement = |template: &str, (caller, kind): (i64, i64)| {
            Statement::new(engine.names(), template)
                .bind(Value::Time(Some(start)))
                .bind(caller)
                .bind(kind)
        };
        let rows = session.fetch(statement(&read, last)).await?;
        let rows: Vec<_> = rows.iter().map(compacted).collect::<Result<_, _>>()?;
        let Some(&(end, _)) = rows.last() else {
            return Ok(());
        };
        last = end;
        for (series, latency) in rows {
            session
                .execute(statement(&update, series).bind(latency))
                .await?;
        }
        session.commit().await?;
        tokio::time::sleep(PAUSE).await;
    }
}

/// The numbers of a caller and a kind, and their compacted histogram.
fn compacted(row: &impl Row) -> Result<((i64, i64), Value), SqlError> {
    let latency = from_bytes(required(row.bytes("latency")?)?)?;
    let caller = required(row.integer("caller_id")?)?;
    let kind = required(row.integer("kind_id")?)?;
    Ok(((caller, kind), Value::Bytes(Some(to_bytes(&latency)))))
}

/// Compacts the histograms of all callers together that a migration has concatenated, if any.
pub(super) async fn compact_migrated<E: Engine>(engine: &E) -> Result<(), SqlError> {
    let marked = "SELECT 1 AS found FROM {prefix}pruned WHERE kind = 'not_compacted'";
    let marked = Statement::new(engine.names(), marked);
    if engine.reader().await?.fetch(marked).await?.is_empty() {
        return Ok(());
    }
    let lock = engine.names().dialect.lock_rows();
    for table in [
        "{prefix}minutes",
        "{prefix}hours",
        "{prefix}hours_by_outcome",
        "{prefix}days",
    ] {
        let read = format!(
            "SELECT start, kind_id, latency FROM {table} WHERE caller_id = {ALL_CALLERS}
            AND (start, kind_id) > ($1, $2) AND length(latency) > {MAX_LENGTH}
            ORDER BY start, kind_id LIMIT {FEW_ROWS}{lock}"
        );
        let update = format!(
            "UPDATE {table} SET latency = $3
            WHERE caller_id = {ALL_CALLERS} AND start = $1 AND kind_id = $2"
        );
        let mut last = (i64::MIN, i64::MIN);
        loop {
            let mut session = engine.writer().await?;
            let statement = |template: &str, (start, kind): (i64, i64)| {
                Statement::new(engine.names(), template)
                    .bind(Value::Time(Some(start)))
                    .bind(kind)
            };
            let rows = session.fetch(statement(&read, last)).await?;
            let Some(end) = rows.last() else {
                break;
            };
            last = (
                required(end.time("start")?)?,
                required(end.integer("kind_id")?)?,
            );
            for row in rows {
                let start = required(row.time("start")?)?;
                let kind = required(row.integer("kind_id")?)?;
                let latency = from_bytes(required(row.bytes("latency")?)?)?;
                drop(row);
                let latency = Value::Bytes(Some(to_bytes(&latency)));
                let update = statement(&update, (start, kind)).bind(latency);
                session.execute(update).await?;
            }
            session.commit().await?;
            tokio::time::sleep(PAUSE).await;
        }
    }
    write(
        engine,
        "DELETE FROM {prefix}pruned WHERE kind = 'not_compacted'",
        &[],
    )
    .await
}

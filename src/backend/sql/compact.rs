//! Compacting latency histograms, which are merged by concatenation.

use sqlx::Error as SqlError;

use super::batched::PAUSE;
use super::engine::{Engine, Row, Session, Statement, Value};
use super::histogram::{from_bytes, to_bytes};
use super::value::required;

/// The length of a histogram, in bytes, above which it is compacted to one pair per bucket.
const MAX_LENGTH: i64 = 256;
/// The number of rows per transaction.
const ROWS: i64 = 1_000;

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

//! Merging rollups by minute into quarters of an hour.
//!
//! Both are rows of the same table: a row that starts before the mark `quarter_hours` in the table `pruned` covers its
//! quarter of an hour. A row that is written after its quarter was merged stays a separate row; totals still
//! include it.

use sqlx::Error as SqlError;

use super::batched::{FirstFailure, MAX_ROWS, PAUSE, write};
use super::compact::compact_histograms;
use super::dialect::Dialect;
use super::engine::{Engine, Row, Session, Statement, Value};
use super::micros::{DAY, HOUR, QUARTER, floor};
use super::value::required;

/// The primary key of the table.
const KEY: &str = "caller_id, start, kind_id";

/// The columns by which the rows of a quarter are grouped.
const GROUP: &str = "caller_id, kind_id";

const SUMS: [&str; 4] = ["count", "cost", "request_bytes", "response_bytes"];

/// Merges the minutes of all hours that end by `before`, which is a full hour. Returns the number of merged rows.
pub(super) async fn merge_minutes<E: Engine>(engine: &E, before: i64) -> Result<u64, SqlError> {
    let mut hour = match mark(engine).await? {
        // An earlier pass may have been interrupted.
        Some(mark) => mark - DAY,
        None => i64::MIN,
    };
    let (mut merged, mut failure) = (0, FirstFailure::default());
    while let Some(first) = first_minute(engine, hour, before).await? {
        hour = floor(first, HOUR) + HOUR;
        // Before the rows are merged, so that readers do not mistake a quarter of an hour for a minute.
        set_mark(engine, hour).await?;
        for quarter in (hour - HOUR..hour).step_by(QUARTER as usize) {
            merged += failure.record(merge_quarter(engine, quarter).await);
        }
    }
    failure.into_result(merged)
}

async fn mark<E: Engine>(engine: &E) -> Result<Option<i64>, SqlError> {
    let mark = "SELECT before FROM {prefix}pruned WHERE kind = 'quarter_hours'";
    let mut session = engine.reader().await?;
    let rows = session.fetch(Statement::new(engine.names(), mark)).await?;
    rows.first()
        .map_or(Ok(None), |row| required(row.time("before")?).map(Some))
}

async fn set_mark<E: Engine>(engine: &E, before: i64) -> Result<(), SqlError> {
    let upsert = "INSERT INTO {prefix}pruned AS d (kind, before) VALUES ('quarter_hours', $1)
        ON CONFLICT (kind) DO UPDATE SET before = excluded.before WHERE d.before < excluded.before";
    write(engine, upsert, &[Value::Time(Some(before))]).await
}

/// The start of the first rollup in a range.
async fn first_minute<E: Engine>(
    engine: &E,
    from: i64,
    before: i64,
) -> Result<Option<i64>, SqlError> {
    let first = "SELECT min(start) AS first FROM {prefix}minutes WHERE start >= $1 AND start < $2";
    let first = Statement::new(engine.names(), first)
        .bind(Value::Time(Some(from)))
        .bind(Value::Time(Some(before)));
    let mut session = engine.reader().await?;
    let rows = session.fetch(first).await?;
    required(rows.first())?.time("first")
}

async fn merge_quarter<E: Engine>(engine: &E, quarter: i64) -> Result<u64, SqlError> {
    let mut merged = 0;
    loop {
        // Exclusive, since records are merged into the same rows.
        let session = engine.merger(true).await?;
        let mut session = required(session)?;
        let rows = merge_some(engine, &mut session, quarter).await?;
        session.commit().await?;
        merged += rows;
        if rows < MAX_ROWS.cast_unsigned() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    if merged > 0 {
        compact_histograms(engine, "{prefix}minutes", quarter).await?;
    }
    Ok(merged)
}

/// Merges up to [`MAX_ROWS`] rows of a quarter. Returns the number of merged rows.
async fn merge_some<E: Engine>(
    engine: &E,
    session: &mut E::Session,
    quarter: i64,
) -> Result<u64, SqlError> {
    let dialect = engine.names().dialect;
    let skip = dialect.skip_locked();
    let some = format!(
        "SELECT {KEY} FROM {{prefix}}minutes WHERE start > $1 AND start < $2 ORDER BY {KEY} LIMIT $3{skip}"
    );
    let columns = SUMS.join(", ");
    let sums = SUMS.map(|column| dialect.capped_sum(column)).join(", ");
    let latency = dialect.concat_bytes("latency");
    let merge = |from: &str| {
        format!(
            "INSERT INTO {{prefix}}minutes AS t (start, {GROUP}, {columns}, latency)
            SELECT $1, {GROUP}, {sums}, {latency} FROM {from} GROUP BY {GROUP} ORDER BY {GROUP}
            ON CONFLICT ({KEY}) DO UPDATE SET {}, {}",
            dialect.add_sums(),
            dialect.add_latency()
        )
    };
    let delete = format!("DELETE FROM {{prefix}}minutes WHERE ({KEY}) IN ({some})");
    let statement = |template: &str| {
        Statement::new(engine.names(), template)
            .bind(Value::Time(Some(quarter)))
            .bind(Value::Time(Some(quarter + QUARTER)))
            .bind(MAX_ROWS)
    };
    match dialect {
        // In one statement, so that exactly the deleted rows are merged.
        #[cfg(feature = "postgres")]
        Dialect::Postgres => {
            let both = format!(
                "WITH gone AS ({delete} RETURNING *), merged AS ({})
                SELECT count(*) AS rows FROM gone",
                merge("gone")
            );
            let rows = session.fetch(statement(&both)).await?;
            let rows = required(required(rows.first())?.integer("rows")?)?;
            Ok(rows.cast_unsigned())
        }
        // SQLite has a single writer, so two statements are safe.
        #[cfg(feature = "_sqlite")]
        Dialect::Sqlite => {
            let some = format!("(SELECT * FROM {{prefix}}minutes WHERE ({KEY}) IN ({some}))");
            session.execute(statement(&merge(&some))).await?;
            session.execute(statement(&delete)).await
        }
    }
}

//! Merging rollups by minute into quarters of an hour.
//!
//! Both are rows of the same table: a row that starts before the mark `quarter_hours` in §pruned covers its
//! quarter of an hour. A row that is written after its quarter was merged stays a separate row; totals still
//! include it.

use sqlx::Error as SqlError;

use super::batched::{FirstFailure, MAX_ROWS, PAUSE, write};
use super::dialect::Dialect;
use super::engine::{Engine, Row, Session, Statement, Value};
use super::histogram::{from_bytes, to_bytes};
use super::micros::{DAY, HOUR, QUARTER, floor};
use super::value::required;

/// The primary key of the table.
const KEY: &str = "caller_id, start, kind_id";

/// The columns by which the rows of a quarter are grouped.
const GROUP: &str = "caller_id, kind_id";

const SUMS: [&str; 4] = ["count", "cost", "request_bytes", "response_bytes"];

/// The length of a histogram, in bytes, above which it is compacted to one pair per bucket.
const MAX_LATENCY_LEN: i64 = 256;

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
    let mark = "SELECT before FROM §pruned WHERE kind = 'quarter_hours'";
    let mut session = engine.reader().await?;
    let rows = session.fetch(Statement::new(engine.names(), mark)).await?;
    rows.first()
        .map_or(Ok(None), |row| required(row.time("before")?).map(Some))
}

async fn set_mark<E: Engine>(engine: &E, before: i64) -> Result<(), SqlError> {
    let upsert = "INSERT INTO §pruned AS d (kind, before) VALUES ('quarter_hours', $1)
        ON CONFLICT (kind) DO UPDATE SET before = excluded.before WHERE d.before < excluded.before";
    write(engine, upsert, &[Value::Time(Some(before))]).await
}

/// The start of the first rollup in a range.
async fn first_minute<E: Engine>(
    engine: &E,
    from: i64,
    before: i64,
) -> Result<Option<i64>, SqlError> {
    let first = "SELECT min(start) AS first FROM §minutes WHERE start >= $1 AND start < $2";
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
        compact_histograms(engine, quarter).await?;
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
        "SELECT {KEY} FROM §minutes WHERE start > $1 AND start < $2 ORDER BY {KEY} LIMIT $3{skip}"
    );
    let columns = SUMS.join(", ");
    let sums = SUMS.map(|column| dialect.capped_sum(column)).join(", ");
    let latency = dialect.concat_bytes("latency");
    let merge = |from: &str| {
        format!(
            "INSERT INTO §minutes AS t (start, {GROUP}, {columns}, latency)
            SELECT $1, {GROUP}, {sums}, {latency} FROM {from} GROUP BY {GROUP} ORDER BY {GROUP}
            ON CONFLICT ({KEY}) DO UPDATE SET {}, {}",
            dialect.add_sums(),
            dialect.add_latency()
        )
    };
    let delete = format!("DELETE FROM §minutes WHERE ({KEY}) IN ({some})");
    let statement = |template: &str| {
        Statement::new(engine.names(), template)
            .bind(Value::Time(Some(quarter)))
            .bind(Value::Time(Some(quarter + QUARTER)))
            .bind(MAX_ROWS)
    };
    match dialect {
        // In one statement, so that rows written concurrently are not deleted without being merged.
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
            let some = format!("(SELECT * FROM §minutes WHERE ({KEY}) IN ({some}))");
            session.execute(statement(&merge(&some))).await?;
            session.execute(statement(&delete)).await
        }
    }
}

/// Compacts concatenated histograms in the rows of a quarter.
async fn compact_histograms<E: Engine>(engine: &E, quarter: i64) -> Result<(), SqlError> {
    let lock = engine.names().dialect.lock_rows();
    let read = format!(
        "SELECT {GROUP}, latency FROM §minutes WHERE start = $1 AND ({GROUP}) > ($2, $3)
        AND length(latency) > {MAX_LATENCY_LEN} ORDER BY {GROUP} LIMIT 200{lock}"
    );
    let update =
        "UPDATE §minutes SET latency = $4 WHERE start = $1 AND caller_id = $2 AND kind_id = $3";
    let mut last = (i64::MIN, i64::MIN);
    loop {
        let mut session = engine.writer().await?;
        let statement = |template: &str, (caller, kind): (i64, i64)| {
            Statement::new(engine.names(), template)
                .bind(Value::Time(Some(quarter)))
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
                .execute(statement(update, series).bind(latency))
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

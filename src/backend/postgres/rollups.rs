//! Adding rollups to their tables.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Error as SqlError, Row};

use super::copy::Copy;
use super::types::Time;
use crate::backend::sql::{Amounts, Dialect, Names, Series, SeriesRollup, from_bytes, to_bytes};

/// Inserts rollups that are not in the table.
pub(super) async fn insert_rollups(
    connection: &mut PgConnection,
    names: &Names,
    table: &str,
    rollups: &[SeriesRollup],
) -> Result<(), SqlError> {
    let mut rows = Copy::new(rollups.len());
    for SeriesRollup {
        series: Series { caller, kind },
        start,
        amounts,
    } in rollups
    {
        rows.row(8)
            .integer(*caller)
            .time(*start)
            .integer(*kind)
            .bigint(amounts.count.cast_signed())
            .bigint(amounts.cost.cast_signed())
            .bigint(amounts.request_bytes.cast_signed())
            .bigint(amounts.response_bytes.cast_signed())
            .bytes(Some(&to_bytes(&amounts.latency)));
    }
    let copy = names.sql(&format!(
        "COPY {table} (caller_id, start, kind_id, count, cost, request_bytes, response_bytes, latency)
        FROM STDIN (FORMAT binary)"
    ));
    let mut copying = connection.copy_in_raw(&copy).await?;
    copying.send(rows.finish()).await?;
    copying.finish().await?;
    Ok(())
}

/// Adds rollups to those in the table.
pub(super) async fn add_rollups(
    connection: &mut PgConnection,
    names: &Names,
    table: &str,
    rollups: &[SeriesRollup],
) -> Result<(), SqlError> {
    let keys = RowKeys::of(rollups.iter().map(|it| (it.series, it.start)));
    let amounts = || rollups.iter().map(|rollup| &rollup.amounts);
    let latencies: Vec<_> = amounts().map(|it| to_bytes(&it.latency)).collect();
    let insert = names.sql(&format!(
        "INSERT INTO {table} AS t (caller_id, start, kind_id, count, cost, request_bytes,
            response_bytes, latency)
        SELECT * FROM UNNEST($1::integer[], $2::timestamptz[], $3::integer[], $4::bigint[],
            $5::bigint[], $6::bigint[], $7::bigint[], $8::bytea[])
        ON CONFLICT (caller_id, start, kind_id) DO UPDATE SET {}, {}",
        Dialect::Postgres.add_sums(),
        Dialect::Postgres.add_latency()
    ));
    let number = |amount: fn(&Amounts) -> u64| numbers(amounts(), amount);
    sqlx::query(AssertSqlSafe(insert))
        .bind(&keys.callers)
        .bind(&keys.starts)
        .bind(&keys.kinds)
        .bind(number(|it| it.count))
        .bind(number(|it| it.cost))
        .bind(number(|it| it.request_bytes))
        .bind(number(|it| it.response_bytes))
        .bind(latencies)
        .execute(&mut *connection)
        .await?;
    // At random, so that every rollup is compacted eventually, whatever the pattern of merges.
    if fastrand::u8(..16) == 0 {
        compact_histograms(connection, names, table, &keys).await?;
    }
    Ok(())
}

/// The primary keys of rows, by column.
#[derive(Default)]
struct RowKeys {
    callers: Vec<i32>,
    starts: Vec<Time>,
    kinds: Vec<i32>,
}

impl RowKeys {
    fn of(keys: impl Iterator<Item = (Series, i64)>) -> Self {
        let mut columns = Self::default();
        for (Series { caller, kind }, start) in keys {
            columns.callers.push(caller);
            columns.starts.push(Time(start));
            columns.kinds.push(kind);
        }
        columns
    }
}

/// Compacts concatenated histograms. The rows were just written, so this transaction has them locked.
async fn compact_histograms(
    connection: &mut PgConnection,
    names: &Names,
    table: &str,
    keys: &RowKeys,
) -> Result<(), SqlError> {
    let read = names.sql(&format!(
        "SELECT t.caller_id, t.start, t.kind_id, t.latency FROM {table} t
        JOIN UNNEST($1::integer[], $2::timestamptz[], $3::integer[])
            AS one(caller_id, start, kind_id)
        USING (caller_id, start, kind_id) WHERE length(t.latency) > 256"
    ));
    let rows = sqlx::query(AssertSqlSafe(read))
        .bind(&keys.callers)
        .bind(&keys.starts)
        .bind(&keys.kinds)
        .fetch_all(&mut *connection)
        .await?;
    let (mut keys, mut latencies) = (RowKeys::default(), Vec::new());
    for row in &rows {
        keys.callers.push(row.try_get(0)?);
        keys.starts.push(row.try_get(1)?);
        keys.kinds.push(row.try_get(2)?);
        latencies.push(to_bytes(&from_bytes(row.try_get(3)?)?));
    }
    if rows.is_empty() {
        return Ok(());
    }
    let write = names.sql(&format!(
        "UPDATE {table} t SET latency = one.latency
        FROM UNNEST($1::integer[], $2::timestamptz[], $3::integer[], $4::bytea[])
            AS one(caller_id, start, kind_id, latency)
        WHERE t.caller_id = one.caller_id AND t.start = one.start AND t.kind_id = one.kind_id"
    ));
    sqlx::query(AssertSqlSafe(write))
        .bind(keys.callers)
        .bind(keys.starts)
        .bind(keys.kinds)
        .bind(latencies)
        .execute(connection)
        .await?;
    Ok(())
}

fn numbers<'a>(
    amounts: impl Iterator<Item = &'a Amounts>,
    amount: fn(&Amounts) -> u64,
) -> Vec<i64> {
    amounts.map(|it| amount(it).cast_signed()).collect()
}

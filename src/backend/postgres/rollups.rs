//! Adding rollups to their tables.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Error as SqlError, Row};

use super::types::Time;
use crate::backend::sql::{Amounts, Dialect, KeyRollup, Names, SeriesRollup, from_bytes, to_bytes};

pub(super) async fn add_rollups(
    connection: &mut PgConnection,
    names: &Names,
    table: &str,
    rollups: &[SeriesRollup],
) -> Result<(), SqlError> {
    let series: Vec<i64> = rollups.iter().map(|rollup| rollup.series).collect();
    let starts: Vec<Time> = rollups.iter().map(|rollup| Time(rollup.start)).collect();
    let amounts = || rollups.iter().map(|rollup| &rollup.amounts);
    let latencies: Vec<_> = amounts().map(|it| to_bytes(&it.latency)).collect();
    let insert = names.sql(&format!(
        "INSERT INTO {table} AS t (series_id, start, count, cost, request_bytes, response_bytes,
            latency)
        SELECT * FROM UNNEST($1::bigint[], $2::timestamptz[], $3::bigint[], $4::bigint[],
            $5::bigint[], $6::bigint[], $7::bytea[])
        ON CONFLICT (series_id, start) DO UPDATE SET {}, {}",
        Dialect::Postgres.add_sums(),
        Dialect::Postgres.add_latency()
    ));
    let number = |amount: fn(&Amounts) -> u64| numbers(amounts(), amount);
    sqlx::query(AssertSqlSafe(insert))
        .bind(&series)
        .bind(&starts)
        .bind(number(|it| it.count))
        .bind(number(|it| it.cost))
        .bind(number(|it| it.request_bytes))
        .bind(number(|it| it.response_bytes))
        .bind(latencies)
        .execute(&mut *connection)
        .await?;
    // At random, so that every rollup is compacted eventually, whatever the pattern of merges.
    if fastrand::u8(..16) == 0 {
        compact_histograms(connection, names, table, &series, &starts).await?;
    }
    Ok(())
}

pub(super) async fn add_key_rollups(
    connection: &mut PgConnection,
    names: &Names,
    table: &str,
    rollups: &[KeyRollup<'_>],
) -> Result<(), SqlError> {
    let starts: Vec<Time> = rollups.iter().map(|rollup| Time(rollup.start)).collect();
    let by = || rollups.iter().map(|rollup| rollup.by);
    let hashes: Vec<&[u8]> = by().map(|by| &by.hash[..]).collect();
    let keys: Vec<_> = by().map(|by| by.key.map(|key| key.to_string())).collect();
    let owners: Vec<_> = by().map(|by| by.owner.as_deref()).collect();
    let outcomes: Vec<_> = by().map(|by| by.outcome.as_str()).collect();
    let causes = by().map(|by| by.cause.map(|cause| cause.as_str()));
    let insert = names.sql(&format!(
        "INSERT INTO {table} AS t (start, hash, key_id, owner, outcome, cause, count, cost,
            request_bytes, response_bytes)
        SELECT * FROM UNNEST($1::timestamptz[], $2::bytea[], $3::text[], $4::text[], $5::text[],
            $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])
        ON CONFLICT (start, hash) DO UPDATE SET {}",
        Dialect::Postgres.add_sums()
    ));
    let number = |amount: fn(&Amounts) -> u64| {
        let amounts = rollups.iter().map(|rollup| &rollup.amounts);
        numbers(amounts, amount)
    };
    sqlx::query(AssertSqlSafe(insert))
        .bind(starts)
        .bind(hashes)
        .bind(keys)
        .bind(owners)
        .bind(outcomes)
        .bind(causes.collect::<Vec<_>>())
        .bind(number(|it| it.count))
        .bind(number(|it| it.cost))
        .bind(number(|it| it.request_bytes))
        .bind(number(|it| it.response_bytes))
        .execute(connection)
        .await?;
    Ok(())
}

/// Compacts concatenated histograms. The rows were just written, so this transaction has them locked.
async fn compact_histograms(
    connection: &mut PgConnection,
    names: &Names,
    table: &str,
    series: &[i64],
    starts: &[Time],
) -> Result<(), SqlError> {
    let read = names.sql(&format!(
        "SELECT t.series_id, t.start, t.latency FROM {table} t
        JOIN UNNEST($1::bigint[], $2::timestamptz[]) AS one(series_id, start)
        USING (series_id, start) WHERE length(t.latency) > 256"
    ));
    let rows = sqlx::query(AssertSqlSafe(read))
        .bind(series)
        .bind(starts)
        .fetch_all(&mut *connection)
        .await?;
    let (mut series, mut starts, mut latencies) = (Vec::new(), Vec::new(), Vec::new());
    for row in &rows {
        series.push(row.try_get::<i64, _>(0)?);
        starts.push(row.try_get::<Time, _>(1)?);
        latencies.push(to_bytes(&from_bytes(row.try_get(2)?)?));
    }
    if rows.is_empty() {
        return Ok(());
    }
    let write = names.sql(&format!(
        "UPDATE {table} t SET latency = one.latency
        FROM UNNEST($1::bigint[], $2::timestamptz[], $3::bytea[])
            AS one(series_id, start, latency)
        WHERE t.series_id = one.series_id AND t.start = one.start"
    ));
    sqlx::query(AssertSqlSafe(write))
        .bind(series)
        .bind(starts)
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

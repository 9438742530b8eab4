//! Adding rollups to their tables.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Error as SqlError, Row};

use super::values::{ROWS, Values};
use crate::backend::sql::{Dialect, KeyRollup, Names, SeriesRollup, from_bytes, to_bytes};

pub(super) async fn add_rollups(
    connection: &mut SqliteConnection,
    names: &Names,
    table: &str,
    rollups: &[SeriesRollup],
) -> Result<(), SqlError> {
    let insert = names.sql(&format!(
        "INSERT OR FAIL INTO {table} AS t (series_id, start, count, cost, request_bytes, response_bytes,
            latency) VALUES "
    ));
    let update = format!(
        " ON CONFLICT (series_id, start) DO UPDATE SET {}, {}",
        Dialect::Sqlite.add_sums(),
        Dialect::Sqlite.add_latency()
    );
    for rollups in rollups.chunks(ROWS) {
        let mut values = Values::new(rollups.len(), 7);
        for rollup in rollups {
            let amounts = &rollup.amounts;
            values
                .add(rollup.series)?
                .add(rollup.start)?
                .add(amounts.count.cast_signed())?
                .add(amounts.cost.cast_signed())?
                .add(amounts.request_bytes.cast_signed())?
                .add(amounts.response_bytes.cast_signed())?
                .add(to_bytes(&amounts.latency))?;
        }
        let sql = format!("{insert}{}{update}", values.placeholders);
        sqlx::query_with(AssertSqlSafe(sql), values.arguments)
            .execute(&mut *connection)
            .await?;
    }
    // At random, so that every rollup is compacted eventually, whatever the pattern of merges.
    if fastrand::u8(..16) == 0 {
        compact_histograms(connection, names, table, rollups).await?;
    }
    Ok(())
}

pub(super) async fn add_key_rollups(
    connection: &mut SqliteConnection,
    names: &Names,
    table: &str,
    rollups: &[KeyRollup<'_>],
) -> Result<(), SqlError> {
    let insert = names.sql(&format!(
        "INSERT OR FAIL INTO {table} AS t (start, hash, key_id, owner, outcome, cause, count, cost,
            request_bytes, response_bytes) VALUES "
    ));
    let update = format!(
        " ON CONFLICT (start, hash) DO UPDATE SET {}",
        Dialect::Sqlite.add_sums()
    );
    for rollups in rollups.chunks(ROWS) {
        let mut values = Values::new(rollups.len(), 10);
        for KeyRollup { start, by, amounts } in rollups {
            values
                .add(*start)?
                .add(&by.hash[..])?
                .add(by.key.as_ref().map(|key| key.as_str()))?
                .add(by.owner.as_deref())?
                .add(by.outcome.as_str())?
                .add(by.cause.map(|cause| cause.as_str()))?
                .add(amounts.count.cast_signed())?
                .add(amounts.cost.cast_signed())?
                .add(amounts.request_bytes.cast_signed())?
                .add(amounts.response_bytes.cast_signed())?;
        }
        let sql = format!("{insert}{}{update}", values.placeholders);
        sqlx::query_with(AssertSqlSafe(sql), values.arguments)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Compacts concatenated histograms.
async fn compact_histograms(
    connection: &mut SqliteConnection,
    names: &Names,
    table: &str,
    rollups: &[SeriesRollup],
) -> Result<(), SqlError> {
    let read = names.sql(&format!(
        ") SELECT t.series_id, t.start, t.latency FROM one CROSS JOIN {table} t
        WHERE t.series_id = one.series_id AND t.start = one.start AND length(t.latency) > 256"
    ));
    let write = names.sql(&format!(
        "INSERT INTO {table} (series_id, start, count, cost, request_bytes, response_bytes,
            latency) VALUES "
    ));
    let update = " ON CONFLICT (series_id, start) DO UPDATE SET latency = excluded.latency";
    for rollups in rollups.chunks(ROWS) {
        let mut values = Values::new(rollups.len(), 2);
        for rollup in rollups {
            values.add(rollup.series)?.add(rollup.start)?;
        }
        let sql = format!(
            "WITH one(series_id, start) AS (VALUES {}{read}",
            values.placeholders
        );
        let rows = sqlx::query_with(AssertSqlSafe(sql), values.arguments)
            .fetch_all(&mut *connection)
            .await?;
        if rows.is_empty() {
            continue;
        }
        let mut values = Values::new(rows.len(), 7);
        for row in &rows {
            let latency = from_bytes(row.try_get(2)?)?;
            values
                .add(row.try_get::<i64, _>(0)?)?
                .add(row.try_get::<i64, _>(1)?)?
                .add(0)?
                .add(0)?
                .add(0)?
                .add(0)?
                .add(to_bytes(&latency))?;
        }
        let sql = format!("{write}{}{update}", values.placeholders);
        sqlx::query_with(AssertSqlSafe(sql), values.arguments)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

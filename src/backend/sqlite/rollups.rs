//! Adding rollups to their tables.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Error as SqlError, Row};

use super::values::{ROWS, Values};
use crate::backend::sql::{Dialect, Names, SeriesRollup, from_bytes, to_bytes};

/// Inserts rollups that are not in the table.
pub(super) async fn insert_rollups(
    connection: &mut SqliteConnection,
    names: &Names,
    table: &str,
    rollups: &[SeriesRollup],
) -> Result<(), SqlError> {
    insert(connection, names, table, rollups, "").await
}

/// Adds rollups to those in the table.
pub(super) async fn add_rollups(
    connection: &mut SqliteConnection,
    names: &Names,
    table: &str,
    rollups: &[SeriesRollup],
) -> Result<(), SqlError> {
    let update = format!(
        " ON CONFLICT (caller_id, start, kind_id) DO UPDATE SET {}, {}",
        Dialect::Sqlite.add_sums(),
        Dialect::Sqlite.add_latency()
    );
    insert(connection, names, table, rollups, &update).await?;
    // At random, so that every rollup is compacted eventually, whatever the pattern of merges.
    if fastrand::u8(..16) == 0 {
        compact_histograms(connection, names, table, rollups).await?;
    }
    Ok(())
}

async fn insert(
    connection: &mut SqliteConnection,
    names: &Names,
    table: &str,
    rollups: &[SeriesRollup],
    on_conflict: &str,
) -> Result<(), SqlError> {
    let insert = names.sql(&format!(
        "INSERT OR FAIL INTO {table} AS t (caller_id, start, kind_id, count, cost, request_bytes, response_bytes,
            latency) VALUES "
    ));
    for rollups in rollups.chunks(ROWS) {
        let mut values = Values::new(rollups.len(), 8);
        for rollup in rollups {
            let amounts = &rollup.amounts;
            values
                .add(rollup.series.caller)?
                .add(rollup.start)?
                .add(rollup.series.kind)?
                .add(amounts.count.cast_signed())?
                .add(amounts.cost.cast_signed())?
                .add(amounts.request_bytes.cast_signed())?
                .add(amounts.response_bytes.cast_signed())?
                .add(to_bytes(&amounts.latency))?;
        }
        let sql = format!("{insert}{}{on_conflict}", values.placeholders);
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
        ") SELECT t.caller_id, t.start, t.kind_id, t.latency FROM one CROSS JOIN {table} t
        WHERE t.caller_id = one.caller_id AND t.start = one.start AND t.kind_id = one.kind_id
            AND length(t.latency) > 256"
    ));
    let write = names.sql(&format!(
        "INSERT INTO {table} (caller_id, start, kind_id, count, cost, request_bytes, response_bytes,
            latency) VALUES "
    ));
    let update =
        " ON CONFLICT (caller_id, start, kind_id) DO UPDATE SET latency = excluded.latency";
    for rollups in rollups.chunks(ROWS) {
        let mut values = Values::new(rollups.len(), 3);
        for rollup in rollups {
            values
                .add(rollup.series.caller)?
                .add(rollup.start)?
                .add(rollup.series.kind)?;
        }
        let sql = format!(
            "WITH one(caller_id, start, kind_id) AS (VALUES {}{read}",
            values.placeholders
        );
        let rows = sqlx::query_with(AssertSqlSafe(sql), values.arguments)
            .fetch_all(&mut *connection)
            .await?;
        if rows.is_empty() {
            continue;
        }
        let mut values = Values::new(rows.len(), 8);
        for row in &rows {
            let latency = from_bytes(row.try_get(3)?)?;
            values
                .add(row.try_get::<i64, _>(0)?)?
                .add(row.try_get::<i64, _>(1)?)?
                .add(row.try_get::<i64, _>(2)?)?
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

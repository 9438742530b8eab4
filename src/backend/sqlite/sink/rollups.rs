//! Writing rollups.

use sqlx::{AssertSqlSafe, Error as SqlError, Row};

use super::values::Values;
use super::{BatchWriter, ROWS};
use crate::backend::sql::{Dialect, KeyRollup, SeriesRollup, as_micros, from_bytes, to_bytes};

impl BatchWriter<'_> {
    pub(super) async fn add_rollups(
        &mut self,
        table: &str,
        sums: &[SeriesRollup],
        ids: &[i64],
    ) -> Result<(), SqlError> {
        let insert = self.sql(&format!(
            "INSERT OR FAIL INTO {table} AS t (series_id, start, count, cost, request_bytes, response_bytes,
                latency) VALUES "
        ));
        let update = format!(
            " ON CONFLICT (series_id, start) DO UPDATE SET {}, {}",
            amounts(),
            Dialect::Sqlite.add_latency()
        );
        for sums in sums.chunks(ROWS) {
            let mut values = Values::new(sums.len(), 7);
            for SeriesRollup { series, rollup } in sums {
                values
                    .add(ids[*series])?
                    .add(as_micros(rollup.start))?
                    .add(rollup.count.cast_signed())?
                    .add(rollup.cost.cast_signed())?
                    .add(rollup.request_bytes.cast_signed())?
                    .add(rollup.response_bytes.cast_signed())?
                    .add(to_bytes(&rollup.latency))?;
            }
            let sql = format!("{insert}{}{update}", values.placeholders);
            sqlx::query_with(AssertSqlSafe(sql), values.arguments)
                .execute(self.connection())
                .await?;
        }
        // At random, so that every rollup is compacted eventually, whatever the pattern of batches.
        if fastrand::u8(..16) == 0 {
            self.compact_histograms(table, sums, ids).await?;
        }
        Ok(())
    }

    pub(super) async fn add_key_rollups(
        &mut self,
        table: &str,
        sums: &[KeyRollup],
    ) -> Result<(), SqlError> {
        let insert = self.sql(&format!(
            "INSERT OR FAIL INTO {table} AS t (start, hash, key_id, owner, outcome, cause, count, cost,
                request_bytes, response_bytes) VALUES "
        ));
        let update = format!(" ON CONFLICT (start, hash) DO UPDATE SET {}", amounts());
        for sums in sums.chunks(ROWS) {
            let mut values = Values::new(sums.len(), 10);
            for KeyRollup { hash: line, rollup } in sums {
                values
                    .add(as_micros(rollup.start))?
                    .add(&line[..])?
                    .add(rollup.key.as_ref().map(|key| key.as_str()))?
                    .add(rollup.owner.as_deref())?
                    .add(rollup.outcome.as_str())?
                    .add(rollup.cause.map(|cause| cause.as_str()))?
                    .add(rollup.count.cast_signed())?
                    .add(rollup.cost.cast_signed())?
                    .add(rollup.request_bytes.cast_signed())?
                    .add(rollup.response_bytes.cast_signed())?;
            }
            let sql = format!("{insert}{}{update}", values.placeholders);
            sqlx::query_with(AssertSqlSafe(sql), values.arguments)
                .execute(self.connection())
                .await?;
        }
        Ok(())
    }

    /// Compacts concatenated histograms.
    async fn compact_histograms(
        &mut self,
        table: &str,
        sums: &[SeriesRollup],
        ids: &[i64],
    ) -> Result<(), SqlError> {
        let read = self.sql(&format!(
            ") SELECT t.series_id, t.start, t.latency FROM one CROSS JOIN {table} t
            WHERE t.series_id = one.series_id AND t.start = one.start AND length(t.latency) > 256"
        ));
        let write = self.sql(&format!(
            "INSERT INTO {table} (series_id, start, count, cost, request_bytes, response_bytes,
                latency) VALUES "
        ));
        let update = " ON CONFLICT (series_id, start) DO UPDATE SET latency = excluded.latency";
        for sums in sums.chunks(ROWS) {
            let mut values = Values::new(sums.len(), 2);
            for SeriesRollup { series, rollup } in sums {
                values.add(ids[*series])?.add(as_micros(rollup.start))?;
            }
            let sql = format!(
                "WITH one(series_id, start) AS (VALUES {}{read}",
                values.placeholders
            );
            let rows = sqlx::query_with(AssertSqlSafe(sql), values.arguments)
                .fetch_all(self.connection())
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
                .execute(self.connection())
                .await?;
        }
        Ok(())
    }
}

/// Assignments for an upsert that adds all amounts.
fn amounts() -> String {
    let add = |column| Dialect::Sqlite.capped_add(column);
    ["count", "cost", "request_bytes", "response_bytes"]
        .map(add)
        .join(", ")
}

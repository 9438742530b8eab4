//! Adding to sums.

use sqlx::{AssertSqlSafe, Error as SqlError, Row};

use super::values::Values;
use super::{ROWS, Writing};
use crate::backend::sql::{Dialect, KeySum, Sum, as_micros, from_bytes, to_bytes};

impl Writing<'_> {
    pub(super) async fn add(
        &mut self,
        table: &str,
        sums: &[Sum],
        ids: &[i64],
    ) -> Result<(), SqlError> {
        let insert = self.sql(&format!(
            "INSERT OR FAIL INTO {table} AS t (series_id, start, count, cost, request_bytes, response_bytes,
                latency) VALUES "
        ));
        let update = format!(
            " ON CONFLICT (series_id, start) DO UPDATE SET {},
            latency = CAST(t.latency || excluded.latency AS BLOB)",
            amounts()
        );
        for sums in sums.chunks(ROWS) {
            let mut values = Values::new(sums.len(), 7);
            for Sum { series, rollup } in sums {
                values
                    .add(ids[*series])?
                    .add(as_micros(rollup.start))?
                    .add(rollup.count.cast_signed())?
                    .add(rollup.cost.cast_signed())?
                    .add(rollup.request_bytes.cast_signed())?
                    .add(rollup.response_bytes.cast_signed())?
                    .add(to_bytes(&rollup.latency))?;
            }
            let sql = format!("{insert}{}{update}", values.places);
            sqlx::query_with(AssertSqlSafe(sql), values.arguments)
                .execute(self.connection())
                .await?;
        }
        // By chance: whatever the pattern of batches, each sum has its turn.
        if fastrand::u8(..16) == 0 {
            self.tidy(table, sums, ids).await?;
        }
        Ok(())
    }

    pub(super) async fn add_by_key(
        &mut self,
        table: &str,
        sums: &[KeySum],
    ) -> Result<(), SqlError> {
        let insert = self.sql(&format!(
            "INSERT OR FAIL INTO {table} AS t (start, line, key_id, owner, outcome, cause, count, cost,
                request_bytes, response_bytes) VALUES "
        ));
        let update = format!(" ON CONFLICT (start, line) DO UPDATE SET {}", amounts());
        for sums in sums.chunks(ROWS) {
            let mut values = Values::new(sums.len(), 10);
            for KeySum { line, rollup } in sums {
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
            let sql = format!("{insert}{}{update}", values.places);
            sqlx::query_with(AssertSqlSafe(sql), values.arguments)
                .execute(self.connection())
                .await?;
        }
        Ok(())
    }

    /// Makes one histogram of those that have gathered in a sum, one behind the other.
    async fn tidy(&mut self, table: &str, sums: &[Sum], ids: &[i64]) -> Result<(), SqlError> {
        let read = self.sql(&format!(
            "SELECT latency FROM {table} WHERE series_id = ? AND start = ? AND length(latency) > 256"
        ));
        let write = self.sql(&format!(
            "UPDATE {table} SET latency = ?3 WHERE series_id = ?1 AND start = ?2"
        ));
        for Sum { series, rollup } in sums {
            let (series, start) = (ids[*series], as_micros(rollup.start));
            let row = sqlx::query(AssertSqlSafe(&*read))
                .bind(series)
                .bind(start)
                .fetch_optional(self.connection())
                .await?;
            if let Some(row) = row {
                let latency = from_bytes(row.try_get(0)?)?;
                sqlx::query(AssertSqlSafe(&*write))
                    .bind(series)
                    .bind(start)
                    .bind(to_bytes(&latency))
                    .execute(self.connection())
                    .await?;
            }
        }
        Ok(())
    }
}

/// Adds all amounts of a sum to those that are there.
fn amounts() -> String {
    let add = |column| Dialect::Sqlite.capped_add(column);
    ["count", "cost", "request_bytes", "response_bytes"]
        .map(add)
        .join(", ")
}

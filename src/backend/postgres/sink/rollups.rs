//! Writing rollups.

use sqlx::{Error as SqlError, Row};

use super::BatchWriter;
use crate::backend::postgres::types::Time;
use crate::backend::sql::{Dialect, KeyRollup, SeriesRollup, as_micros, from_bytes, to_bytes};
use crate::usage::Rollup;

impl BatchWriter<'_> {
    pub(super) async fn add_rollups(
        &mut self,
        table: &str,
        sums: &[SeriesRollup],
        ids: &[i64],
    ) -> Result<(), SqlError> {
        let mut sums: Vec<_> = sums
            .iter()
            .map(|sum| (ids[sum.series], &sum.rollup))
            .collect();
        sums.sort_unstable_by_key(|&(series, rollup)| (series, rollup.start));
        let series: Vec<i64> = sums.iter().map(|&(series, _)| series).collect();
        let rollups = || sums.iter().map(|&(_, rollup)| rollup);
        let starts: Vec<Time> = rollups().map(|sum| Time(as_micros(sum.start))).collect();
        let latencies: Vec<_> = rollups().map(|sum| to_bytes(&sum.latency)).collect();
        let insert = self.sql(&format!(
            "INSERT INTO {table} AS t (series_id, start, count, cost, request_bytes, response_bytes,
                latency)
            SELECT * FROM UNNEST($1::bigint[], $2::timestamptz[], $3::bigint[], $4::bigint[],
                $5::bigint[], $6::bigint[], $7::bytea[])
            ON CONFLICT (series_id, start) DO UPDATE SET {}, {}",
            amounts(),
            Dialect::Postgres.add_latency()
        ));
        let number = |amount: fn(&Rollup) -> u64| numbers(rollups(), amount);
        sqlx::query(insert)
            .bind(&series)
            .bind(&starts)
            .bind(number(|sum| sum.count))
            .bind(number(|sum| sum.cost))
            .bind(number(|sum| sum.request_bytes))
            .bind(number(|sum| sum.response_bytes))
            .bind(latencies)
            .execute(&mut *self.connection)
            .await?;
        // At random, so that every rollup is compacted eventually, whatever the pattern of batches.
        if fastrand::u8(..16) == 0 {
            self.compact_histograms(table, &series, &starts).await?;
        }
        Ok(())
    }

    pub(super) async fn add_key_rollups(
        &mut self,
        table: &str,
        sums: &[KeyRollup],
    ) -> Result<(), SqlError> {
        let rollups = || sums.iter().map(|sum| &sum.rollup);
        let starts: Vec<Time> = rollups().map(|sum| Time(as_micros(sum.start))).collect();
        let hashes: Vec<&[u8]> = sums.iter().map(|sum| &sum.hash[..]).collect();
        let keys: Vec<_> = rollups()
            .map(|sum| sum.key.map(|key| key.to_string()))
            .collect();
        let owners: Vec<_> = rollups().map(|sum| sum.owner.as_deref()).collect();
        let outcomes: Vec<_> = rollups().map(|sum| sum.outcome.as_str()).collect();
        let causes = rollups().map(|sum| sum.cause.map(|cause| cause.as_str()));
        let insert = self.sql(&format!(
            "INSERT INTO {table} AS t (start, hash, key_id, owner, outcome, cause, count, cost,
                request_bytes, response_bytes)
            SELECT * FROM UNNEST($1::timestamptz[], $2::bytea[], $3::text[], $4::text[], $5::text[],
                $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])
            ON CONFLICT (start, hash) DO UPDATE SET {}",
            amounts()
        ));
        let number = |amount: fn(&Rollup) -> u64| numbers(rollups(), amount);
        sqlx::query(insert)
            .bind(starts)
            .bind(hashes)
            .bind(keys)
            .bind(owners)
            .bind(outcomes)
            .bind(causes.collect::<Vec<_>>())
            .bind(number(|sum| sum.count))
            .bind(number(|sum| sum.cost))
            .bind(number(|sum| sum.request_bytes))
            .bind(number(|sum| sum.response_bytes))
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }

    /// Compacts concatenated histograms. The rows were just written, so this transaction has them locked.
    async fn compact_histograms(
        &mut self,
        table: &str,
        series: &[i64],
        starts: &[Time],
    ) -> Result<(), SqlError> {
        let read = self.sql(&format!(
            "SELECT t.series_id, t.start, t.latency FROM {table} t
            JOIN UNNEST($1::bigint[], $2::timestamptz[]) AS one(series_id, start)
            USING (series_id, start) WHERE length(t.latency) > 256"
        ));
        let rows = sqlx::query(read)
            .bind(series)
            .bind(starts)
            .fetch_all(&mut *self.connection)
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
        let write = self.sql(&format!(
            "UPDATE {table} t SET latency = one.latency
            FROM UNNEST($1::bigint[], $2::timestamptz[], $3::bytea[])
                AS one(series_id, start, latency)
            WHERE t.series_id = one.series_id AND t.start = one.start"
        ));
        sqlx::query(write)
            .bind(series)
            .bind(starts)
            .bind(latencies)
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }
}

/// Assignments for an upsert that adds all amounts.
fn amounts() -> String {
    let add = |column| Dialect::Postgres.capped_add(column);
    ["count", "cost", "request_bytes", "response_bytes"]
        .map(add)
        .join(", ")
}

fn numbers<'a>(sums: impl Iterator<Item = &'a Rollup>, amount: fn(&Rollup) -> u64) -> Vec<i64> {
    sums.map(|sum| amount(sum).cast_signed()).collect()
}

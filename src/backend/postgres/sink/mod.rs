//! Writing usage to PostgreSQL.

mod series;

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Error as SqlError, Executor, Postgres};

use super::PostgresBackend;
use super::copy::Copy;
use super::engine::{LockKey, PostgresEngine, bound};
use super::partitions::{CHECK_VIOLATION, code, day};
use super::types::{Id, Time};
use crate::backend::sql::{BatchRollup, Hash, RollupRecord, as_micros, id_time_differs, today};
use crate::telemetry;
use crate::usage::{Batch, SinkError, UsageEvent, UsageSink};

/// Whether the encoding of the database cannot represent a text (`character_not_in_repertoire` and
/// `untranslatable_character`). Retrying would not help, and would block later batches.
fn is_encoding_error(code: &str) -> bool {
    matches!(code, "22021" | "22P05")
}

/// Requests to log, each with the index of its series.
type Logged<'a> = Vec<(&'a UsageEvent, usize)>;

#[async_trait]
impl UsageSink for PostgresBackend {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        let mut written = self.write_once(batch, true).await;
        if is_partition_error(&written) {
            // A partition was dropped after this process had cached its existence.
            self.0.engine.partition_cache.clear();
            written = self.write_once(batch, true).await;
        }
        if let Err(error) = &written
            && is_partition_error(&written)
        {
            // Write rollups only: they do not depend on the log, and later batches wait for this one.
            warn_not_logged(batch.len(), error);
            written = self.write_once(batch, false).await;
        }
        if written.is_err() {
            // The cached ids may be from another database, for instance after a restore or a failover.
            self.0.engine.series_cache.clear();
            self.0.engine.partition_cache.clear();
        }
        written.map_err(|error| match &error {
            SqlError::Database(database)
                if is_encoding_error(&database.code().unwrap_or_default()) =>
            {
                SinkError::rejected(error)
            }
            _ => SinkError::unavailable(error),
        })
    }
}

/// Whether the log could not store a request.
fn is_partition_error(written: &Result<(), SqlError>) -> bool {
    let error = written.as_ref().err();
    error.is_some_and(|error| code(error).as_deref() == Some(CHECK_VIOLATION))
}

fn warn_not_logged(events: usize, error: &SqlError) {
    telemetry::warn!(
        events,
        error = error as &dyn std::error::Error,
        "cannot write a batch to the request log; only rollups are written"
    );
}

impl PostgresBackend {
    /// Writes rollups, and also the request log if `logs` is set.
    async fn write_once(&self, batch: &Batch, logs: bool) -> Result<(), SqlError> {
        let engine = &*self.0.engine;
        let grouped = BatchRollup::new(batch.events());
        let events = batch.events().iter();
        let rows = events.zip(grouped.series_of_event.iter().copied());
        let mut logged: Logged<'_> = rows
            .filter(|(event, _)| logs && self.0.sampling.keeps(event))
            .collect();
        let days: BTreeSet<_> = logged.iter().map(|(event, _)| day(event.time)).collect();
        let without = engine.ensure_partitions(&days).await?;
        if !without.is_empty() {
            logged.retain(|(event, _)| !without.contains(&day(event.time)));
        }

        let today = today();
        let mut guard = CloseGuard::new(engine.pool.acquire().await?);
        let ids = write(engine, guard.connection(), batch, &grouped, &logged, today).await?;
        guard.release();
        engine.series_cache.insert(ids, today);
        self.0.merging.ensure(&self.0.engine);
        Ok(())
    }
}

/// Closes the connection, and so rolls back its transaction, unless it is released. A connection that was
/// interrupted during `COPY` cannot be reused.
struct CloseGuard {
    connection: PoolConnection<Postgres>,
    released: bool,
}

impl CloseGuard {
    fn new(connection: PoolConnection<Postgres>) -> Self {
        Self {
            connection,
            released: false,
        }
    }

    fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    fn release(mut self) {
        self.released = true;
    }
}

impl Drop for CloseGuard {
    fn drop(&mut self) {
        if !self.released {
            self.connection.close_on_drop();
        }
    }
}

/// Writes a batch in one transaction. Returns the series ids that were not cached.
///
/// All processes write tables and rows in the same order, which prevents deadlocks.
async fn write(
    engine: &PostgresEngine,
    connection: &mut PgConnection,
    batch: &Batch,
    grouped: &BatchRollup<'_>,
    logged: &Logged<'_>,
    today: i64,
) -> Result<Vec<(Hash, i64)>, SqlError> {
    connection.execute("BEGIN").await?;
    let claim = "INSERT INTO §batches (id, applied_at) VALUES ($1, now()) ON CONFLICT DO NOTHING
        RETURNING number";
    let claimed = sqlx::query_scalar(AssertSqlSafe(engine.names.sql(claim)))
        .bind(Id(batch.id.into_bytes()))
        .fetch_optional(&mut *connection)
        .await?;
    let Some(number) = claimed else {
        connection.execute("ROLLBACK").await?;
        return Ok(Vec::new());
    };
    let mut writing = BatchWriter { engine, connection };
    let (ids, new_ids) = writing.series_ids(&grouped.series, today).await?;
    writing.log(number, logged, &ids).await?;
    if let Some(record) = grouped.record(&ids) {
        writing.add_record(record).await?;
    }
    writing.update_last_used(grouped).await?;
    writing.commit(number, logged).await?;
    Ok(new_ids)
}

/// A transaction that writes a batch.
struct BatchWriter<'a> {
    engine: &'a PostgresEngine,
    connection: &'a mut PgConnection,
}

impl BatchWriter<'_> {
    fn sql(&self, template: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(self.engine.names.sql(template))
    }

    async fn log(&mut self, batch: i64, logged: &Logged<'_>, ids: &[i64]) -> Result<(), SqlError> {
        if logged.is_empty() {
            return Ok(());
        }
        let mut rows = Copy::new(logged.len());
        for &(event, series) in logged {
            rows.row(14)
                .time(as_micros(event.time))
                .bytes(Some(event.id.as_bytes()))
                .bytes(id_time_differs(event).then_some(&[1]))
                .integer(ids[series])
                .text(event.request_id.as_deref())
                .text(Some(&event.path))
                .text(event.resource_id.as_deref())
                .text(event.rejection_reason.map(|reason| reason.as_str()))
                .integer(event.cost.into())
                .integer(event.latency_us.cast_signed())
                .integer(event.request_bytes.cast_signed())
                .integer(event.response_bytes.cast_signed())
                .address(event.client_ip)
                .integer(batch);
        }
        let copy = self.sql(
            "COPY §requests (time, id, id_time_differs, series_id, request_id, path, resource_id, rejection_reason, cost,
                latency_us, request_bytes, response_bytes, client_ip, batch)
            FROM STDIN (FORMAT binary)",
        );
        let mut copying = self.connection.copy_in_raw(&copy.0).await?;
        copying.send(rows.finish()).await?;
        copying.finish().await?;
        Ok(())
    }

    async fn add_record(&mut self, record: RollupRecord) -> Result<(), SqlError> {
        let insert = record.insert(&self.engine.names, false);
        sqlx::query_with(AssertSqlSafe(insert.text), bound(insert.values)?)
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }

    /// Assigns the batch its position in commit order and commits, in one message, since other batches wait for
    /// the lock meanwhile.
    async fn commit(self, batch: i64, logged: &Logged<'_>) -> Result<(), SqlError> {
        let times = || logged.iter().map(|(event, _)| event.time);
        let mut script = String::new();
        if let (Some(first), Some(last)) = (times().min(), times().max()) {
            script = self.engine.names.sql(&format!(
                "WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock({}))
                INSERT INTO §log_batches (number, first, last, events)
                SELECT {batch}, '{first}', '{last}', {} FROM turn; ",
                self.engine.lock_key(LockKey::LogOrder),
                logged.len()
            ));
        }
        script.push_str("COMMIT");
        self.connection
            .execute(sqlx::raw_sql(AssertSqlSafe(script)))
            .await?;
        Ok(())
    }

    /// Updates the last use of keys, to the current time at most, in case a clock is ahead.
    async fn update_last_used(&mut self, grouped: &BatchRollup<'_>) -> Result<(), SqlError> {
        if grouped.last_used.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = grouped.last_used.keys().map(|key| key.as_str()).collect();
        let times: Vec<_> = grouped.last_used.values().map(|&time| Time(time)).collect();
        let touch = self.sql(
            "WITH used AS (SELECT id, least(time, now()) AS time
                FROM UNNEST($1::text[], $2::timestamptz[]) AS used(id, time)),
            held AS (SELECT k.id FROM §keys k JOIN used ON used.id = k.id
                WHERE k.last_used_at IS NULL OR k.last_used_at < used.time
                ORDER BY k.id FOR NO KEY UPDATE OF k)
            UPDATE §keys k SET last_used_at = greatest(k.last_used_at, used.time)
            FROM held JOIN used ON used.id = held.id WHERE k.id = held.id",
        );
        sqlx::query(touch)
            .bind(keys)
            .bind(times)
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }
}

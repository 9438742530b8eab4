//! Writing usage to PostgreSQL.

mod series;
mod sums;

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Error as SqlError, Executor, Postgres};

use super::PostgresBackend;
use super::copy::Copy;
use super::engine::{LockKey, PostgresEngine};
use super::partitions::{NO_PARTITION, code, day};
use super::types::{Id, Time};
use crate::backend::sql::{BatchRollup, Hash, as_micros, is_apart, today};
use crate::telemetry;
use crate::usage::{Batch, SinkError, UsageEvent, UsageSink};

/// Whether a text cannot be kept in the database's encoding (`character_not_in_repertoire` and
/// `untranslatable_character`). Trying again would not help, and would hold up all that comes behind.
fn is_unfit(code: &str) -> bool {
    matches!(code, "22021" | "22P05")
}

/// Requests for the log, each with the place of its series.
type Logged<'a> = Vec<(&'a UsageEvent, usize)>;

#[async_trait]
impl UsageSink for PostgresBackend {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        let mut written = self.write_once(batch, true).await;
        if is_misplaced(&written) {
            // The partition was dropped after this process had seen it.
            self.0.engine.known_days.forget();
            written = self.write_once(batch, true).await;
        }
        if let Err(error) = &written
            && is_misplaced(&written)
        {
            // Sums do not depend on the log, and all that comes behind waits for this batch.
            report_unlogged(batch.events.len(), error);
            written = self.write_once(batch, false).await;
        }
        if written.is_err() {
            // Whatever went wrong, the database may not be the one that told the numbers.
            self.0.engine.known.forget();
            self.0.engine.known_days.forget();
        }
        written.map_err(|error| match &error {
            SqlError::Database(database) if is_unfit(&database.code().unwrap_or_default()) => {
                SinkError::rejected(error)
            }
            _ => SinkError::unavailable(error),
        })
    }
}

/// Whether there was no partition for a request.
fn is_misplaced(written: &Result<(), SqlError>) -> bool {
    let error = written.as_ref().err();
    error.is_some_and(|error| code(error).as_deref() == Some(NO_PARTITION))
}

fn report_unlogged(events: usize, error: &SqlError) {
    telemetry::warn!(
        events,
        error = error as &dyn std::error::Error,
        "the request log does not take a batch: only sums are made of it"
    );
}

impl PostgresBackend {
    /// `logs` tells whether requests go to the log, and not only into sums.
    async fn write_once(&self, batch: &Batch, logs: bool) -> Result<(), SqlError> {
        let engine = &*self.0.engine;
        let grouped = BatchRollup::new(&batch.events);
        let rows = batch.events.iter().zip(grouped.of_event.iter().copied());
        let mut logged: Logged<'_> = rows
            .filter(|(event, _)| logs && self.0.keep.keeps(event))
            .collect();
        let days: BTreeSet<_> = logged.iter().map(|(event, _)| day(event.time)).collect();
        let without = engine.ensure_partitions(&days).await?;
        if !without.is_empty() {
            logged.retain(|(event, _)| !without.contains(&day(event.time)));
        }

        let today = today();
        let mut held = CutOff::new(engine.pool.acquire().await?);
        let learnt = write(engine, held.connection(), batch, &grouped, &logged, today).await?;
        held.release();
        engine.known.learn(learnt, today);
        Ok(())
    }
}

/// Closes its connection when it is dropped half way, which also ends its transaction: one that was cut off while
/// it copied rows is not worth mending.
struct CutOff {
    connection: PoolConnection<Postgres>,
    whole: bool,
}

impl CutOff {
    fn new(connection: PoolConnection<Postgres>) -> Self {
        Self {
            connection,
            whole: false,
        }
    }

    fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    fn release(mut self) {
        self.whole = true;
    }
}

impl Drop for CutOff {
    fn drop(&mut self) {
        if !self.whole {
            self.connection.close_on_drop();
        }
    }
}

/// Writes a batch in one transaction; answers the series that were looked up.
///
/// All processes write the same tables in the same order, and the rows of each in the same order, so
/// that none waits for another that waits for it.
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
    let mut writing = Writing { engine, connection };
    let (ids, learnt) = writing.number(&grouped.series, today).await?;
    writing.log(number, logged, &ids).await?;
    writing.add("§minutes", &grouped.minutes, &ids).await?;
    writing.add("§hours", &grouped.hours, &ids).await?;
    writing.add("§days", &grouped.days, &ids).await?;
    let by_key = [
        ("§key_minutes", &grouped.key_minutes),
        ("§key_hours", &grouped.key_hours),
    ];
    for (table, sums) in by_key {
        writing.add_by_key(table, sums).await?;
    }
    writing.touch(grouped).await?;
    writing.commit(number, logged).await?;
    Ok(learnt)
}

/// A batch on its way.
struct Writing<'a> {
    engine: &'a PostgresEngine,
    connection: &'a mut PgConnection,
}

impl Writing<'_> {
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
                .bytes(is_apart(event).then_some(&[1]))
                .integer(ids[series])
                .text(event.request_id.as_deref())
                .text(Some(&event.path))
                .text(event.resource_id.as_deref())
                .text(event.rejection_reason.map(|refusal| refusal.as_str()))
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

    /// Gives the batch its place in the order of commits, and commits it: in one message, since all other batches
    /// wait for the lock meanwhile.
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

    /// Notes when keys were last used: by now, whatever a clock that is ahead tells.
    async fn touch(&mut self, grouped: &BatchRollup<'_>) -> Result<(), SqlError> {
        if grouped.used.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = grouped.used.keys().map(|key| key.as_str()).collect();
        let times: Vec<_> = grouped.used.values().map(|&time| Time(time)).collect();
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

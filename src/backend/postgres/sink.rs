//! Writing usage to PostgreSQL.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Error as SqlError, Executor, Postgres, Row as _};

use super::PostgresBackend;
use super::copy::Copy;
use super::engine::{LockKey, PostgresEngine, bound};
use super::partitions::{CHECK_VIOLATION, code, day};
use super::types::Time;
use crate::backend::key_activity::KeyActivity;
use crate::backend::sql::{
    BatchRollup, Numbers, RollupRecord, SegmentPart, SegmentParts, Series, Statement, as_micros,
    changed, decode, id_time_differs, select, stored_path, timestamp,
};
use crate::id::KeyId;
use crate::telemetry;
use crate::usage::{Batch, SinkError, UsageEvent, UsageSink};

/// Whether the encoding of the database cannot represent a text (`character_not_in_repertoire` and
/// `untranslatable_character`). Retrying would not help, and would block later batches.
fn is_encoding_error(code: &str) -> bool {
    matches!(code, "22021" | "22P05")
}

/// Requests to log.
type Logged<'a> = Vec<(&'a UsageEvent, Series)>;

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
            // The caches may be of another database, for instance after a restore or a failover.
            self.0.engine.dictionaries.clear();
            self.0.engine.activity.clear();
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
        for _ in 0..2 {
            let numbers = engine
                .dictionaries
                .numbers(engine, &grouped.callers, &grouped.kinds)
                .await?;
            let mut logged: Logged<'_> = grouped
                .events(&numbers)
                .filter(|(event, _)| logs && self.0.sampling.keeps(event))
                .collect();
            // Neighbors in the index on callers and kinds are then inserted together.
            logged.sort_by_key(|&(_, series)| series);
            let days: BTreeSet<_> = logged.iter().map(|(event, _)| day(event.time)).collect();
            let without = engine.ensure_partitions(&days).await?;
            if !without.is_empty() {
                logged.retain(|(event, _)| !without.contains(&day(event.time)));
            }
            let mut guard = CloseGuard::new(engine.pool.acquire().await?);
            let written = write(
                engine,
                guard.connection(),
                batch,
                &grouped,
                &numbers,
                &logged,
            );
            let is_written = written.await?;
            guard.release();
            if is_written {
                self.0.merging.ensure(&self.0.engine);
                return Ok(());
            }
            engine.dictionaries.clear();
            engine.activity.clear();
        }
        Err(decode("the dictionaries have changed repeatedly"))
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

/// Writes a batch in one transaction, unless it was written before. Returns `false` if the numbers are not those of
/// this database.
///
/// All processes write tables and rows in the same order, which prevents deadlocks.
async fn write(
    engine: &PostgresEngine,
    connection: &mut PgConnection,
    batch: &Batch,
    grouped: &BatchRollup<'_>,
    numbers: &Numbers,
    logged: &Logged<'_>,
) -> Result<bool, SqlError> {
    connection.execute("BEGIN").await?;
    let mut writing = BatchWriter { engine, connection };
    let parts = SegmentParts::new(logged.iter().map(|(event, _)| as_micros(event.time)));
    let Some(claimed) = writing.claim(batch, numbers, &parts).await? else {
        connection.execute("ROLLBACK").await?;
        return Ok(true);
    };
    if !claimed.are_valid {
        connection.execute("ROLLBACK").await?;
        return Ok(false);
    }
    writing.log(&claimed, &parts, logged).await?;
    if let Some(record) = grouped.record(numbers) {
        writing.add_record(record).await?;
    }
    let now = as_micros(Timestamp::now());
    let mut activity = engine.activity.divide(grouped.activity(now), now);
    writing.add_activity(&activity.due).await?;
    activity.committing();
    writing.commit(&claimed, &parts).await?;
    activity.committed(now);
    Ok(true)
}

/// The claim of a batch.
struct Claimed {
    /// Its number.
    number: i64,
    /// The segments of the log for its requests.
    segment: i32,
    late_segment: i32,
    /// Whether the numbers of callers and kinds are from this database.
    are_valid: bool,
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

    /// Claims a batch; `None` if it was written before.
    async fn claim(
        &mut self,
        batch: &Batch,
        numbers: &Numbers,
        parts: &SegmentParts,
    ) -> Result<Option<Claimed>, SqlError> {
        let names = &self.engine.names;
        let claim =
            "WITH claimed AS (INSERT INTO {prefix}batches (id, applied_at) VALUES ($1, now())
                ON CONFLICT DO NOTHING RETURNING number)
            SELECT number, ";
        let mut claim = Statement::new(names, claim).bind(batch.id);
        parts.push_numbers(&mut claim, names);
        claim.push(", (");
        numbers.push_are_valid(&mut claim, names);
        claim.push(") AS are_valid FROM claimed");
        let row = sqlx::query_with(AssertSqlSafe(claim.text), bound(claim.values)?)
            .fetch_optional(&mut *self.connection)
            .await?;
        let claimed = row.map(|row| {
            Ok(Claimed {
                number: row.try_get(0)?,
                segment: row.try_get(1)?,
                late_segment: row.try_get(2)?,
                are_valid: row.try_get(3)?,
            })
        });
        claimed.transpose()
    }

    async fn log(
        &mut self,
        claimed: &Claimed,
        parts: &SegmentParts,
        logged: &Logged<'_>,
    ) -> Result<(), SqlError> {
        if logged.is_empty() {
            return Ok(());
        }
        let mut rows = Copy::new(logged.len());
        for &(event, Series { caller, kind }) in logged {
            let time = as_micros(event.time);
            let segment = parts.segment_of(time, claimed.segment, claimed.late_segment);
            rows.row(17)
                .time(time)
                .bytes(Some(event.id.as_bytes()))
                // The lower 32 bits. Batches with the same ones are in other segments.
                .integer(claimed.number as i32)
                .integer_or_bigint(event.latency_us)
                .integer_or_bigint(event.response_bytes)
                .bigint(Some(event.request_bytes.cast_signed()).filter(|&bytes| bytes != 0))
                .bigint(Some(event.cost.into()).filter(|&cost| cost != 1))
                .integer(segment)
                .integer(caller)
                .integer(kind)
                .text(stored_path(event))
                .text(event.request_id.as_deref())
                .text(event.resource_id.as_deref())
                .address(event.client_ip)
                .bytes(id_time_differs(event).then_some(&[1]));
        }
        let copy = self.sql(
            "COPY {prefix}requests (time, id, batch, latency_us, large_latency_us, response_bytes,
                large_response_bytes, request_bytes, cost, segment, caller_id, kind_id, path, request_id, resource_id,
                client_ip, id_time_differs)
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

    /// Assigns the batch its position in commit order, updates its segments, and commits, in one message, since other
    /// batches wait for the lock meanwhile.
    async fn commit(self, claimed: &Claimed, parts: &SegmentParts) -> Result<(), SqlError> {
        let values = |part: SegmentPart| {
            let (first, last) = (timestamp(part.first)?, timestamp(part.last)?);
            Ok::<_, SqlError>(format!("'{first}', '{last}', {}", part.events))
        };
        let mut script = String::new();
        if let Some(all) = parts.all() {
            script = format!(
                "WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock({}))
                INSERT INTO {{prefix}}log_batches (number, first, last, events, segment, late_segment)
                SELECT {}, {}, {}, {} FROM turn; ",
                self.engine.lock_key(LockKey::LogOrder),
                claimed.number,
                values(all)?,
                claimed.segment,
                match parts.late {
                    Some(_) => claimed.late_segment.to_string(),
                    None => "NULL".into(),
                },
            );
        }
        // In the order of their numbers, which prevents deadlocks.
        for (number, part) in parts.numbered(claimed.segment, claimed.late_segment) {
            script.push_str(&format!(
                "INSERT INTO {{prefix}}log_segments AS s (number, first, last, events) VALUES ({number}, {})
                ON CONFLICT (number) DO UPDATE SET first = least(s.first, excluded.first),
                    last = greatest(s.last, excluded.last), events = s.events + excluded.events; ",
                values(part)?,
            ));
        }
        script.push_str("COMMIT");
        let script = self.sql(&script);
        self.connection.execute(sqlx::raw_sql(script)).await?;
        Ok(())
    }

    /// Adds to the activity of keys. Limits times to the current time, in case a clock is ahead.
    async fn add_activity(&mut self, batch: &BTreeMap<KeyId, KeyActivity>) -> Result<(), SqlError> {
        if batch.is_empty() {
            return Ok(());
        }
        let select = select(&self.engine.names, batch);
        let rows = sqlx::query_with(AssertSqlSafe(select.text), bound(select.values)?)
            .fetch_all(&mut *self.connection)
            .await?;
        let changed = changed(&rows, batch)?;
        if changed.is_empty() {
            return Ok(());
        }
        let time = |time: Option<i64>| time.map(Time);
        let activity = || changed.iter().map(|(_, activity)| activity);
        let update = self.sql(
            "UPDATE {prefix}keys k SET first_accepted_at = CASE WHEN new.first > now() THEN now() ELSE new.first END,
                last_accepted_at = CASE WHEN new.last > now() THEN now() ELSE new.last END,
                rejected_since = new.count, rejected_times = new.times
            FROM UNNEST($1::text[], $2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::bytea[])
                AS new(id, first, last, count, times)
            WHERE k.id = new.id",
        );
        sqlx::query(update)
            .bind(
                changed
                    .iter()
                    .map(|(key, _)| key.as_str())
                    .collect::<Vec<_>>(),
            )
            .bind(
                activity()
                    .map(|it| time(it.first_accepted))
                    .collect::<Vec<_>>(),
            )
            .bind(
                activity()
                    .map(|it| time(it.last_accepted))
                    .collect::<Vec<_>>(),
            )
            .bind(
                activity()
                    .map(KeyActivity::rejected_since)
                    .collect::<Vec<_>>(),
            )
            .bind(
                activity()
                    .map(KeyActivity::rejected_bytes)
                    .collect::<Vec<_>>(),
            )
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }
}

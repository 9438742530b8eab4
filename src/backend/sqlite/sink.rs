//! Writing usage to SQLite.
//!
//! Statements with many rows use `OR FAIL`, which saves SQLite a statement journal. If a batch fails, the whole
//! transaction is rolled back.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Error as SqlError};

use super::values::{ROWS, Values};
use super::{SqliteBackend, SqliteSession};
use crate::backend::key_activity::KeyActivity;
use crate::backend::sql::{
    BatchRollup, Engine, Numbers, Row, SegmentPart, SegmentParts, Series, Session, Statement,
    as_micros, changed, decode, id_time_differs, select, stored_path,
};
use crate::id::KeyId;
use crate::usage::{Batch, SinkError, UsageSink};

#[async_trait]
impl UsageSink for SqliteBackend {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        let written = self.write_once(batch).await;
        if written.is_err() {
            // The cache may be of another database, if the file was replaced.
            self.0.engine.dictionaries.clear();
            self.0.engine.activity.clear();
        }
        written.map_err(SinkError::unavailable)
    }
}

impl SqliteBackend {
    async fn write_once(&self, batch: &Batch) -> Result<(), SqlError> {
        let engine = &self.0.engine;
        let grouped = BatchRollup::new(batch.events());
        for _ in 0..2 {
            let numbers = engine
                .dictionaries
                .numbers(&**engine, &grouped.callers, &grouped.kinds)
                .await?;
            if self.write_numbered(batch, &grouped, &numbers).await? {
                self.0.merging.ensure(engine);
                return Ok(());
            }
            engine.dictionaries.clear();
            engine.activity.clear();
        }
        Err(decode("the dictionaries have changed repeatedly"))
    }

    /// Writes a batch, unless it was written before. Returns `false` if the numbers are not those of this database.
    async fn write_numbered(
        &self,
        batch: &Batch,
        grouped: &BatchRollup<'_>,
        numbers: &Numbers,
    ) -> Result<bool, SqlError> {
        let engine = &self.0.engine;
        let mut session = engine.writer().await?;
        let claim =
            "INSERT INTO {prefix}batches (id, applied_at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        let claim = Statement::new(&engine.names, claim)
            .bind(batch.id)
            .bind(as_micros(Timestamp::now()));
        if session.execute(claim).await? == 0 {
            return Ok(true);
        }
        let mut check = Statement::new(&engine.names, "SELECT ");
        numbers.push_are_valid(&mut check, &engine.names);
        check.push(" AS are_valid");
        let rows = session.fetch(check).await?;
        if !Row::boolean(rows.first().ok_or(SqlError::RowNotFound)?, "are_valid")? {
            return Ok(false);
        }
        let mut writing = BatchWriter {
            backend: self,
            session,
        };
        writing.log(grouped, numbers).await?;
        if let Some(record) = grouped.record(numbers) {
            let insert = record.insert(&engine.names, false);
            writing.session.execute(insert).await?;
        }
        let now = as_micros(Timestamp::now());
        let mut activity = engine.activity.divide(grouped.activity(now), now);
        writing.add_activity(&activity.due).await?;
        activity.committing();
        writing.session.commit().await?;
        activity.committed(now);
        Ok(true)
    }
}

/// A transaction that writes a batch.
struct BatchWriter<'a> {
    backend: &'a SqliteBackend,
    session: SqliteSession,
}

impl BatchWriter<'_> {
    fn connection(&mut self) -> &mut SqliteConnection {
        self.session.connection()
    }

    fn sql(&self, template: &str) -> String {
        self.backend.0.engine.names.sql(template)
    }

    async fn log(&mut self, grouped: &BatchRollup<'_>, numbers: &Numbers) -> Result<(), SqlError> {
        let insert = self.sql(
            "INSERT OR FAIL INTO {prefix}requests (row, time, id, latency_us, response_bytes, request_bytes, cost,
                segment, caller_id, kind_id, path, request_id, resource_id, client_ip, id_time_differs)
            VALUES ",
        );
        let keep = self.backend.0.sampling;
        let mut rows: Vec<_> = grouped
            .events(numbers)
            .filter(|(event, _)| keep.keeps(event))
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        // Neighbors in the index on callers and kinds are then inserted together.
        rows.sort_by_key(|&(_, series)| series);
        // Cursors require that row numbers are never reused.
        let last = self.sql(
            "SELECT max(coalesce((SELECT max(row) FROM {prefix}requests), 0),
                (SELECT position FROM {prefix}log_pruned))",
        );
        let mut row: i64 = sqlx::query_scalar(AssertSqlSafe(last))
            .fetch_one(self.connection())
            .await?;
        let parts = SegmentParts::new(rows.iter().map(|(event, _)| as_micros(event.time)));
        let names = &self.backend.0.engine.names;
        let mut numbers = Statement::new(names, "SELECT ");
        parts.push_numbers(&mut numbers, names);
        let found = self.session.fetch(numbers).await?;
        let found = found.first().ok_or(SqlError::RowNotFound)?;
        let number = |column| Row::integer(found, column)?.ok_or(SqlError::RowNotFound);
        let (segment, late_segment) = (number("segment")?, number("late_segment")?);
        for rows in rows.chunks(ROWS) {
            let mut values = Values::new(rows.len(), 15);
            for &(event, Series { caller, kind }) in rows {
                row += 1;
                let time = as_micros(event.time);
                let segment = parts.segment_of(time, segment, late_segment);
                values
                    .add(row)?
                    .add(time)?
                    .add(&event.id.as_bytes()[..])?
                    .add(event.latency_us.cast_signed())?
                    .add(event.response_bytes.cast_signed())?
                    .add(event.request_bytes.cast_signed())?
                    .add(i64::from(event.cost))?
                    .add(segment)?
                    .add(caller)?
                    .add(kind)?
                    .add(stored_path(event))?
                    .add(event.request_id.as_deref())?
                    .add(event.resource_id.as_deref())?
                    .add(event.client_ip.map(|address| address.to_string()))?
                    .add(id_time_differs(event).then_some(true))?;
            }
            let sql = format!("{insert}{}", values.placeholders);
            sqlx::query_with(AssertSqlSafe(sql), values.arguments)
                .execute(self.connection())
                .await?;
        }
        for (number, part) in parts.numbered(segment, late_segment) {
            let SegmentPart {
                first,
                last,
                events,
            } = part;
            let upsert = "INSERT INTO {prefix}log_segments AS s (number, first, last, events)
                VALUES ($1, $2, $3, $4)
                ON CONFLICT (number) DO UPDATE SET first = min(s.first, excluded.first),
                    last = max(s.last, excluded.last), events = s.events + excluded.events";
            let upsert = Statement::new(&self.backend.0.engine.names, upsert)
                .bind(number)
                .bind(first)
                .bind(last)
                .bind(events);
            self.session.execute(upsert).await?;
        }
        Ok(())
    }

    /// Adds to the activity of keys.
    async fn add_activity(&mut self, batch: &BTreeMap<KeyId, KeyActivity>) -> Result<(), SqlError> {
        if batch.is_empty() {
            return Ok(());
        }
        let names = &self.backend.0.engine.names;
        let rows = self.session.fetch(select(names, batch)).await?;
        let update = self.sql(
            ") UPDATE {prefix}keys AS k SET first_accepted_at = new.first, last_accepted_at = new.last,
                rejected_since = new.count, rejected_times = new.times
            FROM new WHERE k.id = new.id",
        );
        for changed in changed(&rows, batch)?.chunks(ROWS) {
            let mut values = Values::new(changed.len(), 5);
            for (key, activity) in changed {
                values
                    .add(key.as_str())?
                    .add(activity.first_accepted)?
                    .add(activity.last_accepted)?
                    .add(activity.rejected_since())?
                    .add(activity.rejected_bytes())?;
            }
            let sql = format!(
                "WITH new(id, first, last, count, times) AS (VALUES {}{update}",
                values.placeholders
            );
            sqlx::query_with(AssertSqlSafe(sql), values.arguments)
                .execute(self.connection())
                .await?;
        }
        Ok(())
    }
}

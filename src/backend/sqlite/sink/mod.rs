//! Writing usage to SQLite.
//!
//! Statements of many rows say `OR FAIL`: SQLite then keeps no journal of what one of them has written
//! so far. A batch that fails is undone as a whole.

mod series;
mod sums;
mod values;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Error as SqlError};

use self::values::Values;
use super::{SqliteBackend, SqliteSession};
use crate::backend::sql::{BatchRollup, Engine, Session, Statement, as_micros, is_apart, today};
use crate::usage::{Batch, SinkError, UsageEvent, UsageSink};

/// Rows in one statement: enough that the statement's own cost does not count.
const ROWS: usize = 128;

#[async_trait]
impl UsageSink for SqliteBackend {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        let written = self.write_once(batch).await;
        if written.is_err() {
            // Whatever went wrong, the database may not be the one that told the numbers.
            self.0.engine.known.forget();
        }
        written.map_err(SinkError::unavailable)
    }
}

impl SqliteBackend {
    async fn write_once(&self, batch: &Batch) -> Result<(), SqlError> {
        let grouped = BatchRollup::new(&batch.events);
        let engine = &self.0.engine;
        let mut session = engine.writer().await?;
        let claim = "INSERT INTO §batches (id, applied_at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        let claim = Statement::new(&engine.names, claim)
            .bind(batch.id)
            .bind(as_micros(Timestamp::now()));
        if session.run(claim).await? == 0 {
            return Ok(());
        }
        let mut writing = Writing {
            backend: self,
            session,
            today: today(),
        };
        let (ids, learnt) = writing.number(&grouped).await?;
        writing.log(&batch.events, &grouped, &ids).await?;
        writing.add("§minutes", &grouped.minutes, &ids).await?;
        writing.add("§hours", &grouped.hours, &ids).await?;
        writing.add("§days", &grouped.days, &ids).await?;
        writing
            .add_by_key("§key_minutes", &grouped.key_minutes)
            .await?;
        writing.add_by_key("§key_hours", &grouped.key_hours).await?;
        writing.touch(&grouped).await?;
        let today = writing.today;
        writing.session.commit().await?;
        engine.known.learn(learnt, today);
        Ok(())
    }
}

/// A batch on its way.
struct Writing<'a> {
    backend: &'a SqliteBackend,
    session: SqliteSession,
    today: i64,
}

impl Writing<'_> {
    fn connection(&mut self) -> &mut SqliteConnection {
        self.session.connection()
    }

    fn sql(&self, template: &str) -> String {
        self.backend.0.engine.names.sql(template)
    }

    async fn log(
        &mut self,
        events: &[UsageEvent],
        grouped: &BatchRollup<'_>,
        ids: &[i64],
    ) -> Result<(), SqlError> {
        let insert = self.sql(
            "INSERT OR FAIL INTO §requests (row, time, id, id_time_differs, series_id, request_id, path, resource_id, rejection_reason,
                cost, latency_us, request_bytes, response_bytes, client_ip) VALUES ",
        );
        let keep = self.backend.0.keep;
        let rows = events.iter().zip(&grouped.of_event);
        let rows: Vec<_> = rows.filter(|(event, _)| keep.keeps(event)).collect();
        // No number is given twice, for cursors.
        let last = self.sql(
            "SELECT max(coalesce((SELECT max(row) FROM §requests), 0), (SELECT position FROM §log_pruned))",
        );
        let mut row: i64 = sqlx::query_scalar(AssertSqlSafe(last))
            .fetch_one(self.connection())
            .await?;
        for rows in rows.chunks(ROWS) {
            let mut values = Values::new(rows.len(), 14);
            for &(event, &series) in rows {
                row += 1;
                values
                    .add(row)?
                    .add(as_micros(event.time))?
                    .add(&event.id.as_bytes()[..])?
                    .add(is_apart(event).then_some(true))?
                    .add(ids[series])?
                    .add(event.request_id.as_deref())?
                    .add(&*event.path)?
                    .add(event.resource_id.as_deref())?
                    .add(event.rejection_reason.map(|refusal| refusal.as_str()))?
                    .add(i64::from(event.cost))?
                    .add(event.latency_us.cast_signed())?
                    .add(event.request_bytes.cast_signed())?
                    .add(event.response_bytes.cast_signed())?
                    .add(event.client_ip.map(|address| address.to_string()))?;
            }
            let sql = format!("{insert}{}", values.places);
            sqlx::query_with(AssertSqlSafe(sql), values.arguments)
                .execute(self.connection())
                .await?;
        }
        Ok(())
    }

    /// Notes when keys were last used: by now, whatever a clock that is ahead tells.
    async fn touch(&mut self, grouped: &BatchRollup<'_>) -> Result<(), SqlError> {
        let touch = self.sql(
            ") UPDATE §keys AS k SET last_used_at = used.time FROM used
            WHERE k.id = used.id AND (k.last_used_at IS NULL OR k.last_used_at < used.time)",
        );
        let now = as_micros(Timestamp::now());
        let used: Vec<_> = grouped.used.iter().collect();
        for used in used.chunks(ROWS) {
            let mut values = Values::new(used.len(), 2);
            for &(key, &last) in used {
                values.add(key.as_str())?.add(last.min(now))?;
            }
            let sql = format!("WITH used(id, time) AS (VALUES {}{touch}", values.places);
            sqlx::query_with(AssertSqlSafe(sql), values.arguments)
                .execute(self.connection())
                .await?;
        }
        Ok(())
    }
}

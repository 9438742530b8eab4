//! Writing usage to SQLite.

use std::sync::atomic::Ordering::Relaxed;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{AssertSqlSafe, Error as SqlError, Row};

use super::{SqliteBackend, SqliteSession};
use crate::backend::sql::{
    Dialect, Engine, Grouped, Hash, KeySum, Session, Statement, Sum, as_micros, from_bytes,
    is_apart, status_codes, to_bytes, today,
};
use crate::usage::{Batch, SinkError, UsageEvent, UsageSink};

// Statements of many rows say `OR FAIL`: SQLite then keeps no journal of what one of them has written
// so far. A batch that fails is undone as a whole.

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
        let grouped = Grouped::new(&batch.events);
        let engine = &self.0.engine;
        let mut session = engine.writer().await?;
        let claim = "INSERT INTO §batches (id, applied) VALUES ($1, $2) ON CONFLICT DO NOTHING";
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

    /// The numbers of the series, and which of them were looked up.
    async fn number(
        &mut self,
        grouped: &Grouped<'_>,
    ) -> Result<(Vec<i64>, Vec<(Hash, i64)>), SqlError> {
        let known = self.backend.0.engine.known.of(&grouped.series, self.today);
        let find = self.sql("UPDATE §series SET seen = max(seen, ?2) WHERE hash = ?1 RETURNING id");
        let add = self.sql(
            "INSERT INTO §series (hash, key_id, owner, method, endpoint, http_status, grpc_status,
                outcome, cause, status_class, seen)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        );
        let (mut ids, mut learnt) = (Vec::with_capacity(known.len()), Vec::new());
        for (series, known) in grouped.series.iter().zip(known) {
            let id = match known {
                Some(id) => id,
                None => {
                    let today = self.today;
                    let found = sqlx::query(AssertSqlSafe(&*find))
                        .bind(&series.hash[..])
                        .bind(today)
                        .fetch_optional(self.connection())
                        .await?;
                    let row = match found {
                        Some(row) => row,
                        None => {
                            let event = series.event;
                            let (http, grpc) = status_codes(event.status);
                            sqlx::query(AssertSqlSafe(&*add))
                                .bind(&series.hash[..])
                                .bind(event.key.as_ref().map(|key| key.as_str()))
                                .bind(event.owner.as_deref())
                                .bind(event.method.as_str())
                                .bind(&*event.endpoint)
                                .bind(http)
                                .bind(grpc)
                                .bind(event.outcome.as_str())
                                .bind(event.cause.map(|cause| cause.as_str()))
                                .bind(event.status.class().as_str())
                                .bind(today)
                                .fetch_one(self.connection())
                                .await?
                        }
                    };
                    let id = row.try_get(0)?;
                    learnt.push((series.hash, id));
                    id
                }
            };
            ids.push(id);
        }
        Ok((ids, learnt))
    }

    async fn log(
        &mut self,
        events: &[UsageEvent],
        grouped: &Grouped<'_>,
        ids: &[i64],
    ) -> Result<(), SqlError> {
        let insert = self.sql(
            "INSERT OR FAIL INTO §requests (time, id, id_apart, series_id, request_id, path, resource_id, refusal,
                cost, latency_us, request_bytes, response_bytes, client_address) VALUES ",
        );
        let keep = self.backend.0.keep;
        let rows = events.iter().zip(&grouped.of_event);
        let rows: Vec<_> = rows.filter(|(event, _)| keep.keeps(event)).collect();
        for rows in rows.chunks(ROWS) {
            let mut values = Values::new(rows.len(), 13);
            for &(event, &series) in rows {
                values
                    .add(as_micros(event.time))?
                    .add(&event.id.as_bytes()[..])?
                    .add(is_apart(event).then_some(true))?
                    .add(ids[series])?
                    .add(event.request_id.as_deref())?
                    .add(&*event.path)?
                    .add(event.resource_id.as_deref())?
                    .add(event.refusal.map(|refusal| refusal.as_str()))?
                    .add(i64::from(event.cost))?
                    .add(event.latency_us.cast_signed())?
                    .add(event.request_bytes.cast_signed())?
                    .add(event.response_bytes.cast_signed())?
                    .add(event.client_address.map(|address| address.to_string()))?;
            }
            let sql = format!("{insert}{}", values.places);
            sqlx::query_with(AssertSqlSafe(sql), values.arguments)
                .execute(self.connection())
                .await?;
        }
        Ok(())
    }

    async fn add(&mut self, table: &str, sums: &[Sum], ids: &[i64]) -> Result<(), SqlError> {
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
        if self.backend.0.engine.writes.fetch_add(1, Relaxed) % 48 < 3 {
            self.tidy(table, sums, ids).await?;
        }
        Ok(())
    }

    async fn add_by_key(&mut self, table: &str, sums: &[KeySum]) -> Result<(), SqlError> {
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

    /// Notes when keys were last used.
    async fn touch(&mut self, grouped: &Grouped<'_>) -> Result<(), SqlError> {
        let touch = self.sql(
            "UPDATE §keys SET last_used = ?2
            WHERE id = ?1 AND (last_used IS NULL OR last_used < ?2)",
        );
        for (key, last) in &grouped.used {
            sqlx::query(AssertSqlSafe(&*touch))
                .bind(key.as_str())
                .bind(last)
                .execute(self.connection())
                .await?;
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

/// Rows of values, and the places for them.
struct Values {
    places: String,
    arguments: SqliteArguments,
}

impl Values {
    fn new(rows: usize, columns: usize) -> Self {
        let row = format!("({})", vec!["?"; columns].join(","));
        Self {
            places: vec![&*row; rows].join(","),
            arguments: SqliteArguments::default(),
        }
    }

    fn add<'q, T>(&mut self, value: T) -> Result<&mut Self, SqlError>
    where
        T: sqlx::Encode<'q, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        use sqlx::Arguments as _;

        self.arguments.add(value).map_err(SqlError::Encode)?;
        Ok(self)
    }
}

//! Writing usage to PostgreSQL.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Error as SqlError, Postgres, Row};

use super::PostgresBackend;
use super::copy::Copy;
use super::engine::PostgresEngine;
use super::partitions::day;
use super::types::{Id, Time};
use crate::backend::sql::{
    Dialect, Grouped, Hash, KeySum, Series, Sum, as_micros, from_bytes, is_apart, status_codes,
    to_bytes, today,
};
use crate::usage::{Batch, Rollup, SinkError, UsageEvent, UsageSink};

/// There is no partition for a row: it was dropped after this process had seen it.
const NO_PARTITION: &str = "23514";

/// Requests for the log, each with the place of its series.
type Logged<'a> = Vec<(&'a UsageEvent, usize)>;

#[async_trait]
impl UsageSink for PostgresBackend {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        let mut written = self.write_once(batch).await;
        if let Err(SqlError::Database(error)) = &written
            && error.code().as_deref() == Some(NO_PARTITION)
        {
            self.0.engine.partitions.forget();
            written = self.write_once(batch).await;
        }
        if written.is_err() {
            // Whatever went wrong, the database may not be the one that told the numbers.
            self.0.engine.known.forget();
            self.0.engine.partitions.forget();
        }
        written.map_err(SinkError::unavailable)
    }
}

impl PostgresBackend {
    async fn write_once(&self, batch: &Batch) -> Result<(), SqlError> {
        let engine = &*self.0.engine;
        let grouped = Grouped::new(&batch.events);
        let rows = batch.events.iter().zip(grouped.of_event.iter().copied());
        let logged: Logged<'_> = rows.filter(|(event, _)| self.0.keep.keeps(event)).collect();
        let days: BTreeSet<_> = logged.iter().map(|(event, _)| day(event.time)).collect();
        engine.ensure_partitions(&days).await?;

        let today = today();
        let mut held = CutOff::new(engine.pool.acquire().await?);
        let learnt = write(engine, held.connection(), batch, &grouped, &logged, today).await?;
        held.release();
        engine.known.learn(learnt, today);
        Ok(())
    }
}

/// Closes its connection when it is dropped half way: one that was cut off while it copied rows is not
/// worth mending.
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
    grouped: &Grouped<'_>,
    logged: &Logged<'_>,
    today: i64,
) -> Result<Vec<(Hash, i64)>, SqlError> {
    let mut transaction = connection.begin().await?;
    let claim = "INSERT INTO §batches (id, applied) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    let claimed = sqlx::query(AssertSqlSafe(engine.names.sql(claim)))
        .bind(Id(batch.id.into_bytes()))
        .bind(Time(as_micros(Timestamp::now())))
        .execute(&mut *transaction)
        .await?;
    if claimed.rows_affected() == 0 {
        return Ok(Vec::new());
    }
    let mut writing = Writing {
        engine,
        connection: &mut transaction,
    };
    let (ids, learnt) = writing.number(&grouped.series, today).await?;
    writing.log(logged, &ids).await?;
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
    transaction.commit().await?;
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

    /// The numbers of the series, and which of them were looked up.
    async fn number(
        &mut self,
        series: &[Series<'_>],
        today: i64,
    ) -> Result<(Vec<i64>, Vec<(Hash, i64)>), SqlError> {
        let mut ids = self.engine.known.of(series, today);
        let unknown = series.iter().zip(&ids);
        let unknown: Vec<_> = unknown
            .filter_map(|(series, id)| id.is_none().then_some(series))
            .collect();
        let mut learnt = Vec::new();
        if !unknown.is_empty() {
            learnt = self.look_up(&unknown, today).await?;
            let numbers: std::collections::HashMap<_, _> = learnt.iter().copied().collect();
            for (id, series) in ids.iter_mut().zip(series) {
                *id = id.or_else(|| numbers.get(&series.hash).copied());
            }
        }
        let ids: Option<Vec<i64>> = ids.into_iter().collect();
        Ok((ids.ok_or(SqlError::RowNotFound)?, learnt))
    }

    /// Adds the series that are not there, and answers all numbers.
    async fn look_up(
        &mut self,
        series: &[&Series<'_>],
        today: i64,
    ) -> Result<Vec<(Hash, i64)>, SqlError> {
        let events = || series.iter().map(|series| series.event);
        let hashes: Vec<&[u8]> = series.iter().map(|series| &series.hash[..]).collect();
        let keys: Vec<_> = events()
            .map(|event| event.key.map(|key| key.to_string()))
            .collect();
        let owners: Vec<_> = events().map(|event| event.owner.as_deref()).collect();
        let methods: Vec<_> = events().map(|event| event.method.as_str()).collect();
        let endpoints: Vec<_> = events().map(|event| &*event.endpoint).collect();
        let statuses = events().map(|event| status_codes(event.status));
        let (http, grpc): (Vec<_>, Vec<_>) = statuses.unzip();
        let outcomes: Vec<_> = events().map(|event| event.outcome.as_str()).collect();
        let causes = events().map(|event| event.cause.map(|cause| cause.as_str()));
        let classes = events().map(|event| event.status.class().as_str());
        // In the order of their hashes, as everywhere.
        let add = self.sql(
            "INSERT INTO §series (hash, key_id, owner, method, endpoint, http_status, grpc_status,
                outcome, cause, status_class, seen)
            SELECT *, $11::bigint FROM UNNEST($1::bytea[], $2::text[], $3::text[], $4::text[],
                $5::text[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::text[])
            ON CONFLICT (hash) DO NOTHING",
        );
        sqlx::query(add)
            .bind(&hashes)
            .bind(keys)
            .bind(owners)
            .bind(methods)
            .bind(endpoints)
            .bind(http)
            .bind(grpc)
            .bind(outcomes)
            .bind(causes.collect::<Vec<_>>())
            .bind(classes.collect::<Vec<_>>())
            .bind(today)
            .execute(&mut *self.connection)
            .await?;
        let note = self.sql(
            "WITH held AS (SELECT id FROM §series WHERE hash = ANY($1) AND seen < $2
                ORDER BY hash FOR NO KEY UPDATE)
            UPDATE §series s SET seen = $2 FROM held WHERE s.id = held.id",
        );
        sqlx::query(note)
            .bind(&hashes)
            .bind(today)
            .execute(&mut *self.connection)
            .await?;
        let read = self.sql("SELECT hash, id FROM §series WHERE hash = ANY($1)");
        let rows = sqlx::query(read)
            .bind(&hashes)
            .fetch_all(&mut *self.connection)
            .await?;
        let number = |row: &sqlx::postgres::PgRow| {
            let hash: &[u8] = row.try_get(0)?;
            let hash = Hash::try_from(hash).map_err(|error| SqlError::Decode(error.into()))?;
            Ok((hash, row.try_get(1)?))
        };
        rows.iter().map(number).collect()
    }

    async fn log(&mut self, logged: &Logged<'_>, ids: &[i64]) -> Result<(), SqlError> {
        if logged.is_empty() {
            return Ok(());
        }
        let mut rows = Copy::new(logged.len());
        for &(event, series) in logged {
            rows.row(13)
                .time(as_micros(event.time))
                .bytes(Some(event.id.as_bytes()))
                .bytes(is_apart(event).then_some(&[1]))
                .integer(ids[series])
                .text(event.request_id.as_deref())
                .text(Some(&event.path))
                .text(event.resource_id.as_deref())
                .text(event.refusal.map(|refusal| refusal.as_str()))
                .integer(event.cost.into())
                .integer(event.latency_us.cast_signed())
                .integer(event.request_bytes.cast_signed())
                .integer(event.response_bytes.cast_signed())
                .address(event.client_address);
        }
        let copy = self.sql(
            "COPY §requests (time, id, id_apart, series_id, request_id, path, resource_id, refusal, cost,
                latency_us, request_bytes, response_bytes, client_address)
            FROM STDIN (FORMAT binary)",
        );
        let mut copying = self.connection.copy_in_raw(&copy.0).await?;
        copying.send(rows.finish()).await?;
        copying.finish().await?;
        Ok(())
    }

    async fn add(&mut self, table: &str, sums: &[Sum], ids: &[i64]) -> Result<(), SqlError> {
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
            ON CONFLICT (series_id, start) DO UPDATE SET {},
                latency = t.latency || excluded.latency",
            amounts()
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
        if self.engine.writes.fetch_add(1, Relaxed) % 48 < 3 {
            self.tidy(table, &series, &starts).await?;
        }
        Ok(())
    }

    async fn add_by_key(&mut self, table: &str, sums: &[KeySum]) -> Result<(), SqlError> {
        let rollups = || sums.iter().map(|sum| &sum.rollup);
        let starts: Vec<Time> = rollups().map(|sum| Time(as_micros(sum.start))).collect();
        let lines: Vec<&[u8]> = sums.iter().map(|sum| &sum.line[..]).collect();
        let keys: Vec<_> = rollups()
            .map(|sum| sum.key.map(|key| key.to_string()))
            .collect();
        let owners: Vec<_> = rollups().map(|sum| sum.owner.as_deref()).collect();
        let outcomes: Vec<_> = rollups().map(|sum| sum.outcome.as_str()).collect();
        let causes = rollups().map(|sum| sum.cause.map(|cause| cause.as_str()));
        let insert = self.sql(&format!(
            "INSERT INTO {table} AS t (start, line, key_id, owner, outcome, cause, count, cost,
                request_bytes, response_bytes)
            SELECT * FROM UNNEST($1::timestamptz[], $2::bytea[], $3::text[], $4::text[], $5::text[],
                $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])
            ON CONFLICT (start, line) DO UPDATE SET {}",
            amounts()
        ));
        let number = |amount: fn(&Rollup) -> u64| numbers(rollups(), amount);
        sqlx::query(insert)
            .bind(starts)
            .bind(lines)
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

    /// Makes one histogram of those that have gathered in a sum, one behind the other. The sums were
    /// just written, so that this transaction holds them.
    async fn tidy(&mut self, table: &str, series: &[i64], starts: &[Time]) -> Result<(), SqlError> {
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

    /// Notes when keys were last used.
    async fn touch(&mut self, grouped: &Grouped<'_>) -> Result<(), SqlError> {
        if grouped.used.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = grouped.used.keys().map(|key| key.as_str()).collect();
        let times: Vec<_> = grouped.used.values().map(|&time| Time(time)).collect();
        let touch = self.sql(
            "WITH used AS (SELECT * FROM UNNEST($1::text[], $2::timestamptz[]) AS used(id, time)),
            held AS (SELECT k.id FROM §keys k JOIN used ON used.id = k.id
                WHERE k.last_used IS NULL OR k.last_used < used.time
                ORDER BY k.id FOR NO KEY UPDATE OF k)
            UPDATE §keys k SET last_used = greatest(k.last_used, used.time)
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

/// Adds all amounts of a sum to those that are there.
fn amounts() -> String {
    let add = |column| Dialect::Postgres.capped_add(column);
    ["count", "cost", "request_bytes", "response_bytes"]
        .map(add)
        .join(", ")
}

fn numbers<'a>(sums: impl Iterator<Item = &'a Rollup>, amount: fn(&Rollup) -> u64) -> Vec<i64> {
    sums.map(|sum| amount(sum).cast_signed()).collect()
}

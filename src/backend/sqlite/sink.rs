//! Writing usage to SQLite.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::SqliteBackend;
use crate::backend::sql::{TablePrefix, as_micros, from_json, series, status_codes, to_json};
use crate::id::KeyId;
use crate::usage::{Batch, Rollup, Rollups, SinkError, UsageEvent, UsageSink, Width};

/// Events in one statement: enough that the statement's own cost does not count.
const ROWS: usize = 64;

#[async_trait]
impl UsageSink for SqliteBackend {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        self.write_once(batch).await.map_err(SinkError::unavailable)
    }
}

impl SqliteBackend {
    async fn write_once(&self, batch: &Batch) -> Result<(), sqlx::Error> {
        let tables = &self.0.tables;
        let mut tx = self.begin().await?;
        let claim = "INSERT INTO §batches (id, applied) VALUES (?, ?) ON CONFLICT DO NOTHING";
        let claimed = sqlx::query(tables.sql(claim))
            .bind(&batch.id.as_bytes()[..])
            .bind(as_micros(Timestamp::now()))
            .execute(&mut *tx)
            .await?;
        if claimed.rows_affected() == 0 {
            return Ok(());
        }
        for events in batch.events.chunks(ROWS) {
            log_statement(tables, events)
                .build()
                .execute(&mut *tx)
                .await?;
        }
        let mut sums = Rollups::new();
        sums.add_events(&batch.events, Width::Minute);
        for sum in sums {
            add(tables, &mut tx, sum).await?;
        }
        touch(tables, &mut tx, &batch.events).await?;
        tx.commit().await
    }
}

fn log_statement(tables: &TablePrefix, events: &[UsageEvent]) -> QueryBuilder<Sqlite> {
    let insert =
        "INSERT INTO §requests (id, time, request_id, key_id, owner, method, endpoint, path,
        resource_id, http_status, grpc_status, status_class, outcome, cause, refusal, cost,
        latency_us, request_bytes, response_bytes, client_address) ";
    let mut sql = QueryBuilder::new(tables.sql(insert).0);
    sql.push_values(events, |mut row, event| {
        let (http, grpc) = status_codes(event.status);
        row.push_bind(event.id.as_bytes().to_vec())
            .push_bind(as_micros(event.time))
            .push_bind(event.request_id.clone())
            .push_bind(event.key.map(|key| key.to_string()))
            .push_bind(event.owner.clone())
            .push_bind(event.method.as_str())
            .push_bind(event.endpoint.clone())
            .push_bind(event.path.clone())
            .push_bind(event.resource_id.clone())
            .push_bind(http)
            .push_bind(grpc)
            .push_bind(event.status.class().as_str())
            .push_bind(event.outcome.as_str())
            .push_bind(event.cause.map(|cause| cause.as_str()))
            .push_bind(event.refusal.map(|refusal| refusal.as_str()))
            .push_bind(i64::from(event.cost))
            .push_bind(event.latency_us.cast_signed())
            .push_bind(event.request_bytes.cast_signed())
            .push_bind(event.response_bytes.cast_signed())
            .push_bind(event.client_address.map(|address| address.to_string()));
    });
    sql
}

/// Adds to a minute's sum. Histograms add up here, not in SQL; the transaction holds the only place
/// to write, so that nothing comes between reading and writing.
async fn add(
    tables: &TablePrefix,
    connection: &mut SqliteConnection,
    mut sum: Rollup,
) -> Result<(), sqlx::Error> {
    let (start, series) = (as_micros(sum.start), series(&sum));
    let read = "SELECT count, cost, request_bytes, response_bytes, latency FROM §minutes
        WHERE start = ? AND series = ?";
    let held = sqlx::query(tables.sql(read))
        .bind(start)
        .bind(&*series)
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(row) = held {
        let number = |column| row.try_get(column).map(i64::cast_unsigned);
        let held = Rollup {
            count: number(0)?,
            cost: number(1)?,
            request_bytes: number(2)?,
            response_bytes: number(3)?,
            latency: from_json(row.try_get(4)?)?,
            ..sum.clone()
        };
        sum.absorb(&held);
    }
    let (http, grpc) = status_codes(sum.status);
    let write = "INSERT INTO §minutes (start, series, key_id, owner, method, endpoint, http_status,
            grpc_status, outcome, cause, count, cost, request_bytes, response_bytes, latency)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (start, series) DO UPDATE SET
            count = excluded.count, cost = excluded.cost, request_bytes = excluded.request_bytes,
            response_bytes = excluded.response_bytes, latency = excluded.latency";
    sqlx::query(tables.sql(write))
        .bind(start)
        .bind(series)
        .bind(sum.key.as_ref().map(KeyId::as_str))
        .bind(sum.owner.as_deref())
        .bind(sum.method.as_str())
        .bind(&*sum.endpoint)
        .bind(http)
        .bind(grpc)
        .bind(sum.outcome.as_str())
        .bind(sum.cause.map(|cause| cause.as_str()))
        .bind(sum.count.cast_signed())
        .bind(sum.cost.cast_signed())
        .bind(sum.request_bytes.cast_signed())
        .bind(sum.response_bytes.cast_signed())
        .bind(to_json(&sum.latency))
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes when keys were last used.
async fn touch(
    tables: &TablePrefix,
    connection: &mut SqliteConnection,
    events: &[UsageEvent],
) -> Result<(), sqlx::Error> {
    let mut used: BTreeMap<KeyId, Timestamp> = BTreeMap::new();
    for event in events {
        if let Some(key) = event.key {
            let last = used.entry(key).or_insert(event.time);
            *last = event.time.max(*last);
        }
    }
    let touch = "UPDATE §keys SET last_used = ?2
        WHERE id = ?1 AND (last_used IS NULL OR last_used < ?2)";
    for (key, last) in used {
        sqlx::query(tables.sql(touch))
            .bind(key.as_str())
            .bind(as_micros(last))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

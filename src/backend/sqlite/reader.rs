//! Reading usage from SQLite.

use async_trait::async_trait;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as NameError, StrDeserializer};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};
use uuid::Uuid;

use super::SqliteBackend;
use crate::backend::sql::{
    TablePrefix, as_micros, ceil_micros, decode, floor_micros, from_json, parsed, status,
    status_codes, timestamp,
};
use crate::page::Page;
use crate::usage::{
    Count, LogFilter, LogQuery, ReadError, Rollup, Rollups, Summary, SummaryQuery, UsageEvent,
    UsageRange, UsageReader, Width,
};

/// Requests are counted up to this many.
const MOST_COUNTED: u64 = 10_000;

/// Reads the name of a member of a closed set.
fn named<'de, T: Deserialize<'de>>(name: &'de str) -> Result<T, sqlx::Error> {
    let name: StrDeserializer<'de, NameError> = name.into_deserializer();
    T::deserialize(name).map_err(decode)
}

fn optional<'r, T>(
    row: &'r SqliteRow,
    column: &str,
    read: impl FnOnce(&'r str) -> Result<T, sqlx::Error>,
) -> Result<Option<T>, sqlx::Error> {
    row.try_get::<Option<&str>, _>(column)?
        .map(read)
        .transpose()
}

fn event_of(row: &SqliteRow) -> Result<UsageEvent, sqlx::Error> {
    let number = |column| row.try_get(column).map(i64::cast_unsigned);
    Ok(UsageEvent {
        id: Uuid::from_slice(row.try_get("id")?).map_err(decode)?,
        request_id: row.try_get("request_id")?,
        key: optional(row, "key_id", parsed)?,
        owner: row.try_get("owner")?,
        time: timestamp(row.try_get("time")?)?,
        method: parsed(row.try_get("method")?)?,
        endpoint: row.try_get("endpoint")?,
        path: row.try_get("path")?,
        resource_id: row.try_get("resource_id")?,
        status: status(row.try_get("http_status")?, row.try_get("grpc_status")?)?,
        outcome: named(row.try_get("outcome")?)?,
        cause: optional(row, "cause", named)?,
        refusal: optional(row, "refusal", named)?,
        cost: row.try_get("cost")?,
        latency_us: number("latency_us")?,
        request_bytes: number("request_bytes")?,
        response_bytes: number("response_bytes")?,
        client_address: optional(row, "client_address", parsed)?,
    })
}

fn rollup_of(row: &SqliteRow) -> Result<Rollup, sqlx::Error> {
    let number = |column| row.try_get(column).map(i64::cast_unsigned);
    Ok(Rollup {
        key: optional(row, "key_id", parsed)?,
        start: timestamp(row.try_get("start")?)?,
        width: Width::Minute,
        owner: row.try_get("owner")?,
        method: parsed(row.try_get("method")?)?,
        endpoint: row.try_get("endpoint")?,
        status: status(row.try_get("http_status")?, row.try_get("grpc_status")?)?,
        outcome: named(row.try_get("outcome")?)?,
        cause: optional(row, "cause", named)?,
        count: number("count")?,
        cost: number("cost")?,
        request_bytes: number("request_bytes")?,
        response_bytes: number("response_bytes")?,
        latency: from_json(row.try_get("latency")?)?,
    })
}

fn sums_statement(tables: &TablePrefix, range: &UsageRange) -> QueryBuilder<Sqlite> {
    let mut sql = QueryBuilder::new(tables.sql("SELECT * FROM §minutes WHERE TRUE").0);
    if let Some(key) = range.key {
        sql.push(" AND key_id = ").push_bind(key.to_string());
    }
    if let Some(owner) = &range.owner {
        sql.push(" AND owner = ").push_bind(owner.clone());
    }
    if let Some(from) = range.from {
        // The bucket that it lies in counts whole.
        let width = Width::Minute.seconds() * 1_000_000;
        sql.push(" AND start > ")
            .push_bind(floor_micros(from) - width);
    }
    if let Some(to) = range.to {
        sql.push(" AND start < ").push_bind(ceil_micros(to));
    }
    sql
}

/// Adds what a filter asks for to a statement on the log.
fn push_filter(sql: &mut QueryBuilder<Sqlite>, filter: &LogFilter) {
    sql.push(" WHERE TRUE");
    if let Some(key) = filter.key {
        sql.push(" AND key_id = ").push_bind(key.to_string());
    }
    if let Some(from) = filter.from {
        sql.push(" AND time >= ").push_bind(ceil_micros(from));
    }
    if let Some(to) = filter.to {
        sql.push(" AND time < ").push_bind(ceil_micros(to));
    }
    if let Some(status) = filter.status {
        let (http, grpc) = status_codes(status);
        sql.push(" AND http_status IS ").push_bind(http);
        sql.push(" AND grpc_status IS ").push_bind(grpc);
    }
    if let Some(id) = &filter.request_id {
        // An event is found by its own id too, however that is written.
        sql.push(" AND (request_id = ").push_bind(id.clone());
        if let Ok(id) = id.parse::<Uuid>() {
            sql.push(" OR id = ").push_bind(id.as_bytes().to_vec());
        }
        sql.push(")");
    }
    for (column, value) in [
        ("owner", filter.owner.as_deref()),
        ("outcome", filter.outcome.map(|it| it.as_str())),
        ("cause", filter.cause.map(|it| it.as_str())),
        ("method", filter.method.map(|it| it.as_str())),
        ("endpoint", filter.endpoint.as_deref()),
        ("status_class", filter.status_class.map(|it| it.as_str())),
        ("resource_id", filter.resource_id.as_deref()),
    ] {
        if let Some(value) = value {
            sql.push(" AND ").push(column).push(" = ");
            sql.push_bind(value.to_owned());
        }
    }
}

fn log_statement(
    tables: &TablePrefix,
    query: &LogQuery,
) -> Result<QueryBuilder<Sqlite>, ReadError> {
    let mut sql = QueryBuilder::new(tables.sql("SELECT * FROM §requests").0);
    push_filter(&mut sql, &query.filter);
    if let Some(token) = &query.after {
        let id: Uuid = token.id()?;
        sql.push(" AND (time, id) < (")
            .push_bind(as_micros(token.time()))
            .push(", ")
            .push_bind(id.as_bytes().to_vec())
            .push(")");
    }
    sql.push(" ORDER BY time DESC, id DESC LIMIT ")
        .push_bind(query.page_size() as i64 + 1);
    Ok(sql)
}

fn count_statement(tables: &TablePrefix, filter: &LogFilter) -> QueryBuilder<Sqlite> {
    let select = "SELECT count(*) FROM (SELECT 1 FROM §requests";
    let mut sql = QueryBuilder::new(tables.sql(select).0);
    push_filter(&mut sql, filter);
    sql.push(" LIMIT ")
        .push_bind(MOST_COUNTED.cast_signed() + 1)
        .push(")");
    sql
}

impl SqliteBackend {
    async fn sums(&self, range: &UsageRange) -> Result<Vec<Rollup>, ReadError> {
        let mut sql = sums_statement(&self.0.tables, range);
        let rows = sql.build().fetch_all(&self.0.readers).await;
        let rows = rows.map_err(ReadError::unavailable)?;
        let sums = rows.iter().map(rollup_of).collect::<Result<_, _>>();
        sums.map_err(ReadError::unavailable)
    }
}

#[async_trait]
impl UsageReader for SqliteBackend {
    async fn summary(&self, query: &SummaryQuery) -> Result<Summary, ReadError> {
        let sums = self.sums(&query.range).await?;
        Ok(query.spec.summarize(&sums))
    }

    async fn rollups(&self, range: &UsageRange) -> Result<Vec<Rollup>, ReadError> {
        let sums: Rollups = self.sums(range).await?.into_iter().collect();
        let mut sums: Vec<Rollup> = sums.into_iter().collect();
        sums.sort_by_key(|rollup| (rollup.start, rollup.width));
        Ok(sums)
    }

    async fn requests(&self, query: &LogQuery) -> Result<Page<UsageEvent>, ReadError> {
        let mut sql = log_statement(&self.0.tables, query)?;
        let rows = sql.build().fetch_all(&self.0.readers).await;
        let rows = rows.map_err(ReadError::unavailable)?;
        let events = rows.iter().map(event_of).collect::<Result<_, _>>();
        let events = events.map_err(ReadError::unavailable)?;
        Ok(Page::from_surplus(
            events,
            query.page_size(),
            LogQuery::place,
        ))
    }

    async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError> {
        let mut sql = count_statement(&self.0.tables, filter);
        let row = sql.build().fetch_one(&self.0.readers).await;
        let count: i64 = row
            .and_then(|row| row.try_get(0))
            .map_err(ReadError::unavailable)?;
        let count = count.cast_unsigned();
        Ok(if count > MOST_COUNTED {
            Count::MoreThan(MOST_COUNTED)
        } else {
            Count::Exactly(count)
        })
    }
}

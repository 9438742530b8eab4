//! Questions about the request log.
//!
//! Each is served by an index, whatever the filter: what a filter says of a key, a method, a status and
//! so on picks series, and the log is indexed by series and time. Where few series match, the newest
//! requests of each are read and merged; where many match, requests that match are frequent, and the
//! log is read by time. Ids on the wire and of resources have indexes of their own.

use sqlx::Error as SqlError;
use uuid::Uuid;

use super::engine::{Row, Statement, Value};
use super::grouped::millisecond_of;
use super::names::Names;
use super::value::{
    as_micros, ceil_micros, decode, named, number, parsed, status, status_codes, text, there, time,
};
use crate::page::PageToken;
use crate::usage::{LogFilter, LogQuery, ReadError, UsageEvent};

/// Requests are counted up to this many.
pub(super) const MOST_COUNTED: u64 = 10_000;

/// Series whose requests are read one by one; where more match, time is the better index.
pub(super) const FEW_SERIES: i64 = 256;

const COLUMNS: &str = "r.time, r.id, r.series_id, r.request_id, r.path, r.resource_id, r.refusal,
    r.cost, r.latency_us, r.request_bytes, r.response_bytes, r.client_address";

const SERIES_COLUMNS: &str =
    "s.key_id, s.owner, s.method, s.endpoint, s.http_status, s.grpc_status,
    s.outcome, s.cause";

/// Whether nothing can match, since no text that is kept holds U+0000.
pub(super) fn matches_nothing(filter: &LogFilter) -> bool {
    [
        &filter.owner,
        &filter.endpoint,
        &filter.resource_id,
        &filter.request_id,
    ]
    .into_iter()
    .flatten()
    .any(|text| text.contains('\0'))
}

/// Whether series are picked by the filter, and not only requests by their time and ids.
pub(super) fn picks_series(filter: &LogFilter) -> bool {
    let LogFilter {
        key,
        owner,
        from: _,
        to: _,
        outcome,
        cause,
        method,
        endpoint,
        status,
        status_class,
        resource_id: _,
        request_id: _,
    } = filter;
    key.is_some()
        || owner.is_some()
        || outcome.is_some()
        || cause.is_some()
        || method.is_some()
        || endpoint.is_some()
        || status.is_some()
        || status_class.is_some()
}

fn picks_ids(filter: &LogFilter) -> bool {
    filter.request_id.is_some() || filter.resource_id.is_some()
}

/// How many series match, as far as it matters.
pub(super) fn count_series(names: &Names, filter: &LogFilter) -> Statement {
    let mut sql = Statement::new(
        names,
        "SELECT count(*) AS count FROM (SELECT 1 FROM §series",
    );
    let condition = series_condition(&mut sql, filter);
    sql.push(&condition).push(" LIMIT ");
    sql.push_bind(FEW_SERIES + 1).push(") AS matching");
    sql
}

/// What a filter says of series.
fn series_condition(sql: &mut Statement, filter: &LogFilter) -> String {
    let mut condition = String::from(" WHERE TRUE");
    if let Some(key) = filter.key {
        condition.push_str(&format!(" AND key_id = {}", sql.place(key)));
    }
    for (column, value) in [
        ("owner", filter.owner.as_deref()),
        ("outcome", filter.outcome.map(|it| it.as_str())),
        ("cause", filter.cause.map(|it| it.as_str())),
        ("method", filter.method.map(|it| it.as_str())),
        ("endpoint", filter.endpoint.as_deref()),
        ("status_class", filter.status_class.map(|it| it.as_str())),
    ] {
        if let Some(value) = value {
            condition.push_str(&format!(" AND {column} = {}", sql.place(value)));
        }
    }
    if let Some(status) = filter.status {
        let (http, grpc) = status_codes(status);
        for (column, code) in [("http_status", http), ("grpc_status", grpc)] {
            let is = match code {
                Some(code) => format!(" AND {column} = {}", sql.place(code)),
                None => format!(" AND {column} IS NULL"),
            };
            condition.push_str(&is);
        }
    }
    condition
}

/// What a filter says of requests themselves, but for the id on the wire.
fn request_condition(sql: &mut Statement, names: &Names, filter: &LogFilter) -> String {
    let mut condition = String::new();
    if let Some(from) = filter.from {
        let place = sql.place(Value::Time(Some(ceil_micros(from))));
        condition.push_str(&format!(" AND time >= {place}"));
    }
    if let Some(to) = filter.to {
        let place = sql.place(Value::Time(Some(ceil_micros(to))));
        condition.push_str(&format!(" AND time < {place}"));
    }
    if let Some(id) = filter.resource_id.as_deref() {
        let place = sql.place(id);
        let is = names.dialect.is_text("resource_id", &place);
        condition.push_str(&format!(" AND {is}"));
    }
    condition
}

/// Requests behind this place.
fn after_condition(sql: &mut Statement, after: Option<&PageToken>) -> Result<String, ReadError> {
    let Some(token) = after else {
        return Ok(String::new());
    };
    let id: Uuid = token.id()?;
    let time = sql.place(Value::Time(Some(as_micros(token.time()))));
    let id = sql.place(id);
    Ok(format!(" AND (time, id) < ({time}, {id})"))
}

/// A page of requests and one more. `series` tells how many series match, if the filter picks any.
pub(super) fn page(
    names: &Names,
    query: &LogQuery,
    series: Option<i64>,
) -> Result<Statement, ReadError> {
    let filter = &query.filter;
    let mut sql = Statement::new(names, "");
    let limit = sql.place(query.page_size() as i64 + 1);
    let which = request_condition(&mut sql, names, filter);
    let which = which + &after_condition(&mut sql, query.after.as_ref())?;
    let found = match series {
        Some(matching) if matching <= FEW_SERIES && !picks_ids(filter) => {
            let series = series_condition(&mut sql, filter);
            let series = format!("SELECT id AS series_id FROM §series{series}");
            names
                .dialect
                .of_each_series(COLUMNS, &series, &which, true, &limit)
        }
        _ => {
            let series = of_matching_series(&mut sql, names, filter);
            let newest = |condition: String| {
                format!(
                    "SELECT {COLUMNS} FROM §requests r WHERE TRUE{condition}{series}{which}
                    ORDER BY time DESC, id DESC LIMIT {limit}"
                )
            };
            // By either id, each with its own index; a request that has both is there once.
            let mut parts = id_conditions(&mut sql, names, filter).into_iter();
            let first = newest(parts.next().unwrap_or_default());
            parts.fold(first, |found, part| {
                let part = newest(part);
                format!("SELECT * FROM ({found}) AS one UNION SELECT * FROM ({part}) AS other")
            })
        }
    };
    sql.push_sql(
        names,
        &format!(
            "SELECT {COLUMNS}, {SERIES_COLUMNS}
            FROM (SELECT * FROM ({found}) AS found ORDER BY time DESC, id DESC LIMIT {limit}) r
            JOIN §series s ON s.id = r.series_id
            ORDER BY r.time DESC, r.id DESC"
        ),
    );
    Ok(sql)
}

/// How many requests match, as far as they are counted.
pub(super) fn count(names: &Names, filter: &LogFilter) -> Statement {
    let mut sql = Statement::new(names, "");
    let limit = sql.place(MOST_COUNTED.cast_signed() + 1);
    let which = request_condition(&mut sql, names, filter);
    let found = if picks_series(filter) && !picks_ids(filter) {
        let series = series_condition(&mut sql, filter);
        let series = format!("SELECT id AS series_id FROM §series{series}");
        names
            .dialect
            .of_each_series("1", &series, &which, false, &limit)
    } else {
        let series = of_matching_series(&mut sql, names, filter);
        let some = |condition: String| {
            format!("SELECT id FROM §requests WHERE TRUE{condition}{series}{which} LIMIT {limit}")
        };
        let mut parts = id_conditions(&mut sql, names, filter).into_iter();
        let first = some(parts.next().unwrap_or_default());
        parts.fold(first, |found, part| {
            let part = some(part);
            format!("SELECT * FROM ({found}) AS one UNION SELECT * FROM ({part}) AS other")
        })
    };
    sql.push_sql(
        names,
        &format!(
            "SELECT count(*) AS count FROM (SELECT 1 FROM ({found}) AS found LIMIT {limit}) n"
        ),
    );
    sql
}

fn of_matching_series(sql: &mut Statement, names: &Names, filter: &LogFilter) -> String {
    if !picks_series(filter) {
        return String::new();
    }
    let condition = series_condition(sql, filter);
    let number = names.dialect.not_looked_up("series_id");
    format!(" AND {number} IN (SELECT id FROM §series{condition})")
}

/// An event is found by its id on the wire and by its own, however that is written.
fn id_conditions(sql: &mut Statement, names: &Names, filter: &LogFilter) -> Vec<String> {
    let Some(id) = filter.request_id.as_deref() else {
        return Vec::new();
    };
    let place = sql.place(id);
    let is = names.dialect.is_text("request_id", &place);
    let mut conditions = vec![format!(" AND {is}")];
    if let Ok(id) = id.parse::<Uuid>() {
        let place = sql.place(id);
        if let Some(millisecond) = millisecond_of(id) {
            // Nearly every id tells when its request came, which needs no index of its own.
            let from = sql.place(Value::Time(Some(millisecond * 1_000)));
            let to = sql.place(Value::Time(Some(millisecond * 1_000 + 1_000)));
            conditions.push(format!(
                " AND time >= {from} AND time < {to} AND id = {place} AND id_apart IS NULL"
            ));
        }
        conditions.push(format!(" AND id = {place} AND id_apart IS NOT NULL"));
    }
    conditions
}

pub(super) fn event_of(row: &impl Row) -> Result<UsageEvent, SqlError> {
    let mut event = UsageEvent::at(time(row, "time")?);
    event.id = row.uuid("id")?;
    event.request_id = row.text("request_id")?.map(Into::into);
    event.key = row.text("key_id")?.map(parsed).transpose()?;
    event.owner = row.text("owner")?.map(Into::into);
    event.method = parsed(there(row.text("method")?)?)?;
    event.endpoint = there(row.text("endpoint")?)?.into();
    event.path = text(row, "path")?.into();
    event.resource_id = row.text("resource_id")?.map(Into::into);
    event.status = status(row)?;
    event.outcome = named(there(row.text("outcome")?)?)?;
    event.cause = row.text("cause")?.map(named).transpose()?;
    event.refusal = row.text("refusal")?.map(named).transpose()?;
    event.cost = number(row, "cost")?.try_into().map_err(decode)?;
    event.latency_us = number(row, "latency_us")?;
    event.request_bytes = number(row, "request_bytes")?;
    event.response_bytes = number(row, "response_bytes")?;
    let address = row.address("client_address")?;
    event.client_address = address.as_deref().map(parsed).transpose()?;
    Ok(event)
}

#[cfg(all(test, feature = "_sqlite"))]
mod tests;

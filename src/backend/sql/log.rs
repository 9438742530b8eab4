//! Questions about the request log.
//!
//! Each is served by an index, whatever the filter: what a filter says of a key, a method, a status and
//! so on picks series, and the log is indexed by series and time. Where few series match, their newest
//! requests are merged; where many match, requests that match are frequent, and the log is read by
//! time. Ids on the wire and of resources have indexes of their own.

use jiff::{SignedDuration, Timestamp};
use sqlx::Error as SqlError;
use uuid::Uuid;

use super::batch_rollup::millisecond_of;
use super::engine::{Row, Statement, Value};
use super::names::Names;
use super::value::{
    as_micros, ceil_micros, decode, named, number, parsed, status, status_codes, text, there, time,
};
use crate::page::PageToken;
use crate::usage::{LogFilter, LogQuery, ReadError, UsageEvent};

/// Requests are counted up to this many.
pub(super) const MOST_COUNTED: u64 = 10_000;

/// Series whose requests are read one by one; where more match, time is the better index.
pub(super) const FEW_SERIES: i64 = 500;

pub(super) const COLUMNS: &str =
    "r.time, r.id, r.series_id, r.request_id, r.path, r.resource_id, r.rejection_reason,
    r.cost, r.latency_us, r.request_bytes, r.response_bytes, r.client_ip";

pub(super) const SERIES_COLUMNS: &str =
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

/// What to look at, one after the other until enough is found: where the log is in days, the newest of
/// them first. Looking at all there are locks each, and takes time for each.
pub(super) fn subqueries(
    names: &Names,
    filter: &LogFilter,
    after: Option<&PageToken>,
) -> Vec<LogFilter> {
    let mut looks = Vec::new();
    if names.dialect.has_log_in_days() {
        let ends = [after.map(PageToken::time), filter.to];
        let ends = ends.into_iter().flatten();
        let end = ends.fold(Timestamp::now(), Timestamp::min);
        for days in [1, 8] {
            let from = end.saturating_sub(SignedDuration::from_hours(24 * days));
            if let Ok(from) = from
                && filter.from.is_none_or(|it| it < from)
            {
                looks.push(LogFilter {
                    from: Some(from),
                    ..filter.clone()
                });
            }
        }
    }
    looks.push(filter.clone());
    looks
}

/// What a filter says of the time of requests.
fn time_condition(sql: &mut Statement, filter: &LogFilter) -> String {
    let mut condition = String::new();
    if let Some(from) = filter.from {
        let place = sql.place(Value::Time(Some(ceil_micros(from))));
        condition.push_str(&format!(" AND time >= {place}"));
    }
    if let Some(to) = filter.to {
        let place = sql.place(Value::Time(Some(ceil_micros(to))));
        condition.push_str(&format!(" AND time < {place}"));
    }
    condition
}

/// The places of the time and the id of the last request seen.
fn last_seen(
    sql: &mut Statement,
    after: Option<&PageToken>,
) -> Result<Option<(String, String)>, ReadError> {
    let Some(token) = after else {
        return Ok(None);
    };
    let id: Uuid = token.id()?;
    let time = sql.place(Value::Time(Some(as_micros(token.time()))));
    Ok(Some((time, sql.place(id))))
}

const NEWEST_FIRST: &str = "ORDER BY time DESC, id DESC";

/// A page of requests and one more. `series` tells how many series match, if the filter picks any.
pub(super) fn page(
    names: &Names,
    query: &LogQuery,
    series: Option<i64>,
) -> Result<Statement, ReadError> {
    let filter = &query.filter;
    let mut sql = Statement::new(names, "");
    let limit = sql.place(query.page_size() as i64 + 1);
    let within = time_condition(&mut sql, filter);
    let last = last_seen(&mut sql, query.after.as_ref())?;
    let behind = last
        .as_ref()
        // The time by itself tells PostgreSQL which days are to be read.
        .map(|(time, id)| format!(" AND time <= {time} AND (time, id) < ({time}, {id})"));
    let which = within.clone() + &behind.unwrap_or_default();
    let found = match series {
        Some(matching) if matching <= FEW_SERIES && !picks_ids(filter) => {
            let series = picked(&mut sql, filter);
            // Those of the very time of the last one seen are not counted, but read.
            let earlier = last.as_ref().map(|(time, _)| format!(" AND time < {time}"));
            let earlier = within + &earlier.unwrap_or_default();
            let cut = names.dialect.time_of_last(&series, &earlier, &limit);
            let cut = match &last {
                Some((time, _)) => format!("coalesce(({cut}), {time})"),
                None => format!("({cut})"),
            };
            let which = format!("{which} AND time >= {cut}");
            names
                .dialect
                .of_each_series(COLUMNS, &series, &which, NEWEST_FIRST, &limit)
        }
        _ => {
            let which = of_matching_series(&mut sql, names, filter) + &which;
            let ways = found_by(&mut sql, filter, &which);
            let newest = |way: &Way| way.newest(names, COLUMNS, &limit);
            joined(ways.iter().map(newest))
        }
    };
    sql.push_sql(
        names,
        &format!(
            "SELECT {COLUMNS}, {SERIES_COLUMNS}
            FROM (SELECT * FROM ({found}) AS found {NEWEST_FIRST} LIMIT {limit}) r
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
    let which = time_condition(&mut sql, filter);
    let found = if picks_series(filter) && !picks_ids(filter) {
        let series = picked(&mut sql, filter);
        names
            .dialect
            .of_each_series("1", &series, &which, "", &limit)
    } else {
        let which = of_matching_series(&mut sql, names, filter) + &which;
        let ways = found_by(&mut sql, filter, &which);
        joined(ways.iter().map(|way| way.any(names, "id", &limit)))
    };
    sql.push_sql(
        names,
        &format!(
            "SELECT count(*) AS count FROM (SELECT 1 FROM ({found}) AS found LIMIT {limit}) n"
        ),
    );
    sql
}

/// Requests that are found in several ways, each of them once.
fn joined(parts: impl Iterator<Item = String>) -> String {
    parts
        .reduce(|found, part| {
            format!("SELECT * FROM ({found}) AS one UNION SELECT * FROM ({part}) AS other")
        })
        .unwrap_or_default()
}

/// The series that a filter picks.
fn picked(sql: &mut Statement, filter: &LogFilter) -> String {
    let condition = series_condition(sql, filter);
    format!("SELECT id AS series_id FROM §series{condition}")
}

fn of_matching_series(sql: &mut Statement, names: &Names, filter: &LogFilter) -> String {
    if !picks_series(filter) {
        return String::new();
    }
    let condition = series_condition(sql, filter);
    let number = names.dialect.not_looked_up("series_id");
    format!(" AND {number} IN (SELECT id FROM §series{condition})")
}

/// A way in which requests are found.
struct Way {
    /// The column whose text is that of a place, where there is one; else they are found by time.
    text: Option<(&'static str, String)>,
    which: String,
}

impl Way {
    fn newest(&self, names: &Names, columns: &str, limit: &str) -> String {
        let which = &self.which;
        match &self.text {
            Some((column, place)) => names
                .dialect
                .newest_with_text(columns, column, place, which, limit),
            None => format!(
                "SELECT {columns} FROM §requests r WHERE TRUE{which} {NEWEST_FIRST} LIMIT {limit}"
            ),
        }
    }

    fn any(&self, names: &Names, columns: &str, limit: &str) -> String {
        match &self.text {
            Some((column, place)) => {
                let with_text = names.dialect.with_text(column, place);
                let which = &self.which;
                format!("SELECT {columns} FROM {with_text}{which} LIMIT {limit}")
            }
            None => self.newest(names, columns, limit),
        }
    }
}

/// The ways in which requests are found that `which` is true of: by an id, of which there may be
/// several; by a resource; or by time.
fn found_by(sql: &mut Statement, filter: &LogFilter, which: &str) -> Vec<Way> {
    let mut resource = String::new();
    if let Some(id) = filter.resource_id.as_deref() {
        let place = sql.place(id);
        if filter.request_id.is_none() {
            return vec![Way {
                text: Some(("resource_id", place)),
                which: which.into(),
            }];
        }
        resource = format!(" AND resource_id = {place}");
    }
    let Some(id) = filter.request_id.as_deref() else {
        return vec![Way {
            text: None,
            which: which.into(),
        }];
    };
    let mut ways = vec![Way {
        text: Some(("request_id", sql.place(id))),
        which: format!("{resource}{which}"),
    }];
    // An event is found by its own id too, however that is written.
    if let Ok(id) = id.parse::<Uuid>() {
        let place = sql.place(id);
        let mut way = |condition: String| {
            ways.push(Way {
                text: None,
                which: format!(" AND id = {place}{condition}{resource}{which}"),
            });
        };
        if let Some(millisecond) = millisecond_of(id) {
            // Nearly every id tells when its request came, which needs no index of its own.
            let from = sql.place(Value::Time(Some(millisecond * 1_000)));
            let to = sql.place(Value::Time(Some(millisecond * 1_000 + 1_000)));
            way(format!(
                " AND time >= {from} AND time < {to} AND id_time_differs IS NULL"
            ));
        }
        way(" AND id_time_differs IS NOT NULL".into());
    }
    ways
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
    event.rejection_reason = row.text("rejection_reason")?.map(named).transpose()?;
    event.cost = number(row, "cost")?.try_into().map_err(decode)?;
    event.latency_us = number(row, "latency_us")?;
    event.request_bytes = number(row, "request_bytes")?;
    event.response_bytes = number(row, "response_bytes")?;
    let address = row.address("client_ip")?;
    event.client_ip = address.as_deref().map(parsed).transpose()?;
    Ok(event)
}

#[cfg(all(test, feature = "_sqlite"))]
mod tests;

//! Queries of the request log.
//!
//! Every filter uses an index. Conditions on key, method, status and so on select series, and the log is indexed
//! by series and time. If few series match, their newest requests are merged. If many match, matching requests are
//! frequent, and the log is scanned by time. Request ids and resource ids have their own indexes.

use jiff::{SignedDuration, Timestamp};
use sqlx::Error as SqlError;
use uuid::Uuid;

use super::batch_rollup::uuid_millis;
use super::engine::{Row, Statement, Value};
use super::names::Names;
use super::value::{
    as_micros, ceil_micros, decode, number, parse_name, parsed, required, status, status_codes,
    text, time,
};
use crate::page::PageToken;
use crate::usage::{LogFilter, LogQuery, ReadError, UsageEvent};

/// The maximum number of requests to count.
pub(super) const MAX_COUNT: u64 = 10_000;

/// The maximum number of series to read one by one. If more match, the log is scanned by time.
pub(super) const FEW_SERIES: i64 = 500;

pub(super) const COLUMNS: &str =
    "r.time, r.id, r.series_id, r.request_id, r.path, r.resource_id, r.rejection_reason,
    r.cost, r.latency_us, r.request_bytes, r.response_bytes, r.client_ip";

pub(super) const SERIES_COLUMNS: &str =
    "s.key_id, s.owner, s.method, s.endpoint, s.http_status, s.grpc_status,
    s.outcome, s.cause";

/// Whether nothing can match: stored texts never contain U+0000, which PostgreSQL rejects.
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

/// Whether the filter has conditions on series, not only on time and ids.
pub(super) fn filters_series(filter: &LogFilter) -> bool {
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

/// Counts the matching series, up to [`FEW_SERIES`] + 1.
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

/// The `WHERE` clause for series.
fn series_condition(sql: &mut Statement, filter: &LogFilter) -> String {
    let mut condition = String::from(" WHERE TRUE");
    if let Some(key) = filter.key {
        condition.push_str(&format!(" AND key_id = {}", sql.placeholder(key)));
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
            condition.push_str(&format!(" AND {column} = {}", sql.placeholder(value)));
        }
    }
    if let Some(status) = filter.status {
        let (http, grpc) = status_codes(status);
        for (column, code) in [("http_status", http), ("grpc_status", grpc)] {
            let is = match code {
                Some(code) => format!(" AND {column} = {}", sql.placeholder(code)),
                None => format!(" AND {column} IS NULL"),
            };
            condition.push_str(&is);
        }
    }
    condition
}

/// The filters to query in turn until there are enough results. In a partitioned log, the most recent days come
/// first: a query of all partitions has to plan for and lock each of them.
pub(super) fn subqueries(
    names: &Names,
    filter: &LogFilter,
    after: Option<&PageToken>,
) -> Vec<LogFilter> {
    let mut filters = Vec::new();
    if names.dialect.has_partitioned_log() {
        let ends = [after.map(PageToken::time), filter.to];
        let ends = ends.into_iter().flatten();
        let end = ends.fold(Timestamp::now(), Timestamp::min);
        for days in [1, 8] {
            let from = end.saturating_sub(SignedDuration::from_hours(24 * days));
            if let Ok(from) = from
                && filter.from.is_none_or(|it| it < from)
            {
                filters.push(LogFilter {
                    from: Some(from),
                    ..filter.clone()
                });
            }
        }
    }
    filters.push(filter.clone());
    filters
}

/// The conditions on the time of requests.
fn time_condition(sql: &mut Statement, filter: &LogFilter) -> String {
    let mut condition = String::new();
    if let Some(from) = filter.from {
        let place = sql.placeholder(Value::Time(Some(ceil_micros(from))));
        condition.push_str(&format!(" AND time >= {place}"));
    }
    if let Some(to) = filter.to {
        let place = sql.placeholder(Value::Time(Some(ceil_micros(to))));
        condition.push_str(&format!(" AND time < {place}"));
    }
    condition
}

/// The placeholders for time and id of the last request of the previous page.
fn last_seen(
    sql: &mut Statement,
    after: Option<&PageToken>,
) -> Result<Option<(String, String)>, ReadError> {
    let Some(token) = after else {
        return Ok(None);
    };
    let id: Uuid = token.id()?;
    let time = sql.placeholder(Value::Time(Some(as_micros(token.time()))));
    Ok(Some((time, sql.placeholder(id))))
}

const NEWEST_FIRST: &str = "ORDER BY time DESC, id DESC";

/// Selects a page of requests, and one more to detect the last page. `series` is the number of matching series, if
/// the filter has conditions on series.
pub(super) fn page(
    names: &Names,
    query: &LogQuery,
    series: Option<i64>,
) -> Result<Statement, ReadError> {
    let filter = &query.filter;
    let mut sql = Statement::new(names, "");
    let limit = sql.placeholder(query.page.size() as i64 + 1);
    let within = time_condition(&mut sql, filter);
    let last = last_seen(&mut sql, query.page.after.as_ref())?;
    let after = last
        .as_ref()
        // The condition on the time alone lets PostgreSQL exclude partitions.
        .map(|(time, id)| format!(" AND time <= {time} AND (time, id) < ({time}, {id})"));
    let which = within.clone() + &after.unwrap_or_default();
    let requests = match series {
        Some(matching) if matching <= FEW_SERIES && !picks_ids(filter) => {
            let series = matching_series(&mut sql, filter);
            // Requests at exactly the time of the last one are read, but not counted for the cutoff.
            let earlier = last.as_ref().map(|(time, _)| format!(" AND time < {time}"));
            let earlier = within + &earlier.unwrap_or_default();
            let cutoff = names.dialect.time_of_last(&series, &earlier, &limit);
            let cutoff = match &last {
                Some((time, _)) => format!("coalesce(({cutoff}), {time})"),
                None => format!("({cutoff})"),
            };
            let which = format!("{which} AND time >= {cutoff}");
            names
                .dialect
                .for_each_series(COLUMNS, &series, &which, NEWEST_FIRST, &limit)
        }
        _ => {
            let which = in_matching_series(&mut sql, names, filter) + &which;
            let paths = access_paths(&mut sql, filter, &which);
            let newest = |path: &AccessPath| path.newest(names, COLUMNS, &limit);
            union(paths.iter().map(newest))
        }
    };
    sql.push_sql(
        names,
        &format!(
            "SELECT {COLUMNS}, {SERIES_COLUMNS}
            FROM (SELECT * FROM ({requests}) AS found {NEWEST_FIRST} LIMIT {limit}) r
            JOIN §series s ON s.id = r.series_id
            ORDER BY r.time DESC, r.id DESC"
        ),
    );
    Ok(sql)
}

/// Counts the matching requests, up to [`MAX_COUNT`] + 1.
pub(super) fn count(names: &Names, filter: &LogFilter) -> Statement {
    let mut sql = Statement::new(names, "");
    let limit = sql.placeholder(MAX_COUNT.cast_signed() + 1);
    let which = time_condition(&mut sql, filter);
    let requests = if filters_series(filter) && !picks_ids(filter) {
        let series = matching_series(&mut sql, filter);
        names
            .dialect
            .for_each_series("1", &series, &which, "", &limit)
    } else {
        let which = in_matching_series(&mut sql, names, filter) + &which;
        let paths = access_paths(&mut sql, filter, &which);
        union(paths.iter().map(|path| path.any(names, "id", &limit)))
    };
    sql.push_sql(
        names,
        &format!(
            "SELECT count(*) AS count FROM (SELECT 1 FROM ({requests}) AS found LIMIT {limit}) n"
        ),
    );
    sql
}

/// The union of several queries, without duplicates.
fn union(queries: impl Iterator<Item = String>) -> String {
    queries
        .reduce(|union, query| {
            format!("SELECT * FROM ({union}) AS one UNION SELECT * FROM ({query}) AS other")
        })
        .unwrap_or_default()
}

/// Selects the series that match a filter.
fn matching_series(sql: &mut Statement, filter: &LogFilter) -> String {
    let condition = series_condition(sql, filter);
    format!("SELECT id AS series_id FROM §series{condition}")
}

/// A condition on requests that their series matches a filter.
fn in_matching_series(sql: &mut Statement, names: &Names, filter: &LogFilter) -> String {
    if !filters_series(filter) {
        return String::new();
    }
    let condition = series_condition(sql, filter);
    let number = names.dialect.without_index("series_id");
    format!(" AND {number} IN (SELECT id FROM §series{condition})")
}

/// A way to find requests: by the text of a column, or by time.
struct AccessPath {
    /// The column and the placeholder of its text; `None` to scan by time.
    text: Option<(&'static str, String)>,
    /// The remaining conditions.
    which: String,
}

impl AccessPath {
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

/// The access paths to requests that match `which`: by request id, of which there are several kinds, by resource
/// id, or by time.
fn access_paths(sql: &mut Statement, filter: &LogFilter, which: &str) -> Vec<AccessPath> {
    let mut resource = String::new();
    if let Some(id) = filter.resource_id.as_deref() {
        let place = sql.placeholder(id);
        if filter.request_id.is_none() {
            return vec![AccessPath {
                text: Some(("resource_id", place)),
                which: which.into(),
            }];
        }
        resource = format!(" AND resource_id = {place}");
    }
    let Some(id) = filter.request_id.as_deref() else {
        return vec![AccessPath {
            text: None,
            which: which.into(),
        }];
    };
    let mut paths = vec![AccessPath {
        text: Some(("request_id", sql.placeholder(id))),
        which: format!("{resource}{which}"),
    }];
    // The request id may also be an event id, in any UUID notation.
    if let Ok(id) = id.parse::<Uuid>() {
        let place = sql.placeholder(id);
        let mut add = |condition: String| {
            paths.push(AccessPath {
                text: None,
                which: format!(" AND id = {place}{condition}{resource}{which}"),
            });
        };
        if let Some(millisecond) = uuid_millis(id) {
            // Nearly all event ids contain the time of the request, so the index on the time is enough.
            let from = sql.placeholder(Value::Time(Some(millisecond * 1_000)));
            let to = sql.placeholder(Value::Time(Some(millisecond * 1_000 + 1_000)));
            add(format!(
                " AND time >= {from} AND time < {to} AND id_time_differs IS NULL"
            ));
        }
        add(" AND id_time_differs IS NOT NULL".into());
    }
    paths
}

pub(super) fn event_of(row: &impl Row) -> Result<UsageEvent, SqlError> {
    let mut event = UsageEvent::new(time(row, "time")?);
    event.id = row.uuid("id")?;
    event.request_id = row.text("request_id")?.map(Into::into);
    event.key = row.text("key_id")?.map(parsed).transpose()?;
    event.owner = row.text("owner")?.map(Into::into);
    event.method = parsed(required(row.text("method")?)?)?;
    event.endpoint = required(row.text("endpoint")?)?.into();
    event.path = text(row, "path")?.into();
    event.resource_id = row.text("resource_id")?.map(Into::into);
    event.status = status(row)?;
    event.outcome = parse_name(required(row.text("outcome")?)?)?;
    event.cause = row.text("cause")?.map(parse_name).transpose()?;
    event.rejection_reason = row.text("rejection_reason")?.map(parse_name).transpose()?;
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

//! The conditions of filters on callers, kinds and requests.

use crate::backend::sql::dialect::Times;
use crate::backend::sql::engine::{Statement, Value};
use crate::backend::sql::names::Names;
use crate::backend::sql::value::{ceil_micros, status_codes};
use crate::usage::LogFilter;

pub(super) fn filters_callers(filter: &LogFilter) -> bool {
    filter.key.is_some() || filter.owner.is_some()
}

pub(super) fn filters_kinds(filter: &LogFilter) -> bool {
    let LogFilter {
        key: _,
        owner: _,
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
    outcome.is_some()
        || cause.is_some()
        || method.is_some()
        || endpoint.is_some()
        || status.is_some()
        || status_class.is_some()
}

/// The `WHERE` clause for callers.
pub(super) fn caller_condition(sql: &mut Statement, filter: &LogFilter) -> String {
    let mut condition = String::from(" WHERE TRUE");
    if let Some(key) = filter.key {
        condition.push_str(&format!(" AND key_id = {}", sql.placeholder(key)));
    }
    if let Some(owner) = filter.owner.as_deref() {
        condition.push_str(&format!(" AND owner = {}", sql.placeholder(owner)));
    }
    condition
}

/// The `WHERE` clause for kinds.
pub(super) fn kind_condition(sql: &mut Statement, filter: &LogFilter) -> String {
    let mut condition = String::from(" WHERE TRUE");
    for (column, value) in [
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

/// The condition on requests for a caller and a segment. The number of the segment must be an expression, since SQLite
/// does not use an index on an expression for comparisons with a column.
pub(super) fn of_caller(names: &Names) -> String {
    let segment = names.dialect.segment();
    format!("{segment} = one.segment_number AND r.caller_id = one.number")
}

/// The times of requests that match a filter.
pub(super) fn times(sql: &mut Statement, filter: &LogFilter) -> Times {
    let mut times = Times::default();
    if let Some(from) = filter.from {
        let from = Value::Time(Some(ceil_micros(from)));
        times.from.push(sql.placeholder(from));
    }
    if let Some(to) = filter.to {
        // Stored times are whole microseconds.
        let last = Value::Time(Some(ceil_micros(to).saturating_sub(1)));
        times.to.push(sql.placeholder(last));
    }
    times
}

/// Conditions for a time range to overlap the range of a filter, given the columns of its end and its start. `earlier`
/// is how much earlier than its end the first column is, in microseconds.
pub(super) fn overlaps(
    sql: &mut Statement,
    filter: &LogFilter,
    [end, start]: [&str; 2],
    earlier: i64,
) -> String {
    let mut condition = String::new();
    if let Some(from) = filter.from {
        let from = ceil_micros(from).saturating_sub(earlier);
        let place = sql.placeholder(Value::Time(Some(from)));
        condition.push_str(&format!(" AND {end} >= {place}"));
    }
    if let Some(to) = filter.to {
        let place = sql.placeholder(Value::Time(Some(ceil_micros(to))));
        condition.push_str(&format!(" AND {start} < {place}"));
    }
    condition
}

//! The conditions of filters on callers and kinds.

use crate::backend::sql::engine::Statement;
use crate::backend::sql::value::status_codes;
use crate::usage::LogFilter;

pub(super) fn filters_callers(filter: &LogFilter) -> bool {
    filter.key.is_some() || filter.owner.is_some() || filter.owner_contains.is_some()
}

pub(super) fn filters_kinds(filter: &LogFilter) -> bool {
    let LogFilter {
        key: _,
        owner: _,
        owner_contains: _,
        from: _,
        to: _,
        outcome,
        cause,
        rejection_reason,
        method,
        endpoint,
        status,
        status_class,
        resource_id: _,
        request_id: _,
    } = filter;
    outcome.is_some()
        || cause.is_some()
        || rejection_reason.is_some()
        || method.is_some()
        || endpoint.is_some()
        || status.is_some()
        || status_class.is_some()
}

/// The `WHERE` clause for callers, apart from a part of the owner: databases disagree about upper and lower case.
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
    if let Some(reason) = filter.rejection_reason {
        let place = sql.placeholder(reason.as_str());
        // Kinds of before schema version 4 are without the reason, which only the requests have.
        condition.push_str(&format!(
            " AND (rejection_reason = {place} OR rejection_reason IS NULL
                AND (cause = 'rejected' OR outcome = 'rate_limited'))"
        ));
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

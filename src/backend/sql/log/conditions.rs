//! The conditions of filters on callers and kinds.

use std::collections::BTreeSet;

use crate::backend::sql::engine::Statement;
use crate::usage::{LogFilter, Status, StatusClass, StatusFilter};

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
        outcomes,
        cause,
        rejection_reason,
        methods,
        endpoint,
        endpoint_contains,
        statuses,
        resource_id: _,
        client_ip: _,
        request_id: _,
        event_id: _,
    } = filter;
    !outcomes.is_empty()
        || cause.is_some()
        || rejection_reason.is_some()
        || !methods.is_empty()
        || endpoint.is_some()
        || endpoint_contains.is_some()
        || !statuses.is_empty()
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

/// The `WHERE` clause for kinds, apart from a part of the endpoint.
pub(super) fn kind_condition(sql: &mut Statement, filter: &LogFilter) -> String {
    let mut condition = String::from(" WHERE TRUE");
    let outcomes = filter.outcomes.iter().map(|it| it.as_str());
    let methods = filter.methods.iter().map(|it| it.as_str());
    for (column, values) in [
        ("outcome", outcomes.collect::<Vec<_>>()),
        ("cause", filter.cause.iter().map(|it| it.as_str()).collect()),
        ("method", methods.collect()),
        ("endpoint", filter.endpoint.as_deref().into_iter().collect()),
    ] {
        if !values.is_empty() {
            let values: Vec<_> = values.into_iter().map(|it| sql.placeholder(it)).collect();
            condition.push_str(&format!(" AND {column} IN ({})", values.join(", ")));
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
    if !filter.statuses.is_empty() {
        let statuses = status_condition(sql, &filter.statuses);
        condition.push_str(&format!(" AND ({statuses})"));
    }
    condition
}

/// The condition for statuses, of which there may be any number: SQLite limits the depth of expressions.
fn status_condition(sql: &mut Statement, statuses: &[StatusFilter]) -> String {
    let (mut http, mut grpc, mut classes) = (Vec::new(), Vec::new(), Vec::new());
    for status in statuses.iter().collect::<BTreeSet<_>>() {
        match *status {
            StatusFilter::Class(class) => classes.push(sql.placeholder(class.as_str())),
            // Its class has the same requests.
            StatusFilter::Status(Status::None) => {
                classes.push(sql.placeholder(StatusClass::None.as_str()));
            }
            StatusFilter::Status(Status::Http(code)) => http.push(sql.placeholder(i64::from(code))),
            StatusFilter::Status(Status::Grpc(code)) => grpc.push(sql.placeholder(i64::from(code))),
        }
    }
    let lists = [
        ("http_status", http),
        ("grpc_status", grpc),
        ("status_class", classes),
    ];
    let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
    let lists = lists.map(|(column, list)| format!("{column} IN ({})", list.join(", ")));
    lists.collect::<Vec<_>>().join(" OR ")
}

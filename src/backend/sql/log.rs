//! Queries of the request log.
//!
//! Every filter uses an index. A condition on the key or the owner selects callers, and the log is indexed by segment,
//! caller and time. Otherwise it is read kind by kind, by the index on kind and time. The newest requests of each caller
//! or kind are merged. Request ids and resource ids have their own indexes.

use jiff::{SignedDuration, Timestamp};
use sqlx::Error as SqlError;
use uuid::Uuid;

use super::batch_rollup::uuid_millis;
use super::dialect::Source;
use super::engine::{Row, Session, Statement, Value};
use super::names::Names;
use super::value::{
    as_micros, ceil_micros, decode, number, parse_name, parsed, required, status, status_codes,
    text, time,
};
use crate::page::PageToken;
use crate::usage::{LogFilter, LogQuery, ReadError, UsageEvent};

/// The maximum number of requests to count.
pub(super) const MAX_COUNT: u64 = 10_000;

/// The maximum number of callers to read one by one. If more match, the log is read kind by kind.
pub(super) const FEW_CALLERS: usize = 500;

/// The columns of requests `r`.
pub(super) const COLUMNS: &str =
    "r.time, r.id, r.caller_id, r.kind_id, r.request_id, r.path, r.resource_id,
    r.rejection_reason, r.cost, r.latency_us, r.request_bytes, r.response_bytes, r.client_ip";

/// The columns of callers `c` and kinds `k`.
pub(super) const ATTRIBUTES: &str =
    "c.key_id, c.owner, k.method, k.endpoint, k.http_status, k.grpc_status, k.outcome, k.cause";

/// Joins requests or rollups `r` with their caller and kind.
pub(super) const JOIN_ATTRIBUTES: &str =
    "JOIN §callers c ON c.id = r.caller_id JOIN §kinds k ON k.id = r.kind_id";

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

fn picks_ids(filter: &LogFilter) -> bool {
    filter.request_id.is_some() || filter.resource_id.is_some()
}

/// The numbers of the callers and kinds that match a filter.
#[derive(Debug, Clone)]
pub(super) struct Matching {
    /// `None` if any caller matches, or if more than [`FEW_CALLERS`] match.
    pub(super) callers: Option<Vec<i64>>,
    /// `None` if any kind matches.
    pub(super) kinds: Option<Vec<i64>>,
    /// All kinds, if neither the callers nor the kinds are limited.
    pub(super) all_kinds: Vec<i64>,
}

impl Matching {
    pub(super) async fn read<S: Session>(
        session: &mut S,
        names: &Names,
        filter: &LogFilter,
    ) -> Result<Self, SqlError> {
        let mut callers = None;
        if filters_callers(filter) {
            let mut sql = Statement::new(names, "SELECT id FROM §callers");
            let condition = caller_condition(&mut sql, filter);
            let limit = sql.placeholder(FEW_CALLERS as i64 + 1);
            sql.push(&condition).push(" LIMIT ").push(&limit);
            callers = Some(ids(session, sql).await?).filter(|all| all.len() <= FEW_CALLERS);
        }
        let mut sql = Statement::new(names, "SELECT id FROM §kinds");
        let condition = kind_condition(&mut sql, filter);
        sql.push(&condition);
        let (mut kinds, mut all_kinds) = (None, Vec::new());
        if filters_kinds(filter) {
            kinds = Some(ids(session, sql).await?);
        } else if callers.is_none() {
            all_kinds = ids(session, sql).await?;
        }
        Ok(Self {
            callers,
            kinds,
            all_kinds,
        })
    }
}

async fn ids<S: Session>(session: &mut S, sql: Statement) -> Result<Vec<i64>, SqlError> {
    let rows = session.fetch(sql).await?;
    rows.iter()
        .map(|row| required(row.integer("id")?))
        .collect()
}

fn filters_callers(filter: &LogFilter) -> bool {
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
fn caller_condition(sql: &mut Statement, filter: &LogFilter) -> String {
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
fn kind_condition(sql: &mut Statement, filter: &LogFilter) -> String {
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

/// The requests of the matching callers, or else of the matching kinds. Also returns the conditions that the source does
/// not cover.
fn source(
    sql: &mut Statement,
    names: &Names,
    filter: &LogFilter,
    matching: &Matching,
) -> (Source, String) {
    let rest = conditions(sql, names, filter, matching, matching.callers.is_none());
    let mut within = String::new();
    if let Some(from) = filter.from {
        let place = sql.placeholder(Value::Time(Some(ceil_micros(from))));
        within.push_str(&format!(" AND last >= {place}"));
    }
    if let Some(to) = filter.to {
        let place = sql.placeholder(Value::Time(Some(ceil_micros(to))));
        within.push_str(&format!(" AND first < {place}"));
    }
    let source = match (&matching.callers, &matching.kinds) {
        (Some(callers), _) => {
            let callers = sql.numbers(names, callers);
            names.dialect.each_caller(&callers, &within)
        }
        (None, kinds) => Source {
            rows: sql.numbers(names, kinds.as_ref().unwrap_or(&matching.all_kinds)),
            condition: "r.kind_id = one.number",
        },
    };
    (source, rest)
}

/// The conditions on requests that their callers match, and that their kinds do, unless those are covered.
fn conditions(
    sql: &mut Statement,
    names: &Names,
    filter: &LogFilter,
    matching: &Matching,
    kinds_are_covered: bool,
) -> String {
    let mut conditions = String::new();
    if let Some(kinds) = matching.kinds.as_ref().filter(|_| !kinds_are_covered) {
        let kinds = sql.numbers(names, kinds);
        let kind = names.dialect.without_index("kind_id");
        conditions.push_str(&format!(" AND {kind} IN ({kinds})"));
    }
    if matching.callers.is_none() && filters_callers(filter) {
        let callers = caller_condition(sql, filter);
        let caller = names.dialect.without_index("caller_id");
        conditions.push_str(&format!(
            " AND {caller} IN (SELECT id FROM §callers{callers})"
        ));
    }
    conditions
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

/// Rejects a page token of another list.
pub(super) fn check_token(token: &PageToken) -> Result<(), ReadError> {
    token.id::<Uuid>()?;
    Ok(())
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

/// Selects a page of requests, and one more to detect the last page.
pub(super) fn page(
    names: &Names,
    query: &LogQuery,
    matching: &Matching,
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
    let (source, rest) = source(&mut sql, names, filter, matching);
    let requests = if picks_ids(filter) {
        let paths = access_paths(&mut sql, names, filter, matching, &which);
        let newest = |path: &AccessPath| path.newest(names, &source, COLUMNS, &limit);
        union(paths.iter().map(newest))
    } else {
        // Requests at exactly the time of the last one are read, but not counted for the cutoff.
        let earlier = last.as_ref().map(|(time, _)| format!(" AND time < {time}"));
        let earlier = within + &earlier.unwrap_or_default() + &rest;
        let cutoff = names.dialect.time_of_last(&source, &earlier, &limit);
        let cutoff = match &last {
            Some((time, _)) => format!("coalesce(({cutoff}), {time})"),
            None => format!("({cutoff})"),
        };
        let which = format!("{which}{rest} AND time >= {cutoff}");
        let dialect = names.dialect;
        dialect.for_each(COLUMNS, &source, &which, NEWEST_FIRST, &limit)
    };
    sql.push_sql(
        names,
        &format!(
            "SELECT {COLUMNS}, {ATTRIBUTES}
            FROM (SELECT * FROM ({requests}) AS found {NEWEST_FIRST} LIMIT {limit}) r
            {JOIN_ATTRIBUTES}
            ORDER BY r.time DESC, r.id DESC"
        ),
    );
    Ok(sql)
}

/// Counts the matching requests, up to [`MAX_COUNT`] + 1.
pub(super) fn count(names: &Names, filter: &LogFilter, matching: &Matching) -> Statement {
    let mut sql = Statement::new(names, "");
    let limit = sql.placeholder(MAX_COUNT.cast_signed() + 1);
    let which = time_condition(&mut sql, filter);
    let (source, rest) = source(&mut sql, names, filter, matching);
    let requests = if picks_ids(filter) {
        let paths = access_paths(&mut sql, names, filter, matching, &which);
        union(
            paths
                .iter()
                .map(|path| path.any(names, &source, "id", &limit)),
        )
    } else {
        let which = which + &rest;
        names.dialect.for_each("1", &source, &which, "", &limit)
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

/// A way to find requests.
struct AccessPath {
    index: Index,
    /// The remaining conditions.
    which: String,
}

enum Index {
    /// The index on a column, with the placeholder of its text.
    Text(&'static str, String),
    /// The index on event ids.
    Id,
    /// That of the source.
    Source,
}

impl AccessPath {
    fn newest(&self, names: &Names, source: &Source, columns: &str, limit: &str) -> String {
        let (dialect, which) = (names.dialect, &self.which);
        match &self.index {
            Index::Text(column, place) => {
                dialect.newest_with_text(columns, column, place, which, limit)
            }
            Index::Id => format!(
                "SELECT {columns} FROM §requests r WHERE TRUE{which} {NEWEST_FIRST} LIMIT {limit}"
            ),
            Index::Source => dialect.for_each(columns, source, which, NEWEST_FIRST, limit),
        }
    }

    fn any(&self, names: &Names, source: &Source, columns: &str, limit: &str) -> String {
        let (dialect, which) = (names.dialect, &self.which);
        match &self.index {
            Index::Text(column, place) => {
                let with_text = dialect.with_text(column, place);
                format!("SELECT {columns} FROM {with_text}{which} LIMIT {limit}")
            }
            Index::Id | Index::Source => self.newest(names, source, columns, limit),
        }
    }
}

/// The access paths to requests that match `which`: by resource id, or by request id, of which there are several kinds.
fn access_paths(
    sql: &mut Statement,
    names: &Names,
    filter: &LogFilter,
    matching: &Matching,
    which: &str,
) -> Vec<AccessPath> {
    let mut which = conditions(sql, names, filter, matching, false) + which;
    if let Some(callers) = &matching.callers {
        let callers = sql.numbers(names, callers);
        let caller = names.dialect.without_index("caller_id");
        which = format!(" AND {caller} IN ({callers}){which}");
    }
    let mut resource = String::new();
    if let Some(id) = filter.resource_id.as_deref() {
        let place = sql.placeholder(id);
        if filter.request_id.is_none() {
            return vec![AccessPath {
                index: Index::Text("resource_id", place),
                which,
            }];
        }
        resource = format!(" AND resource_id = {place}");
    }
    let Some(id) = filter.request_id.as_deref() else {
        return Vec::new();
    };
    let mut paths = vec![AccessPath {
        index: Index::Text("request_id", sql.placeholder(id)),
        which: format!("{resource}{which}"),
    }];
    // The request id may also be an event id, in any UUID notation.
    if let Ok(id) = id.parse::<Uuid>() {
        let place = sql.placeholder(id);
        if let Some(millisecond) = uuid_millis(id) {
            // Nearly all event ids contain the time of the request, so the indexes that end in the time are enough.
            let from = sql.placeholder(Value::Time(Some(millisecond * 1_000)));
            let to = sql.placeholder(Value::Time(Some(millisecond * 1_000 + 1_000)));
            paths.push(AccessPath {
                index: Index::Source,
                which: format!(
                    " AND id = {place} AND time >= {from} AND time < {to}
                    AND id_time_differs IS NULL{resource}{which}"
                ),
            });
        }
        paths.push(AccessPath {
            index: Index::Id,
            which: format!(" AND id = {place} AND id_time_differs IS NOT NULL{resource}{which}"),
        });
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

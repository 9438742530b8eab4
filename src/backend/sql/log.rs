//! Queries of the request log.
//!
//! Every filter uses an index. A condition on the key or the owner selects callers, and the log is indexed by segment,
//! caller and time. Otherwise it is read kind by kind, by the index on kind and time. The newest requests of each
//! caller or kind are merged. Request ids and resource ids have their own indexes.

mod buckets;
mod conditions;

use jiff::{SignedDuration, Timestamp};
use sqlx::Error as SqlError;
use uuid::Uuid;

use self::buckets::Buckets;
use self::conditions::{
    caller_condition, filters_callers, filters_kinds, kind_condition, of_caller, overlaps, times,
};
use super::batch_rollup::uuid_millis;
use super::dialect::{Source, Times};
use super::engine::{Row, Session, Statement, Value};
use super::names::Names;
use super::value::{as_micros, decode, number, parse_name, parsed, required, status, text, time};
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

/// Joins requests `r` with their caller and kind. A left join, so that SQLite does not begin with the callers.
pub(super) const JOIN_ATTRIBUTES: &str =
    "LEFT JOIN §callers c ON c.id = r.caller_id LEFT JOIN §kinds k ON k.id = r.kind_id";

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
    /// If both are limited.
    pub(super) buckets: Option<Buckets>,
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
        let buckets = match (&callers, &kinds) {
            (Some(callers), Some(kinds)) => {
                Some(Buckets::read(session, names, filter, callers, kinds).await?)
            }
            _ => None,
        };
        Ok(Self {
            callers,
            kinds,
            all_kinds,
            buckets,
        })
    }
}

async fn ids<S: Session>(session: &mut S, sql: Statement) -> Result<Vec<i64>, SqlError> {
    let rows = session.fetch(sql).await?;
    rows.iter()
        .map(|row| required(row.integer("id")?))
        .collect()
}

/// The requests of the matching callers, or else of the matching kinds. Also returns the conditions that the source
/// does not cover.
fn source(
    sql: &mut Statement,
    names: &Names,
    filter: &LogFilter,
    matching: &Matching,
) -> (Source, String) {
    let Matching {
        callers,
        kinds,
        all_kinds,
        buckets,
    } = matching;
    if let (Some(callers), Some(kinds), Some(buckets)) = (callers, kinds, buckets) {
        return buckets.source(sql, names, filter, callers, kinds);
    }
    let source = match callers {
        Some(callers) => {
            let callers = sql.numbers(names, callers);
            let within = overlaps(sql, filter, ["last", "first"], 0);
            Source {
                rows: format!(
                    "SELECT +s.number AS segment_number, s.first, s.last, c.number
                    FROM §log_segments s CROSS JOIN ({callers}) c WHERE TRUE{within}"
                ),
                condition: of_caller(names),
                has_times: true,
            }
        }
        None => Source {
            rows: sql.numbers(names, kinds.as_ref().unwrap_or(all_kinds)),
            condition: "r.kind_id = one.number".into(),
            has_times: false,
        },
    };
    let rest = conditions(sql, names, filter, matching, callers.is_none());
    (source, rest)
}

/// Conditions for the callers and kinds that the source does not already cover.
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
        let kind = names.dialect.without_index("r.kind_id");
        conditions.push_str(&format!(" AND {kind} IN ({kinds})"));
    }
    if matching.callers.is_none() && filters_callers(filter) {
        let callers = caller_condition(sql, filter);
        let caller = names.dialect.without_index("r.caller_id");
        conditions.push_str(&format!(
            " AND {caller} IN (SELECT id FROM §callers{callers})"
        ));
    }
    conditions
}

/// The filters to query in turn until there are enough results. In a partitioned log, the most recent days come first:
/// a query of all partitions has to plan for and lock each of them. The same applies to filters on both callers and
/// kinds, which would otherwise read every matching hour.
pub(super) fn subqueries(
    names: &Names,
    filter: &LogFilter,
    after: Option<&PageToken>,
) -> Vec<LogFilter> {
    let mut filters = Vec::new();
    if names.dialect.has_partitioned_log() || (filters_callers(filter) && filters_kinds(filter)) {
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

/// Rejects a page token of another list.
pub(super) fn check_token(token: &PageToken) -> Result<(), ReadError> {
    token.id::<Uuid>()?;
    Ok(())
}

/// The placeholders for the last request of the previous page.
struct LastSeen {
    time: String,
    /// The time before it.
    before: String,
    id: String,
}

fn last_seen(
    sql: &mut Statement,
    after: Option<&PageToken>,
) -> Result<Option<LastSeen>, ReadError> {
    let Some(token) = after else {
        return Ok(None);
    };
    let id: Uuid = token.id()?;
    let time = as_micros(token.time());
    Ok(Some(LastSeen {
        time: sql.placeholder(Value::Time(Some(time))),
        before: sql.placeholder(Value::Time(Some(time.saturating_sub(1)))),
        id: sql.placeholder(id),
    }))
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
    let mut times = times(&mut sql, filter);
    let (source, rest) = source(&mut sql, names, filter, matching);
    let last = last_seen(&mut sql, query.page.after.as_ref())?;
    // Requests at exactly the time of the last one are read, but not counted for the cutoff.
    let mut earlier = times.clone();
    let mut after = String::new();
    if let Some(last) = &last {
        earlier.to.push(last.before.clone());
        times.to.push(last.time.clone());
        after = format!(" AND (r.time, r.id) < ({}, {})", last.time, last.id);
    }
    let requests = if picks_ids(filter) {
        let paths = access_paths(&mut sql, names, filter, matching, &times);
        let newest = |path: &AccessPath| path.newest(names, &source, &after, &limit);
        union(paths.iter().map(newest))
    } else {
        let dialect = names.dialect;
        let cutoff = dialect.time_of_last(&source, &earlier, &rest, &limit);
        times.from.push(match &last {
            Some(last) => format!("coalesce(({cutoff}), {})", last.time),
            None => format!("({cutoff})"),
        });
        let which = after + &rest;
        dialect.for_each(COLUMNS, &source, &times, &which, NEWEST_FIRST, &limit)
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
    let times = times(&mut sql, filter);
    let (source, rest) = source(&mut sql, names, filter, matching);
    let requests = if picks_ids(filter) {
        let paths = access_paths(&mut sql, names, filter, matching, &times);
        union(paths.iter().map(|path| path.any(names, &source, &limit)))
    } else {
        let dialect = names.dialect;
        dialect.for_each("1", &source, &times, &rest, "", &limit)
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
    times: Times,
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
    /// Selects the newest requests that also match `after`.
    fn newest(&self, names: &Names, source: &Source, after: &str, limit: &str) -> String {
        let (dialect, order) = (names.dialect, NEWEST_FIRST);
        let which = format!("{after}{}", self.which);
        let all = format!("{}{which}", dialect.within(&self.times));
        match &self.index {
            Index::Text(column, place) => {
                dialect.newest_with_text(COLUMNS, column, place, &all, limit)
            }
            Index::Id => {
                format!("SELECT {COLUMNS} FROM §requests r WHERE TRUE{all} {order} LIMIT {limit}")
            }
            Index::Source => dialect.for_each(COLUMNS, source, &self.times, &which, order, limit),
        }
    }

    /// Selects the ids of some requests.
    fn any(&self, names: &Names, source: &Source, limit: &str) -> String {
        let (dialect, which) = (names.dialect, &self.which);
        let all = format!("{}{which}", dialect.within(&self.times));
        match &self.index {
            Index::Text(column, place) => {
                let with_text = dialect.with_text(column, place);
                format!("SELECT r.id FROM {with_text}{all} LIMIT {limit}")
            }
            Index::Id => format!("SELECT r.id FROM §requests r WHERE TRUE{all} LIMIT {limit}"),
            Index::Source => dialect.for_each("r.id", source, &self.times, which, "", limit),
        }
    }
}

/// The access paths to requests that match a filter: by resource id, or by request id, of which there are several
/// kinds.
fn access_paths(
    sql: &mut Statement,
    names: &Names,
    filter: &LogFilter,
    matching: &Matching,
    times: &Times,
) -> Vec<AccessPath> {
    let mut which = conditions(sql, names, filter, matching, false);
    if let Some(callers) = &matching.callers {
        let callers = sql.numbers(names, callers);
        let caller = names.dialect.without_index("r.caller_id");
        which.push_str(&format!(" AND {caller} IN ({callers})"));
    }
    let path = |index, which: String| AccessPath {
        index,
        which,
        times: times.clone(),
    };
    if let Some(id) = filter.resource_id.as_deref() {
        let place = sql.placeholder(id);
        if filter.request_id.is_none() {
            return vec![path(Index::Text("resource_id", place), which)];
        }
        which.push_str(&format!(" AND r.resource_id = {place}"));
    }
    let Some(id) = filter.request_id.as_deref() else {
        return Vec::new();
    };
    let text = Index::Text("request_id", sql.placeholder(id));
    let mut paths = vec![path(text, which.clone())];
    // The request id may also be an event id, in any UUID notation.
    if let Ok(id) = id.parse::<Uuid>() {
        which.push_str(&format!(" AND r.id = {}", sql.placeholder(id)));
        if let Some(millisecond) = uuid_millis(id) {
            // Nearly all event ids contain the time of the request, so the indexes that end in the time are enough.
            let mut of_id = path(
                Index::Source,
                format!("{which} AND r.id_time_differs IS NULL"),
            );
            let (first, last) = (millisecond * 1_000, millisecond * 1_000 + 999);
            let first = sql.placeholder(Value::Time(Some(first)));
            let last = sql.placeholder(Value::Time(Some(last)));
            of_id.times.from.push(first);
            of_id.times.to.push(last);
            paths.push(of_id);
        }
        which.push_str(" AND r.id_time_differs IS NOT NULL");
        paths.push(path(Index::Id, which));
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

//! The statements that search segments of the log.

use jiff::Timestamp;
use uuid::Uuid;

use super::access_path::{AccessPath, Id};
use super::matching::{Callers, Matching};
use super::segments::{Segment, Segments};
use crate::backend::sql::engine::{Statement, Value};
use crate::backend::sql::names::Names;
use crate::backend::sql::value::as_micros;

/// The columns of callers `c` and kinds `k`.
pub(in crate::backend::sql) const ATTRIBUTES: &str =
    "c.key_id, c.owner, k.method, k.endpoint, k.http_status, k.grpc_status, k.outcome, k.cause,
    k.rejection_reason AS kind_rejection_reason, k.billable";

/// Joins requests `r` with their caller and kind. A left join, so that SQLite does not begin with the callers.
pub(in crate::backend::sql) const JOIN_ATTRIBUTES: &str =
    "LEFT JOIN {prefix}callers c ON c.id = r.caller_id
    LEFT JOIN {prefix}kinds k ON k.id = r.kind_id";

const NEWEST_FIRST: &str = "ORDER BY time DESC, id DESC";

/// The indexes on ids begin with `segment >> GROUP_BITS`, so that a search has fewer places to look at. Few segments at
/// a time are inserted into, so it costs little.
const GROUP_BITS: u32 = 4;

/// The maximum number of pairs of a caller and a kind to look up in the index on both.
const FEW_SERIES: usize = 500;

/// A search of some segments.
pub(super) struct Search<'a> {
    names: &'a Names,
    sql: Statement,
    /// A subquery of the segments, or of groups of them.
    segments: String,
    /// The conditions on requests `r` of `one` of them.
    which: String,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        names: &'a Names,
        path: &AccessPath,
        matching: &Matching,
        segments: &Segments<'_>,
        step: &[Segment],
    ) -> Self {
        let (dialect, mut sql) = (names.dialect, Statement::new(names, ""));
        let numbers: Vec<_> = step.iter().map(|segment| segment.number).collect();
        let segment = sql.is_one_of(names, "number", &numbers);
        let index = index(path, matching);
        let times = segments.times_of(step);
        let from = sql.placeholder(Value::Time(Some(times.from)));
        let to = sql.placeholder(Value::Time(Some(times.to)));
        // The times limit the partitions that PostgreSQL reads.
        let mut which = format!(
            "r.time >= one.first AND r.time <= one.last AND r.time >= {from} AND r.time <= {to}"
        );
        let mut and = |condition: String| which.push_str(&format!(" AND {condition}"));
        let segments = match index {
            Some(Index::Ids) => {
                and(format!("(r.segment >> {GROUP_BITS}) = one.number"));
                let column = dialect.without_index("r.segment");
                and(sql.is_one_of(names, &column, &numbers));
                format!(
                    "SELECT number >> {GROUP_BITS} AS number, min(first) AS first, max(last) AS last
                    FROM {{prefix}}log_segments WHERE {segment} GROUP BY number >> {GROUP_BITS}"
                )
            }
            _ => {
                and("r.segment = one.number".into());
                format!("SELECT number, first, last FROM {{prefix}}log_segments WHERE {segment}")
            }
        };
        let column = |column: &str, indexes: [Index; 2]| match index {
            Some(index) if indexes.contains(&index) => column.into(),
            _ => dialect.without_index(column),
        };
        let caller = column("r.caller_id", [Index::Callers, Index::CallersAndKinds]);
        let kind = column("r.kind_id", [Index::Kinds, Index::CallersAndKinds]);
        match &matching.callers {
            Callers::Any => {}
            Callers::Few(callers) => and(sql.is_one_of(names, &caller, callers)),
            Callers::Many(callers) => {
                let place = sql.placeholder(Value::Integers(callers.clone()));
                and(dialect.is_one_of_many(&caller, &place));
            }
        }
        if let Some(kinds) = &matching.kinds {
            and(sql.is_one_of(names, &kind, kinds));
        }
        if let Some(reason) = matching.rejection_reason {
            let place = sql.placeholder(reason.as_str());
            and(format!(
                "(r.rejection_reason = {place} OR r.rejection_reason IS NULL AND r.kind_id IN
                    (SELECT id FROM {{prefix}}kinds WHERE rejection_reason = {place}))"
            ));
        }
        if let Some(id) = path.resource_id.as_deref() {
            let place = sql.placeholder(id);
            and(match &path.id {
                None => dialect.text_equals("r.resource_id", &place),
                // Not by its index: many requests may have the same resource id.
                Some(_) => format!("r.resource_id || '' = {place}"),
            });
        }
        if let Some(ip) = path.client_ip {
            let place = sql.placeholder(&*ip.to_string());
            and(dialect.address_equals("r.client_ip", &place));
        }
        if let Some(text) = path.request_id.as_deref() {
            let place = sql.placeholder(text);
            and(format!("r.request_id || '' = {place}"));
        }
        match &path.id {
            None => {}
            Some(Id::Request(text)) => {
                let place = sql.placeholder(&**text);
                and(dialect.text_equals("r.request_id", &place));
            }
            Some(Id::Event { id, text, has_time }) => {
                let id = sql.placeholder(*id);
                let not = if *has_time { "" } else { "NOT " };
                and(format!("r.id = {id} AND r.id_time_differs IS {not}NULL"));
                if let Some(text) = text.as_deref() {
                    let text = sql.placeholder(text);
                    and(format!("coalesce(r.request_id, '') <> {text}"));
                }
            }
        }
        Self {
            names,
            sql,
            segments,
            which,
        }
    }

    /// Selects the newest requests.
    pub(super) fn newest(mut self, after: Option<(Timestamp, Uuid)>, limit: usize) -> Statement {
        if let Some((time, id)) = after {
            let time = self.sql.placeholder(Value::Time(Some(as_micros(time))));
            let id = self.sql.placeholder(id);
            self.which
                .push_str(&format!(" AND (r.time, r.id) < ({time}, {id})"));
        }
        let limit = self.sql.placeholder(limit as i64);
        let columns = self.names.dialect.request_columns();
        let requests = self.requests(&columns, NEWEST_FIRST, &limit);
        self.sql.push_sql(
            self.names,
            &format!(
                "SELECT {columns}, {ATTRIBUTES} FROM ({requests}) r {JOIN_ATTRIBUTES}
                ORDER BY r.time DESC, r.id DESC"
            ),
        );
        self.sql
    }

    /// Counts the requests, up to a limit.
    pub(super) fn count(mut self, limit: u64) -> Statement {
        let limit = self.sql.placeholder(limit.cast_signed());
        let requests = self.requests("1", "", &limit);
        let count = format!("SELECT count(*) AS count FROM ({requests}) n");
        self.sql.push_sql(self.names, &count);
        self.sql
    }

    fn requests(&self, columns: &str, order: &str, limit: &str) -> String {
        let dialect = self.names.dialect;
        dialect.for_each_segment(columns, &self.segments, &self.which, order, limit)
    }
}

/// The index to use within a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Index {
    Callers,
    CallersAndKinds,
    Kinds,
    /// Of request ids, event ids or resource ids.
    Ids,
}

/// `None` to read all requests of the segments.
fn index(path: &AccessPath, matching: &Matching) -> Option<Index> {
    match &path.id {
        // All requests of a millisecond are in few segments.
        Some(Id::Event { has_time: true, .. }) => return None,
        Some(_) => return Some(Index::Ids),
        None if path.resource_id.is_some() => return Some(Index::Ids),
        None => {}
    }
    match (&matching.callers, &matching.kinds) {
        (Callers::Few(callers), Some(kinds)) if callers.len() * kinds.len() <= FEW_SERIES => {
            Some(Index::CallersAndKinds)
        }
        (Callers::Few(_), _) => Some(Index::Callers),
        (_, Some(_)) => Some(Index::Kinds),
        (_, None) => None,
    }
}

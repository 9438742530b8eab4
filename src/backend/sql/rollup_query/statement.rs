//! Queries of rollups.

use super::range_cover::{RangePart, Widths, cover_range};
use super::time_buckets::{Section, TimeBuckets, bucket};
use crate::backend::sql::engine::{Statement, Value};
use crate::backend::sql::names::Names;
use crate::backend::sql::rollup_record::READABLE;
use crate::backend::sql::series_rollup::ALL_CALLERS;
use crate::id::KeyId;
use crate::usage::{Granularity, UsageRange};

/// The time ranges of the rollups in tables and of those in records; the times before which minutes were pruned,
/// minutes were merged into quarters of an hour, all were merged into hours and days, and hours and days are being
/// pruned; whether the totals of callers are missing after a migration; and the time before which they have no minutes.
pub(super) fn extent(names: &Names) -> Statement {
    let template = format!(
        "SELECT (SELECT min(start) FROM {{prefix}}hours WHERE caller_id = {ALL_CALLERS}) AS first_hour,
    (SELECT max(start) FROM {{prefix}}hours WHERE caller_id = {ALL_CALLERS}) AS last_hour,
    (SELECT min(start) FROM {{prefix}}minutes WHERE caller_id = {ALL_CALLERS}) AS first_minute,
    (SELECT max(start) FROM {{prefix}}minutes WHERE caller_id = {ALL_CALLERS}) AS last_minute,
    (SELECT min(first) FROM {{prefix}}rollup_records WHERE {READABLE}) AS first_unmerged,
    (SELECT max(last) FROM {{prefix}}rollup_records WHERE {READABLE}) AS last_unmerged,
    (SELECT before FROM {{prefix}}pruned WHERE kind = 'minutes') AS dropped,
    (SELECT before FROM {{prefix}}pruned WHERE kind = 'quarter_hours') AS folded,
    (SELECT before FROM {{prefix}}pruned WHERE kind = 'merged_hours') AS merged_hours,
    (SELECT before FROM {{prefix}}pruned WHERE kind = 'merged_days') AS merged_days,
    (SELECT before FROM {{prefix}}pruned WHERE kind = 'hours') AS gone,
    EXISTS (SELECT 1 FROM {{prefix}}caller_totals WHERE totals IS NULL) AS lacks_totals,
    (SELECT before FROM {{prefix}}pruned WHERE kind = 'caller_minutes') AS lack_minutes"
    );
    Statement::new(names, &template)
}

/// The callers whose rollups a query reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Callers {
    /// Those that match the range, each by itself.
    Each,
    /// All of them together. Only for ranges without a key or an owner.
    Together,
}

/// The range of a query, and its keys if it is for a few, at least one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) range: &'a UsageRange,
    pub(super) keys: Option<&'a [Option<KeyId>]>,
}

impl Scope<'_> {
    /// Whether it includes all callers.
    pub(super) fn is_unfiltered(&self) -> bool {
        self.range.key.is_none() && self.range.owner.is_none() && self.keys.is_none()
    }
}

impl<'a> From<&'a UsageRange> for Scope<'a> {
    fn from(range: &'a UsageRange) -> Self {
        Self { range, keys: None }
    }
}

/// The conditions on the key and the owner of callers `c`.
fn condition(sql: &mut Statement, names: &Names, scope: Scope<'_>) -> String {
    let mut text = String::new();
    if let Some(key) = scope.range.key {
        text.push_str(&format!(" AND c.key_id = {}", sql.placeholder(key)));
    }
    if let Some(keys) = scope.keys {
        let known = keys.iter().flatten().map(|key| sql.placeholder(*key));
        let known: Vec<_> = known.collect();
        let mut any = vec![format!("c.key_id IN ({})", known.join(", "))];
        any.retain(|_| !known.is_empty());
        any.extend(keys.contains(&None).then(|| "c.key_id IS NULL".into()));
        text.push_str(&format!(" AND ({})", any.join(" OR ")));
    }
    if let Some(owner) = scope.range.owner.as_deref() {
        let place = sql.placeholder(owner);
        let is = names.dialect.text_equals("c.owner", &place);
        text.push_str(&format!(" AND {is}"));
    }
    text
}

/// Selects the callers of a range, each column as a JSON array.
pub(super) fn callers_of(names: &Names, scope: Scope<'_>) -> Statement {
    let mut sql = Statement::new(names, "");
    let condition = condition(&mut sql, names, scope);
    let array = |column: &str| names.dialect.json_array(column);
    let select = format!(
        "SELECT {} AS ids, {} AS keys, {} AS owners FROM {{prefix}}callers c WHERE TRUE{condition}",
        array("c.id"),
        array("c.key_id"),
        array("c.owner"),
    );
    sql.push_sql(names, &select);
    sql
}

/// Selects the [state](super::super::callers::CallersState) of the callers, if there are any.
pub(super) fn callers_state(names: &Names) -> Statement {
    let state =
        "SELECT id, token, (SELECT before FROM {prefix}pruned WHERE kind = 'callers') AS pruned
        FROM {prefix}callers ORDER BY id DESC LIMIT 1";
    Statement::new(names, state)
}

/// Selects all kinds.
pub(super) fn kinds(names: &Names) -> Statement {
    let kinds = "SELECT id, method, endpoint, http_status, grpc_status, outcome, cause, rejection_reason, billable
        FROM {prefix}kinds";
    Statement::new(names, kinds)
}

/// Rollups of a range by caller, kind and time bucket.
pub(super) fn by_series(
    names: &Names,
    range: &UsageRange,
    callers: Callers,
    parts: &[RangePart],
    grid: &TimeBuckets,
    latency: bool,
) -> Statement {
    let joined = names.dialect.concat_bytes("t.latency");
    let joined = if latency { &joined } else { "NULL" };
    let select = format!("t.caller_id, t.kind_id, {joined} AS latency");
    let bucket = bucket(names, grid);
    let by = format!("t.caller_id, t.kind_id{bucket}");
    let parts = parts.iter().map(|part| (part.clone(), by.clone()));
    let scope = range.into();
    read(names, scope, callers, "{prefix}hours", &select, "", parts)
}

/// Rollups of a range by outcome, cause and the time buckets of each section.
pub(super) fn by_outcome(
    names: &Names,
    range: &UsageRange,
    callers: Callers,
    sections: &[Section],
    widths: Widths,
    latency: bool,
) -> Statement {
    let parts = sections.iter().flat_map(|section| {
        let parts = cover_range(&section.starts, section.widest, widths);
        let by = format!(
            "k.outcome, k.cause, k.billable{}",
            bucket(names, &section.grid)
        );
        parts.into_iter().map(move |part| (part, by.clone()))
    });
    let joined = names.dialect.concat_bytes("t.latency");
    let joined = if latency { &joined } else { "NULL" };
    let select = format!("k.outcome, k.cause, k.billable, {joined} AS latency");
    let hours = "{prefix}hours_by_outcome";
    read(
        names,
        range.into(),
        callers,
        hours,
        &select,
        " CROSS JOIN {prefix}kinds k",
        parts,
    )
}

/// Rollups of a range by caller, outcome and cause, with a kind as their representative.
pub(super) fn by_caller(names: &Names, scope: Scope<'_>, parts: Vec<RangePart>) -> Statement {
    let by = "t.caller_id, k.outcome, k.cause, k.billable";
    let select = "t.caller_id, min(t.kind_id) AS kind_id";
    let parts = parts.into_iter().map(|part| (part, by.to_owned()));
    read(
        names,
        scope,
        Callers::Each,
        "{prefix}hours_by_outcome",
        select,
        " CROSS JOIN {prefix}kinds k",
        parts,
    )
}

/// Reads the rollups `t` of each part, those by hour from a given table, with their callers `c` and with another table,
/// grouped by the expressions of the part.
fn read(
    names: &Names,
    scope: Scope<'_>,
    callers: Callers,
    hours: &'static str,
    select: &str,
    other: &str,
    parts: impl Iterator<Item = (RangePart, String)>,
) -> Statement {
    let dialect = names.dialect;
    let mut sql = Statement::new(names, "");
    let condition = condition(&mut sql, names, scope);
    let read = parts.map(|(part, by)| {
        let table = match part.width {
            Granularity::Minute | Granularity::QuarterHour => "{prefix}minutes",
            Granularity::Hour => hours,
            _ => "{prefix}days",
        };
        let from = sql.placeholder(Value::Time(Some(part.starts.start)));
        let to = sql.placeholder(Value::Time(Some(part.starts.end)));
        let within = format!("t.start >= {from} AND t.start < {to}");
        let (tables, mut which) = match callers {
            Callers::Together => {
                let which = format!("t.caller_id = {ALL_CALLERS} AND {within}");
                (format!("{table} t"), which)
            }
            Callers::Each if condition.is_empty() && !other.is_empty() => (
                format!("{table} t"),
                format!("t.caller_id <> {ALL_CALLERS} AND {within}"),
            ),
            // SQLite reads the tables in this order.
            Callers::Each if condition.is_empty() => (
                format!("{{prefix}}callers c CROSS JOIN {table} t"),
                format!("t.caller_id = c.id AND {within}"),
            ),
            Callers::Each => {
                let (tables, which) = dialect.join_callers(table, &within);
                (tables, which + &condition)
            }
        };
        if !other.is_empty() {
            which.push_str(" AND k.id = t.kind_id");
        }
        format!(
            "SELECT {select}, min(t.start) AS start, {} AS count, {} AS cost, {} AS request_bytes,
                {} AS response_bytes
            FROM {tables}{other} WHERE {which} GROUP BY {by}",
            dialect.sum("t.count"),
            dialect.sum("t.cost"),
            dialect.capped_sum("t.request_bytes"),
            dialect.capped_sum("t.response_bytes"),
        )
    });
    let read: Vec<_> = read.collect();
    sql.push_sql(names, &read.join(" UNION ALL "));
    sql
}

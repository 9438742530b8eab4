//! Questions about sums.

use super::range_cover::{Coarse, Part, parts};
use super::time_buckets::{Grid, Section, bucket};
use crate::backend::sql::engine::{Statement, Value};
use crate::backend::sql::names::Names;
use crate::usage::{Granularity, UsageRange};

/// From when to when there is anything, up to when minutes have been dropped or folded into quarters of
/// an hour, and up to when all else is being dropped.
pub(super) fn extent(names: &Names) -> Statement {
    let template = "SELECT (SELECT min(start) FROM §hours) AS first_hour,
    (SELECT max(start) FROM §hours) AS last_hour,
    (SELECT max(start) FROM §minutes) AS last_minute,
    (SELECT before FROM §pruned WHERE kind = 'minutes') AS dropped,
    (SELECT before FROM §pruned WHERE kind = 'quarter_hours') AS folded,
    (SELECT before FROM §pruned WHERE kind = 'hours') AS gone";
    Statement::new(names, template)
}

/// Whose sums: a condition on the columns of a table.
fn whose(sql: &mut Statement, names: &Names, table: &str, range: &UsageRange) -> String {
    let mut condition = String::new();
    if let Some(key) = range.key {
        condition.push_str(&format!(" AND {table}.key_id = {}", sql.place(key)));
    }
    if let Some(owner) = range.owner.as_deref() {
        let place = sql.place(owner);
        let is = names.dialect.is_text(&format!("{table}.owner"), &place);
        condition.push_str(&format!(" AND {is}"));
    }
    condition
}

fn starting_in(sql: &mut Statement, part: &Part) -> String {
    let from = sql.place(Value::Time(Some(part.starts.start)));
    let to = sql.place(Value::Time(Some(part.starts.end)));
    format!("t.start >= {from} AND t.start < {to}")
}

/// What series have in common with rollups.
const SERIES: &str = "s.key_id, s.owner, s.method, s.endpoint, s.http_status, s.grpc_status,
    s.outcome, s.cause";

/// The series of a range.
pub(super) fn series(names: &Names, range: &UsageRange) -> Statement {
    let mut sql = Statement::new(names, "");
    let whose = whose(&mut sql, names, "s", range);
    sql.push_sql(
        names,
        &format!("SELECT s.id AS series_id, {SERIES} FROM §series s WHERE TRUE{whose}"),
    );
    sql
}

/// The amounts of sums, added up.
fn amounts(names: &Names) -> String {
    let dialect = names.dialect;
    format!(
        "min(t.start) AS start, {} AS count, {} AS cost, {} AS request_bytes, {} AS response_bytes",
        dialect.sum("t.count"),
        dialect.sum("t.cost"),
        dialect.capped_sum("t.request_bytes"),
        dialect.capped_sum("t.response_bytes")
    )
}

/// The sums of a range added up by series and grid.
pub(super) fn by_series(
    names: &Names,
    range: &UsageRange,
    parts: &[Part],
    grid: &Grid,
    latency: bool,
) -> Statement {
    let mut sql = Statement::new(names, "");
    let whose = whose(&mut sql, names, "s", range);
    let joined = names.dialect.joined("t.latency");
    let joined = if latency { &joined } else { "NULL" };
    let amounts = amounts(names);
    let bucket = bucket(names, grid);
    let read = parts.iter().map(|part| {
        let table = match part.width {
            Granularity::Minute | Granularity::QuarterHour => "§minutes",
            Granularity::Hour => "§hours",
            _ => "§days",
        };
        let starting = starting_in(&mut sql, part);
        if whose.is_empty() {
            return format!(
                "SELECT t.series_id, {amounts}, {joined} AS latency FROM {table} t
                WHERE {starting} GROUP BY t.series_id{bucket}"
            );
        }
        let from = names.dialect.series_and(table, &starting);
        format!(
            "SELECT s.id AS series_id, {amounts}, {joined} AS latency FROM {from}{whose}
            GROUP BY s.id{bucket}"
        )
    });
    let read: Vec<_> = read.collect();
    sql.push_sql(names, &read.join(" UNION ALL "));
    sql
}

/// Into how many values the latencies of a kind are joined: all in one, those of very many keys would be
/// more than databases take, which is 1 GB.
const SHARES: u8 = 64;

/// Everybody's sums added up by all that series have in common with rollups but for whose they are:
/// there may be any number of keys, but not of these. With latencies, each kind has up to [`SHARES`] sums.
pub(super) fn by_kind(
    names: &Names,
    range: &UsageRange,
    parts: &[Part],
    latency: bool,
) -> Statement {
    let each = by_series(names, range, parts, &Grid::None, latency);
    let joined = names.dialect.joined("t.latency");
    let joined = if latency { &joined } else { "NULL" };
    let share = if latency {
        format!(", t.series_id % {SHARES}")
    } else {
        String::new()
    };
    let amounts = amounts(names);
    let kind = "s.method, s.endpoint, s.http_status, s.grpc_status, s.outcome, s.cause";
    let mut sql = Statement::new(names, "");
    sql.push_sql(
        names,
        &format!(
            "SELECT NULL AS key_id, NULL AS owner, {kind}, {amounts}, {joined} AS latency
            FROM ({}) t JOIN §series s ON s.id = t.series_id GROUP BY {kind}{share}",
            each.text
        ),
    );
    sql.values = each.values;
    sql
}

/// The sums of a range added up by outcome, cause and the grid of each section.
pub(super) fn by_outcome(
    names: &Names,
    range: &UsageRange,
    sections: &[Section],
    coarse: Coarse,
) -> Statement {
    let parts = sections.iter().flat_map(|section| {
        let parts = parts(&section.starts, section.widest, coarse);
        let bucket = bucket(names, &section.grid);
        parts.into_iter().map(move |part| (part, bucket.clone()))
    });
    of_keys(names, range, "NULL AS key_id", parts)
}

/// The sums of a range added up by key, outcome and cause.
pub(super) fn by_key(names: &Names, range: &UsageRange, parts: Vec<Part>) -> Statement {
    let by_key = ", t.key_id".to_owned();
    let parts = parts.into_iter().map(|part| (part, by_key.clone()));
    of_keys(names, range, "t.key_id", parts)
}

/// Sums by key and outcome, added up by outcome, cause and by what stands beside each part.
fn of_keys(
    names: &Names,
    range: &UsageRange,
    key: &str,
    parts: impl Iterator<Item = (Part, String)>,
) -> Statement {
    let mut sql = Statement::new(names, "");
    let whose = whose(&mut sql, names, "t", range);
    let amounts = amounts(names);
    let read = parts.map(|(part, by)| {
        let table = match part.width {
            Granularity::Minute | Granularity::QuarterHour => "§key_minutes",
            _ => "§key_hours",
        };
        let starting = starting_in(&mut sql, &part);
        format!(
            "SELECT {key}, t.outcome, t.cause, {amounts} FROM {table} t
            WHERE {starting}{whose} GROUP BY t.outcome, t.cause{by}"
        )
    });
    let read: Vec<_> = read.collect();
    sql.push_sql(names, &read.join(" UNION ALL "));
    sql
}

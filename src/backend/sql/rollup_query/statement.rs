//! Queries of rollups.

use super::range_cover::{PrunedBefore, RangePart, cover_range};
use super::time_buckets::{Section, TimeBuckets, bucket};
use crate::backend::sql::engine::{Statement, Value};
use crate::backend::sql::names::Names;
use crate::backend::sql::rollup_record::READABLE;
use crate::usage::{Granularity, UsageRange};

/// The time ranges of the rollups in tables and of those in records, and the times before which minutes were pruned, minutes were merged into
/// quarters of an hour, and hours and days are being pruned.
pub(super) fn extent(names: &Names) -> Statement {
    let template = format!(
        "SELECT (SELECT min(start) FROM §hours) AS first_hour,
    (SELECT max(start) FROM §hours) AS last_hour,
    (SELECT max(start) FROM §minutes) AS last_minute,
    (SELECT min(first) FROM §rollup_records WHERE {READABLE}) AS first_unmerged,
    (SELECT max(last) FROM §rollup_records WHERE {READABLE}) AS last_unmerged,
    (SELECT before FROM §pruned WHERE kind = 'minutes') AS dropped,
    (SELECT before FROM §pruned WHERE kind = 'quarter_hours') AS folded,
    (SELECT before FROM §pruned WHERE kind = 'hours') AS gone"
    );
    Statement::new(names, &template)
}

/// The conditions on key and owner.
fn condition(sql: &mut Statement, names: &Names, table: &str, range: &UsageRange) -> String {
    let mut text = String::new();
    if let Some(key) = range.key {
        text.push_str(&format!(" AND {table}.key_id = {}", sql.placeholder(key)));
    }
    if let Some(owner) = range.owner.as_deref() {
        let place = sql.placeholder(owner);
        let is = names.dialect.text_equals(&format!("{table}.owner"), &place);
        text.push_str(&format!(" AND {is}"));
    }
    text
}

fn starting_in(sql: &mut Statement, part: &RangePart) -> String {
    let from = sql.placeholder(Value::Time(Some(part.starts.start)));
    let to = sql.placeholder(Value::Time(Some(part.starts.end)));
    format!("t.start >= {from} AND t.start < {to}")
}

/// The columns of a series.
const SERIES: &str = "s.key_id, s.owner, s.method, s.endpoint, s.http_status, s.grpc_status,
    s.outcome, s.cause";

/// Selects the series of a range.
pub(super) fn series(names: &Names, range: &UsageRange) -> Statement {
    let mut sql = Statement::new(names, "");
    let condition = condition(&mut sql, names, "s", range);
    sql.push_sql(
        names,
        &format!("SELECT s.id AS series_id, {SERIES} FROM §series s WHERE TRUE{condition}"),
    );
    sql
}

/// Selects the series with these ids.
pub(super) fn series_with_ids(names: &Names, ids: &[i64]) -> Statement {
    let mut sql = series(names, &UsageRange::new());
    sql.push(" AND s.id IN (")
        .push_numbers(names, ids)
        .push(")");
    sql
}

/// Aggregates for the amounts of rollups.
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

/// Rollups of a range by series and time bucket.
pub(super) fn by_series(
    names: &Names,
    range: &UsageRange,
    parts: &[RangePart],
    grid: &TimeBuckets,
    latency: bool,
) -> Statement {
    let mut sql = Statement::new(names, "");
    let condition = condition(&mut sql, names, "s", range);
    let joined = names.dialect.concat_bytes("t.latency");
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
        if condition.is_empty() {
            return format!(
                "SELECT t.series_id, {amounts}, {joined} AS latency FROM {table} t
                WHERE {starting} GROUP BY t.series_id{bucket}"
            );
        }
        let from = names.dialect.join_series(table, &starting);
        format!(
            "SELECT s.id AS series_id, {amounts}, {joined} AS latency FROM {from}{condition}
            GROUP BY s.id{bucket}"
        )
    });
    let read: Vec<_> = read.collect();
    sql.push_sql(names, &read.join(" UNION ALL "));
    sql
}

/// The maximum number of values into which the latencies of a kind are split. The concatenated histograms of very
/// many keys could otherwise exceed the maximum value size of the databases, 1 GB.
const SHARES: u8 = 64;

/// Rollups of a range by all attributes of series except key and owner, since there may be any number of keys.
/// With latencies, there are up to [`SHARES`] rows per combination.
pub(super) fn by_kind(
    names: &Names,
    range: &UsageRange,
    parts: &[RangePart],
    latency: bool,
) -> Statement {
    let each = by_series(names, range, parts, &TimeBuckets::None, latency);
    let joined = names.dialect.concat_bytes("t.latency");
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

/// Rollups of a range by outcome, cause and the time buckets of each section.
pub(super) fn by_outcome(
    names: &Names,
    range: &UsageRange,
    sections: &[Section],
    coarse: PrunedBefore,
) -> Statement {
    let parts = sections.iter().flat_map(|section| {
        let parts = cover_range(&section.starts, section.widest, coarse);
        let bucket = bucket(names, &section.grid);
        parts.into_iter().map(move |part| (part, bucket.clone()))
    });
    of_keys(names, range, "NULL AS key_id", parts)
}

/// Rollups of a range by key, outcome and cause.
pub(super) fn by_key(names: &Names, range: &UsageRange, parts: Vec<RangePart>) -> Statement {
    let by_key = ", t.key_id".to_owned();
    let parts = parts.into_iter().map(|part| (part, by_key.clone()));
    of_keys(names, range, "t.key_id", parts)
}

/// Rollups from the tables by key, grouped by outcome, cause and the expression of each part.
fn of_keys(
    names: &Names,
    range: &UsageRange,
    key: &str,
    parts: impl Iterator<Item = (RangePart, String)>,
) -> Statement {
    let mut sql = Statement::new(names, "");
    let condition = condition(&mut sql, names, "t", range);
    let amounts = amounts(names);
    let read = parts.map(|(part, by)| {
        let table = match part.width {
            Granularity::Minute | Granularity::QuarterHour => "§key_minutes",
            _ => "§key_hours",
        };
        let starting = starting_in(&mut sql, &part);
        format!(
            "SELECT {key}, t.outcome, t.cause, {amounts} FROM {table} t
            WHERE {starting}{condition} GROUP BY t.outcome, t.cause{by}"
        )
    });
    let read: Vec<_> = read.collect();
    sql.push_sql(names, &read.join(" UNION ALL "));
    sql
}

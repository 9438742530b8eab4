//! The time buckets in which requests of both a caller and a kind were rolled up.
//!
//! No index covers both, so finding a rare combination of a busy caller and a busy kind would mean scanning all of
//! their requests. Rollups show in which hours there are any.

use jiff::Timestamp;
use sqlx::Error as SqlError;

use super::conditions::{of_caller, overlaps};
use crate::backend::sql::dialect::Source;
use crate::backend::sql::engine::{Row, Session, Statement, Value};
use crate::backend::sql::micros::{DAY, HOUR, MINUTE};
use crate::backend::sql::names::Names;
use crate::backend::sql::series_rollup::ALL_CALLERS;
use crate::backend::sql::value::{as_micros, ceil_micros, required};
use crate::usage::LogFilter;

/// How to find the requests that match both the callers and the kinds.
#[derive(Debug, Clone)]
pub(in crate::backend::sql) struct Buckets {
    /// Whether to read by kind, since the kinds have fewer requests than the callers.
    by_kind: bool,
    /// The time up to which there are rollups by hour; after it, there are minutes.
    hours: i64,
    /// The time of the first request in the log.
    first: i64,
    /// Ranges of time without rollups in tables, which are read as a whole. They do not overlap.
    whole: Vec<(i64, i64)>,
}

impl Buckets {
    pub(super) async fn read<S: Session>(
        session: &mut S,
        names: &Names,
        filter: &LogFilter,
        callers: &[i64],
        kinds: &[i64],
    ) -> Result<Self, SqlError> {
        let mut sql = Statement::new(
            names,
            "SELECT (SELECT min(first) FROM §rollup_records) AS first_unmerged,
                (SELECT max(last) FROM §rollup_records) AS last_unmerged,",
        );
        let least = sql.placeholder(Value::Time(Some(i64::MIN)));
        sql.push_sql(
            names,
            &format!(
                "(SELECT min(start) FROM §hours WHERE caller_id = {ALL_CALLERS}) AS first_hour,
                (SELECT min(start) FROM §minutes WHERE caller_id = {ALL_CALLERS} AND start >= coalesce(
                    (SELECT before FROM §pruned WHERE kind = 'merged_hours'), {least})) AS first_minute,
                (SELECT min(first) FROM §log_segments) AS first_logged,
                (SELECT before FROM §pruned WHERE kind = 'merged_hours') AS hours,
                (SELECT before FROM §pruned WHERE kind = 'pruned_hours') AS pruned"
            ),
        );
        let (callers, kinds) = (sql.numbers(names, callers), sql.numbers(names, kinds));
        // An estimate, so a month is enough.
        let from = as_micros(Timestamp::now()).saturating_sub(30 * DAY);
        let from = filter
            .from
            .map_or(from, |it| from.max(ceil_micros(it) - DAY));
        let from = sql.placeholder(Value::Time(Some(from)));
        for (name, which) in [
            ("of_callers", format!("caller_id IN ({callers})")),
            (
                "of_kinds",
                format!("caller_id = {ALL_CALLERS} AND kind_id IN ({kinds})"),
            ),
        ] {
            let sum = names.dialect.sum("count");
            let days =
                format!(", (SELECT {sum} FROM §days WHERE {which} AND start >= {from}) AS {name}");
            sql.push_sql(names, &days);
        }
        let rows = session.fetch(sql).await?;
        let row = required(rows.first())?;
        let requests = |name| Ok::<_, SqlError>(row.integer(name)?.unwrap_or(0));
        let first = [row.time("first_hour")?, row.time("first_minute")?];
        // There may be single hours of late requests before the time up to which they were deleted.
        let pruned = row.time("pruned")?.unwrap_or(i64::MIN);
        let first = first.into_iter().flatten().min();
        let first = first.map(|first| first.max(pruned));
        let unmerged = row
            .time("first_unmerged")?
            .zip(row.time("last_unmerged")?)
            .map(|(first, last)| (first, last + MINUTE - 1));
        let before = (i64::MIN, first.map_or(i64::MAX, |first| first - 1));
        Ok(Self {
            by_kind: requests("of_kinds")? < requests("of_callers")?,
            hours: row.time("hours")?.unwrap_or(i64::MIN),
            first: row.time("first_logged")?.unwrap_or(i64::MIN),
            whole: without_overlap(before, unmerged),
        })
    }

    #[cfg(test)]
    pub(super) fn of(by_kind: bool) -> Self {
        Self {
            by_kind,
            hours: 0,
            first: -9 * HOUR,
            whole: vec![(i64::MIN, -HOUR), (HOUR, 2 * HOUR)],
        }
    }

    #[cfg(test)]
    pub(super) fn by_kind(&self) -> bool {
        self.by_kind
    }

    /// The requests of the buckets. Also returns the conditions that the source does not cover.
    pub(super) fn source(
        &self,
        sql: &mut Statement,
        names: &Names,
        filter: &LogFilter,
        callers: &[i64],
        kinds: &[i64],
    ) -> (Source, String) {
        let dialect = names.dialect;
        let (callers, kinds) = (sql.numbers(names, callers), sql.numbers(names, kinds));
        let (column, numbers) = match self.by_kind {
            true => ("kind_id", &kinds),
            false => ("caller_id", &callers),
        };
        let mut buckets = Vec::new();
        for (table, width, side) in [("§hours", HOUR, "<"), ("§minutes", MINUTE, ">=")] {
            let hours = sql.placeholder(Value::Time(Some(self.hours)));
            let first = Value::Time(Some(self.first.saturating_sub(width)));
            let first = sql.placeholder(first);
            let within = overlaps(sql, filter, ["start", "start"], width);
            let last = dialect.later("start", width - 1);
            buckets.push(format!(
                "SELECT DISTINCT {column} AS number, start AS first, {last} AS last, FALSE AS is_whole
                FROM {table} WHERE caller_id IN ({callers}) AND kind_id IN ({kinds})
                    AND start {side} {hours} AND start > {first}{within}"
            ));
        }
        let mut outside = String::new();
        for &(first, last) in &self.whole {
            let first = sql.placeholder(Value::Time(Some(first)));
            let last = sql.placeholder(Value::Time(Some(last)));
            buckets.push(format!(
                "SELECT one.number, {first}, {last}, TRUE FROM ({numbers}) one"
            ));
            outside.push_str(&format!(
                " AND (one.is_whole OR r.time < {first} OR r.time > {last})"
            ));
        }
        let buckets = buckets.join(" UNION ALL ");
        if self.by_kind {
            let source = Source {
                rows: buckets,
                condition: format!("r.kind_id = one.number{outside}"),
                has_times: true,
            };
            let caller = dialect.without_index("r.caller_id");
            return (source, format!(" AND {caller} IN ({callers})"));
        }
        let within = overlaps(sql, filter, ["s.last", "s.first"], 0);
        let source = Source {
            has_times: true,
            rows: format!(
                "SELECT b.number, b.first, b.last, b.is_whole, +s.number AS segment_number
                FROM ({buckets}) b CROSS JOIN §log_segments s
                WHERE s.last >= b.first AND s.first <= b.last{within}"
            ),
            condition: of_caller(names) + &outside,
        };
        let kind = dialect.without_index("r.kind_id");
        (source, format!(" AND {kind} IN ({kinds})"))
    }
}

/// Both ranges, or one of both together if they overlap.
fn without_overlap(one: (i64, i64), other: Option<(i64, i64)>) -> Vec<(i64, i64)> {
    match other {
        Some(other) if other.0 <= one.1 => vec![(one.0.min(other.0), one.1.max(other.1))],
        Some(other) => vec![one, other],
        None => vec![one],
    }
}

//! The time buckets in which requests of both a caller and a kind were rolled up.
//!
//! No index of the log has both, so that a rare combination of a frequent caller and a frequent kind would be searched for
//! in all their requests. Rollups show in which hours there are any.

use sqlx::Error as SqlError;

use super::conditions::{of_caller, overlaps};
use crate::backend::sql::dialect::Source;
use crate::backend::sql::engine::{Row, Session, Statement, Value};
use crate::backend::sql::micros::{HOUR, MINUTE};
use crate::backend::sql::names::Names;
use crate::backend::sql::series_rollup::ALL_CALLERS;
use crate::backend::sql::value::{ceil_micros, required};
use crate::usage::LogFilter;

/// How to find requests of both callers and kinds.
#[derive(Debug, Clone)]
pub(in crate::backend::sql) struct Buckets {
    /// Whether to read by kind, since the kinds have fewer requests than the callers.
    by_kind: bool,
    /// The time up to which there are rollups by hour; after it, there are minutes.
    hours: i64,
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
        sql.push_sql(
            names,
            &format!(
                "(SELECT min(start) FROM §hours WHERE caller_id = {ALL_CALLERS}) AS first_hour,
                (SELECT min(start) FROM §minutes WHERE caller_id = {ALL_CALLERS}) AS first_minute,
                (SELECT before FROM §pruned WHERE kind = 'merged_hours') AS hours,
                (SELECT before FROM §pruned WHERE kind = 'hours') AS gone"
            ),
        );
        let (callers, kinds) = (sql.numbers(names, callers), sql.numbers(names, kinds));
        let from = filter.from.map_or(i64::MIN, ceil_micros);
        let from = sql.placeholder(Value::Time(Some(from.saturating_sub(24 * HOUR))));
        for (name, which) in [
            ("of_callers", format!("caller_id IN ({callers})")),
            (
                "of_kinds",
                format!("caller_id = {ALL_CALLERS} AND kind_id IN ({kinds})"),
            ),
        ] {
            let sum = names.dialect.capped_sum("count");
            let days =
                format!(", (SELECT {sum} FROM §days WHERE {which} AND start >= {from}) AS {name}");
            sql.push_sql(names, &days);
        }
        let rows = session.fetch(sql).await?;
        let row = required(rows.first())?;
        let requests = |name| Ok::<_, SqlError>(row.integer(name)?.unwrap_or(0));
        let first = [row.time("first_hour")?, row.time("first_minute")?];
        // While hours are being deleted, those before the mark may be incomplete.
        let gone = row.time("gone")?.unwrap_or(i64::MIN);
        let first = first.into_iter().flatten().min();
        let first = first.map(|first| first.max(gone));
        let unmerged = row
            .time("first_unmerged")?
            .zip(row.time("last_unmerged")?)
            .map(|(first, last)| (first, last + MINUTE - 1));
        let before = (i64::MIN, first.map_or(i64::MAX, |first| first - 1));
        Ok(Self {
            by_kind: requests("of_kinds")? < requests("of_callers")?,
            hours: row.time("hours")?.unwrap_or(i64::MIN),
            whole: without_overlap(before, unmerged),
        })
    }

    #[cfg(test)]
    pub(super) fn of(by_kind: bool) -> Self {
        Self {
            by_kind,
            hours: 0,
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
            let within = overlaps(sql, filter, ["start", "start"], width);
            let last = dialect.later("start", width - 1);
            buckets.push(format!(
                "SELECT DISTINCT {column} AS number, start AS first, {last} AS last, FALSE AS is_whole
                FROM {table} WHERE caller_id IN ({callers}) AND kind_id IN ({kinds})
                    AND start {side} {hours}{within}"
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

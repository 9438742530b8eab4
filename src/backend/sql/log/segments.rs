//! The segments of the log that may have matching requests, from the latest to the earliest.
//!
//! Rollups show in which hours and minutes there were requests of both the matching callers and the matching kinds, so
//! a rare combination is found without reading all requests of a busy caller.

use std::collections::VecDeque;

use sqlx::Error as SqlError;

use super::access_path::{AccessPath, Times};
use super::matching::{Callers, Matching};
use crate::backend::sql::engine::{Row, Session, Statement, Value};
use crate::backend::sql::micros::{HOUR, MINUTE, QUARTER};
use crate::backend::sql::names::Names;
use crate::backend::sql::series_rollup::ALL_CALLERS;
use crate::backend::sql::value::{number, required};

/// The least number of requests to search in the first step for ids, which match few requests.
const FIRST_STEP_FOR_IDS: u64 = 1 << 20;

/// The maximum number of requests to search in one step.
const LAST_STEP: u64 = 1 << 26;

/// The number of segments to list at first. Each list is four times as long as the one before.
const FIRST_LIST: i64 = 16;

pub(super) struct Segment {
    pub(super) number: i64,
    first: i64,
    last: i64,
    events: u64,
}

pub(super) struct Segments<'a> {
    times: Times,
    /// `None` if every segment may have matches.
    rollups: Option<&'a Rollups>,
    /// The end and the number of the last segment that was listed.
    seen: Option<(i64, i64)>,
    listed: VecDeque<Segment>,
    are_all_listed: bool,
    step: u64,
    list: i64,
}

impl<'a> Segments<'a> {
    /// The segments of an access path. The first step searches at least `wanted` requests, and each step four times as
    /// many as the one before.
    pub(super) fn new(path: &AccessPath, rollups: Option<&'a Rollups>, wanted: u64) -> Self {
        Self {
            times: path.times,
            rollups,
            seen: None,
            listed: VecDeque::new(),
            are_all_listed: false,
            step: match path.has_ids() {
                true => wanted.max(FIRST_STEP_FOR_IDS),
                false => wanted,
            },
            list: FIRST_LIST,
        }
    }

    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self {
            times: Times {
                from: i64::MIN,
                to: i64::MAX,
            },
            rollups: None,
            seen: None,
            listed: VecDeque::new(),
            are_all_listed: true,
            step: 0,
            list: 0,
        }
    }

    /// The segments to search in the next step. Requests before the cutoff are not needed.
    pub(super) async fn next<S: Session>(
        &mut self,
        session: &mut S,
        names: &Names,
        cutoff: Option<i64>,
    ) -> Result<Vec<Segment>, SqlError> {
        if let Some(cutoff) = cutoff {
            self.times.from = self.times.from.max(cutoff);
        }
        let (mut segments, mut events) = (Vec::new(), 0);
        while events < self.step {
            match self.listed.pop_front() {
                // All others end earlier.
                Some(next) if next.last < self.times.from => break,
                Some(next) => {
                    events = next.events.saturating_add(events);
                    segments.push(next);
                }
                None if self.are_all_listed => break,
                None => self.list(session, names).await?,
            }
        }
        self.step = (events.max(self.step) * 4).min(LAST_STEP);
        Ok(segments)
    }

    /// The times of requests in these segments.
    pub(super) fn times_of(&self, segments: &[Segment]) -> Times {
        let first = segments.iter().map(|segment| segment.first).min();
        let last = segments.iter().map(|segment| segment.last).max();
        let Times { from, to } = self.times;
        Times {
            from: first.map_or(from, |first| first.max(from)),
            to: last.map_or(to, |last| last.min(to)),
        }
    }

    /// Lists more segments.
    async fn list<S: Session>(&mut self, session: &mut S, names: &Names) -> Result<(), SqlError> {
        let mut sql = Statement::new(names, "");
        let (from, to) = (self.times.from, self.times.to);
        let from = sql.placeholder(Value::Time(Some(from)));
        let to = sql.placeholder(Value::Time(Some(to)));
        let mut which = format!("last >= {from} AND first <= {to}");
        if let Some((last, number)) = self.seen {
            let last = sql.placeholder(Value::Time(Some(last)));
            let number = sql.placeholder(number);
            which.push_str(&format!(" AND (last, number) < ({last}, {number})"));
        }
        let may_match = match &self.rollups {
            None => "TRUE".into(),
            Some(rollups) => rollups.may_match(&mut sql, names),
        };
        let limit = sql.placeholder(self.list);
        sql.push_sql(
            names,
            &format!(
                "SELECT number, first, last, events, {may_match} AS may_match
                FROM (SELECT * FROM {{prefix}}log_segments WHERE {which}
                    ORDER BY last DESC, number DESC LIMIT {limit}) s
                ORDER BY last DESC, number DESC"
            ),
        );
        let rows = session.fetch(sql).await?;
        self.are_all_listed = (rows.len() as i64) < self.list;
        self.list = self.list.saturating_mul(4);
        for row in rows {
            let segment = Segment {
                number: required(row.integer("number")?)?,
                first: required(row.time("first")?)?,
                last: required(row.time("last")?)?,
                events: number(&row, "events")?,
            };
            self.seen = Some((segment.last, segment.number));
            if row.boolean("may_match")? {
                self.listed.push_back(segment);
            }
        }
        Ok(())
    }
}

/// The rollups of the matching callers and kinds.
pub(super) struct Rollups {
    /// All callers together, if any caller matches.
    callers: Vec<i64>,
    /// `None` if any kind matches.
    kinds: Option<Vec<i64>>,
    /// The time up to which there are rollups by hour; after it, there are minutes.
    hours: i64,
    /// Times whose requests may have no rollups in these tables.
    without: Vec<Times>,
}

impl Rollups {
    /// `None` if any caller and kind matches, or too many callers to look up, or if all access paths have ids, which
    /// take less time to look up.
    pub(super) async fn read<S: Session>(
        session: &mut S,
        names: &Names,
        matching: &Matching,
        paths: &[AccessPath],
    ) -> Result<Option<Self>, SqlError> {
        if paths.iter().all(AccessPath::has_ids) {
            return Ok(None);
        }
        let callers = match &matching.callers {
            Callers::Few(callers) => callers.clone(),
            _ if matching.kinds.is_some() => vec![ALL_CALLERS.into()],
            _ => return Ok(None),
        };
        let mut sql = Statement::new(
            names,
            "SELECT (SELECT min(first) FROM {prefix}rollup_records WHERE NOT unreadable) AS first_unmerged,
                (SELECT max(last) FROM {prefix}rollup_records WHERE NOT unreadable) AS last_unmerged,",
        );
        let least = sql.placeholder(Value::Time(Some(i64::MIN)));
        sql.push_sql(
            names,
            &format!(
                "(SELECT min(start) FROM {{prefix}}hours WHERE caller_id = {ALL_CALLERS}) AS first_hour,
                (SELECT min(start) FROM {{prefix}}minutes WHERE caller_id = {ALL_CALLERS} AND start >= coalesce(
                    (SELECT before FROM {{prefix}}pruned WHERE kind = 'merged_hours'), {least})) AS first_minute,
                (SELECT before FROM {{prefix}}pruned WHERE kind = 'merged_hours') AS hours,
                (SELECT before FROM {{prefix}}pruned WHERE kind = 'pruned_hours') AS pruned"
            ),
        );
        let rows = session.fetch(sql).await?;
        let row = required(rows.first())?;
        let first = [row.time("first_hour")?, row.time("first_minute")?];
        let first = first.into_iter().flatten().min();
        // There may be single hours of late requests before the time up to which they were deleted.
        let pruned = row.time("pruned")?.unwrap_or(i64::MIN);
        let mut without = vec![Times {
            from: i64::MIN,
            to: first.map_or(i64::MAX, |first| first.max(pruned) - 1),
        }];
        if let (Some(from), Some(last)) = (row.time("first_unmerged")?, row.time("last_unmerged")?)
        {
            let to = last + MINUTE - 1;
            without.push(Times { from, to });
        }
        // One by one, since they stay.
        let unreadable = "SELECT DISTINCT first, last FROM {prefix}rollup_records WHERE unreadable";
        for row in session.fetch(Statement::new(names, unreadable)).await? {
            without.push(Times {
                from: required(row.time("first")?)?,
                to: required(row.time("last")?)? + MINUTE - 1,
            });
        }
        Ok(Some(Self {
            callers,
            kinds: matching.kinds.clone(),
            hours: row.time("hours")?.unwrap_or(i64::MIN),
            without,
        }))
    }

    /// The condition on segments `s` that may have matching requests.
    fn may_match(&self, sql: &mut Statement, names: &Names) -> String {
        let mut any = Vec::new();
        for Times { from, to } in &self.without {
            let from = sql.placeholder(Value::Time(Some(*from)));
            let to = sql.placeholder(Value::Time(Some(*to)));
            any.push(format!("s.last >= {from} AND s.first <= {to}"));
        }
        let mut which = sql.is_one_of(names, "t.caller_id", &self.callers);
        if let Some(kinds) = &self.kinds {
            let kinds = sql.is_one_of(names, "t.kind_id", kinds);
            which.push_str(&format!(" AND {kinds}"));
        }
        let hours = sql.placeholder(Value::Time(Some(self.hours)));
        // Rollups by minute may cover a quarter of an hour.
        for (table, side, width) in [
            ("{prefix}hours", "<", HOUR),
            ("{prefix}minutes", ">=", QUARTER),
        ] {
            let earlier = names.dialect.earlier("s.first", width);
            let start = names.dialect.second_bound("t.start");
            any.push(format!(
                "EXISTS (SELECT 1 FROM {table} t WHERE {which} AND {start} {side} {hours}
                    AND t.start > {earlier} AND t.start <= s.last)"
            ));
        }
        format!("({})", any.join(" OR "))
    }
}

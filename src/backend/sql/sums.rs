//! Summaries from sums by the minute, by the hour and by the day.
//!
//! What a summary costs depends on buckets of time, not on requests. All that it tells but for its part
//! over time comes from sums by series: whole days within the range, hours and minutes only at its
//! ends. Its part over time comes from sums by key and outcome alone, which are few: the database adds
//! up what falls into one bucket that was asked for, and the pure functions make the summary of that.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use sqlx::Error as SqlError;

use super::engine::{Engine, Row, Session, Statement, Value};
use super::histogram;
use super::names::Names;
use super::value::{
    ceil_micros, floor_micros, named, number, parsed, status, there, time, timestamp,
};
use crate::usage::{
    LatencyHistogram, Method, Rollup, Rollups, Status, Summary, SummarySpec, UsageRange, Width,
    offsets_within,
};

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 86_400_000_000;

/// The summary of a range.
pub(super) async fn summary<E: Engine>(
    engine: &E,
    range: &UsageRange,
    spec: &SummarySpec,
) -> Result<Summary, SqlError> {
    let Some(mut found) = Found::open(engine, range).await? else {
        return Ok(spec.empty());
    };
    let names = engine.names();
    let parts = parts(&found.starts, Width::Day, found.dropped);
    let latency = spec.has_latency();
    let statement = by_series(names, range, &parts, &Grid::None, latency);
    let rollups = found.by_series(statement, Width::Day).await?;
    let mut summary = spec.without_grid().summarize(&rollups);
    if let Some((width, zone)) = spec.grid() {
        let (grid, hours) = grid(width, zone, &found.starts)?;
        let widest = if hours { Width::Hour } else { Width::Minute };
        let parts = self::parts(&found.starts, widest, found.dropped);
        let rows = found
            .session
            .rows(by_key(names, range, &parts, &grid))
            .await?;
        let rollups: Vec<Rollup> = rows.iter().map(sum_of_key).collect::<Result<_, _>>()?;
        let over_time = SummarySpec::new().over_time(width, zone.clone());
        summary.over_time = over_time.summarize(&rollups).over_time;
    }
    Ok(summary)
}

/// The sums of a range, each as narrow as it is kept, by time.
pub(super) async fn each<E: Engine>(
    engine: &E,
    range: &UsageRange,
) -> Result<Vec<Rollup>, SqlError> {
    let Some(mut found) = Found::open(engine, range).await? else {
        return Ok(Vec::new());
    };
    let mut rollups = Rollups::new();
    for part in parts(&found.starts, Width::Minute, found.dropped) {
        let width = part.width;
        let statement = by_series(engine.names(), range, &[part], &Grid::Each, true);
        rollups.extend(found.by_series(statement, width).await?);
    }
    let mut rollups: Vec<Rollup> = rollups.into_iter().collect();
    rollups.sort_by_key(|rollup| (rollup.start, rollup.width));
    Ok(rollups)
}

/// What there is in a range, seen at one moment.
struct Found<S> {
    session: S,
    /// The starts of minutes that the range touches.
    starts: Range<i64>,
    /// Up to when there are no minutes any more.
    dropped: i64,
    kinds: HashMap<i64, Kind>,
}

impl<S: Session> Found<S> {
    /// `None` if there is nothing.
    async fn open<E: Engine<Session = S>>(
        engine: &E,
        range: &UsageRange,
    ) -> Result<Option<Self>, SqlError> {
        // No text that is kept holds U+0000.
        if range
            .owner
            .as_deref()
            .is_some_and(|owner| owner.contains('\0'))
        {
            return Ok(None);
        }
        let names = engine.names();
        let mut session = engine.snapshot().await?;
        let rows = session.rows(Statement::new(names, EXTENT)).await?;
        let extent = there(rows.first())?;
        let Some((first, last)) = extent.time("first_hour")?.zip(extent.time("last_hour")?) else {
            return Ok(None);
        };
        // Where the last minute has been dropped, its hour tells no more than that it is in it.
        let last = extent
            .time("last_minute")?
            .map_or(last + HOUR - MINUTE, |minute| {
                if minute < last {
                    last + HOUR - MINUTE
                } else {
                    minute
                }
            });
        let starts = bounded(range, first, last);
        if starts.is_empty() {
            return Ok(None);
        }
        let dropped = extent.time("dropped")?.unwrap_or(i64::MIN);
        let kinds = kinds_of(&session.rows(series(names, range)).await?)?;
        Ok(Some(Self {
            session,
            starts,
            dropped,
            kinds,
        }))
    }

    async fn by_series(
        &mut self,
        statement: Statement,
        width: Width,
    ) -> Result<Vec<Rollup>, SqlError> {
        let rows = self.session.rows(statement).await?;
        let rollups = rows.iter().map(|row| rollup_of(row, &self.kinds, width));
        rollups.filter_map(Result::transpose).collect()
    }
}

/// Sums of one width whose buckets start in a range, in microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    width: Width,
    starts: Range<i64>,
}

/// How sums are added up by time.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Grid {
    /// All together.
    None,
    /// By the buckets of a width, in seconds, at these offsets from UTC: each from a second on.
    Buckets {
        seconds: i64,
        offsets: Vec<(i64, i64)>,
    },
    /// Not at all.
    Each,
}

/// From when to when there is anything, and up to when minutes have been dropped.
const EXTENT: &str = "SELECT (SELECT min(start) FROM §hours) AS first_hour,
    (SELECT max(start) FROM §hours) AS last_hour,
    (SELECT max(start) FROM §minutes) AS last_minute,
    (SELECT before FROM §dropped WHERE what = 'minutes') AS dropped";

/// The starts of minutes that a range touches. Where it goes beyond all there is, it ends with a day:
/// that whole bucket is one row instead of many.
fn bounded(range: &UsageRange, first: i64, last: i64) -> Range<i64> {
    let from = range.from.map_or(i64::MIN, floor_micros);
    let from = if from <= first {
        floor(first, DAY)
    } else {
        floor(from, MINUTE)
    };
    let to = range.to.map_or(i64::MAX, ceil_micros);
    let to = if to > last {
        ceil(last + MINUTE, DAY)
    } else {
        to
    };
    from..to
}

fn floor(time: i64, width: i64) -> i64 {
    time.div_euclid(width) * width
}

fn ceil(time: i64, width: i64) -> i64 {
    floor(time.saturating_add(width - 1), width)
}

/// The grid of totals over time, and whether hours fit it.
fn grid(width: Width, zone: &TimeZone, starts: &Range<i64>) -> Result<(Grid, bool), SqlError> {
    let range = timestamp(starts.start)?..timestamp(starts.end)?;
    let Some(pieces) = offsets_within(range, zone) else {
        return Ok((Grid::Each, false));
    };
    let pieces = pieces.into_iter();
    let offsets: Vec<(i64, i64)> = pieces
        .map(|(from, offset)| (from.as_second(), offset.into()))
        .collect();
    let whole = |seconds: i64| seconds % Width::Hour.seconds() == 0;
    let mut pieces = offsets.iter().enumerate();
    let hours = width >= Width::Hour
        && pieces.all(|(n, (from, offset))| whole(*offset) && (n == 0 || whole(*from)));
    let seconds = width.seconds();
    Ok((Grid::Buckets { seconds, offsets }, hours))
}

/// Which sums make up a range: the widest within, up to this width, and narrower ones at its ends.
/// Where minutes have been dropped, the hours that they were in stand for them.
fn parts(starts: &Range<i64>, widest: Width, dropped: i64) -> Vec<Part> {
    let mut parts = Vec::new();
    cover(starts.clone(), widest, dropped, &mut parts);
    parts
}

fn cover(starts: Range<i64>, widest: Width, dropped: i64, parts: &mut Vec<Part>) {
    if starts.is_empty() {
        return;
    }
    let (length, narrower) = match widest {
        Width::Day => (DAY, Width::Hour),
        Width::Hour => (HOUR, Width::Minute),
        _ => {
            let gone = starts.end.min(dropped);
            if starts.start < gone {
                let gone = floor(starts.start, HOUR)..ceil(gone, HOUR);
                parts.push(Part {
                    width: Width::Hour,
                    starts: gone,
                });
            }
            let kept = starts.start.max(dropped)..starts.end;
            if !kept.is_empty() {
                parts.push(Part {
                    width: Width::Minute,
                    starts: kept,
                });
            }
            return;
        }
    };
    let (from, to) = (ceil(starts.start, length), floor(starts.end, length));
    if from < to {
        cover(starts.start..from, narrower, dropped, parts);
        parts.push(Part {
            width: widest,
            starts: from..to,
        });
        cover(to..starts.end, narrower, dropped, parts);
    } else {
        cover(starts, narrower, dropped, parts);
    }
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
fn series(names: &Names, range: &UsageRange) -> Statement {
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
fn by_series(
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
            Width::Minute => "§minutes",
            Width::Hour => "§hours",
            _ => "§days",
        };
        let starting = starting_in(&mut sql, part);
        if whose.is_empty() {
            return format!(
                "SELECT t.series_id, {amounts}, {joined} AS latency FROM {table} t
                WHERE {starting} GROUP BY t.series_id{bucket}"
            );
        }
        // Series by series: each has its sums side by side.
        format!(
            "SELECT s.id AS series_id, {amounts}, {joined} AS latency
            FROM §series s CROSS JOIN {table} t
            WHERE t.series_id = s.id{whose} AND {starting} GROUP BY s.id{bucket}"
        )
    });
    let read: Vec<_> = read.collect();
    sql.push_sql(names, &read.join(" UNION ALL "));
    sql
}

/// The sums of a range added up by outcome, cause and grid.
fn by_key(names: &Names, range: &UsageRange, parts: &[Part], grid: &Grid) -> Statement {
    let mut sql = Statement::new(names, "");
    let whose = whose(&mut sql, names, "t", range);
    let amounts = amounts(names);
    let bucket = bucket(names, grid);
    let read = parts.iter().map(|part| {
        let table = match part.width {
            Width::Minute => "§key_minutes",
            _ => "§key_hours",
        };
        let starting = starting_in(&mut sql, part);
        format!(
            "SELECT t.outcome, t.cause, {amounts} FROM {table} t
            WHERE {starting}{whose} GROUP BY t.outcome, t.cause{bucket}"
        )
    });
    let read: Vec<_> = read.collect();
    sql.push_sql(names, &read.join(" UNION ALL "));
    sql
}

/// By what sums are added up beside their series.
fn bucket(names: &Names, grid: &Grid) -> String {
    let (width, offsets) = match grid {
        Grid::None => return String::new(),
        Grid::Each => return ", t.start".into(),
        Grid::Buckets { seconds, offsets } => (seconds, offsets),
    };
    // Divisions cut towards zero, so that all numbers are made positive: by whole days, and by more of
    // them than lie between the year 1 and 1970.
    const UPWARDS: i64 = 86_400 * 1_000_000;
    let second = names.dialect.seconds("t.start");
    let number = |offset: i64| format!("({second} + {}) / {width}", offset + UPWARDS);
    let mut pieces = offsets.windows(2).enumerate();
    let last = offsets.last().map_or(0, |&(_, offset)| offset);
    let until = pieces.by_ref().map(|(piece, pair)| {
        let (offset, end) = (pair[0].1, pair[1].0);
        let number = number(offset);
        format!("WHEN {second} < {end} THEN {number} * 64 + {piece} ")
    });
    let until: String = until.collect();
    let rest = format!(
        "{} * 64 + {}",
        number(last),
        offsets.len().saturating_sub(1)
    );
    if until.is_empty() {
        format!(", {rest}")
    } else {
        format!(", CASE {until}ELSE {rest} END")
    }
}

/// What rollups of one series have in common.
struct Kind(Rollup);

fn kinds_of<R: Row>(rows: &[R]) -> Result<HashMap<i64, Kind>, SqlError> {
    let mut endpoints: HashMap<String, Arc<str>> = HashMap::new();
    let mut owners: HashMap<String, Arc<str>> = HashMap::new();
    let shared = |texts: &mut HashMap<String, Arc<str>>, text: &str| match texts.get(text) {
        Some(held) => held.clone(),
        None => {
            let held: Arc<str> = text.into();
            texts.insert(text.into(), held.clone());
            held
        }
    };
    let kinds = rows.iter().map(|row| {
        let rollup = Rollup {
            key: row.text("key_id")?.map(parsed).transpose()?,
            start: Timestamp::UNIX_EPOCH,
            width: Width::Minute,
            owner: row.text("owner")?.map(|owner| shared(&mut owners, owner)),
            method: parsed(there(row.text("method")?)?)?,
            endpoint: shared(&mut endpoints, there(row.text("endpoint")?)?),
            status: status(row)?,
            outcome: named(there(row.text("outcome")?)?)?,
            cause: row.text("cause")?.map(named).transpose()?,
            count: 0,
            cost: 0,
            request_bytes: 0,
            response_bytes: 0,
            latency: LatencyHistogram::new(),
        };
        Ok((there(row.integer("series_id")?)?, Kind(rollup)))
    });
    kinds.collect()
}

/// A sum of one of these kinds; `None` for a series that came after they were read.
fn rollup_of(
    row: &impl Row,
    kinds: &HashMap<i64, Kind>,
    width: Width,
) -> Result<Option<Rollup>, SqlError> {
    let Some(Kind(kind)) = kinds.get(&there(row.integer("series_id")?)?) else {
        return Ok(None);
    };
    Ok(Some(Rollup {
        start: time(row, "start")?,
        width,
        count: number(row, "count")?,
        cost: number(row, "cost")?,
        request_bytes: number(row, "request_bytes")?,
        response_bytes: number(row, "response_bytes")?,
        latency: match row.bytes("latency")? {
            Some(bytes) => histogram::from_bytes(bytes)?,
            None => LatencyHistogram::new(),
        },
        ..kind.clone()
    }))
}

/// A sum by key and outcome, which tells no more of its requests than that.
fn sum_of_key(row: &impl Row) -> Result<Rollup, SqlError> {
    Ok(Rollup {
        key: None,
        start: time(row, "start")?,
        width: Width::Minute,
        owner: None,
        method: Method::Other,
        endpoint: "".into(),
        status: Status::None,
        outcome: named(there(row.text("outcome")?)?)?,
        cause: row.text("cause")?.map(named).transpose()?,
        count: number(row, "count")?,
        cost: number(row, "cost")?,
        request_bytes: number(row, "request_bytes")?,
        response_bytes: number(row, "response_bytes")?,
        latency: LatencyHistogram::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTES: Width = Width::Minute;
    const HOURS: Width = Width::Hour;
    const DAYS: Width = Width::Day;

    fn all(starts: Range<i64>, widest: Width, dropped: i64) -> Vec<(Width, i64, i64)> {
        let parts = parts(&starts, widest, dropped);
        parts
            .iter()
            .map(|part| (part.width, part.starts.start, part.starts.end))
            .collect()
    }

    #[test]
    fn the_widest_are_read_within_and_narrower_ones_at_the_ends() {
        let starts = 30 * MINUTE..2 * DAY + 3 * HOUR + 5 * MINUTE;
        let (from, to) = (starts.start, starts.end);
        let expected = [
            (MINUTES, from, HOUR),
            (HOURS, HOUR, DAY),
            (DAYS, DAY, 2 * DAY),
            (HOURS, 2 * DAY, 2 * DAY + 3 * HOUR),
            (MINUTES, 2 * DAY + 3 * HOUR, to),
        ];
        assert_eq!(all(starts.clone(), DAYS, i64::MIN), expected);
        let hours = 2 * DAY + 3 * HOUR;
        let expected = [
            (MINUTES, from, HOUR),
            (HOURS, HOUR, hours),
            (MINUTES, hours, to),
        ];
        assert_eq!(all(starts.clone(), HOURS, i64::MIN), expected);
        assert_eq!(all(starts, MINUTES, i64::MIN), [(MINUTES, from, to)]);
        let short = 30 * MINUTE..HOUR + 5 * MINUTE;
        let expected = [(MINUTES, short.start, short.end)];
        assert_eq!(all(short, DAYS, i64::MIN), expected);
        assert_eq!(all(0..DAY, DAYS, i64::MIN), [(DAYS, 0, DAY)]);
        assert_eq!(all(5 * HOUR..5 * HOUR, DAYS, i64::MIN), []);
        assert_eq!(all(5 * HOUR..HOUR, DAYS, i64::MIN), []);
    }

    #[test]
    fn hours_stand_for_minutes_that_were_dropped() {
        let starts = 30 * MINUTE..5 * HOUR + 5 * MINUTE;
        let end = starts.end;
        let expected = [
            (HOURS, 0, HOUR),
            (HOURS, HOUR, 5 * HOUR),
            (MINUTES, 5 * HOUR, end),
        ];
        assert_eq!(all(starts.clone(), DAYS, 2 * HOUR), expected);
        let expected = [(HOURS, 0, 2 * HOUR), (MINUTES, 2 * HOUR, end)];
        assert_eq!(all(starts.clone(), MINUTES, 2 * HOUR), expected);
        assert_eq!(
            all(starts.clone(), MINUTES, 9 * HOUR),
            [(HOURS, 0, 6 * HOUR)]
        );
        let expected = [
            (HOURS, 0, HOUR),
            (HOURS, HOUR, 5 * HOUR),
            (HOURS, 5 * HOUR, 6 * HOUR),
        ];
        assert_eq!(all(starts, HOURS, 9 * HOUR), expected);
    }

    #[test]
    fn what_goes_beyond_all_there_is_ends_with_a_day() {
        let micros = |n| Timestamp::from_microsecond(n).unwrap();
        let (first, last) = (DAY + HOUR, 2 * DAY + 5 * MINUTE);
        let all = UsageRange::new();
        assert_eq!(bounded(&all, first, last), DAY..3 * DAY);
        let exact = all.from(micros(DAY + HOUR + 1)).to(micros(last));
        assert_eq!(bounded(&exact, first, last), DAY + HOUR..last);
        let beyond = UsageRange::new().to(micros(last + 1));
        assert_eq!(bounded(&beyond, first, last).end, 3 * DAY);
    }
}

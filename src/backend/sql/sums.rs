//! Summaries from sums by the minute and by the hour.
//!
//! What a summary costs depends on buckets of time, not on requests: whole hours within the range are
//! read as such, and minutes only at its ends. The database adds up what falls into one bucket that was
//! asked for; the pure functions make the summary of that.

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
    LatencyHistogram, Rollup, Rollups, SummarySpec, UsageRange, Width, offsets_within,
};

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 3_600_000_000;

/// What the summary of a range is made of: sums that no longer say more of time than was asked for.
pub(super) async fn summed<E: Engine>(
    engine: &E,
    range: &UsageRange,
    spec: &SummarySpec,
) -> Result<Vec<Rollup>, SqlError> {
    let Some(mut found) = Found::open(engine, range).await? else {
        return Ok(Vec::new());
    };
    let (grid, hours) = grid(spec, &found.starts)?;
    let parts = parts(&found.starts, hours, found.dropped);
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    let statement = by_series(engine.names(), range, &parts, &grid, spec.has_latency());
    found.rollups(statement, Width::Minute).await
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
    for part in parts(&found.starts, false, found.dropped) {
        let width = part.width;
        let statement = by_series(engine.names(), range, &[part], &Grid::Each, true);
        rollups.extend(found.rollups(statement, width).await?);
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
        if range
            .owner
            .as_deref()
            .is_some_and(|owner| owner.contains('\0'))
        {
            return Ok(None);
        }
        let names = engine.names();
        let mut session = engine.snapshot().await?;
        let rows = session.rows(extent(names)).await?;
        let extent = there(rows.first())?;
        let Some((first, last)) = extent.time("first")?.zip(extent.time("last")?) else {
            return Ok(None);
        };
        let starts = bounded(range, first, last);
        if starts.is_empty() {
            return Ok(None);
        }
        let rows = session.rows(minutes_dropped(names)).await?;
        let dropped = rows.first().map(|row| row.time("before"));
        let dropped = dropped.transpose()?.flatten().unwrap_or(i64::MIN);
        let kinds = kinds_of(&session.rows(series(names, range)).await?)?;
        Ok(Some(Self {
            session,
            starts,
            dropped,
            kinds,
        }))
    }

    async fn rollups(
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

/// When the first and the last bucket of an hour starts that holds anything, as columns `first` and
/// `last`.
fn extent(names: &Names) -> Statement {
    Statement::new(
        names,
        "SELECT min(start) AS first, max(start) AS last FROM §hours",
    )
}

/// Up to when sums by the minute have been dropped, as column `before`, if they have.
fn minutes_dropped(names: &Names) -> Statement {
    Statement::new(names, "SELECT before FROM §dropped WHERE what = 'minutes'")
}

/// Brings a range into the bounds of what there is: the starts of minutes that it touches.
fn bounded(range: &UsageRange, first: i64, last: i64) -> Range<i64> {
    let from = range
        .from
        .map_or(first, |from| floor_micros(from).div_euclid(MINUTE) * MINUTE);
    let to = range.to.map_or(i64::MAX, ceil_micros);
    from.max(first)..to.min(last + HOUR)
}

/// The grid of a summary, and whether hours fit it.
fn grid(spec: &SummarySpec, starts: &Range<i64>) -> Result<(Grid, bool), SqlError> {
    let Some((width, zone)) = spec.grid() else {
        return Ok((Grid::None, true));
    };
    let Some(offsets) = offsets(starts, zone)? else {
        return Ok((Grid::Each, false));
    };
    let whole = |seconds: i64| seconds % Width::Hour.seconds() == 0;
    let mut pieces = offsets.iter().enumerate();
    let hours = width >= Width::Hour
        && pieces.all(|(n, (from, offset))| whole(*offset) && (n == 0 || whole(*from)));
    let seconds = width.seconds();
    Ok((Grid::Buckets { seconds, offsets }, hours))
}

fn offsets(starts: &Range<i64>, zone: &TimeZone) -> Result<Option<Vec<(i64, i64)>>, SqlError> {
    let range = timestamp(starts.start)?..timestamp(starts.end)?;
    let pieces = offsets_within(range, zone);
    Ok(pieces.map(|pieces| {
        let pieces = pieces.into_iter();
        pieces
            .map(|(from, offset)| (from.as_second(), offset.into()))
            .collect()
    }))
}

/// Which sums make up a range: hours within, where they fit, and minutes at its ends. Where minutes
/// have been dropped, the hours that they were in stand for them.
fn parts(starts: &Range<i64>, hours: bool, dropped: i64) -> Vec<Part> {
    let floor = |time: i64| time.div_euclid(HOUR) * HOUR;
    let ceil = |time: i64| floor(time.saturating_add(HOUR - 1));
    let (mut from, mut to) = (ceil(starts.start), floor(starts.end));
    if !hours || from >= to {
        (from, to) = (starts.end, starts.end);
    }
    let mut parts = Vec::new();
    let mut minutes = |minutes: Range<i64>| {
        let kept = minutes.start.max(dropped)..minutes.end;
        let gone = floor(minutes.start)..ceil(minutes.end.min(dropped));
        if minutes.start < minutes.end.min(dropped) {
            parts.push((Width::Hour, gone));
        }
        parts.push((Width::Minute, kept));
    };
    minutes(starts.start..from.min(starts.end));
    minutes(to.max(from)..starts.end);
    parts.push((Width::Hour, from..to));
    let parts = parts.into_iter().filter(|(_, starts)| !starts.is_empty());
    parts
        .map(|(width, starts)| Part { width, starts })
        .collect()
}

fn table(width: Width) -> &'static str {
    match width {
        Width::Minute => "§minutes",
        _ => "§hours",
    }
}

/// Whose sums: a condition on series.
fn whose(sql: &mut Statement, range: &UsageRange) -> String {
    let mut condition = String::new();
    if let Some(key) = range.key {
        condition.push_str(&format!(" AND s.key_id = {}", sql.place(key)));
    }
    if let Some(owner) = range.owner.as_deref() {
        condition.push_str(&format!(" AND s.owner = {}", sql.place(owner)));
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
    let whose = whose(&mut sql, range);
    sql.push_sql(
        names,
        &format!("SELECT s.id AS series_id, {SERIES} FROM §series s WHERE TRUE{whose}"),
    );
    sql
}

/// The sums of a range added up by series and grid.
fn by_series(
    names: &Names,
    range: &UsageRange,
    parts: &[Part],
    grid: &Grid,
    latency: bool,
) -> Statement {
    let dialect = names.dialect;
    let mut sql = Statement::new(names, "");
    let whose = whose(&mut sql, range);
    let read = |sql: &mut Statement, part: &Part| {
        let starting = starting_in(sql, part);
        let table = table(part.width);
        if whose.is_empty() {
            format!("SELECT t.* FROM {table} t WHERE {starting}")
        } else {
            // Series by series: each has its sums side by side.
            format!(
                "SELECT t.* FROM §series s CROSS JOIN {table} t
                WHERE t.series_id = s.id{whose} AND {starting}"
            )
        }
    };
    let read: Vec<_> = parts.iter().map(|part| read(&mut sql, part)).collect();
    let read = read.join(" UNION ALL ");
    let bucket = bucket(names, grid);
    let joined = dialect.joined("t.latency");
    let joined = if latency { &joined } else { "NULL" };
    let (count, cost) = (dialect.sum("t.count"), dialect.sum("t.cost"));
    let request_bytes = dialect.capped_sum("t.request_bytes");
    let response_bytes = dialect.capped_sum("t.response_bytes");
    sql.push_sql(
        names,
        &format!(
            "SELECT t.series_id, min(t.start) AS start, {count} AS count, {cost} AS cost,
                {request_bytes} AS request_bytes, {response_bytes} AS response_bytes,
                {joined} AS latency
            FROM ({read}) t GROUP BY t.series_id{bucket}"
        ),
    );
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

#[cfg(test)]
mod tests {
    use super::*;

    fn all(parts: &[Part]) -> Vec<(Width, i64, i64)> {
        let mut all: Vec<_> = parts
            .iter()
            .map(|part| (part.width, part.starts.start, part.starts.end))
            .collect();
        all.sort_by_key(|part| part.1);
        all
    }

    #[test]
    fn whole_hours_are_read_as_hours() {
        let (minute, hour) = (Width::Minute, Width::Hour);
        let starts = 30 * MINUTE..3 * HOUR + 5 * MINUTE;
        let expected = [
            (minute, 30 * MINUTE, HOUR),
            (hour, HOUR, 3 * HOUR),
            (minute, 3 * HOUR, 3 * HOUR + 5 * MINUTE),
        ];
        assert_eq!(all(&parts(&starts, true, i64::MIN)), expected);
        let short = 30 * MINUTE..HOUR + 5 * MINUTE;
        let expected = [(minute, short.start, short.end)];
        assert_eq!(all(&parts(&short, true, i64::MIN)), expected);
        let expected = [(minute, starts.start, starts.end)];
        assert_eq!(all(&parts(&starts, false, i64::MIN)), expected);
        assert_eq!(parts(&(5 * HOUR..5 * HOUR), true, i64::MIN), []);
        assert_eq!(parts(&(5 * HOUR..HOUR), true, i64::MIN), []);
    }

    #[test]
    fn hours_stand_for_minutes_that_were_dropped() {
        let (minute, hour) = (Width::Minute, Width::Hour);
        let starts = 30 * MINUTE..5 * HOUR + 5 * MINUTE;
        let expected = [
            (hour, 0, HOUR),
            (hour, HOUR, 5 * HOUR),
            (minute, 5 * HOUR, 5 * HOUR + 5 * MINUTE),
        ];
        assert_eq!(all(&parts(&starts, true, 2 * HOUR)), expected);
        let expected = [(hour, 0, 2 * HOUR), (minute, 2 * HOUR, starts.end)];
        assert_eq!(all(&parts(&starts, false, 2 * HOUR)), expected);
        let expected = [(hour, 0, 6 * HOUR)];
        assert_eq!(all(&parts(&starts, false, 9 * HOUR)), expected);
        let expected = [
            (hour, 0, HOUR),
            (hour, HOUR, 5 * HOUR),
            (hour, 5 * HOUR, 6 * HOUR),
        ];
        assert_eq!(all(&parts(&starts, true, 9 * HOUR)), expected);
    }
}

//! The request log in recording order.
//!
//! SQLite has a single writer, so row numbers are in commit order. In PostgreSQL, each batch gets its position in
//! `log_batches` at the end of its transaction, under a lock that is held until the commit: a reader that sees a
//! position sees all lower ones.

use jiff::Timestamp;
use sqlx::Error as SqlError;
use uuid::Uuid;

use super::engine::{Row, Session, Statement, Value};
use super::log::{ATTRIBUTES, JOIN_ATTRIBUTES, event_of};
use super::names::Names;
use super::value::{as_micros, number, required, time};
use crate::usage::{LogCursor, RecordedEvent, Scanned, UsageEvent};

/// The maximum number of batches to read at once.
const BATCHES: i64 = 64;

/// Reads the events after a cursor: up to `wanted`, or more to complete a batch. `None` if the cursor is of another
/// log.
pub(super) async fn scan<S: Session>(
    session: &mut S,
    names: &Names,
    after: LogCursor,
    wanted: usize,
) -> Result<Option<Scanned>, SqlError> {
    let has_batches = names.dialect.has_partitioned_log();
    let highest = if has_batches {
        "SELECT (SELECT coalesce(max(position), 0) FROM {prefix}log_batches) AS highest,
            (SELECT position FROM {prefix}log_pruned) AS dropped"
    } else {
        "SELECT (SELECT coalesce(max(row), 0) FROM {prefix}requests) AS highest,
            (SELECT position FROM {prefix}log_pruned) AS dropped"
    };
    let rows = session.fetch(Statement::new(names, highest)).await?;
    let row = required(rows.first())?;
    let (highest, dropped): (u64, u64) = (number(row, "highest")?, number(row, "dropped")?);
    // A position beyond the end comes from another log, or from this one before it was restored from a backup.
    if after.position() > highest.max(dropped) || (!has_batches && after.event().is_some()) {
        return Ok(None);
    }
    let mut scanned = if has_batches {
        scan_batches(session, names, after, wanted).await?
    } else {
        scan_rows(session, names, after, wanted).await?
    };
    scanned.dropped = dropped;
    Ok(Some(scanned))
}

/// A text that changes with every batch. Batches without logged events still add a rollup record.
pub(super) async fn revision<S: Session>(
    session: &mut S,
    names: &Names,
) -> Result<String, SqlError> {
    let last = match names.dialect.has_partitioned_log() {
        true => "SELECT max(position) FROM {prefix}log_batches",
        false => "SELECT max(row) FROM {prefix}requests",
    };
    let select = format!(
        "SELECT ({last}) AS position, max(number) AS number, max(written_at) AS written_at
        FROM {{prefix}}rollup_records"
    );
    let rows = session.fetch(Statement::new(names, &select)).await?;
    let row = required(rows.first())?;
    let [position, number] =
        [row.integer("position")?, row.integer("number")?].map(Option::unwrap_or_default);
    let written_at = row.time("written_at")?.unwrap_or_default();
    Ok(format!("{position}.{number}.{written_at}"))
}

/// Scans a log that is ordered by row number.
async fn scan_rows<S: Session>(
    session: &mut S,
    names: &Names,
    after: LogCursor,
    wanted: usize,
) -> Result<Scanned, SqlError> {
    let columns = names.dialect.request_columns();
    let rows = format!(
        "SELECT r.row AS position, {columns}, {ATTRIBUTES}
        FROM {{prefix}}requests r {JOIN_ATTRIBUTES}
        WHERE r.row > $1 ORDER BY r.row LIMIT $2"
    );
    let rows = Statement::new(names, &rows)
        .bind(after.position().cast_signed())
        .bind(wanted as i64);
    let rows = session.fetch(rows).await?;
    let recorded = |row: &S::Row| {
        Ok(RecordedEvent {
            event: event_of(row)?,
            cursor: LogCursor::new(number(row, "position")?),
        })
    };
    let events: Vec<_> = rows.iter().map(recorded).collect::<Result<_, SqlError>>()?;
    Ok(Scanned {
        cursor: events.last().map_or(after, |last| last.cursor),
        is_all: events.len() < wanted,
        events,
        dropped: 0,
    })
}

/// A batch of the request log.
struct LogBatch {
    position: u64,
    /// The batch number of its events; `None` for the events written under schema version 1.
    number: Option<i64>,
    /// The segments of its events.
    segments: [Option<i64>; 2],
    first: i64,
    last: i64,
    events: u64,
}

/// Scans a log that is ordered by batch position.
async fn scan_batches<S: Session>(
    session: &mut S,
    names: &Names,
    after: LogCursor,
    wanted: usize,
) -> Result<Scanned, SqlError> {
    let from = after.position() + u64::from(after.event().is_none());
    let batches = batches_from(session, names, from).await?;
    let mut scanned = Scanned {
        events: Vec::new(),
        cursor: after,
        is_all: batches.is_empty(),
        dropped: 0,
    };
    let Some(first) = batches.first() else {
        return Ok(scanned);
    };
    if first.number.is_none() {
        let last = after.event().filter(|_| first.position == after.position());
        let events = unnumbered(session, names, first, last, wanted).await?;
        let is_whole = events.len() < wanted;
        scanned.events = events
            .into_iter()
            .map(|event| recorded(first.position, event))
            .collect();
        scanned.cursor = match scanned.events.last() {
            Some(last) if !is_whole => last.cursor,
            _ => LogCursor::new(first.position),
        };
        return Ok(scanned);
    }
    let mut count = 0;
    let is_read = |batch: &&LogBatch| {
        let has_room = count < wanted as u64;
        count += batch.events;
        has_room && batch.number.is_some()
    };
    let read = &batches[..batches.iter().take_while(is_read).count()];
    let mut events = numbered(session, names, read).await?;
    if let Some(seen) = after.event() {
        let is_new = |&(position, ref event): &(u64, UsageEvent)| {
            position > after.position() || (event.time, event.id) > seen
        };
        events.retain(is_new);
    }
    events.sort_by_key(|(position, event)| (*position, event.time, event.id));
    let last = read.last().map_or(after.position(), |batch| batch.position);
    scanned.is_all = read.len() == batches.len() && (batches.len() as i64) < BATCHES;
    scanned.cursor = LogCursor::new(last);
    let events = events.into_iter();
    scanned.events = events
        .map(|(position, event)| recorded(position, event))
        .collect();
    Ok(scanned)
}

fn recorded(position: u64, event: UsageEvent) -> RecordedEvent {
    RecordedEvent {
        cursor: LogCursor::within(position, &event),
        event,
    }
}

async fn batches_from<S: Session>(
    session: &mut S,
    names: &Names,
    position: u64,
) -> Result<Vec<LogBatch>, SqlError> {
    let batches =
        "SELECT position, number, segment, late_segment, first, last, events FROM {prefix}log_batches
        WHERE position >= $1 ORDER BY position LIMIT $2";
    let batches = Statement::new(names, batches)
        .bind(position.cast_signed())
        .bind(BATCHES);
    let rows = session.fetch(batches).await?;
    let batch = |row: &S::Row| {
        Ok(LogBatch {
            position: number(row, "position")?,
            number: row.integer("number")?,
            segments: [row.integer("segment")?, row.integer("late_segment")?],
            first: as_micros(time(row, "first")?),
            last: as_micros(time(row, "last")?),
            events: number(row, "events")?,
        })
    };
    rows.iter().map(batch).collect()
}

/// The events of these batches, each with the position of its batch, unordered.
async fn numbered<S: Session>(
    session: &mut S,
    names: &Names,
    batches: &[LogBatch],
) -> Result<Vec<(u64, UsageEvent)>, SqlError> {
    let mut sql = Statement::new(names, "");
    // The time bounds limit the partitions that are read.
    let first = batches.iter().map(|batch| batch.first).min();
    let last = batches.iter().map(|batch| batch.last).max();
    let (first, last) = (
        sql.placeholder(Value::Time(first)),
        sql.placeholder(Value::Time(last)),
    );
    let values: Vec<_> = batches
        .iter()
        .map(|batch| {
            let number = sql.placeholder(Value::Integer(batch.number));
            format!("({number}::bigint, {}::bigint)", batch.position)
        })
        .collect();
    let segments = batches.iter().flat_map(|batch| batch.segments);
    let mut segments: Vec<_> = segments.flatten().collect();
    segments.sort_unstable();
    segments.dedup();
    let in_segments = sql.is_one_of(names, "r.segment", &segments);
    let columns = names.dialect.request_columns();
    sql.push_sql(
        names,
        &format!(
            "SELECT b.position, {columns}, {ATTRIBUTES}
            FROM (VALUES {}) AS b (number, position)
            JOIN {{prefix}}requests r ON r.batch = b.number::bit(32)::integer
            {JOIN_ATTRIBUTES}
            WHERE {in_segments} AND r.time >= {first} AND r.time <= {last}",
            values.join(", ")
        ),
    );
    let rows = session.fetch(sql).await?;
    let event = |row: &S::Row| Ok((number(row, "position")?, event_of(row)?));
    rows.iter().map(event).collect()
}

/// Events written under schema version 1, which have no batch number, ordered by time and id.
async fn unnumbered<S: Session>(
    session: &mut S,
    names: &Names,
    batch: &LogBatch,
    seen: Option<(Timestamp, Uuid)>,
    wanted: usize,
) -> Result<Vec<UsageEvent>, SqlError> {
    let (time, id) = match seen {
        Some((time, id)) => (as_micros(time), id),
        None => (batch.first - 1, Uuid::nil()),
    };
    let columns = names.dialect.request_columns();
    let events = format!(
        "SELECT {columns}, {ATTRIBUTES}
        FROM {{prefix}}requests r {JOIN_ATTRIBUTES}
        WHERE r.batch IS NULL AND r.time >= $1 AND r.time <= $2 AND (r.time, r.id) > ($1, $3)
        ORDER BY r.time, r.id LIMIT $4"
    );
    let events = Statement::new(names, &events)
        .bind(Value::Time(Some(time)))
        .bind(Value::Time(Some(batch.last)))
        .bind(id)
        .bind(wanted as i64);
    let rows = session.fetch(events).await?;
    rows.iter().map(event_of).collect()
}

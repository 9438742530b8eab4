//! Collecting the records of passed minutes.

use std::ops::{Range, RangeInclusive};

use sqlx::Error as SqlError;

use super::records::{delete, report, set_aside};
use crate::backend::sql::engine::{Engine, Row, Session, Statement, Value};
use crate::backend::sql::micros::{MINUTE, floor};
use crate::backend::sql::names::Names;
use crate::backend::sql::rollup_record::{READABLE, RollupRecord, rollups_of};
use crate::backend::sql::series_rollup::{ALL_CALLERS, Rollups, Series, SeriesRollup};
use crate::backend::sql::value::{as_micros, required};

/// The number of records that are read at once.
const RECORDS: usize = 64;
/// The maximum number of records that are collected at once, and their size in bytes.
const MAX_RECORDS: i64 = 1 << 12;
const MAX_BYTES: i64 = 1 << 28;
/// The size of records, in bytes, whose rollups are held in memory at once. With more, they are collected in parts.
const PART_BYTES: i64 = 1 << 24;
/// The number of rollups in a part after which it is stored, although a caller and kind may then occur again.
const PART: usize = 1 << 20;
/// The number of rollups in a ready record.
const READY: usize = 1 << 13;
/// The time after the end of a minute in which its last batches are written, in microseconds.
pub(super) const GRACE: i64 = 5_000_000;

/// Replaces records with ready records, in which each caller and kind occurs once per minute. Rollups of current
/// minutes are put back. Does nothing if another process is merging, or if there are ready records.
///
/// Minutes after the next one count as passed, since they may be decades away; such events are rare.
pub(super) async fn collect<E: Engine>(engine: &E, waits: bool) -> Result<Collected, SqlError> {
    let now = as_micros(engine.now().await?);
    let current = floor(now.saturating_sub(GRACE), MINUTE)..floor(now, MINUTE) + 2 * MINUTE;
    let names = engine.names();
    let Some(mut session) = engine.merger(waits).await? else {
        return Ok(Collected::default());
    };
    if has_ready(&mut session, names).await? {
        return Ok(Collected {
            any: false,
            are_left: true,
        });
    }
    let passed = passed_records(&mut session, names, &current).await?;
    let collected = Collected {
        any: !passed.numbers.is_empty(),
        are_left: passed.are_left,
    };
    if !collected.any {
        return Ok(collected);
    }
    let mut unreadable = Vec::new();
    // Last, so that a minute has rollups of all callers together only once those of its callers are merged.
    let mut together = Rollups::default();
    for callers in passed.parts() {
        let (mut ready, mut rest) = (Rollups::default(), Rollups::default());
        for numbers in passed.numbers.chunks(RECORDS) {
            let records = read(&mut session, names, numbers).await?;
            for row in records {
                let number = required(row.integer("number")?)?;
                let is_wanted = |caller: i32, _: i64| callers.contains(&caller);
                match rollups_of(required(row.bytes("rollups")?)?, is_wanted) {
                    Ok(rollups) => {
                        for SeriesRollup {
                            series,
                            start,
                            amounts,
                        } in rollups
                        {
                            if current.contains(&start) {
                                rest.add(series, start, &amounts);
                                continue;
                            }
                            ready.add(series, start, &amounts);
                            let all = Series {
                                caller: ALL_CALLERS,
                                ..series
                            };
                            together.add(all, start, &amounts);
                        }
                    }
                    Err(error) if !unreadable.contains(&number) => {
                        report(number, &error);
                        unreadable.push(number);
                    }
                    Err(_) => {}
                }
                drop(row);
                tokio::task::yield_now().await;
            }
            if ready.len() > PART {
                let full = std::mem::take(&mut ready);
                insert(&mut session, names, full, true).await?;
            }
        }
        insert(&mut session, names, ready, true).await?;
        insert(&mut session, names, rest, false).await?;
    }
    insert(&mut session, names, together, true).await?;
    set_aside(&mut session, names, &unreadable).await?;
    let mut read = passed.numbers;
    read.retain(|number| !unreadable.contains(number));
    delete(&mut session, names, &read).await?;
    session.commit().await?;
    Ok(collected)
}

/// The result of collecting.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Collected {
    /// Whether any records were collected.
    pub(super) any: bool,
    /// Whether there are more, or ready records, which come first.
    pub(super) are_left: bool,
}

/// Records with rollups of minutes that have passed.
struct Passed {
    numbers: Vec<i64>,
    bytes: i64,
    /// The highest number of a caller.
    last_caller: i32,
    /// Whether there are more records.
    are_left: bool,
}

impl Passed {
    /// Ranges of callers whose rollups are collected one after the other.
    fn parts(&self) -> impl Iterator<Item = RangeInclusive<i32>> + Send + use<> {
        let parts = i32::try_from(self.bytes / PART_BYTES).unwrap_or(i32::MAX - 1) + 1;
        let width = (self.last_caller / parts).saturating_add(1);
        (0..parts).map(move |part| {
            let last = match part == parts - 1 {
                true => i32::MAX,
                false => width.saturating_mul(part + 1) - 1,
            };
            width.saturating_mul(part)..=last
        })
    }
}

async fn has_ready<S: Session>(session: &mut S, names: &Names) -> Result<bool, SqlError> {
    let any = format!(
        "SELECT EXISTS (SELECT 1 FROM {{prefix}}rollup_records WHERE ready AND {READABLE}) AS found"
    );
    let rows = session.fetch(Statement::new(names, &any)).await?;
    required(rows.first())?.boolean("found")
}

async fn passed_records<S: Session>(
    session: &mut S,
    names: &Names,
    current: &Range<i64>,
) -> Result<Passed, SqlError> {
    let records = format!(
        "SELECT number, length(rollups) AS bytes, (SELECT max(id) FROM {{prefix}}callers) AS last_caller
        FROM {{prefix}}rollup_records WHERE (first < $1 OR last >= $2) AND NOT ready AND {READABLE}
        ORDER BY number LIMIT $3"
    );
    let records = Statement::new(names, &records)
        .bind(Value::Time(Some(current.start)))
        .bind(Value::Time(Some(current.end)))
        .bind(MAX_RECORDS);
    let rows = session.fetch(records).await?;
    let mut passed = Passed {
        numbers: Vec::new(),
        bytes: 0,
        last_caller: 0,
        are_left: rows.len() as i64 == MAX_RECORDS,
    };
    for row in &rows {
        if passed.bytes >= MAX_BYTES {
            passed.are_left = true;
            break;
        }
        passed.numbers.push(required(row.integer("number")?)?);
        passed.bytes += required(row.integer("bytes")?)?;
        let last = row.integer("last_caller")?.unwrap_or(0);
        passed.last_caller = i32::try_from(last).unwrap_or(i32::MAX);
    }
    Ok(passed)
}

async fn read<S: Session>(
    session: &mut S,
    names: &Names,
    numbers: &[i64],
) -> Result<Vec<S::Row>, SqlError> {
    let records = "SELECT number, rollups FROM {prefix}rollup_records WHERE ";
    let mut sql = Statement::new(names, records);
    let is_one = sql.is_one_of(names, "number", numbers);
    sql.push(&is_one);
    session.fetch(sql).await
}

async fn insert<S: Session>(
    session: &mut S,
    names: &Names,
    rollups: Rollups,
    is_ready: bool,
) -> Result<(), SqlError> {
    for mut part in rollups.into_parts(READY) {
        part.sort_unstable_by_key(|rollup| (rollup.start, rollup.series));
        if let Some(record) = RollupRecord::new(&part) {
            session.execute(record.insert(names, is_ready)).await?;
        }
    }
    Ok(())
}

//! Merging rollup records into the tables of rollups.
//!
//! A batch adds a single [record](super::rollup_record) of its rollups, so that its cost depends little on the number of
//! its series. Once a minute has passed, a background task merges its records:
//!
//! 1. It collects the rollups of passed minutes, each caller and kind once, adds those of all callers together, and
//!    replaces the records with others of limited size that are marked as ready. Rollups of minutes that have not passed
//!    are put back.
//! 2. It adds one ready record after another to the tables.
//!
//! Each step is a transaction, so that merging can be interrupted at any time, and one process merges at a time. Readers
//! add the rollups of all records that are left, in the same snapshot.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::Error as SqlError;
use tokio::time::Instant;

use super::batched::PAUSE;
use super::engine::{Engine, Row, Session, Statement, Value};
use super::micros::{DAY, HOUR, MINUTE, floor};
use super::names::Names;
use super::rollup_record::{READABLE, RollupRecord, rollups_of};
use super::series_rollup::{ALL_CALLERS, Rollups, Series, SeriesRollup, coarser};
use super::value::{as_micros, decode, required};
use crate::telemetry;

/// The number of records that are read at once.
const MAX_RECORDS: i64 = 64;
/// The number of rollups in records after which no further ones are collected.
const MAX_COLLECTED: usize = 1 << 19;
/// The number of rollups in a ready record.
const MAX_READY: usize = 1 << 13;
/// The time after the end of a minute in which its last batches are written, in microseconds.
const GRACE: i64 = 5_000_000;
/// The time before the first pass.
const FIRST: Duration = Duration::from_secs(1);
/// The time between two passes, before jitter, which keeps processes from running at the same time.
const EVERY: Duration = Duration::from_secs(10);
/// The same after failures.
const EVERY_AFTER_FAILURES: Duration = Duration::from_secs(300);

/// The background task that merges records while there are any.
#[derive(Debug, Default)]
pub(in crate::backend) struct Merging {
    is_running: AtomicBool,
}

impl Merging {
    /// Starts the task unless it is running. To be called after a record was written, within a Tokio runtime.
    pub(in crate::backend) fn ensure<E: Engine>(self: &Arc<Self>, engine: &Arc<E>) {
        if let Some(running) = self.start() {
            tokio::spawn(merge_periodically(Arc::downgrade(engine), running));
        }
    }

    fn start(self: &Arc<Self>) -> Option<Running> {
        let is_running = self.is_running.swap(true, Ordering::SeqCst);
        (!is_running).then(|| Running(self.clone()))
    }
}

/// Allows the task to be started again when it ends, also when its runtime is shut down.
struct Running(Arc<Merging>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::SeqCst);
    }
}

async fn merge_periodically<E: Engine>(engine: Weak<E>, mut running: Running) {
    let mut pause = FIRST;
    loop {
        tokio::time::sleep(pause.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
        let Some(engine) = engine.upgrade() else {
            return;
        };
        let passed = async {
            merge_passed(&*engine, false).await?;
            has_records(&*engine).await
        };
        match passed.await {
            Ok(true) => pause = EVERY,
            Ok(false) => {
                let merging = running.0.clone();
                drop(running);
                // A record may have been written while the task was still running.
                let is_left = has_records(&*engine).await.unwrap_or(true);
                let Some(again) = is_left.then(|| merging.start()).flatten() else {
                    return;
                };
                (running, pause) = (again, EVERY);
            }
            Err(error) => {
                pause = (pause.max(EVERY) * 2).min(EVERY_AFTER_FAILURES);
                telemetry::warn!(
                    error = &error as &dyn std::error::Error,
                    "failed to merge rollups"
                );
            }
        }
    }
}

async fn has_records<E: Engine>(engine: &E) -> Result<bool, SqlError> {
    let any = format!("SELECT EXISTS (SELECT 1 FROM §rollup_records WHERE {READABLE}) AS found");
    let mut session = engine.reader().await?;
    let rows = session.fetch(Statement::new(engine.names(), &any)).await?;
    required(rows.first())?.boolean("found")
}

/// Merges the rollups of all minutes that have passed. Returns their number. `waits` is whether to wait while another
/// process is merging.
pub(super) async fn merge_passed<E: Engine>(engine: &E, waits: bool) -> Result<u64, SqlError> {
    let mut all = 0;
    loop {
        let start = Instant::now();
        let are_left = collect(engine, waits).await?;
        pause_since(start).await;
        loop {
            let start = Instant::now();
            let Some(merged) = add_ready(engine, waits).await? else {
                break;
            };
            all += merged;
            pause_since(start).await;
        }
        if !are_left {
            return Ok(all);
        }
    }
}

/// A pause for other writers.
async fn pause_since(start: Instant) {
    tokio::time::sleep(PAUSE.max(start.elapsed() / 8)).await;
}

/// Replaces records with ready records, in which each caller and kind occurs once per minute. Rollups of current minutes are put
/// back. Returns whether there are more records. Does nothing if another process is merging.
///
/// Minutes after the next one count as passed, since they may be decades away; such events are rare.
async fn collect<E: Engine>(engine: &E, waits: bool) -> Result<bool, SqlError> {
    let now = as_micros(engine.now().await?);
    let current = floor(now.saturating_sub(GRACE), MINUTE)..floor(now, MINUTE) + 2 * MINUTE;
    let names = engine.names();
    let Some(mut session) = engine.merger(waits).await? else {
        return Ok(false);
    };
    let (mut passed, mut rest) = (Rollups::default(), Rollups::default());
    let (mut read, mut unreadable) = (Vec::new(), Vec::new());
    let (mut decoded, mut last) = (0, i64::MIN);
    let are_left = 'records: loop {
        let records = format!(
            "SELECT number, rollups FROM §rollup_records
            WHERE number > $1 AND (first < $2 OR last >= $3) AND NOT ready AND {READABLE}
            ORDER BY number LIMIT $4"
        );
        let records = Statement::new(names, &records)
            .bind(last)
            .bind(Value::Time(Some(current.start)))
            .bind(Value::Time(Some(current.end)))
            .bind(MAX_RECORDS);
        let rows = session.fetch(records).await?;
        if rows.is_empty() {
            break false;
        }
        for row in rows {
            if decoded >= MAX_COLLECTED {
                break 'records true;
            }
            last = required(row.integer("number")?)?;
            match rollups_of(required(row.bytes("rollups")?)?, |_, _| true) {
                Ok(rollups) => {
                    read.push(last);
                    decoded += rollups.len();
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
                        passed.add(series, start, &amounts);
                        let all = Series {
                            caller: ALL_CALLERS,
                            ..series
                        };
                        passed.add(all, start, &amounts);
                    }
                }
                Err(error) => {
                    report(last, &error);
                    unreadable.push(last);
                }
            }
            drop(row);
            tokio::task::yield_now().await;
        }
    };
    if read.is_empty() && unreadable.is_empty() {
        return Ok(false);
    }
    set_aside(&mut session, names, &unreadable).await?;
    delete(&mut session, names, &read).await?;
    for (rollups, is_ready) in [(passed, true), (rest, false)] {
        for mut part in rollups.into_parts(MAX_READY) {
            part.sort_unstable_by_key(|rollup| (rollup.start, rollup.series));
            if let Some(record) = RollupRecord::new(&part) {
                session.execute(record.insert(names, is_ready)).await?;
            }
        }
    }
    session.commit().await?;
    Ok(are_left)
}

/// Adds the rollups of a ready record to the tables. Returns their number, or `None` if there is none, or if another
/// process is merging.
async fn add_ready<E: Engine>(engine: &E, waits: bool) -> Result<Option<u64>, SqlError> {
    let names = engine.names();
    let Some(mut session) = engine.merger(waits).await? else {
        return Ok(None);
    };
    let record = format!(
        "SELECT number, rollups FROM §rollup_records WHERE ready AND {READABLE}
        ORDER BY number LIMIT 1"
    );
    let rows = session.fetch(Statement::new(names, &record)).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let number = required(row.integer("number")?)?;
    let rollups = rollups_of(required(row.bytes("rollups")?)?, |_, _| true);
    drop(rows);
    let count = match rollups {
        Ok(mut rollups) => {
            rollups.sort_unstable_by_key(|it| (it.series.caller, it.start, it.series.kind));
            add(engine, &mut session, &rollups).await?;
            delete(&mut session, names, &[number]).await?;
            let merged = rollups.iter().filter(|it| it.series.caller != ALL_CALLERS);
            merged.count() as u64
        }
        Err(error) => {
            report(number, &error);
            set_aside(&mut session, names, &[number]).await?;
            0
        }
    };
    session.commit().await?;
    Ok(Some(count))
}

#[cold]
fn report(number: i64, error: &SqlError) {
    telemetry::error!(
        number,
        error = error as &dyn std::error::Error,
        "cannot read a rollup record; its requests are missing in summaries"
    );
}

/// Deletes records, which must exist.
async fn delete<S: Session>(
    session: &mut S,
    names: &Names,
    numbers: &[i64],
) -> Result<(), SqlError> {
    let deleted = for_records(session, names, "DELETE FROM §rollup_records", numbers).await?;
    if deleted != numbers.len() as u64 {
        return Err(decode(
            "rollup records were merged by two processes at once",
        ));
    }
    Ok(())
}

/// Excludes records that cannot be read, so that the others are merged. Their rollups are not counted.
async fn set_aside<S: Session>(
    session: &mut S,
    names: &Names,
    numbers: &[i64],
) -> Result<(), SqlError> {
    let mark = "UPDATE §rollup_records SET unreadable = TRUE";
    for_records(session, names, mark, numbers).await?;
    Ok(())
}

/// Executes a statement for the records with these numbers. Returns the number of affected records.
async fn for_records<S: Session>(
    session: &mut S,
    names: &Names,
    statement: &str,
    numbers: &[i64],
) -> Result<u64, SqlError> {
    if numbers.is_empty() {
        return Ok(0);
    }
    let mut sql = Statement::new(names, statement);
    sql.push(" WHERE number IN (")
        .push_numbers(names, numbers)
        .push(")");
    session.execute(sql).await
}

/// Adds rollups by minute, ordered by caller, start and kind, to all tables.
async fn add<E: Engine>(
    engine: &E,
    session: &mut E::Session,
    minutes: &[SeriesRollup],
) -> Result<(), SqlError> {
    let (hours, days) = (coarser(minutes, HOUR), coarser(minutes, DAY));
    for (table, rollups) in [("§minutes", minutes), ("§hours", &hours), ("§days", &days)] {
        engine.add_rollups(session, table, rollups).await?;
    }
    Ok(())
}

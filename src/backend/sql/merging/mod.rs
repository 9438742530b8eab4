//! Merging rollup records into the tables of rollups.
//!
//! A batch adds a single [record](super::rollup_record) of its rollups, so that its cost depends little on the number
//! of its callers and kinds. Once a minute has passed, a background task merges its records:
//!
//! 1. [`collect`] adds up the rollups of passed minutes, also those of all callers together, and replaces the records
//!    with others of limited size that are marked as ready. Rollups of minutes that have not passed are put back.
//! 2. [`add`] adds one ready record after another to the table of minutes, and to the
//!    [totals of callers](caller_minutes) by minute.
//! 3. [`roll_up`] adds up the minutes of an hour that has passed, and the hours of a day, also by [outcome](outcomes),
//!    and the totals of callers in [blocks] of several hours or days.
//!
//! Each step is a transaction, so that merging can be interrupted at any time, and one process merges at a time.
//! Readers add the rollups of all records that are left, and read minutes where there are no hours yet, in the same
//! snapshot.

mod add;
mod blocks;
mod caller_minutes;
mod collect;
mod merged;
mod outcomes;
mod records;
mod roll_up;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::Error as SqlError;
use tokio::time::Instant;

use super::batched::pause_since;
use super::compact::compact_migrated;
use super::engine::{Engine, Row, Session, Statement};
use super::rollup_record::READABLE;
use super::value::{as_micros, number, optional_time, required};
use crate::telemetry;
use crate::usage::MergeBacklog;

use self::add::add_ready;
pub(super) use self::blocks::blocks_of;
use self::collect::{Collected, GRACE, collect};
pub(super) use self::merged::Merged;
use self::outcomes::store_outdated_totals;
pub(super) use self::roll_up::roll_up;

/// The time before the first pass.
const FIRST: Duration = Duration::from_secs(1);
/// The time between two passes, before jitter, which keeps processes from running at the same time.
const EVERY: Duration = Duration::from_secs(10);
/// The same after failures.
const EVERY_AFTER_FAILURES: Duration = Duration::from_secs(300);

/// The number of hours and days whose totals a pass stores.
const OUTDATED_TOTALS: usize = 100;

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
            merge_passed(&engine, false).await?;
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
    let any =
        format!("SELECT EXISTS (SELECT 1 FROM {{prefix}}rollup_records WHERE {READABLE}) AS found");
    let mut session = engine.reader().await?;
    let rows = session.fetch(Statement::new(engine.names(), &any)).await?;
    required(rows.first())?.boolean("found")
}

/// How far merging is behind.
pub(super) async fn backlog<E: Engine>(engine: &E) -> Result<MergeBacklog, SqlError> {
    let backlog = format!(
        "SELECT count(*) AS records, min(written_at) AS oldest,
            (SELECT count(*) FROM {{prefix}}rollup_records WHERE NOT ({READABLE})) AS unreadable
        FROM {{prefix}}rollup_records WHERE {READABLE}"
    );
    let mut session = engine.reader().await?;
    let rows = session
        .fetch(Statement::new(engine.names(), &backlog))
        .await?;
    let row = required(rows.first())?;
    Ok(MergeBacklog {
        records: number(row, "records")?,
        oldest_at: optional_time(row, "oldest")?,
        unreadable: number(row, "unreadable")?,
    })
}

/// Merges the rollups of all minutes that have passed. Returns their number. `waits` is whether to wait while another
/// process is merging.
pub(super) async fn merge_passed<E: Engine>(engine: &Arc<E>, waits: bool) -> Result<u64, SqlError> {
    let mut all = 0;
    loop {
        // Those of an interrupted pass come first.
        loop {
            let start = Instant::now();
            // In a task, so that it cannot be cancelled: a connection that was interrupted during `COPY` cannot be
            // reused.
            let engine = engine.clone();
            let added = tokio::spawn(async move { add_ready(&*engine, waits).await });
            // The task only fails if the runtime shuts down.
            let Some(merged) = added.await.map_err(|_| SqlError::PoolClosed)?? else {
                break;
            };
            all += merged;
            pause_since(start).await;
        }
        let start = Instant::now();
        let Collected { any, are_left } = collect(&**engine, waits).await?;
        if !any && !are_left {
            break;
        }
        pause_since(start).await;
    }
    let now = as_micros(engine.now().await?);
    roll_up(&**engine, now.saturating_sub(GRACE), waits).await?;
    compact_migrated(&**engine).await?;
    // All at once would keep new records waiting.
    let most = if waits { usize::MAX } else { OUTDATED_TOTALS };
    store_outdated_totals(&**engine, waits, most).await?;
    Ok(all)
}

//! How long usage is kept, and dropping what is older.

use std::sync::Weak;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::Error as SqlError;
use tokio::task::JoinHandle;

use super::backend::SqlBackend;
use super::engine::{Engine, Row, Session, Statement, Value};
use super::error::BackendError;
use super::portions::{FirstFailure, delete_by, write};
use super::quarters::fold_minutes;
use super::series_cache::day_of;
use super::value::as_micros;
use crate::telemetry;
use crate::usage::Granularity;

/// How long usage is kept in a database.
///
/// Usage turns coarser with age, and no sum of what is left changes: minutes are added to quarters of an
/// hour, and where those are dropped too, hours and days answer. Dropping requests from the log changes no
/// sum.
///
/// ```
/// use std::time::Duration;
///
/// use keytally::backend::Retention;
///
/// const DAY: Duration = Duration::from_secs(24 * 3_600);
/// let retention = Retention::new().log(90 * DAY).hours(Duration::MAX);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Retention {
    /// How long requests stay in the log: 30 days unless set. PostgreSQL drops whole days.
    pub log: Duration,
    /// How long sums are kept by the minute: 7 days unless set, and never longer than by the hour. Older
    /// ones are kept by the quarter of an hour.
    pub minutes: Duration,
    /// How long sums are kept by the quarter of an hour: 400 days unless set, and never longer than by the
    /// hour. Days and hours of zones such as `+05:30`, which begin within an hour of UTC, are exact for as
    /// long.
    pub quarters: Duration,
    /// How long sums are kept by the hour and by the day: 400 days unless set.
    pub hours: Duration,
    /// How long the ids of batches are kept, after which one that is written again counts again: 7 days
    /// before the newest one, unless set. Longer than a [spool](crate::usage::RecorderBuilder) may wait
    /// for the database.
    pub batches: Duration,
}

const DAY: Duration = Duration::from_secs(24 * 3_600);

impl Default for Retention {
    fn default() -> Self {
        Self {
            log: 30 * DAY,
            minutes: 7 * DAY,
            quarters: 400 * DAY,
            hours: 400 * DAY,
            batches: 7 * DAY,
        }
    }
}

impl Retention {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`log`](Self::log); [`Duration::MAX`] keeps it for good.
    #[must_use]
    pub fn log(mut self, time: Duration) -> Self {
        self.log = time;
        self
    }

    /// Sets [`minutes`](Self::minutes).
    #[must_use]
    pub fn minutes(mut self, time: Duration) -> Self {
        self.minutes = time;
        self
    }

    /// Sets [`quarters`](Self::quarters): as long as [`minutes`](Self::minutes) or shorter keeps none.
    #[must_use]
    pub fn quarters(mut self, time: Duration) -> Self {
        self.quarters = time;
        self
    }

    /// Sets [`hours`](Self::hours); [`Duration::MAX`] keeps them for good.
    #[must_use]
    pub fn hours(mut self, time: Duration) -> Self {
        self.hours = time;
        self
    }

    /// Sets [`batches`](Self::batches).
    #[must_use]
    pub fn batches(mut self, time: Duration) -> Self {
        self.batches = time;
        self
    }
}

/// What was dropped in one pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PruneReport {
    /// Requests of the log; in PostgreSQL days of it.
    pub log: u64,
    /// Sums by the minute that became part of a quarter of an hour.
    pub minutes: u64,
    /// Sums by the minute or by the quarter of an hour, which hours stand for from now on.
    pub quarters: u64,
    /// Sums by the hour.
    pub hours: u64,
    /// Ids of batches.
    pub batches: u64,
}

/// Drops what is too old, every ten minutes, until it is dropped itself.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Maintenance(JoinHandle<()>);

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Pauses between passes, jittered so that many processes do not begin at once.
const EVERY: Duration = Duration::from_secs(600);

impl<E: Engine> SqlBackend<E> {
    /// Starts the task that drops what is too old.
    pub(in crate::backend) fn maintain(&self, retention: Retention) -> Maintenance {
        let engine = std::sync::Arc::downgrade(&self.engine);
        Maintenance(tokio::spawn(tend(engine, retention)))
    }

    pub(in crate::backend) async fn prune(
        &self,
        retention: &Retention,
        now: Timestamp,
    ) -> Result<PruneReport, BackendError> {
        Ok(prune(&*self.engine, retention, now).await?)
    }
}

async fn tend<E: Engine>(engine: Weak<E>, retention: Retention) {
    loop {
        // What could not be dropped this time is next time.
        match engine.upgrade() {
            None => return,
            Some(engine) => {
                let dropped = async { prune(&*engine, &retention, engine.now().await?).await };
                match dropped.await {
                    Ok(report) => telemetry::debug!(?report, "old usage pruned"),
                    Err(error) => telemetry::warn!(
                        error = &error as &dyn std::error::Error,
                        "old usage could not be pruned"
                    ),
                }
            }
        }
        tokio::time::sleep(EVERY.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}

/// Drops all that is too old at this time, as far as that can be done.
async fn prune<E: Engine>(
    engine: &E,
    retention: &Retention,
    now: Timestamp,
) -> Result<PruneReport, SqlError> {
    let (mut dropped, mut failure) = (PruneReport::default(), FirstFailure::default());
    if let Some(before) = before(now, retention.log) {
        dropped.log = failure.of(engine.prune_log(as_micros(before)).await);
    }
    let quarters = retention
        .quarters
        .max(retention.minutes)
        .min(retention.hours);
    if let Some(before) = before(now, quarters) {
        let before = as_micros(Granularity::Hour.floor(before));
        dropped.quarters = failure.of(prune_minutes(engine, before).await);
    }
    if let Some(before) = before(now, retention.minutes).filter(|_| retention.minutes < quarters) {
        let before = as_micros(Granularity::Hour.floor(before));
        dropped.minutes = failure.of(fold_minutes(engine, before).await);
    }
    if let Some(before) = before(now, retention.hours) {
        let before = as_micros(Granularity::Day.floor(before));
        dropped.hours = failure.of(prune_hours(engine, before).await);
    }
    dropped.batches = failure.of(prune_batches(engine, retention, now).await);
    failure.of(prune_series(engine, retention, now).await);
    failure.or(dropped)
}

/// Drops minutes and quarters of hours that are wholly past, and not before everybody knows: from then on
/// the hours answer for them.
async fn prune_minutes<E: Engine>(engine: &E, before: i64) -> Result<u64, SqlError> {
    let note = "INSERT INTO §pruned AS d (kind, before) VALUES ('minutes', $1)
        ON CONFLICT (kind) DO UPDATE SET before = excluded.before WHERE d.before < excluded.before";
    write(engine, note, &[Value::Time(Some(before))]).await?;
    let mut failure = FirstFailure::default();
    let dropped = delete(engine, "§minutes", "series_id, start", "start", before).await;
    let dropped = failure.of(dropped);
    failure.of(delete(engine, "§key_minutes", "start, hash", "start", before).await);
    failure.or(dropped)
}

/// Drops hours and days. Nobody counts those that are left meanwhile: what is made of hours has to agree
/// with what is made of days.
async fn prune_hours<E: Engine>(engine: &E, before: i64) -> Result<u64, SqlError> {
    // A clock that was ahead must not hide what comes later: the mark may be an earlier one again.
    let mark = "INSERT INTO §pruned (kind, before) VALUES ('hours', $1)
        ON CONFLICT (kind) DO UPDATE SET before = excluded.before";
    write(engine, mark, &[Value::Time(Some(before))]).await?;
    let mut failure = FirstFailure::default();
    failure.of(delete(engine, "§days", "series_id, start", "start", before).await);
    let dropped = delete(engine, "§hours", "series_id, start", "start", before).await;
    let dropped = failure.of(dropped);
    failure.of(delete(engine, "§key_hours", "start, hash", "start", before).await);
    let dropped = failure.or(dropped)?;
    // What is written of that time from now on counts. Rows that a batch held are left for the next pass.
    let done = "DELETE FROM §pruned WHERE kind = 'hours' AND before <= $1
        AND NOT EXISTS (SELECT 1 FROM §days WHERE start < $1)
        AND NOT EXISTS (SELECT 1 FROM §hours WHERE start < $1)
        AND NOT EXISTS (SELECT 1 FROM §key_hours WHERE start < $1)";
    write(engine, done, &[Value::Time(Some(before))]).await?;
    Ok(dropped)
}

async fn prune_batches<E: Engine>(
    engine: &E,
    retention: &Retention,
    now: Timestamp,
) -> Result<u64, SqlError> {
    let Some(newest) = newest_batch(engine).await? else {
        return Ok(0);
    };
    // A process whose clock is ahead must not make the others' old.
    let Some(before) = before(newest.min(now), retention.batches) else {
        return Ok(0);
    };
    delete(engine, "§batches", "id", "applied_at", as_micros(before)).await
}

/// The time before which all is too old; `None` if nothing is.
fn before(now: Timestamp, kept: Duration) -> Option<Timestamp> {
    let kept = SignedDuration::try_from(kept).ok()?;
    now.checked_sub(kept).ok()
}

/// Deletes the rows of a table whose time is too early, some at a time.
async fn delete<E: Engine>(
    engine: &E,
    table: &str,
    key: &str,
    time: &str,
    before: i64,
) -> Result<u64, SqlError> {
    let skip = engine.names().dialect.skip_locked();
    let template = format!(
        "DELETE FROM {table} WHERE ({key}) IN
        (SELECT {key} FROM {table} WHERE {time} < $1 ORDER BY {time} LIMIT $2{skip})"
    );
    delete_by(engine, &template, Value::Time(Some(before))).await
}

async fn newest_batch<E: Engine>(engine: &E) -> Result<Option<Timestamp>, SqlError> {
    let newest = "SELECT max(applied_at) AS newest FROM §batches";
    let mut session = engine.reader().await?;
    let rows = session.rows(Statement::new(engine.names(), newest)).await?;
    let newest = rows.first().map(|row| row.time("newest"));
    newest
        .transpose()?
        .flatten()
        .map(super::value::timestamp)
        .transpose()
}

/// Deletes series that nothing has any more: not until days after the last sum of theirs is gone, so
/// that no process that has seen them lately may still write one.
async fn prune_series<E: Engine>(
    engine: &E,
    retention: &Retention,
    now: Timestamp,
) -> Result<(), SqlError> {
    let days = retention.hours.max(retention.log).as_secs() / DAY.as_secs();
    let Some(before) = i64::try_from(days + 3)
        .ok()
        .and_then(|days| day_of(now).checked_sub(days))
    else {
        return Ok(());
    };
    // In the order in which writers hold them.
    let skip = engine.names().dialect.skip_locked();
    let template = format!(
        "DELETE FROM §series WHERE id IN
        (SELECT s.id FROM §series s WHERE s.last_seen_day < $1
            AND NOT EXISTS (SELECT 1 FROM §hours h WHERE h.series_id = s.id)
            AND NOT EXISTS (SELECT 1 FROM §requests r WHERE r.series_id = s.id)
            ORDER BY s.hash LIMIT $2{skip})
        AND last_seen_day < $1"
    );
    delete_by(engine, &template, Value::Integer(Some(before))).await?;
    Ok(())
}

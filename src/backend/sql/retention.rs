//! Retention and pruning of usage.

use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::Error as SqlError;
use tokio::task::JoinHandle;

use super::backend::SqlBackend;
use super::batched::{FirstFailure, delete_and_mark, delete_in_batches, write};
use super::dictionary::day_of;
use super::engine::{Engine, Row, Session, Statement, Value};
use super::error::BackendError;
use super::merge_minutes::merge_minutes;
use super::merging::{Merged, merge_passed, roll_up};
use super::value::as_micros;
use crate::telemetry;
use crate::usage::Granularity;

/// How long a database keeps usage.
///
/// Rollups become coarser with age, without changing totals: minutes are merged into quarters of an hour, and when
/// those are pruned, queries use hours and days. Pruning the request log does not change rollups.
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
    /// How long requests stay in the request log. 30 days by default. PostgreSQL prunes whole days (UTC).
    pub log: Duration,
    /// How long rollups are kept by minute. 7 days by default; at most as long as `hours`. Older ones are merged
    /// into quarters of an hour.
    pub minutes: Duration,
    /// How long rollups are kept by quarter of an hour. 400 days by default; at most as long as `hours`. Hours and
    /// days in time zones such as `+05:30`, whose boundaries are within a UTC hour, are exact for this long.
    pub quarter_hours: Duration,
    /// How long rollups are kept by hour and by day. 400 days by default.
    pub hours: Duration,
    /// How long batch ids are kept, relative to the newest batch. 7 days by default. A batch that is retried later
    /// than this is counted twice, so it should exceed the longest time that a
    /// [spool](crate::usage::RecorderBuilder) may hold a batch while the database is down.
    pub batches: Duration,
}

const DAY: Duration = Duration::from_secs(24 * 3_600);

impl Default for Retention {
    fn default() -> Self {
        Self {
            log: 30 * DAY,
            minutes: 7 * DAY,
            quarter_hours: 400 * DAY,
            hours: 400 * DAY,
            batches: 7 * DAY,
        }
    }
}

impl Retention {
    /// Creates a retention with the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`log`](Self::log). [`Duration::MAX`] disables pruning.
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

    /// Sets [`quarter_hours`](Self::quarter_hours). If it is not longer than [`minutes`](Self::minutes), there are no
    /// rollups by quarter of an hour: older minutes are pruned, and queries use hours.
    #[must_use]
    pub fn quarter_hours(mut self, time: Duration) -> Self {
        self.quarter_hours = time;
        self
    }

    /// Sets [`hours`](Self::hours). [`Duration::MAX`] disables pruning.
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

/// The rows that a pruning pass removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PruneReport {
    /// Requests of the request log. In PostgreSQL, the number of days.
    pub log: u64,
    /// Rollups by minute that were merged into a quarter of an hour.
    pub minutes: u64,
    /// Rollups by minute or by quarter of an hour. Queries use hours in their place.
    pub quarters: u64,
    /// Rollups by hour.
    pub hours: u64,
    /// Batch ids.
    pub batches: u64,
}

/// A background task that prunes old usage about every ten minutes. Dropping this handle stops the task.
#[derive(Debug)]
#[must_use = "dropping it stops the task"]
pub struct Maintenance(JoinHandle<()>);

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The interval between passes, before jitter, which keeps processes from running at the same time.
const EVERY: Duration = Duration::from_secs(600);

impl<E: Engine> SqlBackend<E> {
    /// Starts the pruning task.
    pub(in crate::backend) fn maintain(&self, retention: Retention) -> Maintenance {
        let engine = Arc::downgrade(&self.engine);
        Maintenance(tokio::spawn(prune_periodically(engine, retention)))
    }

    pub(in crate::backend) async fn prune(
        &self,
        retention: &Retention,
        now: Timestamp,
    ) -> Result<PruneReport, BackendError> {
        Ok(prune(&self.engine, retention, now).await?)
    }
}

async fn prune_periodically<E: Engine>(engine: Weak<E>, retention: Retention) {
    loop {
        // After a failure, the next pass prunes the rest.
        match engine.upgrade() {
            None => return,
            Some(engine) => {
                let pruned = async { prune(&engine, &retention, engine.now().await?).await };
                match pruned.await {
                    Ok(report) => telemetry::debug!(?report, "pruned old usage"),
                    Err(error) => telemetry::warn!(
                        error = &error as &dyn std::error::Error,
                        "failed to prune old usage"
                    ),
                }
            }
        }
        tokio::time::sleep(EVERY.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}

/// Runs one pass. A failed step does not prevent the others; the first error is returned.
async fn prune<E: Engine>(
    engine: &Arc<E>,
    retention: &Retention,
    now: Timestamp,
) -> Result<PruneReport, SqlError> {
    let (mut pruned, mut failure) = (PruneReport::default(), FirstFailure::default());
    failure.record(merge_passed(engine, true).await);
    let engine = &**engine;
    failure.record(roll_up(engine, as_micros(now), true).await);
    let merged = {
        let mut session = engine.reader().await?;
        Merged::read(&mut session, engine.names()).await?
    };
    if let Some(before) = before(now, retention.log) {
        pruned.log = failure.record(engine.prune_log(as_micros(before)).await);
        failure.record(prune_segments(engine, as_micros(before)).await);
    }
    let quarters = retention
        .quarter_hours
        .max(retention.minutes)
        .min(retention.hours);
    if let Some(before) = before(now, quarters) {
        // Minutes that are not in hours yet are kept.
        let before = as_micros(Granularity::Hour.floor(before)).min(merged.hours);
        pruned.quarters = failure.record(prune_minutes(engine, before).await);
    }
    if let Some(before) = before(now, retention.minutes).filter(|_| retention.minutes < quarters) {
        let before = as_micros(Granularity::Hour.floor(before)).min(merged.hours);
        pruned.minutes = failure.record(merge_minutes(engine, before).await);
    }
    if let Some(before) = before(now, retention.hours) {
        let before = as_micros(Granularity::Day.floor(before));
        pruned.hours = failure.record(prune_hours(engine, before).await);
    }
    pruned.batches = failure.record(prune_batches(engine, retention, now).await);
    failure.record(prune_dictionaries(engine, retention, now).await);
    failure.into_result(pruned)
}

/// Deletes the segments of the log that have no requests left. A batch that is being written adds its segment again,
/// unless its requests are older than the retention.
async fn prune_segments<E: Engine>(engine: &E, before: i64) -> Result<u64, SqlError> {
    let skip = engine.names().dialect.skip_locked();
    let delete = format!(
        "DELETE FROM {{prefix}}log_segments WHERE number IN (SELECT s.number FROM {{prefix}}log_segments s
        WHERE s.last < $1 AND NOT EXISTS (SELECT 1 FROM {{prefix}}requests r
            WHERE r.segment = s.number AND r.time >= s.first AND r.time <= s.last)
        ORDER BY s.number LIMIT $2{skip})"
    );
    delete_in_batches(engine, &delete, Value::Time(Some(before))).await
}

/// Prunes minutes and quarters of an hour, after recording it: readers must use hours before the first row is
/// deleted.
async fn prune_minutes<E: Engine>(engine: &E, before: i64) -> Result<u64, SqlError> {
    let upsert = "INSERT INTO {prefix}pruned AS d (kind, before) VALUES ('minutes', $1)
        ON CONFLICT (kind) DO UPDATE SET before = excluded.before WHERE d.before < excluded.before";
    write(engine, upsert, &[Value::Time(Some(before))]).await?;
    let (mut failure, key) = (FirstFailure::default(), "caller_id, start, kind_id");
    let totals = delete(
        engine,
        "{prefix}caller_minutes",
        "hour, number",
        "hour",
        before,
    );
    failure.record(totals.await);
    let pruned = failure.record(delete(engine, "{prefix}minutes", key, "start", before).await);
    failure.into_result(pruned)
}

/// Prunes hours and days. Readers ignore the remaining ones meanwhile, so that results from hours agree with those
/// from days.
async fn prune_hours<E: Engine>(engine: &E, before: i64) -> Result<u64, SqlError> {
    // The mark may move back, so that a clock that was ahead does not hide later rollups.
    let mark = "INSERT INTO {prefix}pruned (kind, before) VALUES ('hours', $1)
        ON CONFLICT (kind) DO UPDATE SET before = excluded.before";
    write(engine, mark, &[Value::Time(Some(before))]).await?;
    // The same for good, since later writes may add single hours before it.
    let ever = "INSERT INTO {prefix}pruned AS d (kind, before) VALUES ('pruned_hours', $1)
        ON CONFLICT (kind) DO UPDATE SET before = excluded.before WHERE d.before < excluded.before";
    write(engine, ever, &[Value::Time(Some(before))]).await?;
    let (mut failure, key) = (FirstFailure::default(), "caller_id, start, kind_id");
    failure.record(delete(engine, "{prefix}days", key, "start", before).await);
    let pruned = failure.record(delete(engine, "{prefix}hours", key, "start", before).await);
    failure.record(delete(engine, "{prefix}hours_by_outcome", key, "start", before).await);
    failure.record(
        delete(
            engine,
            "{prefix}caller_totals",
            "hours, start",
            "start",
            before,
        )
        .await,
    );
    let pruned = failure.into_result(pruned)?;
    // Later writes to that time are counted again. Rows that a batch had locked are left for the next pass.
    let done = "DELETE FROM {prefix}pruned WHERE kind = 'hours' AND before <= $1
        AND NOT EXISTS (SELECT 1 FROM {prefix}days WHERE start < $1)
        AND NOT EXISTS (SELECT 1 FROM {prefix}hours WHERE start < $1)
        AND NOT EXISTS (SELECT 1 FROM {prefix}hours_by_outcome WHERE start < $1)
        AND NOT EXISTS (SELECT 1 FROM {prefix}caller_totals WHERE start < $1)";
    write(engine, done, &[Value::Time(Some(before))]).await?;
    Ok(pruned)
}

async fn prune_batches<E: Engine>(
    engine: &E,
    retention: &Retention,
    now: Timestamp,
) -> Result<u64, SqlError> {
    let Some(newest) = newest_batch(engine).await? else {
        return Ok(0);
    };
    // A batch from a process whose clock is ahead must not age the others.
    let Some(before) = before(newest.min(now), retention.batches) else {
        return Ok(0);
    };
    delete(
        engine,
        "{prefix}batches",
        "id",
        "applied_at",
        as_micros(before),
    )
    .await
}

/// The time before which rows are pruned; `None` to keep all.
fn before(now: Timestamp, kept: Duration) -> Option<Timestamp> {
    let kept = SignedDuration::try_from(kept).ok()?;
    now.checked_sub(kept).ok()
}

/// Deletes the rows of a table before a time, in small transactions.
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
    delete_in_batches(engine, &template, Value::Time(Some(before))).await
}

async fn newest_batch<E: Engine>(engine: &E) -> Result<Option<Timestamp>, SqlError> {
    let newest = "SELECT max(applied_at) AS newest FROM {prefix}batches";
    let mut session = engine.reader().await?;
    let rows = session
        .fetch(Statement::new(engine.names(), newest))
        .await?;
    let newest = rows.first().map(|row| row.time("newest"));
    newest
        .transpose()?
        .flatten()
        .map(super::value::timestamp)
        .transpose()
}

/// Deletes unreferenced callers and kinds, with a delay of days after their last rollup, so that no process still has
/// them in its cache and writes their numbers. Deletes none while there are older rollups that are not merged.
async fn prune_dictionaries<E: Engine>(
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
    // Readers that keep callers in memory compare it, also after a restore.
    let mark = "INSERT INTO {prefix}pruned (kind, before) VALUES ('callers', $1)
        ON CONFLICT (kind) DO UPDATE SET before = excluded.before";
    let mark = (mark, Value::Time(Some(as_micros(now))));
    let dialect = engine.names().dialect;
    let skip = dialect.skip_locked();
    let (first, first_logged) = (dialect.seconds("u.first"), dialect.seconds("s.first"));
    for (table, rollups, column, mark) in [
        (
            "{prefix}callers",
            "h.caller_id = d.id",
            "r.caller_id",
            Some(mark),
        ),
        (
            "{prefix}kinds",
            "h.caller_id = 0 AND h.kind_id = d.id",
            "r.kind_id",
            None,
        ),
    ] {
        let template = format!(
            "DELETE FROM {table} WHERE id IN
            (SELECT d.id FROM {table} d WHERE d.last_seen_day < $1
                AND NOT EXISTS (SELECT 1 FROM {{prefix}}rollup_records u
                    WHERE NOT unreadable AND {first} / 86400 < $1)
                AND NOT EXISTS (SELECT 1 FROM {{prefix}}hours h WHERE {rollups})
                AND NOT EXISTS (SELECT 1 FROM {{prefix}}log_segments s CROSS JOIN {{prefix}}requests r
                    WHERE {first_logged} / 86400 < $1 AND r.segment = s.number AND {column} = d.id
                        AND r.time >= s.first AND r.time <= s.last)
                ORDER BY d.id LIMIT $2{skip})
            AND last_seen_day < $1"
        );
        delete_and_mark(engine, &template, Value::Integer(Some(before)), mark).await?;
    }
    Ok(())
}

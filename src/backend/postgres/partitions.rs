//! The partitions of the request log, one per day (UTC).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use sqlx::Error as SqlError;

use super::engine::{LOCK_TIMEOUT, LockKey, PostgresEngine, lock_timeout};
use crate::backend::sql::{
    Engine, FirstFailure, Row, Session, Statement, Value, as_micros, decode, delete_in_batches,
    timestamp,
};
use crate::telemetry;

/// The number of days to create partitions for in advance, including today, so that no write at midnight waits for
/// it.
const AHEAD: usize = 3;

/// The maximum number of names to try for the partition of a day.
const MAX_NAMES: u8 = 9;

/// `lock_not_available`: a lock timed out.
const LOCKED: &str = "55P03";

/// The lock timeout of further partitions after the first one timed out.
const SHORT_TIMEOUT: &str = "100ms";

/// `duplicate_table`.
const NAME_TAKEN: &str = "42P07";

/// `undefined_table`: there is no such table or partition.
const NO_TABLE: &str = "42P01";

/// `invalid_object_definition`: the bounds overlap those of another partition.
const OVERLAPS: &str = "42P17";

/// `check_violation`: there is no partition for a row, a constraint rejects it, or a default partition has rows
/// that belong to a new partition.
pub(super) const CHECK_VIOLATION: &str = "23514";

/// The day of a time (UTC).
pub(super) fn day(time: Timestamp) -> Date {
    TimeZone::UTC.to_datetime(time).date()
}

/// Today and the next days.
fn days_ahead() -> impl Iterator<Item = Date> {
    let today = day(Timestamp::now());
    today.series(jiff::Span::new().days(1)).take(AHEAD)
}

/// A partition of the request log.
struct Partition {
    /// The quoted, qualified name.
    name: String,
    /// Whether the name follows the pattern of partitions that this crate creates.
    own: bool,
    /// The bounds, in microseconds since 1970.
    times: Range<i64>,
}

impl PostgresEngine {
    /// Creates the partitions of these days unless they exist. Returns the days for which that is impossible.
    pub(super) async fn ensure_partitions(
        &self,
        days: &BTreeSet<Date>,
    ) -> Result<BTreeSet<Date>, SqlError> {
        let mut missing = self.partition_cache.missing(days);
        let mut without = BTreeSet::new();
        if missing.is_empty() {
            return Ok(without);
        }
        missing.extend(days_ahead());
        // Under a lock across processes, and in its own transaction, which does not wait for batches and is not
        // rolled back with one.
        let mut session = self.exclusive(LockKey::Schema, LOCK_TIMEOUT).await?;
        for &day in &missing {
            match self.create_partition(&mut session, day).await {
                Ok(()) => {}
                // Future days can be retried later.
                Err(error) if is_conflict(&error) || !days.contains(&day) => {
                    warn_no_partition(day, &error);
                    without.insert(day);
                }
                Err(error) => return Err(error),
            }
        }
        session.commit().await?;
        self.partition_cache.insert(&missing - &without);
        Ok(&without & days)
    }

    /// Creates the partition of a day, unless existing partitions cover the day. On failure, the transaction stays
    /// usable.
    async fn create_partition(
        &self,
        session: &mut <Self as Engine>::Session,
        day: Date,
    ) -> Result<(), SqlError> {
        let next = day.tomorrow().map_err(decode)?;
        let first = format!("{{prefix}}requests_{}", day.strftime("%Y%m%d"));
        // The name may be taken by a detached partition or any other table.
        let others = (2..=MAX_NAMES).map(|n| format!("{first}_{n}"));
        let mut taken = Ok(());
        for name in std::iter::once(first.clone()).chain(others) {
            if self.has_partition(session, day).await? {
                return Ok(());
            }
            // Creating a table and attaching it does not block readers and writers of the other partitions.
            let create = format!(
                "CREATE TABLE {name} (LIKE {{prefix}}requests INCLUDING DEFAULTS INCLUDING CONSTRAINTS
                    INCLUDING INDEXES INCLUDING STORAGE);
                ALTER TABLE {{prefix}}requests ATTACH PARTITION {name}
                    FOR VALUES FROM ('{day} 00:00:00+00') TO ('{next} 00:00:00+00')"
            );
            session.execute_script("SAVEPOINT making").await?;
            let Err(error) = session.execute_script(&self.names.sql(&create)).await else {
                return Ok(());
            };
            session
                .execute_script("ROLLBACK TO SAVEPOINT making")
                .await?;
            if code(&error).as_deref() != Some(NAME_TAKEN) {
                return Err(error);
            }
            taken = Err(error);
        }
        taken
    }

    /// Whether partitions cover the whole day.
    async fn has_partition(
        &self,
        session: &mut <Self as Engine>::Session,
        day: Date,
    ) -> Result<bool, SqlError> {
        let start = start_of(day)?;
        let end = start + 24 * 3_600 * 1_000_000;
        let partitions = self.partitions(session).await?;
        // Partitions are ordered by start. A default partition covers everything.
        let covered = partitions.iter().fold(start, |covered, it| {
            if it.times.start <= covered {
                covered.max(it.times.end)
            } else {
                covered
            }
        });
        Ok(covered >= end)
    }

    /// The attached partitions.
    async fn partitions(
        &self,
        session: &mut <Self as Engine>::Session,
    ) -> Result<Vec<Partition>, SqlError> {
        // `pg_get_expr` formats the bounds according to the settings of the session.
        let settings = "SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'";
        session.execute_script(settings).await?;
        let bound = |word: &str, default: &str| {
            format!(
                "CASE bound WHEN 'DEFAULT' THEN '{default}' ELSE replace(replace(
                    substring(bound FROM '{word} [(]''?([^'')]*)'), 'MINVALUE', '-infinity'),
                    'MAXVALUE', 'infinity')::timestamptz END"
            )
        };
        let list = format!(
            "SELECT format('%I.%I', n.nspname, c.relname) AS name,
                c.relname ~ '^{{unqualified_prefix}}requests_[0-9]{{8}}(_[2-9])?$' AS own, {} AS begins, {} AS ends
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            JOIN pg_namespace n ON n.oid = c.relnamespace,
            LATERAL pg_get_expr(c.relpartbound, c.oid) AS bound
            WHERE i.inhparent = to_regclass('{{prefix}}requests') AND NOT i.inhdetachpending
                AND bound IS NOT NULL
            ORDER BY begins",
            bound("FROM", "-infinity"),
            bound("TO", "infinity")
        );
        let rows = session.fetch(Statement::new(&self.names, &list)).await?;
        let partitions = rows.iter().map(|row| {
            let start = Row::time(row, "begins")?.unwrap_or(i64::MAX);
            let end = Row::time(row, "ends")?.unwrap_or(i64::MAX);
            Ok(Partition {
                name: Row::text(row, "name")?.unwrap_or_default().into(),
                own: Row::boolean(row, "own")?,
                times: start..end,
            })
        });
        partitions.collect()
    }

    /// Drops the partitions that end before a time, in microseconds since 1970, and creates those of the next
    /// days.
    pub(super) async fn prune_partitions(&self, before: i64) -> Result<u64, SqlError> {
        let mut failure = FirstFailure::default();
        failure.record(self.ensure_partitions(&days_ahead().collect()).await);
        let end = start_of(day(timestamp(before)?))?;
        let mut session = self.writer().await?;
        let partitions = self.partitions(&mut session).await?;
        drop(session);
        let is_old = |it: &Partition| it.own && it.times.end <= end;
        let old: Vec<_> = partitions.into_iter().filter(is_old).collect();
        if !old.is_empty() {
            // Before anything is dropped, so that readers detect the gap.
            self.record_pruned(end).await?;
        }
        let (mut dropped, mut timeout) = (0, LOCK_TIMEOUT);
        for partition in old {
            match self.drop_partition(&partition, timeout).await {
                Ok(()) => dropped += 1,
                // It was detached in the meantime.
                Err(error) if code(&error).as_deref() == Some(NO_TABLE) => {}
                // A long query may lock all partitions. The next pass tries again.
                Err(error) if code(&error).as_deref() == Some(LOCKED) => timeout = SHORT_TIMEOUT,
                Err(error) => failure.record(Err(error)),
            }
        }
        if dropped > 0 {
            self.partition_cache.clear();
        }
        failure.record(self.prune_log_batches(end).await);
        failure.into_result(dropped)
    }

    /// Records the highest position of a batch with requests before a time.
    async fn record_pruned(&self, before: i64) -> Result<(), SqlError> {
        let update = "UPDATE {prefix}log_pruned SET position = greatest(position,
            (SELECT max(position) FROM {prefix}log_batches WHERE first < $1))";
        let update = Statement::new(&self.names, update).bind(Value::Time(Some(before)));
        let mut session = self.writer().await?;
        session.execute(update).await?;
        session.commit().await
    }

    /// Deletes the batches that have no requests left in the log, in small transactions.
    async fn prune_log_batches(&self, before: i64) -> Result<u64, SqlError> {
        let delete =
            "DELETE FROM {prefix}log_batches WHERE position IN (SELECT b.position FROM {prefix}log_batches b
            WHERE b.first < $1 AND b.last < $1
                AND NOT EXISTS (SELECT 1 FROM {prefix}requests r
                    WHERE r.segment IN (b.segment, b.late_segment) AND r.batch = b.number::bit(32)::integer
                        AND r.time >= b.first AND r.time <= b.last)
                AND (b.number IS NOT NULL OR NOT EXISTS (SELECT 1 FROM {prefix}requests r
                    WHERE r.batch IS NULL AND r.time >= b.first AND r.time <= b.last))
            ORDER BY b.first LIMIT $2 FOR UPDATE SKIP LOCKED)";
        delete_in_batches(self, delete, Value::Time(Some(before))).await
    }

    async fn drop_partition(&self, partition: &Partition, timeout: &str) -> Result<(), SqlError> {
        let mut session = self.writer().await?;
        // Other queries queue behind the lock request, so the timeout is short.
        session.execute_script(&lock_timeout(timeout)).await?;
        // Detaching first fails if the table is not a partition anymore.
        let name = &partition.name;
        let drop =
            format!("ALTER TABLE {{prefix}}requests DETACH PARTITION {name}; DROP TABLE {name}");
        session.execute_script(&self.names.sql(&drop)).await?;
        session.commit().await
    }
}

/// The first microsecond of a day.
fn start_of(day: Date) -> Result<i64, SqlError> {
    let start = TimeZone::UTC.to_timestamp(day.at(0, 0, 0, 0));
    start.map(as_micros).map_err(decode)
}

/// The SQLSTATE of an error from the server.
pub(super) fn code(error: &SqlError) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

/// Whether existing tables prevent the creation of a partition: all names are taken, other partitions overlap the
/// day, or a default partition has requests of the day. Retrying would not help.
fn is_conflict(error: &SqlError) -> bool {
    matches!(
        code(error).as_deref(),
        Some(NAME_TAKEN | OVERLAPS | CHECK_VIOLATION)
    )
}

fn warn_no_partition(day: Date, error: &SqlError) {
    telemetry::warn!(
        %day,
        error = error as &dyn std::error::Error,
        "cannot create a partition of the request log"
    );
}

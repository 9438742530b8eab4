//! The request log's partitions, one for each day of UTC.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use sqlx::Error as SqlError;

use super::engine::{PATIENCE, PostgresEngine, lock_timeout};
use crate::backend::sql::{
    Engine, FirstFailure, Row, Session, Statement, Value, as_micros, decode, delete_by, timestamp,
};
use crate::telemetry;

/// Today and days ahead that get one, so that no write at midnight waits for it.
const AHEAD: usize = 3;

/// Names that are tried for the partition of a day.
const MOST_NAMES: u8 = 9;

/// A lock could not be had in time.
const LOCKED: &str = "55P03";

/// How long each of the others is waited for, once one could not be had.
const LITTLE_PATIENCE: &str = "100ms";

/// There is a table of this name.
const NAME_TAKEN: &str = "42P07";

/// There is no such table or partition.
const NO_TABLE: &str = "42P01";

/// Another partition has a part of the day.
const OVERLAPS: &str = "42P17";

/// There is no partition for a row, or it does not take it; or a default partition has rows that would
/// belong to a new one.
pub(super) const NO_PARTITION: &str = "23514";

/// The day of UTC that a time is on.
pub(super) fn day(time: Timestamp) -> Date {
    TimeZone::UTC.to_datetime(time).date()
}

/// Today and the days that come.
fn days_ahead() -> impl Iterator<Item = Date> {
    let today = day(Timestamp::now());
    today.series(jiff::Span::new().days(1)).take(AHEAD)
}

/// A partition that the log has.
struct Partition {
    /// As it can stand in SQL.
    name: String,
    /// Whether its name is one that this crate gives.
    own: bool,
    /// From when to when, in microseconds.
    times: Range<i64>,
}

impl PostgresEngine {
    /// Makes the partitions of these days, unless they are there; answers the days that cannot have one.
    pub(super) async fn ensure_partitions(
        &self,
        days: &BTreeSet<Date>,
    ) -> Result<BTreeSet<Date>, SqlError> {
        let mut missing = self.known_days.missing(days);
        let mut without = BTreeSet::new();
        if missing.is_empty() {
            return Ok(without);
        }
        missing.extend(days_ahead());
        // One at a time in all processes, and in a transaction of its own: it does not wait for a batch
        // that is being written, nor undo what it made with it.
        let mut session = self.alone(PATIENCE).await?;
        for &day in &missing {
            match self.make_partition(&mut session, day).await {
                Ok(()) => {}
                // Those ahead have time.
                Err(error) if is_in_the_way(&error) || !days.contains(&day) => {
                    report_without(day, &error);
                    without.insert(day);
                }
                Err(error) => return Err(error),
            }
        }
        session.commit().await?;
        self.known_days.learn(&missing - &without);
        Ok(&without & days)
    }

    /// Makes the partition of a day, unless one has the day; leaves the transaction as it was if that
    /// fails.
    async fn make_partition(
        &self,
        session: &mut <Self as Engine>::Session,
        day: Date,
    ) -> Result<(), SqlError> {
        let next = day.tomorrow().map_err(decode)?;
        let first = format!("§requests_{}", day.strftime("%Y%m%d"));
        // A partition that was detached keeps its name, and any table may have it.
        let others = (2..=MOST_NAMES).map(|n| format!("{first}_{n}"));
        let mut taken = Ok(());
        for name in std::iter::once(first.clone()).chain(others) {
            if self.has_partition(session, day).await? {
                return Ok(());
            }
            // Made by itself and then attached, a partition does not keep readers and writers of the
            // others waiting.
            let make = format!(
                "CREATE TABLE {name} (LIKE §requests INCLUDING DEFAULTS INCLUDING CONSTRAINTS
                    INCLUDING INDEXES INCLUDING STORAGE);
                ALTER TABLE §requests ATTACH PARTITION {name}
                    FOR VALUES FROM ('{day} 00:00:00+00') TO ('{next} 00:00:00+00')"
            );
            session.script("SAVEPOINT making").await?;
            let Err(error) = session.script(&self.names.sql(&make)).await else {
                return Ok(());
            };
            session.script("ROLLBACK TO SAVEPOINT making").await?;
            if code(&error).as_deref() != Some(NAME_TAKEN) {
                return Err(error);
            }
            taken = Err(error);
        }
        taken
    }

    /// Whether there are partitions for the whole of a day.
    async fn has_partition(
        &self,
        session: &mut <Self as Engine>::Session,
        day: Date,
    ) -> Result<bool, SqlError> {
        let start = start_of(day)?;
        let end = start + 24 * 3_600 * 1_000_000;
        let partitions = self.partitions(session).await?;
        // In the order in which they begin; a default one takes all that no other does.
        let reached = partitions.iter().fold(start, |reached, it| {
            if it.times.start <= reached {
                reached.max(it.times.end)
            } else {
                reached
            }
        });
        Ok(reached >= end)
    }

    /// The partitions that take requests.
    async fn partitions(
        &self,
        session: &mut <Self as Engine>::Session,
    ) -> Result<Vec<Partition>, SqlError> {
        // Bounds are told as the session's settings have it.
        let plain = "SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'";
        session.script(plain).await?;
        let bound = |word: &str, default: &str| {
            format!(
                "CASE bound WHEN 'DEFAULT' THEN '{default}' ELSE replace(replace(
                    substring(bound FROM '{word} [(]''?([^'')]*)'), 'MINVALUE', '-infinity'),
                    'MAXVALUE', 'infinity')::timestamptz END"
            )
        };
        let list = format!(
            "SELECT format('%I.%I', n.nspname, c.relname) AS name,
                c.relname ~ '^¶requests_[0-9]{{8}}(_[2-9])?$' AS own, {} AS begins, {} AS ends
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            JOIN pg_namespace n ON n.oid = c.relnamespace,
            LATERAL pg_get_expr(c.relpartbound, c.oid) AS bound
            WHERE i.inhparent = to_regclass('§requests') AND NOT i.inhdetachpending
                AND bound IS NOT NULL
            ORDER BY begins",
            bound("FROM", "-infinity"),
            bound("TO", "infinity")
        );
        let rows = session.rows(Statement::new(&self.names, &list)).await?;
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

    /// Drops the partitions that end before a time, in microseconds, and makes those of the next days.
    pub(super) async fn drop_partitions(&self, before: i64) -> Result<u64, SqlError> {
        let mut failure = FirstFailure::default();
        failure.of(self.ensure_partitions(&days_ahead().collect()).await);
        let end = start_of(day(timestamp(before)?))?;
        let mut session = self.writer().await?;
        let partitions = self.partitions(&mut session).await?;
        drop(session);
        let is_old = |it: &Partition| it.own && it.times.end <= end;
        let old: Vec<_> = partitions.into_iter().filter(is_old).collect();
        if !old.is_empty() {
            // Before anything is dropped, so that no reader misses requests without notice.
            self.note_dropped(end).await?;
        }
        let (mut dropped, mut patience) = (0, PATIENCE);
        for partition in old {
            match self.drop_partition(&partition, patience).await {
                Ok(()) => dropped += 1,
                // Somebody has detached it meanwhile, to keep it.
                Err(error) if code(&error).as_deref() == Some(NO_TABLE) => {}
                // Others read it for long, and maybe all of them: they are tried again at the next pass.
                Err(error) if code(&error).as_deref() == Some(LOCKED) => patience = LITTLE_PATIENCE,
                Err(error) => failure.of(Err(error)),
            }
        }
        if dropped > 0 {
            self.known_days.forget();
        }
        failure.of(self.drop_log_batches(end).await);
        failure.or(dropped)
    }

    /// Notes up to which place batches have requests from before a time.
    async fn note_dropped(&self, before: i64) -> Result<(), SqlError> {
        let note = "UPDATE §log_pruned SET position = greatest(position,
            (SELECT max(position) FROM §log_batches WHERE first < $1))";
        let note = Statement::new(&self.names, note).bind(Value::Time(Some(before)));
        let mut session = self.writer().await?;
        session.run(note).await?;
        session.commit().await
    }

    /// Deletes the batches of the log of which no request is left, some at a time.
    async fn drop_log_batches(&self, before: i64) -> Result<u64, SqlError> {
        let delete =
            "DELETE FROM §log_batches WHERE position IN (SELECT b.position FROM §log_batches b
            WHERE b.first < $1 AND b.last < $1
                AND NOT EXISTS (SELECT 1 FROM §requests r
                    WHERE r.batch = b.number AND r.time >= b.first AND r.time <= b.last)
                AND (b.number IS NOT NULL OR NOT EXISTS (SELECT 1 FROM §requests r
                    WHERE r.batch IS NULL AND r.time >= b.first AND r.time <= b.last))
            ORDER BY b.first LIMIT $2 FOR UPDATE SKIP LOCKED)";
        delete_by(self, delete, Value::Time(Some(before))).await
    }

    async fn drop_partition(&self, partition: &Partition, patience: &str) -> Result<(), SqlError> {
        let mut session = self.writer().await?;
        // Whoever comes meanwhile waits behind this, and so it does not wait for long itself.
        session.script(&lock_timeout(patience)).await?;
        // Detached first, which fails where it is no partition any more.
        let name = &partition.name;
        let drop = format!("ALTER TABLE §requests DETACH PARTITION {name}; DROP TABLE {name}");
        session.script(&self.names.sql(&drop)).await?;
        session.commit().await
    }
}

/// The first microsecond of a day.
fn start_of(day: Date) -> Result<i64, SqlError> {
    let start = TimeZone::UTC.to_timestamp(day.at(0, 0, 0, 0));
    start.map(as_micros).map_err(decode)
}

/// The code of an error that the server has told.
pub(super) fn code(error: &SqlError) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

/// Whether a partition cannot be made because of what is there: all its names are taken, others take a
/// part of the day, or a default partition has requests of it. Trying again would not help.
fn is_in_the_way(error: &SqlError) -> bool {
    matches!(
        code(error).as_deref(),
        Some(NAME_TAKEN | OVERLAPS | NO_PARTITION)
    )
}

fn report_without(day: Date, error: &SqlError) {
    telemetry::warn!(
        %day,
        error = error as &dyn std::error::Error,
        "a day of the request log has no partition"
    );
}

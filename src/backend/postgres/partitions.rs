//! The request log's partitions, one for each day of UTC.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use sqlx::Error as SqlError;

use super::engine::PostgresEngine;
use crate::backend::sql::{Engine, Row, Session, Statement, decode, timestamp};

/// The days that are known to have a partition.
#[derive(Debug, Default)]
pub(super) struct Partitions(Mutex<BTreeSet<Date>>);

/// Today and days ahead that get one, so that no write at midnight waits for it.
const AHEAD: usize = 3;

/// A lock could not be had in time.
const LOCKED: &str = "55P03";

/// The day of UTC that a time is on.
pub(super) fn day(time: Timestamp) -> Date {
    TimeZone::UTC.to_datetime(time).date()
}

/// Today and the days that come.
fn days_ahead() -> impl Iterator<Item = Date> {
    let today = day(Timestamp::now());
    today.series(jiff::Span::new().days(1)).take(AHEAD)
}

impl Partitions {
    fn missing(&self, days: &BTreeSet<Date>) -> BTreeSet<Date> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        days.difference(&known).copied().collect()
    }

    fn learn(&self, days: BTreeSet<Date>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(days);
    }

    /// Forgets all: some may have been dropped.
    pub(super) fn forget(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

impl PostgresEngine {
    /// Makes the partitions of these days, unless they are there.
    pub(super) async fn ensure_partitions(&self, days: &BTreeSet<Date>) -> Result<(), SqlError> {
        let mut missing = self.partitions.missing(days);
        if missing.is_empty() {
            return Ok(());
        }
        missing.extend(days_ahead());
        // One at a time in all processes, and in a transaction of its own: it does not wait for a batch
        // that is being written, nor undo what it made with it.
        let mut session = self.migrator().await?;
        for &day in &missing {
            self.make_partition(&mut session, day).await?;
        }
        session.commit().await?;
        self.partitions.learn(missing);
        Ok(())
    }

    async fn make_partition(
        &self,
        session: &mut <Self as Engine>::Session,
        day: Date,
    ) -> Result<(), SqlError> {
        let name = format!("§requests_{}", day.strftime("%Y%m%d"));
        let found = "SELECT to_regclass($1)::text AS name";
        let found = Statement::new(&self.names, found).bind(&*self.names.sql(&name));
        let rows = session.rows(found).await?;
        if rows
            .first()
            .is_some_and(|row| Row::text(row, "name").is_ok_and(|name| name.is_some()))
        {
            return Ok(());
        }
        let next = day.tomorrow().map_err(decode)?;
        // Made by itself and then attached, a partition does not keep readers and writers of the others
        // waiting.
        let make = format!(
            "CREATE TABLE {name} (LIKE §requests INCLUDING DEFAULTS INCLUDING CONSTRAINTS
                INCLUDING INDEXES INCLUDING STORAGE);
            ALTER TABLE §requests ATTACH PARTITION {name}
                FOR VALUES FROM ('{day} 00:00:00+00') TO ('{next} 00:00:00+00')"
        );
        session.script(&self.names.sql(&make)).await
    }

    /// Drops the partitions that end before a time, in microseconds, and makes those of the next days.
    pub(super) async fn drop_partitions(&self, before: i64) -> Result<u64, SqlError> {
        self.ensure_partitions(&days_ahead().collect()).await?;
        let end = day(timestamp(before)?);
        let list = "SELECT c.relname::text AS name FROM pg_inherits i
            JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass($1)";
        let list = Statement::new(&self.names, list).bind(&*self.names.sql("§requests"));
        let rows = self.reader().await?.rows(list).await?;
        let prefix = self.names.bare("requests_");
        let mut dropped = 0;
        for row in &rows {
            let name = Row::text(row, "name")?.and_then(|name| name.strip_prefix(&prefix));
            let Some(name) = name.filter(|name| day_of(name).is_some_and(|day| day < end)) else {
                continue;
            };
            match self.drop_partition(name).await {
                Ok(()) => dropped += 1,
                // Others read it for long, and maybe all of them: they are tried again at the next pass.
                Err(SqlError::Database(error)) if error.code().as_deref() == Some(LOCKED) => break,
                Err(error) => return Err(error),
            }
        }
        if dropped > 0 {
            self.partitions.forget();
        }
        Ok(dropped)
    }

    async fn drop_partition(&self, name: &str) -> Result<(), SqlError> {
        let mut session = self.writer().await?;
        // Whoever comes meanwhile waits behind this, and so it does not wait for long itself.
        let drop = format!("SET LOCAL lock_timeout = '2s'; DROP TABLE IF EXISTS §requests_{name}");
        session.script(&self.names.sql(&drop)).await?;
        session.commit().await
    }
}

/// The day in the name of a partition.
fn day_of(name: &str) -> Option<Date> {
    // Digits alone, so that the name can stand in SQL.
    let digits = name.len() == 8 && name.bytes().all(|b| b.is_ascii_digit());
    digits
        .then(|| Date::strptime("%Y%m%d", name).ok())
        .flatten()
}

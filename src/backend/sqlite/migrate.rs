//! The schema, step by step.

use jiff::Timestamp;
use sqlx::{Row, SqlitePool};

use super::SqliteBackend;
use crate::backend::sql::{BackendError, Migration, TablePrefix, as_micros, next_step};

const STEPS: [Migration; 1] = [Migration {
    version: 1,
    name: "keys, the request log and its sums",
    sql: include_str!("migrations/1.sql"),
}];

impl SqliteBackend {
    /// Makes the tables, or brings them up to this version of the crate.
    ///
    /// It can run at every start, in many processes at once: each step is one transaction and is applied
    /// once. Other tables are left alone, those of the application's own migrations included.
    ///
    /// # Errors
    ///
    /// [`BackendError::NewerSchema`] when a newer version of the crate made the tables,
    /// [`BackendError::OtherSchema`] when a step is not what it was, or
    /// [`BackendError::Unavailable`].
    pub async fn migrate(&self) -> Result<(), BackendError> {
        migrate(&self.0.writer, &self.0.tables, &STEPS).await
    }
}

/// Applies the steps that are missing, each in a transaction of its own.
pub(super) async fn migrate(
    writer: &SqlitePool,
    tables: &TablePrefix,
    steps: &[Migration],
) -> Result<(), BackendError> {
    while step(writer, tables, steps).await? {}
    Ok(())
}

/// Applies the next step; whether there was one.
async fn step(
    writer: &SqlitePool,
    tables: &TablePrefix,
    steps: &[Migration],
) -> Result<bool, BackendError> {
    let begun = writer.begin_with("BEGIN IMMEDIATE").await;
    let mut tx = begun.map_err(BackendError::unavailable)?;
    let make = "CREATE TABLE IF NOT EXISTS §migrations (
            version INTEGER NOT NULL PRIMARY KEY,
            name TEXT NOT NULL,
            checksum TEXT NOT NULL,
            applied INTEGER NOT NULL
        ) STRICT";
    let list = "SELECT version, checksum FROM §migrations ORDER BY version";
    let applied = async {
        sqlx::query(tables.sql(make)).execute(&mut *tx).await?;
        let rows = sqlx::query(tables.sql(list)).fetch_all(&mut *tx).await?;
        let step = |row: &sqlx::sqlite::SqliteRow| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter()
            .map(step)
            .collect::<Result<Vec<_>, sqlx::Error>>()
    };
    let applied = applied.await.map_err(BackendError::unavailable)?;
    let Some(step) = next_step(steps, &applied)? else {
        return Ok(false);
    };
    let apply = async {
        sqlx::raw_sql(tables.sql(step.sql))
            .execute(&mut *tx)
            .await?;
        let add = "INSERT INTO §migrations VALUES (?, ?, ?, ?)";
        sqlx::query(tables.sql(add))
            .bind(step.version)
            .bind(step.name)
            .bind(step.checksum())
            .bind(as_micros(Timestamp::now()))
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    };
    apply.await.map_err(BackendError::unavailable)?;
    Ok(true)
}

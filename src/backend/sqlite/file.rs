//! Opening database files.

use std::path::Path;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::backend::sql::BackendError;

/// How long a connection waits for another process that writes.
const BUSY: Duration = Duration::from_secs(10);

/// How files are opened: made if there is none, in write-ahead mode, synced with every commit.
pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .busy_timeout(BUSY)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        // Room for what one batch touches, in KiB: pages that have no room are written twice.
        .pragma("cache_size", "-65536")
        // Pages of the log of writes before they are put where they belong: what is written time and
        // again is put there once.
        .pragma("wal_autocheckpoint", "8192")
}

pub(super) async fn pool(
    options: SqliteConnectOptions,
    connections: u32,
) -> Result<SqlitePool, BackendError> {
    let pool = SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(BUSY)
        .connect_with(options)
        .await?;
    Ok(pool)
}

//! Opening databases.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::backend::sql::BackendError;
use crate::id::uuid_at;

/// How long a connection waits for another process that writes.
const BUSY: Duration = Duration::from_secs(10);

/// How files are opened: made if there is none, for nobody but their owner, in write-ahead mode, synced
/// with every commit.
pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    make_private(path);
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

/// Makes an empty file, which is an empty database, if there is none: of what SQLite makes itself, the
/// umask has all say. What is put beside the file later gets the rights that it has.
#[cfg(unix)]
fn make_private(path: &Path) {
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt;

    // SQLite takes these for something else than a path, and what is no text is refused.
    let Some(name) = path.to_str() else { return };
    if name.starts_with("file:") || name == ":memory:" {
        return;
    }
    let mut private = OpenOptions::new();
    // Never one that is there: closing it would end the locks that SQLite has on it in this process.
    private.write(true).create_new(true).mode(0o600);
    // Where it cannot be made, opening it tells.
    let _ = private.open(path);
}

#[cfg(not(unix))]
fn make_private(_: &Path) {}

pub(super) async fn pool(
    options: SqliteConnectOptions,
    connections: u32,
) -> Result<SqlitePool, BackendError> {
    let pool = SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(BUSY)
        // There is no other end that could have gone.
        .test_before_acquire(false)
        .connect_with(options)
        .await?;
    Ok(pool)
}

/// An empty database in memory: a connection to use, and another that keeps it.
pub(super) async fn in_memory() -> Result<(SqlitePool, SqlitePool), BackendError> {
    // Its name lets connections share it; there is no such file.
    let name = uuid_at(Timestamp::now().as_microsecond());
    let options = SqliteConnectOptions::new()
        .filename(format!("/keytally-{name}"))
        .vfs("memdb")
        .busy_timeout(BUSY);
    let lasting = || {
        SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
    };
    let keeper = lasting().connect_with(options.clone()).await?;
    let pool = lasting().test_before_acquire(false);
    Ok((pool.connect_with(options).await?, keeper))
}

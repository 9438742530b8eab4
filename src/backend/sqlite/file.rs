//! Opening database files.

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::backend::sql::BackendError;
use crate::id::uuid_at;

/// How long a connection waits for a lock of another process.
const BUSY: Duration = Duration::from_secs(10);

/// Options to open a file: created with access for its owner only, in write-ahead mode, synced on every commit.
pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    create_private(path);
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .busy_timeout(BUSY)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        // In KiB (negative). Fits the pages of one batch: pages that do not fit are written twice.
        .pragma("cache_size", "-65536")
        // In pages. Larger than the default, so that frequently written pages are checkpointed less often.
        .pragma("wal_autocheckpoint", "8192")
}

/// Creates an empty file, which is an empty database, unless it exists. SQLite itself would create it with the
/// permissions of the umask; its WAL and journal files get the permissions of the database file.
#[cfg(unix)]
fn create_private(path: &Path) {
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt;

    // SQLite does not treat these as paths. sqlx rejects paths that are not UTF-8.
    let Some(name) = path.to_str() else { return };
    if name.starts_with("file:") || name == ":memory:" {
        return;
    }
    let mut private = OpenOptions::new();
    // Never open an existing file: closing it would release the POSIX locks that SQLite holds on it in this
    // process.
    private.write(true).create_new(true).mode(0o600);
    // Errors are reported when SQLite opens the file.
    let _ = private.open(path);
}

#[cfg(not(unix))]
fn create_private(_: &Path) {}

pub(super) async fn pool(
    options: SqliteConnectOptions,
    connections: u32,
) -> Result<SqlitePool, BackendError> {
    let pool = SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(BUSY)
        // A file cannot disconnect.
        .test_before_acquire(false);
    let deadline = Instant::now() + BUSY;
    loop {
        match pool.clone().connect_with(options.clone()).await {
            // SQLite does not wait for a connection that switches to write-ahead mode at the same time.
            Err(error) if is_busy(&error) && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            result => return Ok(result?),
        }
    }
}

/// Whether the error is `SQLITE_BUSY` or one of its extended codes, whose low byte is the primary code.
fn is_busy(error: &sqlx::Error) -> bool {
    const SQLITE_BUSY: u32 = 5;
    let code = error.as_database_error().and_then(|error| error.code());
    let code: Option<u32> = code.and_then(|code| code.parse().ok());
    code.is_some_and(|code| code & 0xff == SQLITE_BUSY)
}

/// Creates an empty in-memory database: a pool with one connection, and another that keeps the database alive.
pub(super) async fn in_memory() -> Result<(SqlitePool, SqlitePool), BackendError> {
    // Connections share the database by its name. There is no file of this name.
    let name = uuid_at(Timestamp::now().as_microsecond());
    let options = SqliteConnectOptions::new()
        .filename(format!("/keytally-{name}"))
        .vfs("memdb")
        .busy_timeout(BUSY);
    let persistent = || {
        SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
    };
    let keeper = persistent().connect_with(options.clone()).await?;
    let pool = persistent().test_before_acquire(false);
    Ok((pool.connect_with(options).await?, keeper))
}

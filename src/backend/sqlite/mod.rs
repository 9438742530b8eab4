//! Keys and usage in a SQLite database.

mod file;
mod keys;
mod migrate;
mod reader;
mod sink;
mod spool;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{Sqlite, SqlitePool, Transaction};

pub use self::spool::SqliteSpool;
use super::sql::{BackendError, InvalidTablePrefix, TablePrefix};
use crate::key::ChangeFeed;

/// Keys and usage in a SQLite database: [`KeyAdmin`](crate::key::KeyAdmin),
/// [`UsageSink`](crate::usage::UsageSink) and [`UsageReader`](crate::usage::UsageReader).
///
/// Clones share their connections. Changes made through one are seen at once by every cache in front
/// of it; other processes see them within their caches' time to live.
///
/// ```
/// use keytally::ApiKeyLayer;
/// use keytally::backend::SqliteBackend;
/// use keytally::key::{Issuer, NewKey};
/// use keytally::usage::Recorder;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = std::env::temp_dir().join(format!("keytally-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("keys.db");
/// let backend = SqliteBackend::open(path).await?;
/// backend.migrate().await?;
/// let issued = Issuer::new("acme_live")?
///     .issue(&backend, NewKey::named("Zapier integration"))
///     .await?;
/// let recorder = Recorder::new(backend.clone());
/// let layer = ApiKeyLayer::new(backend).recorder(recorder);
/// # drop((issued, layer));
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok(()) }
/// ```
///
/// # What a crash leaves
///
/// A batch is one transaction, and its id is kept: a batch that is written again counts once. A file
/// that [`open`](Self::open) has opened is synced with every commit, so that what was written survives
/// the process and the machine.
///
/// # Tables
///
/// `keytally_keys`, `keytally_requests` (the log), `keytally_minutes` (the sums), `keytally_batches` and
/// `keytally_migrations`. Times are microseconds since 1970, event and batch ids UUIDs of 16 bytes, and
/// lists are JSON. Numbers above 2⁶³ stand as negative ones.
#[derive(Clone)]
pub struct SqliteBackend(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    /// SQLite has one writer: whoever waits for it waits here, not within SQLite.
    writer: SqlitePool,
    readers: SqlitePool,
    tables: TablePrefix,
    changes: ChangeFeed,
}

const READERS: u32 = 4;

impl SqliteBackend {
    /// Opens a database file, and makes it if there is none. [`migrate`](Self::migrate) makes its
    /// tables.
    ///
    /// The file is put into write-ahead mode, so that reading and writing do not wait for each other.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] when the file cannot be opened or is not a database.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, BackendError> {
        let options = file::options(path.as_ref());
        // One after the other: the first sets the file's mode.
        let writer = file::pool(options.clone(), 1).await?;
        let readers = file::pool(options, READERS).await?;
        Ok(Self::of(writer, readers))
    }

    /// An empty database in memory, with its tables. It is gone with the last clone.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] when there is no memory for it.
    pub async fn in_memory() -> Result<Self, BackendError> {
        // A database in memory belongs to one connection, which must therefore never be replaced.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(SqliteConnectOptions::new().in_memory(true))
            .await
            .map_err(BackendError::unavailable)?;
        let backend = Self::from_pool(pool);
        backend.migrate().await?;
        Ok(backend)
    }

    /// Uses connections that the application has. [`migrate`](Self::migrate) makes the tables.
    ///
    /// The application's settings hold: give it write-ahead mode and a `busy_timeout`, and know what
    /// its `synchronous` keeps through a power failure.
    pub fn from_pool(pool: SqlitePool) -> Self {
        Self::of(pool.clone(), pool)
    }

    fn of(writer: SqlitePool, readers: SqlitePool) -> Self {
        Self(Arc::new(Inner {
            writer,
            readers,
            tables: TablePrefix::default(),
            changes: ChangeFeed::new(),
        }))
    }

    /// Lets the names of the tables begin with this instead of `keytally_`. Say so before anything
    /// else: clones that were made earlier keep to theirs.
    ///
    /// # Errors
    ///
    /// When it is not 1 to 32 characters of `a-z`, `0-9` and `_`, begins with a digit or with what
    /// databases keep for themselves (`sqlite_`, `pg_`).
    pub fn with_table_prefix(self, prefix: &str) -> Result<Self, InvalidTablePrefix> {
        let mut inner = Arc::unwrap_or_clone(self.0);
        inner.tables = TablePrefix::new(prefix)?;
        Ok(Self(Arc::new(inner)))
    }

    /// Begins a transaction that holds SQLite's one place to write from its beginning: one that asks
    /// for it later fails without waiting when another has written meanwhile.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.0.writer.begin_with("BEGIN IMMEDIATE").await
    }
}

impl fmt::Debug for SqliteBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteBackend")
            .field("tables", &self.0.tables)
            .finish_non_exhaustive()
    }
}

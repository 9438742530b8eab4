//! Keys and usage in a SQLite database.

mod engine;
mod file;
mod migrate;
mod sink;
mod spool;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::SqlitePool;

use self::engine::{SqliteEngine, SqliteSession};
pub use self::spool::SqliteSpool;
use super::sql::{
    BackendError, Dialect, InvalidTablePrefix, Maintenance, Names, PruneReport, Retention,
    SqlBackend, keep_in_sql,
};
use crate::id::KeyId;
use crate::key::{
    AuditEntry, AuditQuery, InvalidationFeed, Key, KeyAdmin, KeyChange, KeyQuery, KeyRecord,
    KeyStore, Rotation, StoreError,
};
use crate::page::Page;
use crate::usage::{
    Count, LogFilter, LogQuery, LogSampling, ReadError, RecordedPage, RecordedQuery, Rollup,
    Summary, SummaryQuery, Totals, UsageEvent, UsageRange, UsageReader,
};

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
///     .issue(&backend, NewKey::new("Zapier integration"))
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
/// They are made to be read with other tools too: [`schema`](super::schema) tells what is where.
#[derive(Clone)]
pub struct SqliteBackend(SqlBackend<SqliteEngine>);

keep_in_sql!(SqliteBackend);

const READERS: u32 = 4;

impl SqliteBackend {
    /// Opens a database file, and makes it if there is none. [`migrate`](Self::migrate) makes its
    /// tables.
    ///
    /// The file is put into write-ahead mode, so that reading and writing do not wait for each other. On
    /// Unix, a new one can be read and written by its owner alone, unless a URI
    /// (`file:`) or a link to nothing names it.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] when the file cannot be opened, [`BackendError::Damaged`] when it is
    /// not a database.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, BackendError> {
        let options = file::options(path.as_ref());
        // One after the other: the first sets the file's mode.
        let writer = file::pool(options.clone(), 1).await?;
        let readers = file::pool(options, READERS).await?;
        Ok(Self::of(writer, readers))
    }

    /// An empty database in memory, with its tables: up to 1 GiB, unless the application set another
    /// limit for SQLite. It is gone with the last clone.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] when there is no memory for it.
    pub async fn in_memory() -> Result<Self, BackendError> {
        let (pool, keeper) = file::in_memory().await?;
        let mut engine = SqliteEngine::new(pool.clone(), pool, Names::new(Dialect::Sqlite));
        engine.keeper = Some(keeper);
        let backend = Self(SqlBackend::new(engine));
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
        let names = Names::new(Dialect::Sqlite);
        Self(SqlBackend::new(SqliteEngine::new(writer, readers, names)))
    }

    /// Lets the names of the tables begin with this instead of `keytally_`. Say so before anything
    /// else: clones that were made earlier keep to theirs.
    ///
    /// # Errors
    ///
    /// When it is not 1 to 32 characters of `a-z`, `0-9` and `_`, begins with a digit or with what
    /// databases keep for themselves (`sqlite_`, `pg_`).
    pub fn with_table_prefix(self, prefix: &str) -> Result<Self, InvalidTablePrefix> {
        let engine = &self.0.engine;
        let names = engine.names.clone().with_prefix(prefix)?;
        let (writer, readers) = (engine.writer.clone(), engine.readers.clone());
        let mut other = SqliteEngine::new(writer, readers, names);
        other.keeper = engine.keeper.clone();
        let other = Self(SqlBackend::new(other));
        Ok(other.with_log(self.0.keep))
    }

    /// Keeps these requests in the log; sums are made of all. Every one, unless set.
    #[must_use]
    pub fn with_log(mut self, keep: LogSampling) -> Self {
        self.0.keep = keep;
        self
    }

    /// Drops what is too old, now and every ten minutes, as long as the answer is held. One process of
    /// several is enough, and more do no harm. Without it, everything is kept.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn maintain(&self, retention: Retention) -> Maintenance {
        self.0.maintain(retention)
    }

    /// Drops what is too old at this time, once: for those who have a scheduler of their own. A few
    /// thousand rows at a time, so that nobody waits for long.
    ///
    /// # Errors
    ///
    /// The first one, where there were several; all else is dropped.
    pub async fn prune(
        &self,
        retention: &Retention,
        now: Timestamp,
    ) -> Result<PruneReport, BackendError> {
        self.0.prune(retention, now).await
    }
}

impl fmt::Debug for SqliteBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteBackend")
            .field("tables", &self.0.engine.names)
            .finish_non_exhaustive()
    }
}

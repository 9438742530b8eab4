//! The SQLite backend.

mod engine;
mod file;
mod migrate;
mod rollups;
mod sink;
mod spool;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::SqlitePool;

use self::engine::{SqliteEngine, SqliteSession};
pub use self::spool::SqliteSpool;
use super::sql::{
    BackendError, Dialect, Maintenance, Names, PruneReport, Retention, SqlBackend, SqlName,
    keep_in_sql,
};
use crate::id::KeyId;
use crate::key::{
    Actor, AuditEntry, AuditLog, AuditQuery, InvalidationFeed, Key, KeyAdmin, KeyChange, KeyQuery,
    KeyRecord, KeyStore, Owner, OwnerAdmin, OwnerChange, OwnerQuery, Plan, Rotation, StoreError,
};
use crate::page::Page;
use crate::usage::{
    Count, LogFilter, LogQuery, LogSampling, MergeBacklog, ReadError, RecordedPage, RecordedQuery,
    Rollup, Summary, SummaryQuery, Totals, UsageEvent, UsageRange, UsageReader,
};

/// Stores keys and usage in a SQLite database. Implements [`KeyAdmin`](crate::key::KeyAdmin),
/// [`OwnerAdmin`](crate::key::OwnerAdmin), [`UsageSink`](crate::usage::UsageSink) and [`UsageReader`](crate::usage::UsageReader).
///
/// Clones share their connections. A change made through one of them invalidates all caches in this process at
/// once; other processes see it when their cache entries expire.
///
/// ```
/// use keytally::ApiKeyLayer;
/// use keytally::backend::SqliteBackend;
/// use keytally::key::{Actor, Issuer, NewKey};
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
///     .issue(&backend, NewKey::new("Zapier integration"), Actor::SYSTEM)
///     .await?;
/// let recorder = Recorder::new(backend.clone());
/// let layer = ApiKeyLayer::new(backend).recorder(recorder);
/// # drop((issued, layer));
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok(()) }
/// ```
///
/// # Durability
///
/// Each batch is written in one transaction together with its id, so a retried batch is counted once. A file
/// opened with [`open`](Self::open) is synced on every commit (`synchronous = FULL`), so committed data survives a
/// crash of the process and of the machine.
///
/// # Tables
///
/// The tables can be queried with other tools; [`schema`](super::schema) documents them.
#[derive(Clone)]
pub struct SqliteBackend(SqlBackend<SqliteEngine>);

keep_in_sql!(SqliteBackend);

const READERS: u32 = 4;

impl SqliteBackend {
    /// Opens a database file, creating it if it does not exist. Call [`migrate`](Self::migrate) to create the
    /// tables.
    ///
    /// The file uses write-ahead logging, so that readers and writers do not block each other. On Unix, a new file
    /// is readable and writable by its owner only (mode `0600`), unless the path is a URI (`file:`) or a dangling
    /// symbolic link.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] if the file cannot be opened, [`BackendError::Corrupt`] if it is not a
    /// database.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, BackendError> {
        let options = file::options(path.as_ref());
        // In sequence, since the first connection sets the journal mode of the file.
        let writer = file::pool(options.clone(), 1).await?;
        let readers = file::pool(options, READERS).await?;
        Ok(Self::from_pools(writer, readers))
    }

    /// Creates an empty in-memory database with all tables. It is deleted when the last clone is dropped.
    ///
    /// SQLite limits it to 1 GiB, unless the application configured another limit.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] if there is not enough memory.
    pub async fn in_memory() -> Result<Self, BackendError> {
        let (pool, keeper) = file::in_memory().await?;
        let mut engine = SqliteEngine::new(pool.clone(), pool, Names::new(Dialect::Sqlite));
        engine.keeper = Some(keeper);
        let backend = Self(SqlBackend::new(engine));
        backend.migrate().await?;
        Ok(backend)
    }

    /// Uses an existing connection pool. Call [`migrate`](Self::migrate) to create the tables.
    ///
    /// The pool's settings apply. Enable write-ahead logging and set a `busy_timeout`; `synchronous` determines
    /// whether committed data survives a power failure.
    pub fn from_pool(pool: SqlitePool) -> Self {
        Self::from_pools(pool.clone(), pool)
    }

    fn from_pools(writer: SqlitePool, readers: SqlitePool) -> Self {
        let names = Names::new(Dialect::Sqlite);
        Self(SqlBackend::new(SqliteEngine::new(writer, readers, names)))
    }

    /// Sets the prefix of the table names. `keytally_` by default. Set it before using or cloning the backend:
    /// existing clones keep their prefix.
    #[must_use]
    pub fn with_table_prefix(self, prefix: SqlName) -> Self {
        let engine = &self.0.engine;
        let names = engine.names.clone().with_prefix(prefix);
        let (writer, readers) = (engine.writer.clone(), engine.readers.clone());
        let mut other = SqliteEngine::new(writer, readers, names);
        other.keeper = engine.keeper.clone();
        let other = Self(SqlBackend::new(other));
        other.with_log_sampling(self.0.sampling)
    }

    /// Sets the sampling of the request log. All requests are logged by default. Rollups always include all
    /// requests.
    #[must_use]
    pub fn with_log_sampling(mut self, keep: LogSampling) -> Self {
        self.0.sampling = keep;
        self
    }

    /// Starts a background task that prunes old usage, at once and then about every ten minutes, until the
    /// returned handle is dropped. Without it, all usage is kept.
    ///
    /// It is enough to run it in one of several processes; running it in all of them is harmless.
    ///
    /// # Panics
    ///
    /// Panics if called outside a tokio runtime.
    pub fn maintain(&self, retention: Retention) -> Maintenance {
        self.0.maintain(retention)
    }

    /// Merges the rollups of minutes that ended at least five seconds ago into their tables. Returns their number.
    ///
    /// While there are rollups to merge, a background task does this about every ten seconds. Queries of
    /// [`UsageReader`] include rollups that are not merged yet; other SQL tools see them only afterwards.
    ///
    /// # Errors
    ///
    /// If the database is unavailable, or if another process has been merging for a minute. Rollups that are already
    /// merged stay merged.
    pub async fn merge_rollups(&self) -> Result<u64, BackendError> {
        self.0.merge_rollups().await
    }

    /// Prunes usage that is too old at the time `now`, once. For applications with their own scheduler.
    ///
    /// Deletes a few thousand rows per transaction, so that it does not block writers for long.
    ///
    /// # Errors
    ///
    /// If a step fails, the others still run, and the first error is returned.
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

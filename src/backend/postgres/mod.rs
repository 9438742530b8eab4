//! The PostgreSQL backend.

mod copy;
mod engine;
mod listener;
mod migrate;
mod partition_cache;
mod partitions;
mod rollups;
mod sink;
mod types;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, Error as SqlError, PgConnection, PgPool};

use self::engine::PostgresEngine;
use self::listener::Listener;
use self::partition_cache::PartitionCache;
use super::sql::{
    ActivityWriter, BackendError, CallerCache, Dialect, Dictionaries, Maintenance, Names,
    PruneReport, Retention, SqlBackend, SqlName, keep_in_sql,
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

/// Stores keys and usage in a PostgreSQL database (tested with version 15). Implements [`KeyAdmin`],
/// [`OwnerAdmin`], [`UsageSink`](crate::usage::UsageSink) and [`UsageReader`].
///
/// Any number of processes can share a database. A change of a key invalidates the caches of all processes through
/// `LISTEN` and `NOTIFY`; without a connection to listen on, it takes effect when cache entries expire. Clones
/// share their connections.
///
/// ```no_run
/// use keytally::ApiKeyLayer;
/// use keytally::backend::PostgresBackend;
/// use keytally::key::{Actor, Issuer, NewKey};
/// use keytally::usage::Recorder;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = PostgresBackend::connect("postgres://localhost/app").await?;
/// backend.migrate().await?;
/// let issued = Issuer::new("acme_live")?
///     .issue(&backend, NewKey::new("Zapier integration"), Actor::SYSTEM)
///     .await?;
/// let recorder = Recorder::new(backend.clone());
/// let layer = ApiKeyLayer::new(backend).recorder(recorder);
/// # drop((issued, layer));
/// # Ok(()) }
/// ```
///
/// # Durability
///
/// Each batch is written in one transaction together with its id, so a batch that is retried because its outcome
/// is unknown is counted once. The server's `synchronous_commit` determines whether committed data survives a
/// crash of the server.
///
/// # Tables
///
/// The tables can be queried with other tools; [`schema`](super::schema) documents them.
#[derive(Clone)]
pub struct PostgresBackend(SqlBackend<PostgresEngine>);

keep_in_sql!(PostgresBackend);

/// The size of the pool that `connect` creates.
const MAX_CONNECTIONS: u32 = 10;
/// How long to wait for a connection of that pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

impl PostgresBackend {
    /// Connects to a database by its URL (`postgres://user:password@host/database`). Call
    /// [`migrate`](Self::migrate) to create the tables.
    ///
    /// Uses up to ten connections, and one more to listen for changes of keys. For TLS, enable a feature of `sqlx`
    /// (`tls-rustls`, `tls-native-tls`) in your own dependencies.
    ///
    /// # Errors
    ///
    /// [`BackendError::Url`] if the URL is not a PostgreSQL URL, [`BackendError::PermissionDenied`] if authentication
    /// fails, and [`BackendError::Unavailable`] if the server cannot be reached within five seconds.
    pub async fn connect(url: &str) -> Result<Self, BackendError> {
        // The parser of sqlx accepts any scheme.
        if !["postgres:", "postgresql:"]
            .iter()
            .any(|it| url.starts_with(it))
        {
            let error = "the URL scheme must be `postgres` or `postgresql`";
            return Err(BackendError::of_url(SqlError::Configuration(error.into())));
        }
        let options: PgConnectOptions = url.parse().map_err(BackendError::of_url)?;
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options.clone())
            .await;
        match pool {
            Ok(pool) => Ok(Self::from_pool(pool)),
            Err(SqlError::PoolTimedOut) => Err(timeout_cause(&options).await.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Uses an existing connection pool, and one more connection to listen for changes of keys. Call
    /// [`migrate`](Self::migrate) to create the tables.
    pub fn from_pool(pool: PgPool) -> Self {
        Self(SqlBackend::new(PostgresEngine {
            pool,
            names: Names::new(Dialect::Postgres),
            dictionaries: Dictionaries::default(),
            callers: CallerCache::default(),
            activity: ActivityWriter::default(),
            partition_cache: PartitionCache::default(),
            listener: Some(Listener::default()),
        }))
    }

    /// Sets the schema of the tables. The first schema of the `search_path` by default. Set it before using or
    /// cloning the backend: existing clones keep their schema.
    ///
    /// A backend with an explicit schema and one that finds the same schema by its `search_path` share their
    /// tables and notify each other of changes. Set the schema explicitly if someone could create another schema
    /// earlier in the `search_path`: otherwise, `migrate` would create new tables there.
    #[must_use]
    pub fn with_schema(self, schema: SqlName) -> Self {
        let names = self.0.engine.names.clone().with_schema(schema);
        self.with(|engine| engine.names = names)
    }

    /// Sets the prefix of the table names. `keytally_` by default. Set it before using or cloning the backend:
    /// existing clones keep their prefix.
    #[must_use]
    pub fn with_table_prefix(self, prefix: SqlName) -> Self {
        let names = self.0.engine.names.clone().with_prefix(prefix);
        self.with(|engine| engine.names = names)
    }

    /// Disables listening for changes that other processes make. They then take effect when cache entries expire.
    ///
    /// Use this with a connection pooler that does not support `LISTEN`, such as PgBouncer in transaction mode.
    #[must_use]
    pub fn without_notifications(self) -> Self {
        self.with(|engine| engine.listener = None)
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
    /// Drops partitions of the request log, and deletes other rows a few thousand per transaction, so that it does
    /// not block writers for long.
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

    fn with(self, change: impl FnOnce(&mut PostgresEngine)) -> Self {
        let engine = &self.0.engine;
        let mut other = Self::from_pool(engine.pool.clone());
        if let Some(changed) = Arc::get_mut(&mut other.0.engine) {
            changed.names = engine.names.clone();
            if engine.listener.is_none() {
                changed.listener = None;
            }
            change(changed);
        }
        other.with_log_sampling(self.0.sampling)
    }
}

impl fmt::Debug for PostgresBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBackend")
            .field("tables", &self.0.engine.names)
            .finish_non_exhaustive()
    }
}

/// The error behind a timeout of the pool, which retries failed connections without reporting why they failed.
async fn timeout_cause(options: &PgConnectOptions) -> SqlError {
    let attempt = tokio::time::timeout(Duration::from_secs(1), PgConnection::connect_with(options));
    match attempt.await {
        Ok(Err(error)) => error,
        Ok(Ok(_)) | Err(_) => SqlError::PoolTimedOut,
    }
}

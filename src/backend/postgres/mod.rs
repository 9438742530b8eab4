//! Keys and usage in a PostgreSQL database.

mod copy;
mod engine;
mod known_days;
mod listener;
mod migrate;
mod partitions;
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
use self::known_days::KnownDays;
use self::listener::Listener;
use super::sql::{
    BackendError, Dialect, InvalidTablePrefix, Maintenance, Names, PruneReport, Retention,
    SeriesCache, SqlBackend, keep_in_sql,
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

/// Keys and usage in a PostgreSQL database (tested with version 15): [`KeyAdmin`], `UsageSink` and
/// [`UsageReader`].
///
/// Any number of processes may share one. What one of them changes about a key is seen by the caches of
/// the others as soon as they are told (`LISTEN`), and within their time to live if they cannot be.
/// Clones share their connections.
///
/// ```no_run
/// use keytally::ApiKeyLayer;
/// use keytally::backend::PostgresBackend;
/// use keytally::key::{Issuer, NewKey};
/// use keytally::usage::Recorder;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = PostgresBackend::connect("postgres://localhost/app").await?;
/// backend.migrate().await?;
/// let issued = Issuer::new("acme_live")?
///     .issue(&backend, NewKey::new("Zapier integration"))
///     .await?;
/// let recorder = Recorder::new(backend.clone());
/// let layer = ApiKeyLayer::new(backend).recorder(recorder);
/// # drop((issued, layer));
/// # Ok(()) }
/// ```
///
/// # What a crash leaves
///
/// A batch is one transaction, and its id is kept: a batch that is written again, since nobody knows
/// what became of it, counts once. How much of what was committed survives the machine is up to the
/// server's `synchronous_commit`.
///
/// # Tables
///
/// They are made to be read with other tools too: [`schema`](super::schema) tells what is where.
#[derive(Clone)]
pub struct PostgresBackend(SqlBackend<PostgresEngine>);

keep_in_sql!(PostgresBackend);

/// Connections of a backend that has its own.
const CONNECTIONS: u32 = 10;
/// How long to wait for one of them.
const PATIENCE: Duration = Duration::from_secs(5);

impl PostgresBackend {
    /// Connects to the database of a URL (`postgres://user:password@host/database`).
    /// [`migrate`](Self::migrate) makes the tables.
    ///
    /// It has up to ten connections, and one more to listen on. Encryption comes with a feature of your
    /// own dependency on `sqlx` (`tls-rustls`, `tls-native-tls`).
    ///
    /// # Errors
    ///
    /// [`BackendError::Url`] when that is not the URL of a PostgreSQL database,
    /// [`BackendError::Denied`] when it does not let the user in, [`BackendError::Unavailable`] when it
    /// cannot be reached within five seconds.
    pub async fn connect(url: &str) -> Result<Self, BackendError> {
        // The parser takes any scheme, and would ask a server of another kind.
        if !["postgres:", "postgresql:"]
            .iter()
            .any(|it| url.starts_with(it))
        {
            let error = "the scheme is not that of PostgreSQL";
            return Err(BackendError::of_url(SqlError::Configuration(error.into())));
        }
        let options: PgConnectOptions = url.parse().map_err(BackendError::of_url)?;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(PATIENCE)
            .connect_with(options.clone())
            .await;
        match pool {
            Ok(pool) => Ok(Self::from_pool(pool)),
            Err(SqlError::PoolTimedOut) => Err(why_timed_out(&options).await.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Uses connections that the application has, and one more to listen on.
    /// [`migrate`](Self::migrate) makes the tables.
    pub fn from_pool(pool: PgPool) -> Self {
        Self(SqlBackend::new(PostgresEngine {
            pool,
            names: Names::new(Dialect::Postgres),
            known: SeriesCache::default(),
            known_days: KnownDays::default(),
            listener: Some(Listener::default()),
        }))
    }

    /// Puts the tables into this schema, instead of the one that `search_path` names first. Say so before
    /// anything else: clones that were made earlier keep to theirs.
    ///
    /// One that names it and one whose `search_path` names it first have the same tables, and are told of
    /// each other's changes. Name it where somebody may make another schema in front of it: without a
    /// name the tables would be made anew there.
    ///
    /// # Errors
    ///
    /// When it is not 1 to 32 characters of `a-z`, `0-9` and `_`, begins with a digit or with `pg_`.
    pub fn with_schema(self, schema: &str) -> Result<Self, InvalidTablePrefix> {
        let names = self.0.engine.names.clone().with_schema(schema)?;
        Ok(self.with(|engine| engine.names = names))
    }

    /// Lets the names of the tables begin with this instead of `keytally_`. Say so before anything
    /// else: clones that were made earlier keep to theirs.
    ///
    /// # Errors
    ///
    /// When it is not 1 to 32 characters of `a-z`, `0-9` and `_`, begins with a digit or with what
    /// databases keep for themselves (`sqlite_`, `pg_`).
    pub fn with_table_prefix(self, prefix: &str) -> Result<Self, InvalidTablePrefix> {
        let names = self.0.engine.names.clone().with_prefix(prefix)?;
        Ok(self.with(|engine| engine.names = names))
    }

    /// Does not listen for changes that other processes make, which are then seen within a cache's time
    /// to live: behind a pooler that cannot `LISTEN`, such as PgBouncer in its transaction mode.
    #[must_use]
    pub fn without_notifications(self) -> Self {
        self.with(|engine| engine.listener = None)
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
        other.with_log(self.0.keep)
    }
}

impl fmt::Debug for PostgresBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBackend")
            .field("tables", &self.0.engine.names)
            .finish_non_exhaustive()
    }
}
/// Why no connection could be made: the pool tries again and again, and then tells of the time alone.
async fn why_timed_out(options: &PgConnectOptions) -> SqlError {
    let attempt = tokio::time::timeout(Duration::from_secs(1), PgConnection::connect_with(options));
    match attempt.await {
        Ok(Err(error)) => error,
        Ok(Ok(_)) | Err(_) => SqlError::PoolTimedOut,
    }
}

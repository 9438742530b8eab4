//! A spool backed by a SQLite file.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::sqlite::{SqliteAutoVacuum, SqliteRow};
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::engine::{SqliteEngine, begin};
use super::file;
use crate::backend::sql::{BackendError, Dialect, Migration, Names, SqlName, decode, migrate};
use crate::usage::{Batch, Spool, SpoolError, Spooled};

const MIGRATIONS: [Migration; 1] = [Migration {
    version: 1,
    name: "the queue of batches",
    sql: include_str!("migrations/spool_1.sql"),
}];

/// The table prefix. Differs from that of a backend, which may use the same file.
const PREFIX: SqlName = SqlName::from_static("keytally_spool_");

/// The maximum duration of one attempt to shrink the file, which blocks other operations.
const MAX_SHRINK_TIME: Duration = Duration::from_secs(1);

/// The minimum number of free pages to shrink the file. Fewer are soon reused.
const MIN_FREE_PAGES: i64 = 256;

/// A [`Spool`] in a local SQLite file, which keeps batches through restarts of the process and outages of the
/// database.
///
/// Clones share the connection. A batch counts as spooled once it is synced to disk.
///
/// ```
/// use keytally::backend::{SqliteBackend, SqliteSpool};
/// use keytally::usage::Recorder;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = std::env::temp_dir().join(format!("keytally-spool-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("spool.db");
/// # let backend = SqliteBackend::in_memory().await?;
/// let spool = SqliteSpool::open(path).await?;
/// let recorder = Recorder::builder(backend).spool(spool).start();
/// # let _ = recorder.shutdown(std::time::Duration::from_secs(5)).await;
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok(()) }
/// ```
///
/// # Corruption and sharing
///
/// A batch that cannot be read back is moved to the table `keytally_spool_unreadable`. Its events count as lost,
/// and the batches after it are drained. Processes that run the same version of the crate can share a file: each
/// of them drains it, and a batch that two of them write is counted once, by its id.
///
/// # Tables
///
/// `keytally_spool_batches`, `keytally_spool_unreadable` and `keytally_spool_migrations`. A dedicated file shrinks
/// to about a megabyte when it is drained.
#[derive(Clone)]
pub struct SqliteSpool(Arc<SqliteEngine>);

impl SqliteSpool {
    /// Opens a spool file, creating the file and its tables if they do not exist.
    ///
    /// On Unix, a new file is readable and writable by its owner only (mode `0600`), unless the path is a URI
    /// (`file:`) or a dangling symbolic link.
    ///
    /// # Errors
    ///
    /// - [`BackendError::Unavailable`] if the file cannot be opened.
    /// - [`BackendError::Corrupt`] if it is not a database.
    /// - [`BackendError::NewerSchema`] if a newer version of the crate has migrated its tables.
    /// - [`BackendError::MigrationMismatch`] if an applied migration differs from the one in this crate.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, BackendError> {
        let options = file::options(path.as_ref()).auto_vacuum(SqliteAutoVacuum::Incremental);
        let pool = file::pool(options, 1).await?;
        let names = Names::new(Dialect::Sqlite).with_prefix(PREFIX);
        let engine = SqliteEngine::new(pool.clone(), pool, names);
        migrate(&engine, &MIGRATIONS).await?;
        let spool = Self(Arc::new(engine));
        let _ = spool.shrink().await;
        Ok(spool)
    }

    /// Returns the number of spooled events.
    ///
    /// # Errors
    ///
    /// [`SpoolError`] if the file cannot be read.
    pub async fn event_count(&self) -> Result<u64, SpoolError> {
        let sql = "SELECT coalesce(sum(events), 0) FROM {prefix}batches";
        let row = sqlx::query(self.sql(sql)).fetch_one(&self.0.writer);
        let events: Result<i64, _> = row.await.and_then(|row| row.try_get(0));
        events.map(i64::cast_unsigned).map_err(SpoolError::new)
    }

    fn sql(&self, template: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(self.0.names.sql(template))
    }

    async fn add(&self, batch: &Batch) -> Result<(), sqlx::Error> {
        let text =
            serde_json::to_string(batch).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let sql = "INSERT INTO {prefix}batches (id, events, checksum, batch) VALUES (?, ?, ?, ?)
            ON CONFLICT (id) DO NOTHING";
        sqlx::query(self.sql(sql))
            .bind(&batch.id.as_bytes()[..])
            .bind(batch.len() as i64)
            .bind(i64::from(crc32fast::hash(text.as_bytes())))
            .bind(text)
            .execute(&self.0.writer)
            .await?;
        Ok(())
    }

    async fn oldest(&self, behind: Option<Uuid>) -> Result<Option<Spooled>, sqlx::Error> {
        // As bytes, since a corrupt batch may not be valid text.
        let sql = "SELECT id, events, checksum, CAST(batch AS BLOB) FROM {prefix}batches
            WHERE place > coalesce((SELECT place FROM {prefix}batches WHERE id = ?), 0)
            ORDER BY place LIMIT 1";
        let row = sqlx::query(self.sql(sql))
            .bind(behind.map(|id| id.as_bytes().to_vec()))
            .fetch_optional(&self.0.writer);
        row.await?.as_ref().map(spooled).transpose()
    }

    async fn delete(&self, id: Uuid) -> Result<(), sqlx::Error> {
        let sql = "DELETE FROM {prefix}batches WHERE id = ?";
        sqlx::query(self.sql(sql))
            .bind(&id.as_bytes()[..])
            .execute(&self.0.writer)
            .await?;
        // Failing to shrink the file is harmless.
        let _ = self.shrink().await;
        Ok(())
    }

    /// Returns disk space to the file system once the spool is empty. Stops after [`MAX_SHRINK_TIME`]; continues
    /// when the spool is next emptied or opened.
    async fn shrink(&self) -> Result<(), sqlx::Error> {
        let sql = "SELECT EXISTS (SELECT 1 FROM {prefix}batches), freelist_count FROM pragma_freelist_count";
        let started = Instant::now();
        let mut before = i64::MAX;
        loop {
            let row = sqlx::query(self.sql(sql)).fetch_one(&self.0.writer).await?;
            let (has_batches, free): (bool, i64) = (row.try_get(0)?, row.try_get(1)?);
            // A file that was created elsewhere may not support incremental vacuum.
            if has_batches || free < MIN_FREE_PAGES || free == before {
                return Ok(());
            }
            before = free;
            let shrink = "PRAGMA incremental_vacuum(1024); PRAGMA wal_checkpoint(TRUNCATE)";
            sqlx::raw_sql(shrink).fetch_all(&self.0.writer).await?;
            if started.elapsed() > MAX_SHRINK_TIME {
                return Ok(());
            }
        }
    }

    async fn put_aside(&self, id: Uuid) -> Result<(), sqlx::Error> {
        let mut tx = begin(&self.0.writer, "BEGIN IMMEDIATE").await?;
        for sql in [
            "INSERT INTO {prefix}unreadable SELECT place, id, events, checksum, batch FROM {prefix}batches
                WHERE id = ?",
            "DELETE FROM {prefix}batches WHERE id = ?",
        ] {
            sqlx::query(self.sql(sql))
                .bind(&id.as_bytes()[..])
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await
    }
}

fn spooled(row: &SqliteRow) -> Result<Spooled, sqlx::Error> {
    let id = Uuid::from_slice(row.try_get(0)?).map_err(decode)?;
    let (events, checksum): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
    let text: &[u8] = row.try_get(3)?;
    let intact = i64::from(crc32fast::hash(text)) == checksum;
    Ok(match serde_json::from_slice::<Batch>(text) {
        Ok(batch) if intact && batch.id == id => Spooled::Batch(batch),
        _ => Spooled::Unreadable {
            id,
            events: u64::try_from(events).unwrap_or(0),
        },
    })
}

#[async_trait]
impl Spool for SqliteSpool {
    async fn push(&self, batch: &Batch) -> Result<(), SpoolError> {
        self.add(batch).await.map_err(SpoolError::new)
    }

    async fn next(&self, behind: Option<Uuid>) -> Result<Option<Spooled>, SpoolError> {
        self.oldest(behind).await.map_err(SpoolError::new)
    }

    async fn remove(&self, id: Uuid) -> Result<(), SpoolError> {
        self.delete(id).await.map_err(SpoolError::new)
    }

    async fn set_aside(&self, id: Uuid) -> Result<(), SpoolError> {
        self.put_aside(id).await.map_err(SpoolError::new)
    }
}

impl fmt::Debug for SqliteSpool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SqliteSpool")
    }
}

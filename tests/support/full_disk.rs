//! A SQLite database whose size can be limited.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
};
use sqlx::{AssertSqlSafe, Error};

/// The maximum number of pages of a database. Statements that need more fail as on a full disk.
#[derive(Clone)]
pub struct MaxPages(Arc<AtomicU32>);

impl MaxPages {
    pub fn set(&self, pages: u32) {
        self.0.store(pages, Ordering::Relaxed);
    }

    pub fn remove(&self) {
        self.set(1 << 30);
    }

    /// `max_page_count` is set per connection.
    async fn apply(self, connection: &mut SqliteConnection) -> Result<(), Error> {
        let sql = format!("PRAGMA max_page_count = {}", self.0.load(Ordering::Relaxed));
        let pragma = sqlx::raw_sql(AssertSqlSafe(sql));
        pragma.execute(connection).await.map(drop)
    }
}

pub async fn pool(file: &Path, connections: u32) -> (SqlitePool, MaxPages) {
    let limit = MaxPages(Arc::default());
    limit.remove();
    let (new, idle) = (limit.clone(), limit.clone());
    let pool = SqlitePoolOptions::new()
        .max_connections(connections)
        .after_connect(move |connection, _| Box::pin(new.clone().apply(connection)))
        .before_acquire(move |connection, _| {
            let limit = idle.clone();
            Box::pin(async move { limit.apply(connection).await.map(|()| true) })
        });
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    (pool.connect_with(options).await.unwrap(), limit)
}

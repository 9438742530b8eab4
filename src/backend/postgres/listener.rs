//! Listens for changes of keys, owners and plans by other processes.
//!
//! Notifications are lost while no connection listens. Whenever listening starts, including after a lost
//! connection, the caches are cleared, so that they hold nothing older than the first notification. Without a
//! listener, or while it is disconnected, changes take effect when cache entries expire.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Error as SqlError, PgPool};
use tokio::task::JoinHandle;
use tokio::time::error::Elapsed;
use tokio::time::{sleep, timeout};

use crate::backend::sql::Changed;
use crate::key::InvalidationFeed;

/// The background task that listens, started on first use.
#[derive(Debug, Default)]
pub(super) struct Listener(Mutex<Option<JoinHandle<()>>>);

/// The time without notifications after which the connection is checked.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// The timeout of such a check.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout for connecting and `LISTEN`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Backoff between attempts to connect: starts at the first value, doubles up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

impl Drop for Listener {
    fn drop(&mut self) {
        let task = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.take() {
            task.abort();
        }
    }
}

impl Listener {
    /// Starts the task unless it is running. To be called before the first lookup whose result may be cached.
    pub(super) fn ensure(
        &self,
        pool: &PgPool,
        channel: impl FnOnce() -> String,
        changes: &InvalidationFeed,
    ) {
        let mut task = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It finishes only if its runtime shuts down.
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            *task = Some(tokio::spawn(run(pool.clone(), channel(), changes.clone())));
        }
    }
}

async fn run(pool: PgPool, channel: String, changes: InvalidationFeed) {
    let mut pause = BACKOFF.0;
    loop {
        // Returns on errors and when the connection is lost.
        let _ = listen(&pool, &channel, &changes, &mut pause).await;
        sleep(pause).await;
        pause = pause.saturating_mul(2).min(BACKOFF.1);
    }
}

/// Opens a connection with the current options of the application's pool, and listens. It is not taken from the
/// pool, which may be small.
async fn connect(pool: &PgPool, channel: &str) -> Result<PgListener, SqlError> {
    // Evaluated by the server, as for `pg_notify`.
    let channel = AssertSqlSafe(format!("SELECT {channel}"));
    let channel: String = sqlx::query_scalar(channel).fetch_one(pool).await?;
    let own = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_with((*pool.connect_options()).clone())
        .await?;
    let mut listener = PgListener::connect_with(&own).await?;
    // Reconnect with backoff instead: each reconnection clears the caches.
    listener.eager_reconnect(false);
    listener.listen(&channel).await?;
    Ok(listener)
}

async fn listen(
    pool: &PgPool,
    channel: &str,
    changes: &InvalidationFeed,
    pause: &mut Duration,
) -> Result<(), SqlError> {
    let connected = timeout(CONNECT_TIMEOUT, connect(pool, channel)).await;
    let mut listener = connected.map_err(timed_out)??;
    changes.publish_all();
    *pause = BACKOFF.0;
    loop {
        match timeout(KEEPALIVE, listener.try_recv()).await {
            Ok(received) => match received? {
                Some(it) => Changed::of_payload(it.payload()).publish(changes),
                // The connection was lost.
                None => return Ok(()),
            },
            Err(_) => {
                let check = sqlx::query("SELECT 1").execute(&mut listener);
                timeout(KEEPALIVE_TIMEOUT, check)
                    .await
                    .map_err(timed_out)??;
            }
        }
    }
}

fn timed_out(elapsed: Elapsed) -> SqlError {
    SqlError::Io(elapsed.into())
}

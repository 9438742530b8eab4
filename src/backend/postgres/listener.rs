//! Hears of keys that other processes change.
//!
//! What is told while nobody listens is lost. Whenever listening begins, at first and after the
//! connection was lost, the caches drop all they hold: what they read from then on is as new as what
//! they will be told. Without a listener, or while it is cut off, a change is seen within a cache's time
//! to live.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Error as SqlError, PgPool};
use tokio::task::JoinHandle;
use tokio::time::error::Elapsed;
use tokio::time::{sleep, timeout};

use crate::key::InvalidationFeed;

/// The task that listens, once it is needed.
#[derive(Debug, Default)]
pub(super) struct Listener(Mutex<Option<JoinHandle<()>>>);

/// How long a connection may be silent before it is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(15);
/// How long it has to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take from connecting to listening.
const TO_LISTEN: Duration = Duration::from_secs(10);
/// Pauses between attempts to connect: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

impl Drop for Listener {
    fn drop(&mut self) {
        let task = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.take() {
            task.abort();
        }
    }
}

impl Listener {
    /// Starts the task unless it runs: before the first key is read that a cache may hold.
    pub(super) fn ensure(
        &self,
        pool: &PgPool,
        channel: impl FnOnce() -> String,
        changes: &InvalidationFeed,
    ) {
        let mut task = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It ends only with the runtime that it was started on.
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            *task = Some(tokio::spawn(run(pool.clone(), channel(), changes.clone())));
        }
    }
}

async fn run(pool: PgPool, channel: String, changes: InvalidationFeed) {
    let mut pause = PAUSES.0;
    loop {
        // It ends when it fails or is cut off: then once more from the beginning.
        let _ = listen(&pool, &channel, &changes, &mut pause).await;
        sleep(pause).await;
        pause = pause.saturating_mul(2).min(PAUSES.1);
    }
}

/// A connection that listens, as the application's pool connects by now. It is none of the pool's, which
/// may be small.
async fn connect(pool: &PgPool, channel: &str) -> Result<PgListener, SqlError> {
    // As those know it that tell of changes.
    let channel = AssertSqlSafe(format!("SELECT {channel}"));
    let channel: String = sqlx::query_scalar(channel).fetch_one(pool).await?;
    let own = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_with((*pool.connect_options()).clone())
        .await?;
    let mut listener = PgListener::connect_with(&own).await?;
    // After a pause, and not as often as it is cut off: each time, all that caches hold is dropped.
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
    let connected = timeout(TO_LISTEN, connect(pool, channel)).await;
    let mut listener = connected.map_err(too_late)??;
    changes.publish_all();
    *pause = PAUSES.0;
    loop {
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(told) => match told?.map(|told| told.payload().parse()) {
                Some(Ok(id)) => changes.publish(id),
                // It was told what it does not know.
                Some(Err(_)) => changes.publish_all(),
                // It was cut off.
                None => return Ok(()),
            },
            Err(_) => {
                let asked = sqlx::query("SELECT 1").execute(&mut listener);
                timeout(PATIENCE, asked).await.map_err(too_late)??;
            }
        }
    }
}

fn too_late(late: Elapsed) -> SqlError {
    SqlError::Io(late.into())
}

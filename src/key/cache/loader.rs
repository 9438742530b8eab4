//! The store as a cache asks it: for so long, for few ids at a time that are not held, whatever it does.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::id::KeyId;
use crate::key::{InvalidationFeed, KeyRecord, StoreError};

/// What a cache needs of a store.
pub(super) trait Source: Send + Sync {
    fn find(
        &self,
        id: KeyId,
    ) -> Pin<Box<dyn Future<Output = Result<Option<KeyRecord>, StoreError>> + Send + '_>>;

    fn invalidations(&self) -> Option<&InvalidationFeed>;
}

/// The time that a look-up has. A store that is asked when half of it is gone is not late, but was asked
/// too late: asking for too much at once must not look like a store that fails.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    end: Instant,
    enough: Duration,
}

impl Deadline {
    pub(super) fn after(patience: Duration) -> Self {
        Self {
            end: Instant::now() + patience,
            enough: patience / 2,
        }
    }

    fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }
}

pub(super) struct Loader {
    store: Arc<dyn Source>,
    /// Of look-ups of ids that are not held: what anybody makes up must not use up the store.
    turns: Semaphore,
    /// How often the store was asked.
    asked: AtomicU64,
}

impl Loader {
    pub(super) fn new(store: Arc<dyn Source>, turns: usize) -> Self {
        Self {
            store,
            turns: Semaphore::new(turns.clamp(1, Semaphore::MAX_PERMITS)),
            asked: AtomicU64::new(0),
        }
    }

    pub(super) fn store(&self) -> &Arc<dyn Source> {
        &self.store
    }

    pub(super) fn is_called(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Asks about an id that is held, which is never kept waiting by those that are not.
    pub(super) async fn retry(
        &self,
        id: KeyId,
        deadline: Deadline,
    ) -> Result<Option<KeyRecord>, StoreError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let left = deadline.left();
        match timeout_at(deadline.end, self.find(id)).await {
            Ok(answer) => answer,
            Err(_late) if left <= deadline.enough => Err(StoreError::Busy),
            Err(_late) => Err(StoreError::Timeout),
        }
    }

    /// Asks about any id, in turn.
    pub(super) async fn load(
        &self,
        id: KeyId,
        deadline: Deadline,
    ) -> Result<Option<KeyRecord>, StoreError> {
        let turn = timeout_at(deadline.end, self.turns.acquire()).await;
        let _turn = turn.map_err(|_late| StoreError::Busy)?;
        // A turn that comes with the end of the time is of no use.
        if deadline.left().is_zero() {
            return Err(StoreError::Busy);
        }
        self.retry(id, deadline).await
    }

    /// What the store finds, if it is what was asked for. A panic of the store's is one of its
    /// failures: it must not take along those who wait for the same key.
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let mut find = pin!(async { self.store.find(id).await });
        let answer = std::future::poll_fn(|cx| {
            match catch_unwind(AssertUnwindSafe(|| find.as_mut().poll(cx))) {
                Ok(polled) => polled,
                Err(_told_by_its_hook) => {
                    Poll::Ready(Err(StoreError::unavailable("the key store panicked")))
                }
            }
        })
        .await;
        match answer {
            Ok(Some(record)) if record.key.id != id => Err(StoreError::unavailable(
                "the store answered with another key's record",
            )),
            answer => answer,
        }
    }
}

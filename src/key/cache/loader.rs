//! Bounded store access: timeout, concurrency limit, panic isolation.

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

/// The operations of a store that a cache needs.
pub(super) trait LookupSource: Send + Sync {
    fn find(
        &self,
        id: KeyId,
    ) -> Pin<Box<dyn Future<Output = Result<Option<KeyRecord>, StoreError>> + Send + '_>>;

    fn invalidations(&self) -> Option<&InvalidationFeed>;
}

/// The deadline of a lookup. A store that is called when less than half of the time is left has not timed out:
/// overload must not look like a store failure.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    end: Instant,
    half: Duration,
}

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Self {
        Self {
            end: Instant::now() + timeout,
            half: timeout / 2,
        }
    }

    fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }
}

pub(super) struct Loader {
    store: Arc<dyn LookupSource>,
    /// Limits concurrent lookups of uncached ids: random ids must not exhaust the store.
    permits: Semaphore,
    /// The number of store calls.
    lookups: AtomicU64,
}

impl Loader {
    pub(super) fn new(store: Arc<dyn LookupSource>, turns: usize) -> Self {
        Self {
            store,
            permits: Semaphore::new(turns.clamp(1, Semaphore::MAX_PERMITS)),
            lookups: AtomicU64::new(0),
        }
    }

    pub(super) fn store(&self) -> &Arc<dyn LookupSource> {
        &self.store
    }

    pub(super) fn lookup_count(&self) -> u64 {
        self.lookups.load(Ordering::Relaxed)
    }

    /// Refreshes a cached id, without waiting for lookups of uncached ids.
    pub(super) async fn retry(
        &self,
        id: KeyId,
        deadline: Deadline,
    ) -> Result<Option<KeyRecord>, StoreError> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        let left = deadline.left();
        match timeout_at(deadline.end, self.find(id)).await {
            Ok(result) => result,
            Err(_late) if left <= deadline.half => Err(StoreError::Busy),
            Err(_late) => Err(StoreError::Timeout),
        }
    }

    /// Looks up any id, subject to the concurrency limit.
    pub(super) async fn load(
        &self,
        id: KeyId,
        deadline: Deadline,
    ) -> Result<Option<KeyRecord>, StoreError> {
        let permit = timeout_at(deadline.end, self.permits.acquire()).await;
        let _permit = permit.map_err(|_late| StoreError::Busy)?;
        // A permit at the deadline leaves no time for the call.
        if deadline.left().is_zero() {
            return Err(StoreError::Busy);
        }
        self.retry(id, deadline).await
    }

    /// Calls the store and verifies the id of the record. A panic of the store is turned into an error, so that it
    /// does not affect other requests that wait for the key.
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let mut find = pin!(async { self.store.find(id).await });
        let result = std::future::poll_fn(|cx| {
            match catch_unwind(AssertUnwindSafe(|| find.as_mut().poll(cx))) {
                Ok(polled) => polled,
                Err(_panic) => Poll::Ready(Err(StoreError::unavailable("the key store panicked"))),
            }
        })
        .await;
        match result {
            Ok(Some(record)) if record.key.id != id => Err(StoreError::unavailable(
                "the key store returned the record of another key",
            )),
            result => result,
        }
    }
}

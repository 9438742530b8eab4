//! Ends the response streams of keys that were revoked, disabled, deleted or have expired, or whose owner was suspended.
//!
//! A key is checked when its request is admitted, but a stream can outlive its key. With
//! [`end_streams_on_revocation`](super::ApiKeyLayer::end_streams_on_revocation), the key of each open stream is
//! checked periodically. A check reads the cache, which the store's invalidation feed keeps current. If the entry
//! has to be refreshed, one store lookup serves all streams of the key.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::config::Config;
use super::rejection::log_rejection;
use crate::clock::Now;
use crate::key::{CacheLookup, CachedKey, KeyStatus, StoreError};
use crate::telemetry;
use crate::usage::RejectionReason;

type Found = Result<Option<Arc<CachedKey>>, StoreError>;

/// Periodically checks the key of one response body.
pub(super) struct Watch {
    config: Arc<Config>,
    entry: Arc<CachedKey>,
    every: Duration,
    sleep: Pin<Box<Sleep>>,
    /// A pending lookup. The mutex is never contended; it makes the body `Sync`.
    lookup: Option<Mutex<Pin<Box<dyn Future<Output = Found> + Send>>>>,
}

impl Watch {
    /// Returns `None` outside a tokio runtime, which the timer needs.
    pub(super) fn new(config: Arc<Config>, entry: Arc<CachedKey>, every: Duration) -> Option<Self> {
        tokio::runtime::Handle::try_current().ok()?;
        Some(Self {
            config,
            entry,
            every,
            sleep: Box::pin(sleep(every)),
            lookup: None,
        })
    }

    /// Ready with the reason once the key is rejected.
    pub(super) fn poll_rejected(&mut self, cx: &mut Context<'_>) -> Poll<RejectionReason> {
        loop {
            let known = match &mut self.lookup {
                None => {
                    ready!(self.sleep.as_mut().poll(cx));
                    let (id, cache) = (self.entry.key.id, &self.config.cache);
                    match cache.get(id, self.config.clock.now()) {
                        CacheLookup::Hit(known) => Some(known),
                        CacheLookup::Stale(_) | CacheLookup::Miss => {
                            let cache = cache.clone();
                            let lookup = async move { cache.lookup(id).await };
                            self.lookup = Some(Mutex::new(Box::pin(lookup)));
                            continue;
                        }
                    }
                }
                Some(lookup) => {
                    let lookup = lookup.get_mut().unwrap_or_else(PoisonError::into_inner);
                    let found = ready!(lookup.as_mut().poll(cx));
                    self.lookup = None;
                    match found {
                        Ok(Some(known)) => Some(known),
                        Ok(None) => return self.end(RejectionReason::Unknown),
                        // Keep streaming while the store is down; the next check retries.
                        Err(error) => {
                            telemetry::error!(
                                error = &error as &dyn std::error::Error,
                                "key lookup failed"
                            );
                            None
                        }
                    }
                }
            };
            let now = self.config.clock.now();
            if let Some(reason) = known.and_then(|known| rejected(&known, &self.entry, now)) {
                return self.end(reason);
            }
            let next = Instant::now() + self.every;
            self.sleep.as_mut().reset(next);
        }
    }

    fn end(&self, reason: RejectionReason) -> Poll<RejectionReason> {
        log_rejection(reason, Some(self.entry.key.id));
        Poll::Ready(reason)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// The reason to reject a key that was admitted before, given its current state.
pub(super) fn rejected(
    known: &CachedKey,
    admitted: &CachedKey,
    now: Now,
) -> Option<RejectionReason> {
    if !known.exists {
        return Some(RejectionReason::Unknown);
    }
    // A password hash that could not be replaced is not comparable.
    if known.digest != admitted.digest && known.digest.password_hash().is_none() {
        return Some(RejectionReason::WrongSecret);
    }
    match known.key.status(now.timestamp()) {
        KeyStatus::Active => known
            .is_owner_suspended()
            .then_some(RejectionReason::OwnerSuspended),
        KeyStatus::Disabled => Some(RejectionReason::Disabled),
        KeyStatus::Revoked => Some(RejectionReason::Revoked),
        KeyStatus::Expired => Some(RejectionReason::Expired),
    }
}

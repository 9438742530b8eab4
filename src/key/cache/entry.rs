//! Cache entries.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::key::{Digest, Key, Policy, StoreError};
use crate::limit::AttachedLimits;

/// The result of a lookup: `None` if there is no such key.
pub(super) type LookupResult = Result<Option<Arc<CachedKey>>, StoreError>;

/// A cache entry: a key, or the knowledge that there is none. Unknown ids have the same representation, so that
/// they are rejected by the same steps as wrong secrets.
#[derive(Debug)]
pub(crate) struct CachedKey {
    /// Whether the key exists. If not, `key` is a placeholder and no secret matches the digest.
    pub(crate) exists: bool,
    pub(crate) key: Arc<Key>,
    pub(crate) digest: Digest,
    /// `None` if it is empty, as of most keys.
    pub(crate) policy: Option<Box<Policy>>,
    /// The attached limits of the key, as long as the entry lives.
    pub(crate) limits: OnceLock<AttachedLimits>,
    /// When the TTL ends, in nanoseconds of the clock.
    pub(super) fresh_until: u64,
    /// When to retry the store after a failure; zero if it did not fail. Served without a lookup until then.
    pub(super) retry_at: AtomicU64,
    /// Whether the entry of a key has left the cache, or was not admitted. Not set for unknown ids that make room.
    pub(super) is_evicted: AtomicBool,
}

impl CachedKey {
    /// Whether the entry has left the cache: it was evicted, replaced or invalidated.
    #[inline]
    pub(crate) fn is_evicted(&self) -> bool {
        self.is_evicted.load(Ordering::Acquire)
    }

    /// Whether the owner of the key is suspended.
    #[inline]
    pub(crate) fn is_owner_suspended(&self) -> bool {
        let policy = self.policy.as_ref();
        policy.is_some_and(|policy| policy.is_owner_suspended)
    }

    /// A copy outside of the cache, with another digest of the same secret.
    #[cfg(feature = "password-hashes")]
    pub(crate) fn with_digest(&self, digest: Digest) -> Self {
        Self {
            exists: self.exists,
            key: self.key.clone(),
            digest,
            policy: self.policy.clone(),
            limits: OnceLock::new(),
            fresh_until: self.fresh_until,
            retry_at: AtomicU64::new(self.retry_at.load(Ordering::Relaxed)),
            is_evicted: AtomicBool::new(true),
        }
    }

    pub(super) fn evict(&self) {
        self.is_evicted.store(true, Ordering::Release);
    }
}

#[cfg(feature = "testing")]
impl CachedKey {
    /// An entry whose digest matches no secret.
    pub(crate) fn new(key: Key) -> Self {
        Self {
            exists: true,
            key: Arc::new(key),
            digest: Digest::dummy(),
            policy: None,
            limits: OnceLock::new(),
            fresh_until: 0,
            retry_at: AtomicU64::new(0),
            is_evicted: AtomicBool::new(true),
        }
    }
}

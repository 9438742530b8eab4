//! A cached key.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use crate::key::{Digest, Key, StoreError};
use crate::limit::AttachedLimits;

/// The result of a lookup: `None` if there is no such key.
pub(super) type Found = Result<Option<Arc<CachedKey>>, StoreError>;

/// A record as the cache holds it, and what a layer made of it. An id that no key has is held as one
/// too, so that it is found and refused by the same steps as a wrong secret.
#[derive(Debug)]
pub(crate) struct CachedKey {
    /// Whether there is such a key; if not, `key` is nobody's and no secret has the digest.
    pub(crate) exists: bool,
    pub(crate) key: Arc<Key>,
    pub(crate) digest: Digest,
    /// The key's limits as layers attached them, kept as long as the entry is.
    pub(crate) limits: OnceLock<Box<AttachedLimits>>,
    /// Nanoseconds of the clock until which it may be used without asking again.
    pub(super) fresh_until: u64,
    /// Until when it may be used while the store fails.
    pub(super) stale_until: u64,
    /// Until when it is used without asking again because the store failed; zero unless it did.
    pub(super) retry_at: AtomicU64,
}

#[cfg(feature = "testing")]
impl CachedKey {
    /// A key whose secret nobody knows.
    pub(crate) fn new(key: Key) -> Self {
        Self {
            exists: true,
            key: Arc::new(key),
            digest: Digest::dummy(),
            limits: OnceLock::new(),
            fresh_until: 0,
            stale_until: 0,
            retry_at: AtomicU64::new(0),
        }
    }
}

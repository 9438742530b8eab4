//! A bounded cache in front of a store.
//!
//! 1. The age of an entry counts from the **start** of its lookup and is not extended by reads: a key that is
//!    revoked in another process stops working here within the TTL.
//! 2. Concurrent requests for a key share one store lookup (single flight).
//! 3. Every lookup is registered under a lock before the store is called. Invalidation removes it from the register
//!    under the same lock, so that the result of a slow lookup that started earlier is neither cached nor returned.
//! 4. Unknown ids are cached next to the keys, so that both are found by the same steps, but briefly and with their
//!    own capacity: a flood of unknown ids cannot evict keys. The number of concurrent lookups of uncached ids is
//!    limited; lookups of cached keys do not wait for them.
//! 5. A lookup ends within its timeout: a store that hangs, panics or returns the record of another key counts as
//!    failed.
//! 6. A store outage is an error unless stale keys may be served, for a bounded time. One lookup then waits for the
//!    store to fail; after that, stale keys are served immediately and the store is retried in the background.

mod cached_store;
mod config;
mod entry;
mod key_cache;
mod loader;
mod single_flight;

pub use cached_store::CachedStore;
pub use config::{CacheConfig, CacheStats};
pub(crate) use entry::CachedKey;
pub(crate) use key_cache::CacheLookup;
pub use key_cache::KeyCache;

#[cfg(all(test, any(keytally_loom, keytally_shuttle)))]
mod models;
#[cfg(test)]
mod tests;

//! A bounded cache in front of a store.
//!
//! 1. An entry's age counts from the moment its look-up **began** and is never renewed by reads: a
//!    key that is revoked elsewhere stops working here within the time to live.
//! 2. However many requests wait for a key, the store is asked once.
//! 3. Every look-up is registered under a lock before the store is asked. Whoever drops a key takes
//!    its look-up off the register under the same lock, so a slow answer that began before can
//!    neither enter the cache nor be used by anyone.
//! 4. Unknown ids are held beside the keys, so that both are found by the same steps; briefly, and in
//!    room of their own: a flood of them cannot push out keys that exist. Look-ups of ids that are not
//!    held take turns, those of held keys never wait.
//! 5. A look-up ends within its time: a store that hangs, panics or answers with somebody else's record
//!    is one that fails.
//! 6. An outage of the store is an error, unless serving what was known is asked for, with a bound.
//!    Then one look-up waits to see the store fail; after that what is known is served at once and
//!    the store is asked behind the requests.

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

//! Conformance test suites for custom stores, backends and limiters.
//!
//! Each suite is an async function that exercises an implementation. It panics at the first broken rule, with
//! the rule, the expected value and the actual one. Run the suites in your own tests, on the concrete type and
//! behind the pointer types that you pass to the layer:
//!
//! ```
//! use std::sync::Arc;
//!
//! use keytally::backend::MemoryBackend;
//! use keytally::conformance;
//! use keytally::key::KeyAdmin;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! conformance::backend(&MemoryBackend::new()).await;
//! let shared: Arc<dyn KeyAdmin> = Arc::new(MemoryBackend::new());
//! conformance::key_admin(&shared).await;
//! # }
//! ```
//!
//! | implemented traits | suite |
//! |---|---|
//! | [`KeyStore`](crate::key::KeyStore) | [`key_store`], with a record that the store holds |
//! | [`KeyAdmin`](crate::key::KeyAdmin) | [`key_admin`] |
//! | [`UsageSink`](crate::usage::UsageSink) and [`UsageReader`](crate::usage::UsageReader) | [`usage`] |
//! | all of the above | [`backend`] |
//! | [`Limiter`](crate::limit::Limiter) | [`limiter`] |
//!
//! # Requirements
//!
//! - The suites may run concurrently, and against a database that holds other rows: they write under owners and
//!   keys of their own, and ignore all other data. They do not clean up.
//! - The suites write about 5,000 requests with times within the last three hours. The request log must keep
//!   all of them, and rollups must be kept per minute for that long.
//! - An audit log must keep at least the newest 1,000 entries.
//! - Random choices use a fixed seed; ids and the current hour differ between runs.

mod assert;
mod backend_suite;
mod fixture;
mod keys;
mod limiter;
mod usage;

pub use backend_suite::backend;
pub use keys::{key_admin, key_store};
pub use limiter::limiter;
pub use usage::usage;

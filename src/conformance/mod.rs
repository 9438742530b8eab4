//! Public test suites for stores and backends of your own.
//!
//! A suite is an async function that uses what it is given and panics with the rule that is broken,
//! what was expected and what came instead. Run it in your own tests, on the concrete type and behind
//! the pointers that you hand to the layer:
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
//! | what you wrote | its suite |
//! |---|---|
//! | [`KeyStore`](crate::key::KeyStore) | [`key_store`], with a record that the store holds |
//! | [`KeyAdmin`](crate::key::KeyAdmin) | [`key_admin`] |
//! | [`UsageSink`](crate::usage::UsageSink) and [`UsageReader`](crate::usage::UsageReader) | [`usage`] |
//! | all of them | [`backend`] |
//!
//! # What the suites expect
//!
//! - They may run against a database that holds other rows, and in many tests at once: all they write
//!   is under owners and keys of their own, and what is not theirs they overlook. They clean nothing up.
//! - Usage is written with times of the last three hours, some 5,000 requests. The log has to keep them
//!   all, and sums have to be kept by the minute that long.
//! - An audit has to keep the newest thousand entries.
//! - Random choices come from a fixed seed; ids and the hour are those of the run.

mod assert;
mod backend_suite;
mod fixture;
mod keys;
mod usage;

pub use backend_suite::backend;
pub use keys::{key_admin, key_store};
pub use usage::usage;

//! Storage backends for keys and usage.

mod key_activity;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "_sql")]
#[cfg_attr(docsrs, doc(cfg(any(feature = "sqlite", feature = "postgres"))))]
pub mod schema;
#[cfg(feature = "_sql")]
mod sql;
#[cfg(feature = "_sqlite")]
mod sqlite;

pub use memory::{MemoryBackend, MemoryConfig};
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use postgres::PostgresBackend;
#[cfg(feature = "_sql")]
#[cfg_attr(docsrs, doc(cfg(any(feature = "sqlite", feature = "postgres"))))]
pub use sql::{BackendError, Maintenance, PruneReport, Retention, SqlName};
#[cfg(feature = "_sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use sqlite::{SqliteBackend, SqliteSpool};

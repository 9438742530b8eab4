//! Where keys and usage are kept.

mod memory;
#[cfg(any(feature = "sqlite", feature = "sqlite-unbundled"))]
mod sql;
#[cfg(any(feature = "sqlite", feature = "sqlite-unbundled"))]
mod sqlite;

pub use memory::{MemoryBackend, MemoryConfig};
#[cfg(any(feature = "sqlite", feature = "sqlite-unbundled"))]
#[cfg_attr(
    docsrs,
    doc(cfg(any(feature = "sqlite", feature = "sqlite-unbundled")))
)]
pub use sql::{BackendError, InvalidTablePrefix};
#[cfg(any(feature = "sqlite", feature = "sqlite-unbundled"))]
#[cfg_attr(
    docsrs,
    doc(cfg(any(feature = "sqlite", feature = "sqlite-unbundled")))
)]
pub use sqlite::SqliteBackend;

//! Where keys and usage are kept.

mod memory;

pub use memory::{MemoryBackend, MemoryConfig};

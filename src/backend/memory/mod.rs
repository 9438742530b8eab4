//! The in-memory backend.

mod audit;
mod backend;
mod config;
mod key_admin;
mod keys;
mod usage;
mod usage_reader;

pub use backend::MemoryBackend;
pub use config::MemoryConfig;

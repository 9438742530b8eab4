//! The in-memory backend.

mod audit;
mod backend;
mod config;
mod key_admin;
mod keys;
mod owner_admin;
mod owners;
mod usage;
mod usage_reader;

pub use backend::MemoryBackend;
pub use config::MemoryConfig;

//! Keys and usage in the memory of the process.

mod audit;
mod backend;
mod config;
mod key_admin;
mod keys;
mod usage;
mod usage_reader;

pub use backend::MemoryBackend;
pub use config::MemoryConfig;

//! The crate as a dependency: its features and its own dependencies.

mod dependencies;
mod features;

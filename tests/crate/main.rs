//! The crate as a dependency: its features and its dependencies.

mod dependencies;
mod features;

//! The crate as a dependency: its features and its dependencies.

mod cycles;
mod dependencies;
mod features;

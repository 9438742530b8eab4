//! End-to-end tests of the dashboard in Chromium, with the demo as the backend.
//!
//! ```text
//! cargo test --features full --test browser -- --ignored
//! ```
//!
//! Needs Debian's `chromium` and `chromium-driver`, and axe-core from npm; `scripts/test` installs
//! them. Writes screenshots of every page to `target/screenshots`.

mod accounts;
mod all_keys;
mod browser;
mod cors;
mod demo;
mod failures;
mod fields;
mod find;
mod journey;
mod key_tasks;
mod keys;
mod live;
mod log;
mod log_tasks;
mod looks;
mod owners;
mod pages;
mod program;
mod reader;
mod reveal;
mod sample;
#[path = "../support/mod.rs"]
mod support;
mod until;

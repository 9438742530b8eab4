//! The dashboard in a real browser, over the demo: what a person does on its pages, and how they look.
//!
//! ```text
//! cargo test --features full --test browser -- --ignored
//! ```
//!
//! Needs Debian's `chromium` and `chromium-driver`, and axe-core from npm; `scripts/test` installs
//! them. Leaves pictures of every page in `target/screenshots`.

mod accounts;
mod all_keys;
mod browser;
mod cors;
mod demo;
mod journey;
mod keys;
mod log;
mod looks;
mod pages;
mod program;
mod reader;
mod reveal;
#[path = "../support/mod.rs"]
mod support;

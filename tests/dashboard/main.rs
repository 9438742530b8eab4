//! The pages, over real backends: who gets in, what is shown, what is changed, and what is escaped.

mod api;
mod assets;
mod counted;
mod edit;
mod hostile;
mod keys;
mod log;
mod markup;
mod outage;
mod overview;
mod pages;
mod reveal;
mod safety;
mod snapshots;
mod totals;
mod usage;

#[path = "../support/children.rs"]
mod children;
#[path = "../support/mod.rs"]
mod support;

//! The pages, over real backends: who gets in, what is shown, what is changed, and what is escaped.

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
mod usage;

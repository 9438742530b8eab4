//! The dashboard over real backends: access control, pages, actions, escaping and the JSON API.

mod api;
mod assets;
mod changes;
mod charts;
mod columns;
mod counted;
#[allow(dead_code, reason = "the demo itself uses the rest")]
mod demo;
mod edit;
mod failures;
mod find;
mod hostile;
mod key_filter;
mod key_form;
mod key_list;
mod keys;
mod limits;
mod lineage;
mod live;
mod log;
mod log_filters;
mod markup;
mod navigation;
mod outage;
mod overview;
mod owners;
mod pages;
mod plans;
mod rejected;
mod request;
mod reveal;
mod safety;
mod size;
mod snapshots;
mod totals;
mod usage;

#[path = "../support/children.rs"]
mod children;
#[path = "../support/mod.rs"]
mod support;

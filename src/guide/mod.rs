//! The user guide.
//!
//! | chapter | contents |
//! |---|---|
//! | [`request_lifecycle`] | What happens to a request; axum, tonic and hyper servers; deployment notes |
//! | [`keys`] | Issue, rotate, revoke and reveal keys; owners and plans; the audit log |
//! | [`rate_limits`] | Limits per key, costs, response headers, limits of anonymous clients |
//! | [`usage`] | Events, outcomes, summaries, the request log, export and sync |
//! | [`dashboard_and_api`] | The dashboard, its JSON API, and the API for callers |
//! | [`backends`] | Memory, SQLite, PostgreSQL, and stores of your own |
//! | [`several_instances`] | What instances share, and when a change reaches all of them |
//! | [`layer_order`] | Where to place other tower layers, CORS and nested layers |
//! | [`custom_errors`] | Rejections, and how to change their responses |
//! | [`testing`] | Tests of a protected service |
//! | [`security`] | Design decisions and settings that affect security |
//! | [`migrating_existing_keys`] | Keys that another system issued |
//! | [`operations`] | Durability, shutdown, retention, metrics and logs |
//!
//! For a first program, see the [crate documentation](crate) or the README.

// The examples need all features.
#![cfg(any(not(doctest), feature = "full"))]
// Chapters link to items of all features.
#![cfg_attr(not(feature = "full"), allow(rustdoc::broken_intra_doc_links))]

#[doc = include_str!("request_lifecycle.md")]
pub mod request_lifecycle {}

#[doc = include_str!("keys.md")]
pub mod keys {}

#[doc = include_str!("rate_limits.md")]
pub mod rate_limits {}

#[doc = include_str!("usage.md")]
pub mod usage {}

#[doc = include_str!("dashboard_and_api.md")]
pub mod dashboard_and_api {}

#[doc = include_str!("backends.md")]
pub mod backends {}

#[doc = include_str!("several_instances.md")]
pub mod several_instances {}

#[doc = include_str!("layer_order.md")]
pub mod layer_order {}

#[doc = include_str!("custom_errors.md")]
pub mod custom_errors {}

#[doc = include_str!("testing.md")]
pub mod testing {}

#[doc = include_str!("security.md")]
pub mod security {}

#[doc = include_str!("migrating_existing_keys.md")]
pub mod migrating_existing_keys {}

#[doc = include_str!("operations.md")]
pub mod operations {}

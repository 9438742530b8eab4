//! Storage backends, their spool and retention, and the conformance suites.

mod conformance;
#[cfg(feature = "postgres")]
mod merging;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
mod retention;
#[cfg(feature = "postgres")]
mod schema_examples;
#[cfg(feature = "postgres")]
mod schema_upgrade;
#[cfg(feature = "postgres")]
mod segments;
mod spool;
#[cfg(feature = "postgres")]
mod sql_functions;
mod sqlite;

#[path = "../support/answers.rs"]
mod answers;
#[path = "../support/checks.rs"]
mod checks;
#[path = "../support/children.rs"]
mod children;
#[cfg(feature = "postgres")]
#[path = "../support/full_disk.rs"]
mod full_disk;
#[path = "../support/outages.rs"]
mod outages;
#[cfg(feature = "postgres")]
#[path = "../support/postgres.rs"]
mod postgres_server;
#[cfg(feature = "postgres")]
#[path = "../support/service.rs"]
mod service;

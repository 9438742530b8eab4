//! Fault injection, crash recovery, and revocation across instances.

mod crash_recovery;
mod fault_injection;
mod revocation;

#[path = "../support/children.rs"]
mod children;
#[path = "../support/postgres.rs"]
mod postgres_server;
#[path = "../support/service.rs"]
mod service;
#[path = "../support/mod.rs"]
mod support;

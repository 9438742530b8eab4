//! Fault injection, crash recovery, and revocation across instances.

mod crash_recovery;
mod fault_injection;
mod killed_merging;
mod revocation;

#[path = "../support/answers.rs"]
mod answers;
#[path = "../support/children.rs"]
mod children;
#[path = "../support/full_disk.rs"]
mod full_disk;
#[path = "../support/postgres.rs"]
mod postgres_server;
#[path = "../support/service.rs"]
mod service;
#[path = "../support/mod.rs"]
mod support;

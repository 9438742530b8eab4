//! The audit log: who changed which key, owner or plan, and when.

mod action;
mod actor;
mod entry;
mod log;
mod query;
mod subject;

pub use action::AuditAction;
pub use actor::Actor;
pub use entry::AuditEntry;
pub use log::AuditLog;
pub use query::AuditQuery;
pub use subject::{AuditState, AuditSubject};

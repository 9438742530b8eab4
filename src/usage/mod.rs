//! What was used: events, their sums, and who keeps them.

mod event;
mod outcome;
mod wire;

pub use event::{OTHER_ENDPOINTS, UNMATCHED, UsageEvent};
pub use outcome::{Cause, Outcome, Refusal};
pub use wire::{Method, Status, StatusClass, UnknownName};

//! Usage summaries, time ranges, exports and the sync into another system.

#[cfg(feature = "sqlite")]
mod cloud_events;
mod export;
mod ranges;
mod summaries;

#[cfg(feature = "sqlite")]
#[path = "../support/children.rs"]
mod children;

//! What was used: events, their sums, and who keeps them.

mod event;
mod latency;
mod outcome;
mod rollup;
mod rollups;
pub mod summary;
mod width;
mod wire;

pub use event::{OTHER_ENDPOINTS, UNMATCHED, UsageEvent};
pub use latency::{LatencyHistogram, LatencyQuantiles};
pub use outcome::{Cause, Outcome, Refusal};
pub use rollup::Rollup;
pub use rollups::Rollups;
pub use summary::{Summary, SummarySpec, Totals};
pub use width::Width;
pub use wire::{Method, Status, StatusClass, UnknownName};

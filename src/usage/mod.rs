//! What was used: events, their sums, and who keeps them.

mod draft;
mod event;
mod export;
mod keep;
mod latency;
mod log;
#[cfg(feature = "_sql")]
mod offsets;
mod open;
mod outcome;
mod query;
mod recorded;
mod recorder;
mod rollup;
mod rollups;
mod sink;
mod spool;
mod stats;
mod storable;
pub(crate) mod sum;
pub mod summary;
mod width;
mod wire;

pub use event::{OTHER_ENDPOINTS, UNMATCHED, UsageEvent};
pub use export::Export;
pub use keep::KeepLog;
pub use latency::{LatencyHistogram, LatencyQuantiles};
pub use log::{Count, LogFilter, LogQuery};
pub use outcome::{Cause, Outcome, Refusal};
pub use query::{ReadError, SummaryQuery, UsageRange, UsageReader};
pub use recorded::{InvalidLogCursor, LogCursor, RecordedEvent, RecordedPage, RecordedQuery};
pub use recorder::{Recorder, RecorderBuilder, ShutdownReport, WhenFull};
pub use rollup::Rollup;
pub use rollups::Rollups;
pub use sink::{Batch, SinkError, UsageSink};
pub use spool::{Spool, SpoolError, Spooled};
pub use stats::RecorderStats;
pub use summary::{Summary, SummarySpec, Totals};
pub use width::Width;
pub use wire::{Method, Status, StatusClass, UnknownName};

pub(crate) use draft::{Attribution, Draft, Path};
pub(crate) use event::event_id;
#[cfg(feature = "conformance")]
pub(crate) use export::{Form, Next};
#[cfg(feature = "_sql")]
pub(crate) use offsets::offsets_within;
pub(crate) use open::{Abandon, Place};
pub(crate) use recorded::{Filling, Scanned};

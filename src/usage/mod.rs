//! Usage accounting: events, rollups, summaries and the request log.
//!
//! The layer passes a [`UsageEvent`] for each request to a [`Recorder`], which writes batches to a [`UsageSink`].
//! A [`UsageReader`] returns [summaries](Summary), [rollups](Rollup) and pages of the request log.

mod event;
mod event_rows;
mod export;
mod granularity;
mod in_flight;
mod latency;
mod log;
mod merge_backlog;
#[cfg(feature = "_sql")]
mod offsets;
mod outcome;
mod pending_event;
mod query;
mod recorded;
mod recorder;
mod rejections;
mod rollup;
mod rollup_store;
mod sampling;
pub(crate) mod saturating;
mod sink;
mod spool;
mod stats;
pub mod summary;
mod wire;

pub use event::{OTHER_ENDPOINTS, UNMATCHED, UsageEvent};
pub use export::Export;
#[cfg(feature = "dashboard")]
pub(crate) use export::KeyNames;
pub use granularity::Granularity;
pub use latency::{LatencyHistogram, LatencyQuantiles};
pub use log::{Count, LogFilter, LogQuery};
pub use merge_backlog::MergeBacklog;
pub use outcome::{Cause, Outcome, RejectionReason};
pub use query::{ReadError, SummaryQuery, UsageRange, UsageReader};
pub use recorded::{LogCursor, RecordedEvent, RecordedPage, RecordedQuery};
pub use recorder::{Recorder, RecorderBuilder, ShutdownReport, WhenFull};
pub use rejections::{RejectedSender, RejectionBucket, Rejections};
pub use rollup::Rollup;
pub use rollup_store::RollupStore;
pub use sampling::LogSampling;
pub use sink::{Batch, SinkError, UsageSink};
pub use spool::{Spool, SpoolError, Spooled};
pub use stats::RecorderStats;
pub use summary::{Summary, SummarySpec, Totals};
pub use wire::{Method, Status, StatusClass, StatusFilter};

pub(crate) use event::event_id;
pub(crate) use event_rows::{EventRef, EventRows};
#[cfg(feature = "dashboard")]
pub(crate) use export::csv;
#[cfg(feature = "conformance")]
pub(crate) use export::{Format, Next};
#[cfg(feature = "dashboard")]
pub(crate) use granularity::midnight;
pub(crate) use in_flight::{Abandon, RegistrationId};
#[cfg(feature = "_sql")]
pub(crate) use offsets::offsets_within;
pub(crate) use pending_event::{Attribution, EventFields, PendingEvent};
pub(crate) use recorded::{PageBuilder, Scanned};

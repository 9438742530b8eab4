//! The shared implementation of the SQL backends: table names, schema migrations, column values and queries.

mod activity_writer;
mod admin;
mod audit;
mod backend;
mod batch_rollup;
mod batched;
mod callers;
mod changed;
mod compact;
mod dialect;
mod dictionary;
mod engine;
mod error;
mod hash;
mod histogram;
mod keys;
mod log;
mod merge_minutes;
mod merging;
mod micros;
mod migration;
mod names;
mod owner_admin;
mod owners;
mod reader;
mod recorded;
mod retention;
mod rollup_query;
mod rollup_record;
mod segment;
mod series_rollup;
mod value;

pub(super) use activity_writer::{ActivityWriter, changed, select};
pub(super) use backend::{SqlBackend, keep_in_sql};
pub(super) use batch_rollup::{BatchRollup, id_time_differs, stored_path};
#[cfg(feature = "postgres")]
pub(super) use batched::FirstFailure;
pub(super) use batched::delete_in_batches;
pub(super) use callers::CallerCache;
pub(super) use changed::Changed;
pub(super) use dialect::Dialect;
pub(super) use dictionary::{Dictionaries, Numbers};
pub(super) use engine::{Engine, Row, Session, Statement, Value};
pub use error::BackendError;
pub(super) use histogram::{from_bytes, to_bytes};
pub(super) use migration::{Migration, migrate, migrations};
pub(super) use names::Names;
pub use names::SqlName;
pub use retention::{Maintenance, PruneReport, Retention};
#[cfg(feature = "postgres")]
pub(super) use rollup_record::RollupRecord;
pub(super) use segment::{SegmentPart, SegmentParts};
#[cfg(feature = "postgres")]
pub(super) use series_rollup::Amounts;
pub(super) use series_rollup::{Series, SeriesRollup};
#[cfg(feature = "postgres")]
pub(super) use value::timestamp;
pub(super) use value::{as_micros, decode};

//! What the SQL backends share: names of tables, steps of the schema, values in columns, and nearly
//! all that is asked and said.

mod admin;
mod audit;
mod backend;
mod batch_rollup;
mod dialect;
mod engine;
mod error;
mod histogram;
mod keys;
mod log;
mod migration;
mod names;
mod portions;
mod quarters;
mod reader;
mod recorded;
mod retention;
mod rollup_query;
mod series_cache;
mod value;

pub(super) use backend::{SqlBackend, keep_in_sql};
pub(super) use batch_rollup::{BatchRollup, Hash, KeySum, Series, Sum, is_apart};
pub(super) use dialect::Dialect;
pub(super) use engine::{Engine, Row, Session, Statement, Value};
pub use error::BackendError;
pub(super) use histogram::{from_bytes, to_bytes};
pub(super) use migration::{Migration, migrate, steps};
pub use names::InvalidTablePrefix;
pub(super) use names::Names;
#[cfg(feature = "postgres")]
pub(super) use portions::FirstFailure;
pub(super) use portions::delete_by;
pub use retention::{Maintenance, PruneReport, Retention};
pub(super) use series_cache::{SeriesCache, today};
#[cfg(feature = "postgres")]
pub(super) use value::timestamp;
pub(super) use value::{as_micros, decode, status_codes};

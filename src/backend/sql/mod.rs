//! What the SQL backends share: names of tables, steps of the schema, and values in columns.

mod error;
mod migration;
mod prefix;
mod series;
mod value;

pub use error::BackendError;
pub(super) use migration::{Migration, next_step};
pub use prefix::InvalidTablePrefix;
pub(super) use prefix::TablePrefix;
pub(super) use series::series;
pub(super) use value::{
    KeyRow, as_micros, ceil_micros, decode, floor_micros, from_json, parsed, status, status_codes,
    timestamp, to_json,
};

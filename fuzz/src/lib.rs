//! Fuzz targets: `cargo fuzz` runs them on generated inputs, `cargo test` on the corpus.
//!
//! Each target is a function of bytes that panics if a property is violated. It compares the crate with a
//! second, simple implementation written here. Targets are deterministic, except that the range of a dashboard
//! page ends at the current time, and state kept between inputs does not grow.

pub mod addresses;
pub mod admission;
pub mod credentials;
pub mod export;
pub mod filters;
pub mod forwarded;
pub mod grpc;
pub mod imports;
pub mod page_tokens;
pub mod secrets;

mod input;
mod now;
mod record;

/// Checks one input.
pub type Check = fn(&[u8]);

/// All targets by name. Their corpora and dictionaries have the same names.
pub const TARGETS: [(&str, Check); 10] = [
    ("addresses", addresses::check),
    ("admission", admission::check),
    ("credentials", credentials::check),
    ("export", export::check),
    ("filters", filters::check),
    ("forwarded", forwarded::check),
    ("grpc", grpc::check),
    ("imports", imports::check),
    ("page_tokens", page_tokens::check),
    ("secrets", secrets::check),
];

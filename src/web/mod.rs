//! Shared by the dashboard's JSON API and the self-service API: extractors, problem details and schemas.

mod extract;
mod integer;
mod object;
mod problem;
pub(crate) mod schema;
mod security_headers;

pub(crate) use extract::{Body, KeyInPath, List, Query, at_most, in_order};
pub(crate) use problem::{Problem, method_not_allowed, not_found};
pub(crate) use schema::{LimitsNow, Summary};
pub(crate) use security_headers::{challenge, protect};

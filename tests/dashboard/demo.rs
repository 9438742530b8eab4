//! The sample data of the demo.

#[path = "../../examples/demo/api.rs"]
mod api;
#[path = "../../examples/demo/sample.rs"]
pub(crate) mod sample;

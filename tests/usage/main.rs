//! Usage summaries, time ranges and exports.

mod export;
mod ranges;
mod summaries;

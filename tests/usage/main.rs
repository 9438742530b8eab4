//! Summaries, ranges and exports of usage.

mod export;
mod ranges;
mod summaries;

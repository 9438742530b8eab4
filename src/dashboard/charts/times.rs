//! How a chart writes times.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::usage::summary::TimeBucket;

/// How times are written, and where they lead.
#[derive(Clone, Copy)]
pub(in crate::dashboard) struct Times<'a> {
    /// Whose clocks decide which times are round.
    pub(in crate::dashboard) zone: &'a TimeZone,
    /// A short label for the axis, such as `10:15`.
    pub(in crate::dashboard) tick: &'a dyn Fn(Timestamp) -> String,
    /// A whole bucket, such as `10:15–10:30`.
    pub(in crate::dashboard) span: &'a dyn Fn(&TimeBucket) -> String,
    /// Where a bucket's requests are shown; only links that stay on this server are taken.
    pub(in crate::dashboard) href: &'a dyn Fn(&TimeBucket) -> Option<String>,
}

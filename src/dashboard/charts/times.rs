//! Time labels and links of a chart.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::usage::summary::TimeBucket;

/// The time format and links of a chart.
#[derive(Clone, Copy)]
pub(in crate::dashboard) struct Times<'a> {
    /// The time zone that decides which times are round.
    pub(in crate::dashboard) zone: &'a TimeZone,
    /// A short label for the axis, such as `10:15`.
    pub(in crate::dashboard) tick: &'a dyn Fn(Timestamp) -> String,
    /// The label of a whole bucket, such as `10:15–10:30`.
    pub(in crate::dashboard) span: &'a dyn Fn(&TimeBucket) -> String,
    /// The link to a bucket's requests. Links to other hosts are dropped.
    pub(in crate::dashboard) href: &'a dyn Fn(&TimeBucket) -> Option<String>,
}

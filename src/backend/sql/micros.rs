//! Times and widths in microseconds.

pub(super) const MINUTE: i64 = 60_000_000;
pub(super) const QUARTER: i64 = 15 * MINUTE;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

/// The start of the time bucket of a width that contains a time.
pub(super) fn floor(time: i64, width: i64) -> i64 {
    time.div_euclid(width).saturating_mul(width)
}

/// The first start of a time bucket of a width that is not earlier than a time.
pub(super) fn ceil(time: i64, width: i64) -> i64 {
    floor(time.saturating_add(width - 1), width)
}

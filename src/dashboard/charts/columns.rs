//! Stacked columns, drawn in their own `viewBox`, which stretches with the chart.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::axis::Axis;
use crate::usage::summary::{TimeBucket, Totals};

/// The height of the `viewBox`.
pub(super) const UNITS: u128 = 1_000;

/// The minimum height of a nonzero count: about a pixel.
const LEAST: u128 = 6;

/// Outcomes from bottom to top: CSS class and name.
pub(super) const OUTCOMES: [(&str, &str); 3] = [
    ("completed", "Completed"),
    ("limited", "Rate limited"),
    ("failed", "Failed"),
];

/// The number of requests by outcome, in the order of [`OUTCOMES`].
pub(super) fn outcomes(totals: &Totals) -> [u64; OUTCOMES.len()] {
    [totals.completed(), totals.rate_limited(), totals.failed()]
}

/// The horizontal layout of columns in the `viewBox`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    many: usize,
    /// The distance from one column to the next.
    slot: usize,
    column: usize,
}

impl Columns {
    pub(super) fn of(many: usize) -> Self {
        let (slot, column) = match many {
            // Keep a few columns from filling the whole width.
            0..10 => (100, 8 * many),
            10..80 => (10, 8),
            _ => (10, 9),
        };
        Self { many, slot, column }
    }

    pub(super) fn width(self) -> usize {
        self.many.max(1) * self.slot
    }

    fn left(self, column: usize) -> usize {
        column * self.slot + (self.slot - self.column) / 2
    }

    /// The width of a column with its gap.
    pub(super) fn slot(self) -> usize {
        self.slot
    }

    pub(super) fn middle(self, column: usize) -> usize {
        column * self.slot + self.slot / 2
    }

    /// One path for each outcome.
    pub(super) fn shapes(self, buckets: &[TimeBucket], axis: Axis, unfinished: bool) -> Markup {
        let mut paths = [const { String::new() }; OUTCOMES.len()];
        for (column, bucket) in buckets.iter().enumerate() {
            if bucket.is_partial == unfinished {
                self.add(&mut paths, column, bucket, axis);
            }
        }
        let paths = OUTCOMES.iter().zip(paths);
        html! {
            @for ((class, _), path) in paths.filter(|(_, path)| !path.is_empty()) {
                path class=(class) d=(path) {}
            }
        }
    }

    fn add(
        self,
        paths: &mut [String; OUTCOMES.len()],
        column: usize,
        bucket: &TimeBucket,
        axis: Axis,
    ) {
        let (x, width) = (self.left(column), self.column);
        // Unfinished columns have an outline, which must be closed.
        let end = if bucket.is_partial { "z" } else { "" };
        let mut y = UNITS;
        for (path, height) in paths.iter_mut().zip(heights(&bucket.totals, axis)) {
            y = y.saturating_sub(height);
            if height > 0 {
                // Writing to a `String` cannot fail.
                let _ = write!(path, "M{x} {y}h{width}v{height}h-{width}{end}");
            }
        }
    }
}

/// The heights of the outcomes, which together fit into the plot.
fn heights(totals: &Totals, axis: Axis) -> [u128; OUTCOMES.len()] {
    let outcomes = outcomes(totals).map(u128::from);
    // Saturated counts may add up to more than the total.
    let top = outcomes.iter().sum::<u128>().max(axis.top().into()).max(1);
    let mut heights = outcomes.map(|n| match n {
        0 => 0,
        _ => (n * UNITS / top).max(LEAST),
    });
    let over = heights.iter().sum::<u128>().saturating_sub(UNITS);
    if let Some(tallest) = heights.iter_mut().max() {
        *tallest -= over;
    }
    heights
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    const MOST: u64 = i64::MAX.cast_unsigned();

    pub(in super::super) fn totals(completed: u64, rate_limited: u64, failed: u64) -> Totals {
        let totals = json!({
            "completed": completed, "rate_limited": rate_limited, "failures": { "other": failed },
            "cost": 0, "request_bytes": 0, "response_bytes": 0,
        });
        serde_json::from_value(totals).unwrap()
    }

    #[test]
    fn small_counts_stay_visible_and_all_heights_fit() {
        for (totals, expected) in [
            (totals(1_500_000, 1, 0), [994, 6, 0]),
            (totals(1, 0, 1_499_999), [6, 0, 994]),
            (totals(750_000, 0, 0), [500, 0, 0]),
            (totals(MOST, MOST, MOST), [333, 333, 333]),
            (totals(0, 0, 0), [0, 0, 0]),
        ] {
            assert_eq!(heights(&totals, Axis::up_to(1_500_000)), expected);
        }
    }
}

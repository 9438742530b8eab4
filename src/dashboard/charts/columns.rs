//! Stacked columns, drawn in their own `viewBox`, which stretches with the chart.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::axis::Axis;
use crate::usage::summary::TimeBucket;

/// The height of the `viewBox`.
pub(super) const UNITS: u128 = 1_000;

/// The minimum height of a nonzero count: about a pixel.
const LEAST: u128 = 6;

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

    /// One path for each part, with these classes. `counts` has those of the parts for each bucket.
    pub(super) fn shapes(
        self,
        buckets: &[TimeBucket],
        counts: &[Vec<u64>],
        classes: &[&str],
        axis: Axis,
        unfinished: bool,
    ) -> Markup {
        let mut paths = vec![String::new(); classes.len()];
        for (column, (bucket, counts)) in buckets.iter().zip(counts).enumerate() {
            if bucket.is_partial == unfinished {
                self.add(&mut paths, column, counts, axis, unfinished);
            }
        }
        let paths = classes.iter().zip(paths);
        html! {
            @for (class, path) in paths.filter(|(_, path)| !path.is_empty()) {
                path class=(class) d=(path) {}
            }
        }
    }

    fn add(
        self,
        paths: &mut [String],
        column: usize,
        counts: &[u64],
        axis: Axis,
        unfinished: bool,
    ) {
        let (x, width) = (self.left(column), self.column);
        // Unfinished columns have an outline, which must be closed.
        let end = if unfinished { "z" } else { "" };
        let mut y = UNITS;
        for (path, height) in paths.iter_mut().zip(heights(counts, axis)) {
            y = y.saturating_sub(height);
            if height > 0 {
                // Writing to a `String` cannot fail.
                let _ = write!(path, "M{x} {y}h{width}v{height}h-{width}{end}");
            }
        }
    }
}

/// The heights of the parts, which together fit into the plot.
fn heights(counts: &[u64], axis: Axis) -> Vec<u128> {
    let counts = counts.iter().copied().map(u128::from);
    // Saturated counts may add up to more than the total.
    let top = counts.clone().sum::<u128>().max(axis.top().into()).max(1);
    let heights = counts.map(|n| match n {
        0 => 0,
        _ => (n * UNITS / top).max(LEAST),
    });
    let mut heights: Vec<_> = heights.collect();
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
    use crate::usage::Totals;

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
        for (counts, expected) in [
            ([1_500_000, 1, 0], [994, 6, 0]),
            ([1, 0, 1_499_999], [6, 0, 994]),
            ([750_000, 0, 0], [500, 0, 0]),
            ([MOST, MOST, MOST], [333, 333, 333]),
            ([0, 0, 0], [0, 0, 0]),
        ] {
            assert_eq!(heights(&counts, Axis::up_to(1_500_000)), expected);
        }
    }
}

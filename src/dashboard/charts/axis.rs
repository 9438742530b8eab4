//! An axis with round numbers.

/// An axis from 0 up, in equal steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Axis {
    step: u64,
    steps: u64,
}

impl Axis {
    /// Three to five steps of 1, 2 or 5 times a power of ten that reach this number.
    pub(super) fn up_to(most: u64) -> Self {
        let sizes = (0..=18).map(|zeros| 10_u64.pow(zeros));
        let mut steps = sizes.flat_map(|size| [size, 2 * size, 5 * size]);
        let step = steps.find(|&step| most.div_ceil(step) <= 5);
        let step = step.unwrap_or(u64::MAX);
        let steps = most.div_ceil(step).max(3);
        Self { step, steps }
    }

    pub(super) fn top(self) -> u64 {
        self.step.saturating_mul(self.steps)
    }

    /// The value of every grid line and its distance from the bottom, for a plot of this height.
    pub(super) fn lines(self, height: u64) -> impl Iterator<Item = (u64, u64)> {
        let lines = 0..=self.steps;
        lines.map(move |line| (self.step.saturating_mul(line), height * line / self.steps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_three_to_five() {
        let cases = [
            (0, 1, 3),
            (1, 1, 3),
            (4, 1, 4),
            (5, 1, 5),
            (6, 2, 3),
            (11, 5, 3),
            (25, 5, 5),
            (26, 10, 3),
            (1_204, 500, 3),
            (i64::MAX.cast_unsigned(), 2_000_000_000_000_000_000, 5),
            (u64::MAX, 5_000_000_000_000_000_000, 4),
        ];
        for (most, step, steps) in cases {
            assert_eq!(Axis::up_to(most), Axis { step, steps }, "{most}");
        }
        for most in (0..10_000).chain((0..63).map(|bit| 1 << bit)) {
            let axis = Axis::up_to(most);
            assert!((3..=5).contains(&axis.steps) && axis.top() >= most);
            // Less than one step of free space above the maximum.
            assert!(most < 3 || axis.top() - most < axis.step);
        }
    }

    #[test]
    fn lines_span_the_full_height() {
        let lines: Vec<_> = Axis::up_to(30).lines(180).collect();
        assert_eq!(lines, [(0, 0), (10, 60), (20, 120), (30, 180)]);
    }
}

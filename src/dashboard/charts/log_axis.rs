//! A logarithmic axis.

/// An axis from one power of ten to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogAxis {
    low: u32,
    high: u32,
}

impl LogAxis {
    /// The powers of ten around these values.
    pub(super) fn around(values: impl Iterator<Item = u64> + Clone) -> Self {
        let least = values.clone().min().unwrap_or(1).max(1);
        let most = values.max().unwrap_or(1).max(1);
        let low = least.ilog10();
        let high = most.ilog10() + u32::from(10_u64.pow(most.ilog10()) < most);
        Self {
            low,
            high: high.max(low + 1),
        }
    }

    /// The distance of a value from the bottom, for a plot of this height.
    pub(super) fn height(self, value: u64, height: u64) -> u64 {
        let above = (value.max(1) as f64).log10() - f64::from(self.low);
        let share = above / f64::from(self.high - self.low);
        (share.clamp(0.0, 1.0) * height as f64).round() as u64
    }

    /// The value of every grid line and its distance from the bottom, for a plot of this height.
    pub(super) fn lines(self, height: u64) -> impl Iterator<Item = (u64, u64)> {
        // Few powers of ten leave room for more lines.
        let factors: &[u64] = match self.high - self.low {
            1 => &[1, 2, 5],
            2 => &[1, 3],
            _ => &[1],
        };
        let powers = (self.low..=self.high).map(|power| 10_u64.saturating_pow(power));
        let top = 10_u64.saturating_pow(self.high);
        let values =
            powers.flat_map(move |power| factors.iter().map(move |it| power.saturating_mul(*it)));
        let values = values.filter(move |value| *value <= top);
        values.map(move |value| (value, self.height(value, height)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(values: &[u64]) -> (u32, u32) {
        let axis = LogAxis::around(values.iter().copied());
        (axis.low, axis.high)
    }

    #[test]
    fn the_axis_covers_all_values() {
        for (values, expected) in [
            (&[][..], (0, 1)),
            (&[0], (0, 1)),
            (&[1], (0, 1)),
            (&[10], (1, 2)),
            (&[10, 100], (1, 2)),
            (&[9, 101], (0, 3)),
            (&[3_000, 30_000_000], (3, 8)),
            (&[u64::MAX], (19, 20)),
        ] {
            assert_eq!(around(values), expected, "{values:?}");
        }
    }

    #[test]
    fn lines_are_at_round_values() {
        let lines = |values: &[u64]| {
            let axis = LogAxis::around(values.iter().copied());
            axis.lines(180).collect::<Vec<_>>()
        };
        assert_eq!(lines(&[20, 90]), [(10, 0), (20, 54), (50, 126), (100, 180)]);
        let two = [(1, 0), (3, 43), (10, 90), (30, 133), (100, 180)];
        assert_eq!(lines(&[5, 50]), two);
        let many = [(1, 0), (10, 60), (100, 120), (1_000, 180)];
        assert_eq!(lines(&[1, 999]), many);
        assert!(lines(&[0, u64::MAX]).len() > 10);
    }
}

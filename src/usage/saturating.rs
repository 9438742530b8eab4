//! Saturating addition.

/// The largest number that every database can store, 2⁶³ − 1. Additions saturate there.
pub(crate) const MAX: u64 = i64::MAX.cast_unsigned();

/// Adds to a sum. The result is the exact sum or [`MOST`], whichever is less, regardless of the order and size of
/// the parts.
#[inline]
pub(crate) fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more).min(MAX);
}

/// The saturating sum of all parts.
pub(crate) fn total(parts: impl IntoIterator<Item = u64>) -> u64 {
    let mut sum = 0;
    parts.into_iter().for_each(|part| add(&mut sum, part));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sums_saturate_at_i64_max() {
        assert_eq!(i64::try_from(MAX), Ok(i64::MAX));
        assert!(i64::try_from(MAX + 1).is_err());
        assert_eq!(total([u64::MAX]), MAX);
        assert_eq!(total([MAX - 1, 1]), MAX);
        assert_eq!(total([]), 0);
    }

    proptest! {
        #[test]
        fn sums_do_not_depend_on_the_order(
            mut parts in proptest::collection::vec(
                prop_oneof![0..9_u64, MAX - 9..MAX + 9, any::<u64>(), Just(u64::MAX)], 0..6,
            ),
            cut in 0..6_usize,
        ) {
            let exact: u128 = parts.iter().copied().map(u128::from).sum();
            let bounded = exact.min(MAX.into());
            prop_assert_eq!(u128::from(total(parts.iter().copied())), bounded);
            let (left, right) = parts.split_at(cut.min(parts.len()));
            let halves = [left, right].map(|half| total(half.iter().copied()));
            prop_assert_eq!(u128::from(total(halves)), bounded);
            parts.reverse();
            prop_assert_eq!(u128::from(total(parts)), bounded);
        }
    }
}

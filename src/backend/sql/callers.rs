//! The keys and owners of callers, in memory.

use std::cmp::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::id::KeyId;

pub(super) type KeyAndOwner = (Option<KeyId>, Option<Arc<str>>);

/// The maximum number of callers that are kept in memory.
const MAX_KEPT: usize = 1 << 17;

/// Callers by number.
#[derive(Debug, Default)]
pub(super) struct Callers {
    /// In ascending order.
    numbers: Vec<i32>,
    all: Vec<KeyAndOwner>,
    /// Their positions in the order of keys and of owners.
    by_key: Vec<usize>,
    by_owner: Vec<usize>,
}

impl Callers {
    pub(super) fn new(numbered: impl Iterator<Item = (i32, KeyAndOwner)>) -> Self {
        let mut numbered: Vec<_> = numbered.collect();
        numbered.sort_by_key(|(number, _)| *number);
        numbered.dedup_by_key(|(number, _)| *number);
        let (numbers, all) = numbered.into_iter().unzip();
        let mut callers = Self {
            numbers,
            all,
            ..Self::default()
        };
        callers.by_key = callers.sorted(|(one, _), (other, _)| one.cmp(other));
        callers.by_owner = callers.sorted(|(_, one), (_, other)| one.cmp(other));
        callers
    }

    fn sorted(&self, order: impl Fn(&KeyAndOwner, &KeyAndOwner) -> Ordering) -> Vec<usize> {
        let mut all: Vec<_> = self.all.iter().enumerate().collect();
        all.sort_by(|(_, one), (_, other)| order(one, other));
        all.into_iter().map(|(position, _)| position).collect()
    }

    pub(super) fn all(&self) -> &[KeyAndOwner] {
        &self.all
    }

    /// The position of a caller in [`all`](Self::all).
    pub(super) fn position(&self, number: i32) -> Option<usize> {
        self.position_near(0, number)
    }

    /// The same, faster if the given position is at or shortly before it.
    #[inline]
    pub(super) fn position_near(&self, near: usize, number: i32) -> Option<usize> {
        let start = match self.numbers.get(near) {
            Some(first) if *first <= number => near,
            _ => 0,
        };
        let rest = self.numbers.get(start..)?;
        // Numbers have few gaps.
        let distance = i64::from(number) - i64::from(*rest.first()?);
        let distance = usize::try_from(distance).ok()?;
        if rest.get(distance) == Some(&number) {
            return Some(start + distance);
        }
        let before = rest.get(..distance).unwrap_or(rest);
        Some(start + before.binary_search(&number).ok()?)
    }

    /// The positions in the order of keys.
    pub(super) fn by_key(&self) -> &[usize] {
        &self.by_key
    }

    /// The positions in the order of owners.
    pub(super) fn by_owner(&self) -> &[usize] {
        &self.by_owner
    }
}

/// What changes when callers are added, deleted or replaced by a restored backup. Callers are registered one transaction
/// after the other, so the newest one stands for all before it. Rows of callers are not updated otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallersState {
    /// The number and the random token of the newest one.
    pub(super) newest: i64,
    pub(super) token: i64,
    /// The time of the last deletion.
    pub(super) pruned: Option<i64>,
}

/// All callers as they were last read, since reading thousands takes long.
#[derive(Debug, Default)]
pub(in crate::backend) struct CallerCache(Mutex<Option<(CallersState, Arc<Callers>)>>);

impl CallerCache {
    pub(super) fn get(&self, state: CallersState) -> Option<Arc<Callers>> {
        let kept = self.lock();
        let (then, callers) = kept.as_ref()?;
        (*then == state).then(|| callers.clone())
    }

    pub(super) fn set(&self, state: CallersState, callers: &Arc<Callers>) {
        let is_small = callers.all.len() <= MAX_KEPT;
        *self.lock() = is_small.then(|| (state, callers.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, Option<(CallersState, Arc<Callers>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn callers_are_found_from_any_position(
            numbers in proptest::collection::vec(prop_oneof![-2..40_i32, any::<i32>()], 0..30),
            wanted in proptest::collection::vec(prop_oneof![-3..42_i32, any::<i32>()], 1..20),
            near in 0..35_usize,
        ) {
            let named = |number: &i32| (*number, (None, Some(number.to_string().into())));
            let callers = Callers::new(numbers.iter().map(named));
            for number in wanted.iter().chain(&numbers) {
                let expected = numbers.contains(number).then(|| number.to_string());
                let found = callers.position_near(near, *number);
                prop_assert_eq!(found, callers.position(*number));
                let owner = found.and_then(|found| callers.all()[found].1.as_deref());
                prop_assert_eq!(owner, expected.as_deref());
            }
        }
    }
}

//! The keys and owners of callers, in memory.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

use crate::id::KeyId;

pub(super) type KeyAndOwner = (Option<KeyId>, Option<Arc<str>>);

/// The maximum number of callers that are kept in memory.
const MAX_KEPT: usize = 1 << 17;

/// Callers by number.
#[derive(Debug, Default)]
pub(super) struct Callers {
    all: Vec<KeyAndOwner>,
    /// Their positions by number.
    positions: HashMap<i32, usize, RandomState>,
    /// Their positions in the order of keys and of owners.
    by_key: Vec<usize>,
    by_owner: Vec<usize>,
}

impl Callers {
    pub(super) fn new(numbered: impl Iterator<Item = (i32, KeyAndOwner)>) -> Self {
        let mut callers = Self::default();
        for (number, caller) in numbered {
            if callers
                .positions
                .insert(number, callers.all.len())
                .is_none()
            {
                callers.all.push(caller);
            }
        }
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
        self.positions.get(&number).copied()
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

/// What changes when callers are added, deleted or replaced. Rows of callers are not updated otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallersState {
    pub(super) count: i64,
    /// The highest number.
    pub(super) last: Option<i64>,
    /// A sum of their random tokens.
    pub(super) tokens: Option<i64>,
}

/// All callers as they were last read, since reading thousands takes longer than a summary of them.
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

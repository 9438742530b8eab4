//! Totals grouped by a name, with fast lookup for passes over many events.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use foldhash::fast::RandomState;

use super::aggregate::Aggregate;
use super::totals::{Amounts, Totals};
use crate::usage::Method;

/// Totals grouped by a cheap-to-hash name.
#[derive(Debug)]
pub(super) struct Groups<K> {
    slots: HashMap<K, usize, RandomState>,
    totals: Vec<Totals>,
}

impl<K: Eq + Hash + Ord> Groups<K> {
    pub(super) fn new() -> Self {
        Self {
            slots: HashMap::default(),
            totals: Vec::new(),
        }
    }

    #[inline]
    pub(super) fn add(&mut self, name: K, amounts: &Amounts) {
        let slot = *self.slots.entry(name).or_insert_with(|| {
            self.totals.push(Totals::default());
            self.totals.len() - 1
        });
        self.totals[slot].add(amounts);
    }

    pub(super) fn finish(self) -> BTreeMap<K, Totals> {
        let mut totals = self.totals;
        let named = self.slots.into_iter();
        counted(named.map(|(name, slot)| (name, std::mem::take(&mut totals[slot]))))
    }
}

/// Removes names without any counts, as from empty rollups.
pub(super) fn counted<K: Ord>(
    totals: impl IntoIterator<Item = (K, Totals)>,
) -> BTreeMap<K, Totals> {
    let nothing = Totals::default();
    let totals = totals.into_iter();
    totals.filter(|(_, totals)| *totals != nothing).collect()
}

/// Totals by method, in an array since there are few.
#[derive(Debug, Default)]
pub(super) struct Methods([Totals; Method::ALL.len()]);

impl Methods {
    #[inline]
    pub(super) fn add(&mut self, method: Method, amounts: &Amounts) {
        self.0[method as usize].add(amounts);
    }

    pub(super) fn finish(self) -> BTreeMap<Method, Totals> {
        counted(Method::ALL.into_iter().zip(self.0))
    }
}

/// The totals of items grouped by a name.
pub(super) fn group<'a, T: Aggregate + 'a, K: Eq + Hash + Ord>(
    items: impl IntoIterator<Item = &'a T>,
    name: impl Fn(&T) -> K,
) -> BTreeMap<K, Totals> {
    let mut groups = Groups::new();
    for item in items {
        groups.add(name(item), &item.amounts());
    }
    groups.finish()
}

//! Totals by a name, found fast: what one pass over many events keeps.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::accounted::Accounted;
use super::totals::{Amounts, Totals};
use crate::usage::Method;

/// Totals by any small name.
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
        let slot = self.slot(name);
        self.totals[slot].add(amounts);
    }

    #[inline]
    fn slot(&mut self, name: K) -> usize {
        *self.slots.entry(name).or_insert_with(|| {
            self.totals.push(Totals::default());
            self.totals.len() - 1
        })
    }

    pub(super) fn finish(self) -> BTreeMap<K, Totals> {
        let mut totals = self.totals;
        let named = self.slots.into_iter();
        counted(named.map(|(name, slot)| (name, std::mem::take(&mut totals[slot]))))
    }
}

/// A name is there because something was counted under it, never because of an empty rollup.
pub(super) fn counted<K: Ord>(
    totals: impl IntoIterator<Item = (K, Totals)>,
) -> BTreeMap<K, Totals> {
    let nothing = Totals::default();
    let totals = totals.into_iter();
    totals.filter(|(_, totals)| *totals != nothing).collect()
}

/// Totals by method: few enough for an array.
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

/// How many texts are known by their address at a time.
const SEEN: usize = 1 << 9;

/// Totals by endpoint.
///
/// The layer shares one text among all events of an endpoint, so its address mostly tells which it
/// is. An address is remembered only while the items that own the text are borrowed (`'a`): nothing
/// else can come to stand there.
#[derive(Debug)]
pub(super) struct Endpoints<'a> {
    groups: Groups<&'a Arc<str>>,
    /// Slots by a few bits of the address; a place holds the latest text that fell on it, so that
    /// items which share nothing cost no memory.
    seen: Box<[Option<(&'a str, usize)>; SEEN]>,
}

impl<'a> Endpoints<'a> {
    pub(super) fn new() -> Self {
        Self {
            groups: Groups::new(),
            seen: Box::new([None; SEEN]),
        }
    }

    #[inline]
    pub(super) fn add(&mut self, endpoint: &'a Arc<str>, amounts: &Amounts) {
        let address = Arc::as_ptr(endpoint).cast::<u8>().addr() as u64;
        // Fibonacci hashing: the product's highest bits depend on all of the address.
        let place = address.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - SEEN.ilog2());
        let seen = &mut self.seen[place as usize];
        let slot = match seen {
            Some((text, slot)) if std::ptr::eq(*text, &**endpoint) => *slot,
            _ => {
                let slot = self.groups.slot(endpoint);
                *seen = Some((endpoint, slot));
                slot
            }
        };
        self.groups.totals[slot].add(amounts);
    }

    pub(super) fn finish(self) -> BTreeMap<Arc<str>, Totals> {
        let named = self.groups.finish().into_iter();
        named.map(|(name, totals)| (name.clone(), totals)).collect()
    }
}

/// Adds up items of one kind by a name of theirs.
pub(super) fn group<'a, T: Accounted + 'a, K: Eq + Hash + Ord>(
    items: impl IntoIterator<Item = &'a T>,
    name: impl Fn(&T) -> K,
) -> BTreeMap<K, Totals> {
    let mut groups = Groups::new();
    for item in items {
        groups.add(name(item), &item.amounts());
    }
    groups.finish()
}

//! A cache of the days that have a partition.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use jiff::civil::Date;

/// The days that are known to have a partition.
#[derive(Debug, Default)]
pub(super) struct PartitionCache(Mutex<BTreeSet<Date>>);

impl PartitionCache {
    pub(super) fn missing(&self, days: &BTreeSet<Date>) -> BTreeSet<Date> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        days.difference(&known).copied().collect()
    }

    pub(super) fn insert(&self, days: BTreeSet<Date>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(days);
    }

    /// Clears the cache, since partitions may have been dropped.
    pub(super) fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

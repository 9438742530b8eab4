//! A cache of series ids.

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, PoisonError};

use foldhash::fast::RandomState;
use jiff::Timestamp;

use super::batch_rollup::{Hash, Series};

/// Caches the database id of a series, and the day that was last written to its `last_seen_day`. The column is
/// updated on every day of use, and series are pruned only many days later, so a cached series exists in the
/// database.
#[derive(Debug, Default)]
pub(in crate::backend) struct SeriesCache(Mutex<Generations>);

/// Recently used entries and older ones, so that frequent series stay cached if there are more series than fit.
#[derive(Debug, Default)]
struct Generations {
    new: Entries,
    old: Entries,
}

/// Ids and days by hash.
type Entries = HashMap<Hash, (i64, i64), RandomState>;

/// The number of entries after which a new generation starts.
const MAX_ENTRIES: usize = 1 << 16;

impl Generations {
    fn get(&mut self, hash: &Hash) -> Option<(i64, i64)> {
        if let Some(&entry) = self.new.get(hash) {
            return Some(entry);
        }
        let entry = self.old.remove(hash)?;
        self.insert(*hash, entry);
        Some(entry)
    }

    fn insert(&mut self, hash: Hash, entry: (i64, i64)) {
        if self.new.len() >= MAX_ENTRIES {
            self.old = mem::take(&mut self.new);
        }
        self.new.insert(hash, entry);
    }
}

/// Today, in days since 1970.
pub(in crate::backend) fn today() -> i64 {
    day_of(Timestamp::now())
}

/// The day of a time, in days since 1970.
pub(super) fn day_of(time: Timestamp) -> i64 {
    time.as_second().div_euclid(86_400)
}

impl SeriesCache {
    /// The ids of these series; `None` for one that is not cached, or whose `last_seen_day` is not today.
    pub(in crate::backend) fn of(&self, series: &[Series<'_>], today: i64) -> Vec<Option<i64>> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = |series: &Series<'_>| {
            let (id, day) = entries.get(&series.hash)?;
            (day == today).then_some(id)
        };
        series.iter().map(id).collect()
    }

    /// Caches the ids of series. To be called after their transaction is committed.
    pub(in crate::backend) fn insert(
        &self,
        series: impl IntoIterator<Item = (Hash, i64)>,
        today: i64,
    ) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (hash, id) in series {
            entries.insert(hash, (id, today));
        }
    }

    /// Clears the cache.
    pub(in crate::backend) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Generations::default();
    }
}

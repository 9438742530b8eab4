//! A cache of series ids.

use std::fmt;

use foldhash::fast::RandomState;
use jiff::Timestamp;
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use super::batch_rollup::Series;
use super::hash::Hash;

/// Caches the database id of a series, and the day that was last written to its `last_seen_day`. The column is
/// updated on every day of use, and series are pruned only many days later, so a cached series exists in the
/// database.
pub(in crate::backend) struct SeriesCache(Cache<Hash, (i64, i64), UnitWeighter, RandomState>);

/// The maximum number of cached series.
const MAX_ENTRIES: u64 = 1 << 17;

impl Default for SeriesCache {
    fn default() -> Self {
        Self(Cache::with(
            1 << 12,
            MAX_ENTRIES,
            UnitWeighter,
            RandomState::default(),
            DefaultLifecycle::default(),
        ))
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
        let id = |series: &Series<'_>| {
            let (id, day) = self.0.get(&series.hash)?;
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
        for (hash, id) in series {
            self.0.insert(hash, (id, today));
        }
    }

    /// Clears the cache.
    pub(in crate::backend) fn clear(&self) {
        self.0.clear();
    }
}

impl fmt::Debug for SeriesCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SeriesCache").field(&self.0.len()).finish()
    }
}

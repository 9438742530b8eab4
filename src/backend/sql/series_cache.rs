//! The numbers of series that this process has seen.

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, PoisonError};

use foldhash::fast::RandomState;
use jiff::Timestamp;

use super::batch_rollup::{Hash, Series};

/// Which number the database has given to a series, and the day on which it was last noted there that
/// the series is in use. That day is noted again on every day of use, and series are dropped only
/// after many days without, so that what is known here is there.
#[derive(Debug, Default)]
pub(in crate::backend) struct SeriesCache(Mutex<Generations>);

/// What was used lately, and what was before that: where more series are in use than are kept, the
/// frequent ones stay.
#[derive(Debug, Default)]
struct Generations {
    new: Numbers,
    old: Numbers,
}

type Numbers = HashMap<Hash, (i64, i64), RandomState>;

/// How many a generation has before the next one begins.
const MOST: usize = 1 << 16;

impl Generations {
    fn get(&mut self, hash: &Hash) -> Option<(i64, i64)> {
        if let Some(&found) = self.new.get(hash) {
            return Some(found);
        }
        let found = self.old.remove(hash)?;
        self.insert(*hash, found);
        Some(found)
    }

    fn insert(&mut self, hash: Hash, number: (i64, i64)) {
        if self.new.len() >= MOST {
            self.old = mem::take(&mut self.new);
        }
        self.new.insert(hash, number);
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
    /// The numbers of these series, as far as they were noted today.
    pub(in crate::backend) fn of(&self, series: &[Series<'_>], today: i64) -> Vec<Option<i64>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |series: &Series<'_>| {
            let (id, day) = known.get(&series.hash)?;
            (day == today).then_some(id)
        };
        series.iter().map(of).collect()
    }

    /// These series have these numbers, which is committed.
    pub(in crate::backend) fn learn(
        &self,
        series: impl IntoIterator<Item = (Hash, i64)>,
        today: i64,
    ) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (hash, id) in series {
            known.insert(hash, (id, today));
        }
    }

    /// Forgets all.
    pub(in crate::backend) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Generations::default();
    }
}

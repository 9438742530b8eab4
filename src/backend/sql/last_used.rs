//! The last use of keys, updated once a minute.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

use super::micros::MINUTE;
use crate::id::KeyId;

/// The time by which the stored last use of a key may be behind, in microseconds.
const RESOLUTION: i64 = MINUTE;

/// The last uses that this process has written within the resolution. Without it, each batch would update the records
/// of all its keys.
#[derive(Debug, Default)]
pub(in crate::backend) struct LastUsed(Mutex<HashMap<KeyId, i64, RandomState>>);

impl LastUsed {
    /// The uses to write: those more than the resolution after the last one written. Times are limited to `now`, in
    /// case a clock is ahead.
    pub(in crate::backend) fn due(
        &self,
        used: &BTreeMap<KeyId, i64>,
        now: i64,
    ) -> Vec<(KeyId, i64)> {
        let written = self.written();
        let used = used.iter().map(|(&key, &time)| (key, time.min(now)));
        used.filter(|(key, time)| {
            // A later one is from before the clock was set back.
            let last = written.get(key).filter(|last| **last <= now);
            last.is_none_or(|last| time.saturating_sub(*last) > RESOLUTION)
        })
        .collect()
    }

    /// Remembers uses that were written and committed. Forgets those that will be due with their next use.
    pub(in crate::backend) fn add(&self, uses: Vec<(KeyId, i64)>, now: i64) {
        if uses.is_empty() {
            return;
        }
        let mut written = self.written();
        written.retain(|_, time| (0..=RESOLUTION).contains(&now.saturating_sub(*time)));
        written.extend(uses);
    }

    /// Forgets all uses, since the database may be another one.
    pub(in crate::backend) fn clear(&self) {
        self.written().clear();
    }

    fn written(&self) -> MutexGuard<'_, HashMap<KeyId, i64, RandomState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_due_once_per_minute_and_are_then_forgotten() {
        let keys = [1, 2].map(|n| format!("testKey{n:09}").parse::<KeyId>().unwrap());
        let used = |time| BTreeMap::from(keys.map(|key| (key, time)));
        let last_used = LastUsed::default();
        let all = |time| keys.map(|key| (key, time)).to_vec();

        assert_eq!(last_used.due(&used(500), 100), all(100));
        // Not written yet.
        assert_eq!(last_used.due(&used(90), 100), all(90));
        last_used.add(all(100), 100);
        assert_eq!(last_used.due(&used(100 + MINUTE), i64::MAX), []);
        assert_eq!(last_used.due(&used(i64::MIN), i64::MAX), []);
        let later = 101 + MINUTE;
        assert_eq!(last_used.due(&used(later), later), all(later));

        last_used.add(vec![(keys[0], later)], later);
        assert_eq!(last_used.written().len(), 1);
        assert_eq!(last_used.due(&used(later), later), [(keys[1], later)]);
        // The clock was set back.
        assert_eq!(last_used.due(&used(50), 50), all(50));
        last_used.clear();
        assert_eq!(last_used.due(&used(later), later), all(later));
    }
}

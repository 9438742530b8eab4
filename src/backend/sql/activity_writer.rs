//! Decides when the activity of keys is written to their records.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use sqlx::Error as SqlError;

use super::engine::{Row, Statement, Value};
use super::names::Names;
use super::value::{parsed, required, to_json};
use crate::backend::key_activity::KeyActivity;
use crate::backend::sql::micros::MINUTE;
use crate::id::KeyId;

/// The number of keys that each batch updates. Of more keys, the others are updated once a minute.
const KEYS_PER_BATCH: usize = 256;

/// How long the update of a key may be deferred, in microseconds.
const MAX_DELAY: i64 = MINUTE;

/// The activity that this process has not written yet. Without it, each large batch would update the records of
/// thousands of keys.
#[derive(Debug, Default)]
pub(in crate::backend) struct ActivityWriter(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The latest requests that were written within the maximum delay.
    written: HashMap<KeyId, i64, RandomState>,
    /// Requests to write later.
    deferred: BTreeMap<KeyId, KeyActivity>,
}

/// The activity in a batch, as divided by [`ActivityWriter::divide`]. Unless it is [`committed`](Self::committed), what was
/// deferred before stays deferred.
#[derive(Debug)]
pub(in crate::backend) struct Divided<'a> {
    writer: &'a ActivityWriter,
    /// To write with the batch.
    pub(in crate::backend) due: BTreeMap<KeyId, KeyActivity>,
    /// To write with a later one.
    deferred: BTreeMap<KeyId, KeyActivity>,
    /// The part of `due` that was deferred before.
    taken: BTreeMap<KeyId, KeyActivity>,
}

impl Divided<'_> {
    /// Prepares for a commit whose outcome may stay unknown: rejections that it may have written must not be written
    /// again.
    pub(in crate::backend) fn committing(&mut self) {
        self.taken
            .values_mut()
            .for_each(KeyActivity::forget_rejected);
    }

    /// Remembers what was written, and what is to be written later.
    pub(in crate::backend) fn committed(mut self, now: i64) {
        self.taken.clear();
        let mut state = self.writer.state();
        let is_recent = |time: i64| (0..=MAX_DELAY).contains(&now.saturating_sub(time));
        state.written.retain(|_, time| is_recent(*time));
        for (key, activity) in &self.due {
            if let Some(time) = activity.latest() {
                state.written.insert(*key, time);
            }
        }
        state.defer(&self.deferred);
    }
}

impl Drop for Divided<'_> {
    fn drop(&mut self) {
        self.writer.state().defer(&self.taken);
    }
}

impl State {
    fn defer(&mut self, activities: &BTreeMap<KeyId, KeyActivity>) {
        for (key, activity) in activities {
            self.deferred.entry(*key).or_default().add(activity);
        }
    }
}

impl ActivityWriter {
    /// Divides the activity in a batch into what to write now, with what was deferred before, and what to write later.
    pub(in crate::backend) fn divide(
        &self,
        batch: BTreeMap<KeyId, KeyActivity>,
        now: i64,
    ) -> Divided<'_> {
        let mut state = self.state();
        let is_due = |key: &KeyId, activity: &KeyActivity| {
            // A later one is from before the clock was set back.
            let written = state.written.get(key).filter(|written| **written <= now);
            let is_recent = activity
                .latest()
                .zip(written)
                .is_some_and(|(latest, written)| latest.saturating_sub(*written) <= MAX_DELAY);
            !is_recent
        };
        let (mut due, mut later): (BTreeMap<_, _>, BTreeMap<_, _>) = batch
            .into_iter()
            .partition(|(key, activity)| is_due(key, activity));
        while due.len() < KEYS_PER_BATCH
            && let Some((key, activity)) = later.pop_first()
        {
            due.insert(key, activity);
        }
        let mut count = due.len();
        // Other batches that are written at the same time do not write it again.
        let mut taken = BTreeMap::new();
        state.deferred.retain(|key, activity| {
            let age = activity.latest().map(|latest| now.saturating_sub(latest));
            let is_recent = age.is_some_and(|age| (0..=MAX_DELAY).contains(&age));
            let has_room = count < KEYS_PER_BATCH || !is_recent;
            let is_new = !due.contains_key(key) && !later.contains_key(key) && has_room;
            count += usize::from(is_new);
            if is_new || due.contains_key(key) {
                taken.insert(*key, std::mem::take(activity));
                return false;
            }
            true
        });
        drop(state);
        for (key, activity) in &taken {
            due.entry(*key).or_default().add(activity);
        }
        Divided {
            writer: self,
            due,
            deferred: later,
            taken,
        }
    }

    /// Forgets what was written, since the database may be another one.
    pub(in crate::backend) fn clear(&self) {
        self.state().written.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Selects the activity of keys and locks their rows, in the order of their ids, which prevents deadlocks.
pub(in crate::backend) fn select(names: &Names, keys: &BTreeMap<KeyId, KeyActivity>) -> Statement {
    let ids: Vec<_> = keys.keys().collect();
    let select = "SELECT id, first_accepted_at, last_accepted_at, rejected_since, rejected_times
        FROM {prefix}keys WHERE ";
    let mut sql = Statement::new(names, select);
    let place = sql.placeholder(Value::Json(Some(to_json(&ids))));
    sql.push(&names.dialect.is_one_of_texts("id", &place));
    sql.push(" ORDER BY id").push(names.dialect.lock_rows());
    sql
}

/// The activity of keys to write: that of the rows of [`select`], with those of a batch. Leaves out what is unchanged.
pub(in crate::backend) fn changed<R: Row>(
    rows: &[R],
    batch: &BTreeMap<KeyId, KeyActivity>,
) -> Result<Vec<(KeyId, KeyActivity)>, SqlError> {
    let mut changed = Vec::new();
    for row in rows {
        let key: KeyId = parsed(required(row.text("id")?)?)?;
        let before = KeyActivity::stored(
            [
                row.time("first_accepted_at")?,
                row.time("last_accepted_at")?,
            ],
            required(row.integer("rejected_since")?)?,
            row.bytes("rejected_times")?.unwrap_or_default(),
        );
        let mut after = before.clone();
        if let Some(batch) = batch.get(&key) {
            after.add(batch);
        }
        if after != before {
            changed.push((key, after));
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> KeyId {
        KeyId::from_number(n as u128)
    }

    /// One request for each of these keys.
    fn batch(
        keys: std::ops::Range<usize>,
        time: i64,
        rejected: bool,
    ) -> BTreeMap<KeyId, KeyActivity> {
        let requests = || keys.clone().map(|n| (key(n), time, rejected));
        KeyActivity::of_batch(requests, i64::MAX)
    }

    #[test]
    fn few_keys_are_always_due() {
        let writer = ActivityWriter::default();
        for time in [10, 11, 12] {
            let divided = writer.divide(batch(0..KEYS_PER_BATCH, time, false), time);
            assert_eq!(divided.due, batch(0..KEYS_PER_BATCH, time, false));
            divided.committed(time);
        }
    }

    #[test]
    fn many_keys_are_due_once_a_minute_and_with_later_batches() {
        let writer = ActivityWriter::default();
        let many = 3 * KEYS_PER_BATCH;
        let write = |batch, now| {
            let divided = writer.divide(batch, now);
            let due = divided.due.clone();
            divided.committed(now);
            due
        };
        assert_eq!(write(batch(0..many, 10, false), 10).len(), many);
        assert_eq!(write(batch(0..many, 20, false), 20).len(), KEYS_PER_BATCH);
        // Small batches are written at once, together with what was deferred.
        let due = write(batch(many - 1..many, 30, true), 30);
        assert_eq!(due.len(), KEYS_PER_BATCH);
        let last = &due[&key(many - 1)];
        assert_eq!((last.last_accepted, last.rejected_since()), (Some(20), 1));
        // Small batches write the rest.
        assert_eq!(write(batch(0..1, 40, false), 40).len(), KEYS_PER_BATCH);
        assert_eq!(write(batch(0..1, 50, false), 50).len(), 2);
        assert_eq!(write(batch(0..1, 60, false), 60).len(), 1);
        let later = 61 + MAX_DELAY;
        assert_eq!(write(batch(0..many, later, false), later).len(), many);
        // Those of keys that are not used any more, too.
        assert_eq!(
            write(batch(0..many, later + 1, false), later + 1).len(),
            KEYS_PER_BATCH
        );
        let after = later + 2 + MAX_DELAY;
        let due = write(batch(many..2 * many, after, false), after);
        assert_eq!(due.len(), 2 * many - KEYS_PER_BATCH);
        // The clock was set back.
        assert_eq!(write(batch(0..many, 5, false), 5).len(), many);
        writer.divide(batch(0..many, 6, false), 6);
        writer.clear();
        assert_eq!(write(batch(0..many, 6, false), 6).len(), many);
    }

    #[test]
    fn what_was_deferred_is_written_once() {
        let writer = ActivityWriter::default();
        let many = 2 * KEYS_PER_BATCH;
        for time in [10, 20] {
            writer
                .divide(batch(0..many, time, true), time)
                .committed(time);
        }
        let next = |time| writer.divide(batch(0..1, time, true), time);
        let rejected = |divided: &Divided<'_>| {
            divided
                .due
                .values()
                .map(KeyActivity::rejected_since)
                .sum::<i64>()
        };
        let all = KEYS_PER_BATCH as i64;
        let first = next(30);
        assert_eq!(rejected(&first), all);
        // At the same time, by another task.
        let mut second = next(30);
        assert_eq!(rejected(&second), 2);
        // Both fail: the first one before its commit, the second one in it.
        drop(first);
        second.committing();
        drop(second);
        let third = next(40);
        assert_eq!(rejected(&third), all);
        third.committed(40);
    }
}

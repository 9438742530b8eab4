//! An in-memory store of rollups.

use std::collections::btree_map::{self, Entry};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::RandomState;
use jiff::Timestamp;

use super::event::UsageEvent;
use super::event_rows::Attributed;
use super::granularity::Granularity;
use super::outcome::{Cause, Outcome, RejectionReason};
use super::rollup::Rollup;
use super::sink::Batch;
use super::wire::{Method, Status};
use crate::id::KeyId;

/// An in-memory store of rollups, indexed by key and time, with one [`Rollup`] per group.
///
/// Its size grows with the number of keys, time buckets and endpoints. The layer bounds the endpoints, and
/// [`RollupStore::fold`] and [`RollupStore::prune`] bound the buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RollupStore {
    keys: BTreeMap<Option<KeyId>, Buckets>,
}

type Buckets = BTreeMap<(Timestamp, Granularity), Bucket>;

/// Shared with [snapshots](RollupStore::snapshot) until it changes.
type Bucket = Arc<BTreeMap<Series, Rollup>>;

/// The grouping fields within one key and bucket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    endpoint: Arc<str>,
    method: Method,
    status: Status,
    outcome: Outcome,
    cause: Option<Cause>,
    rejection_reason: Option<RejectionReason>,
    billable: bool,
    owner: Option<Arc<str>>,
}

impl RollupStore {
    /// Creates an empty store.
    pub const fn new() -> Self {
        Self {
            keys: BTreeMap::new(),
        }
    }

    /// Adds an event to the rollup of its group and this width.
    pub fn add_event(&mut self, event: &UsageEvent, width: Granularity) {
        let series = Series {
            endpoint: event.endpoint.clone(),
            method: event.method,
            status: event.status,
            outcome: event.outcome,
            cause: event.cause,
            rejection_reason: event.rejection_reason,
            billable: event.billable,
            owner: event.owner.clone(),
        };
        match self.entry(event.key, width.floor(event.time), width, series) {
            Entry::Occupied(mut held) => held.get_mut().add_event(event),
            Entry::Vacant(free) => {
                free.insert(Rollup::of(event, width));
            }
        }
    }

    /// Adds the events of a batch to the rollups of their groups and this width.
    ///
    /// Cheaper than adding them one by one: the events are aggregated first, since many events share a group.
    pub fn add_batch(&mut self, batch: &Batch, width: Granularity) {
        let mut rollups: Vec<Rollup> = Vec::new();
        let mut indices: HashMap<_, usize, RandomState> = HashMap::default();
        // Consecutive events often belong to one group.
        let mut last: Option<(_, Range<i64>, usize)> = None;
        for event in batch.rows().iter() {
            let (group, fields) = (event.group(), event.fields());
            let index = match &last {
                Some((same, times, index)) if *same == group && times.contains(&fields.time) => {
                    *index
                }
                _ => {
                    let start = width.floor(event.time());
                    // Compare strings by address, which is valid while the batch is borrowed. Equal strings at
                    // different addresses are merged by `extend`.
                    let address = |text: &Arc<str>| text.as_ptr().addr();
                    let owner = |it: &Attributed| (it.key, it.owner.as_ref().map(address));
                    let group_in_batch = (
                        event.attributed().map(owner),
                        start,
                        event.endpoint().map(address),
                        (fields.method, fields.status),
                        (fields.outcome, fields.cause, fields.billable),
                        fields.rejection_reason,
                    );
                    let next = rollups.len();
                    let index = *indices.entry(group_in_batch).or_insert(next);
                    let first = start.as_microsecond();
                    last = Some((group, first..first + width.seconds() * 1_000_000, index));
                    if index == next {
                        rollups.push(Rollup::of(&event.to_event(), width));
                        continue;
                    }
                    index
                }
            };
            let bytes = [fields.request_bytes, fields.response_bytes];
            rollups[index].add(fields.cost, bytes, fields.latency_us);
        }
        self.extend(rollups);
    }

    /// Adds a rollup to that of its group and width.
    pub fn add(&mut self, rollup: Rollup) {
        let series = Series {
            endpoint: rollup.endpoint.clone(),
            method: rollup.method,
            status: rollup.status,
            outcome: rollup.outcome,
            cause: rollup.cause,
            rejection_reason: rollup.rejection_reason,
            billable: rollup.billable,
            owner: rollup.owner.clone(),
        };
        match self.entry(rollup.key, rollup.start, rollup.granularity, series) {
            Entry::Occupied(mut held) => held.get_mut().merge(&rollup),
            Entry::Vacant(free) => {
                free.insert(rollup.bounded());
            }
        }
    }

    fn entry(
        &mut self,
        key: Option<KeyId>,
        start: Timestamp,
        width: Granularity,
        series: Series,
    ) -> Entry<'_, Series, Rollup> {
        let buckets = self.keys.entry(key).or_default();
        Arc::make_mut(buckets.entry((start, width)).or_default()).entry(series)
    }

    /// The number of rollups.
    pub fn len(&self) -> usize {
        let buckets = self.keys.values().flat_map(BTreeMap::values);
        buckets.map(|bucket| bucket.len()).sum()
    }

    /// Returns whether there are no rollups.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// All rollups, ordered by key, then by start, then by the other grouping fields.
    pub fn iter(&self) -> impl Iterator<Item = &Rollup> {
        let buckets = self.keys.values().flat_map(BTreeMap::values);
        buckets.flat_map(|bucket| bucket.values())
    }

    /// A snapshot of the rollups of one key, or of all, whose bucket starts in the range. Clones a reference to
    /// each bucket instead of copying it.
    pub(crate) fn snapshot(&self, key: Option<KeyId>, range: Range<Timestamp>) -> Self {
        let buckets_of = |buckets| -> Buckets {
            let shared = buckets_in(buckets, range.clone());
            shared.map(|(&at, bucket)| (at, bucket.clone())).collect()
        };
        let keys: BTreeMap<_, _> = match key {
            Some(_) => {
                let held = self.keys.get(&key).into_iter();
                held.map(|buckets| (key, buckets_of(buckets))).collect()
            }
            None => {
                let held = self.keys.iter();
                held.map(|(&key, buckets)| (key, buckets_of(buckets)))
                    .collect()
            }
        };
        Self { keys }
    }

    /// The rollups of all keys whose bucket starts in the range, in the order of [`RollupStore::iter`].
    pub fn within(&self, range: Range<Timestamp>) -> impl Iterator<Item = &Rollup> {
        let keys = self.keys.values();
        keys.flat_map(move |buckets| starting_in(buckets, range.clone()))
    }

    /// The rollups of one key whose bucket starts in the range, ordered by start; `None` for anonymous requests.
    /// The cost does not depend on the number of other keys.
    pub fn of_key(
        &self,
        key: Option<KeyId>,
        range: Range<Timestamp>,
    ) -> impl Iterator<Item = &Rollup> {
        let buckets = self.keys.get(&key).into_iter();
        buckets.flat_map(move |buckets| starting_in(buckets, range.clone()))
    }

    /// Merges rollups of smaller widths into buckets of this width, for all such buckets that end by `before`.
    ///
    /// Totals stay exact. Only results for smaller widths, or for time zones that buckets of this width do not
    /// align with (hours in `+05:45`, days in any zone but UTC), become coarser.
    pub fn fold(&mut self, before: Timestamp, width: Granularity) {
        // The bucket that contains `before` may still grow; all earlier ones have ended.
        let end = width.floor(before);
        for buckets in self.keys.values_mut() {
            let narrow: Vec<_> = starts_before(buckets, end)
                .filter(|(_, held)| *held < width)
                .collect();
            for bucket in narrow {
                let narrow = buckets.remove(&bucket).unwrap_or_default();
                let start = width.floor(bucket.0);
                let wide = Arc::make_mut(buckets.entry((start, width)).or_default());
                for (series, rollup) in Arc::unwrap_or_clone(narrow) {
                    match wide.entry(series) {
                        Entry::Occupied(mut held) => held.get_mut().merge(&rollup),
                        Entry::Vacant(free) => {
                            free.insert(Rollup {
                                start,
                                granularity: width,
                                ..rollup
                            });
                        }
                    }
                }
            }
        }
    }

    /// Removes the rollups whose bucket ends by `before`.
    pub fn prune(&mut self, before: Timestamp) {
        for buckets in self.keys.values_mut() {
            let ended: Vec<_> = starts_before(buckets, before)
                .filter(|&(start, width)| start < width.floor(before))
                .collect();
            for bucket in ended {
                buckets.remove(&bucket);
            }
        }
        self.keys.retain(|_, buckets| !buckets.is_empty());
    }
}

fn starting_in(buckets: &Buckets, range: Range<Timestamp>) -> impl Iterator<Item = &Rollup> {
    buckets_in(buckets, range).flat_map(|(_, bucket)| bucket.values())
}

fn buckets_in(
    buckets: &Buckets,
    range: Range<Timestamp>,
) -> btree_map::Range<'_, (Timestamp, Granularity), Bucket> {
    // `BTreeMap::range` panics if the start is after the end.
    let end = range.end.max(range.start);
    buckets.range((range.start, Granularity::Minute)..(end, Granularity::Minute))
}

fn starts_before(
    buckets: &Buckets,
    time: Timestamp,
) -> impl Iterator<Item = (Timestamp, Granularity)> {
    let earlier = buckets.range(..(time, Granularity::Minute));
    earlier.map(|(&bucket, _)| bucket)
}

impl IntoIterator for RollupStore {
    type Item = Rollup;
    type IntoIter = std::vec::IntoIter<Rollup>;

    /// The rollups in the order of [`RollupStore::iter`].
    fn into_iter(self) -> Self::IntoIter {
        let buckets = self.keys.into_values().flat_map(BTreeMap::into_values);
        let rollups = buckets.map(|bucket| Arc::unwrap_or_clone(bucket).into_values());
        let all: Vec<_> = rollups.flatten().collect();
        all.into_iter()
    }
}

impl Extend<Rollup> for RollupStore {
    fn extend<I: IntoIterator<Item = Rollup>>(&mut self, rollups: I) {
        rollups.into_iter().for_each(|rollup| self.add(rollup));
    }
}

impl FromIterator<Rollup> for RollupStore {
    fn from_iter<I: IntoIterator<Item = Rollup>>(rollups: I) -> Self {
        let mut all = Self::new();
        all.extend(rollups);
        all
    }
}

impl Rollup {
    /// Aggregates events into UTC buckets of this width, ordered by key, then by start, then by the other grouping
    /// fields.
    pub fn of_events<'a>(
        events: impl IntoIterator<Item = &'a UsageEvent>,
        width: Granularity,
    ) -> Vec<Self> {
        let mut rollups = RollupStore::new();
        for event in events {
            rollups.add_event(event, width);
        }
        rollups.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::saturating;

    #[test]
    fn a_snapshot_does_not_change() {
        let at = |text: &str| -> UsageEvent { UsageEvent::new(text.parse().unwrap()) };
        let mut rollups = RollupStore::new();
        for time in ["2026-11-01T09:59:00Z", "2026-11-01T10:00:00Z"] {
            rollups.add_event(&at(time), Granularity::Minute);
        }
        let from = "2026-11-01T10:00:00Z".parse().unwrap();
        let snapshot = rollups.snapshot(None, from..Timestamp::MAX);
        rollups.add_event(&at("2026-11-01T10:00:30Z"), Granularity::Minute);
        rollups.fold(Timestamp::MAX, Granularity::Hour);
        let counts: Vec<_> = snapshot.iter().map(|rollup| rollup.count).collect();
        assert_eq!(counts, [1]);
        assert_eq!(rollups.iter().map(|rollup| rollup.count).sum::<u64>(), 3);
    }

    #[test]
    fn ended_buckets_are_folded_and_pruned() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let starts = |rollups: &RollupStore| -> Vec<_> {
            let rollups = rollups.clone().into_iter();
            rollups
                .map(|rollup| (rollup.start, rollup.granularity))
                .collect()
        };
        let mut rollups = RollupStore::new();
        for minute in ["09:58", "09:59", "10:00", "10:01"] {
            let event = UsageEvent::new(at(&format!("2026-11-01T{minute}:00Z")));
            rollups.add_event(&event, Granularity::Minute);
        }
        let [nine, ten, eleven] = ["09:00", "10:00", "10:01"].map(|time| {
            let time = format!("2026-11-01T{time}:00Z");
            at(&time)
        });
        rollups.fold(at("2026-11-01T10:01:30Z"), Granularity::Hour);
        let minutes = [(ten, Granularity::Minute), (eleven, Granularity::Minute)];
        let folded = [[(nine, Granularity::Hour)].as_slice(), &minutes].concat();
        assert_eq!(starts(&rollups), folded);
        rollups.prune(at("2026-11-01T09:59:59Z"));
        assert_eq!(starts(&rollups), folded);
        // The current minute has not ended.
        rollups.prune(at("2026-11-01T10:00:59Z"));
        assert_eq!(starts(&rollups), minutes);
        rollups.prune(eleven);
        assert_eq!(starts(&rollups), minutes[1..]);
        assert!(!rollups.is_empty());
        rollups.prune(Timestamp::MAX);
        assert!(rollups.is_empty());
    }

    #[test]
    fn rollups_saturate_at_the_maximum() {
        let small = Rollup::of(&UsageEvent::new(Timestamp::UNIX_EPOCH), Granularity::Minute);
        let mut large = small.clone();
        (large.count, large.cost) = (u64::MAX, u64::MAX);
        (large.request_bytes, large.response_bytes) = (u64::MAX, u64::MAX);
        let added =
            |rollups: [&Rollup; 2]| -> RollupStore { rollups.into_iter().cloned().collect() };
        let both = added([&small, &large]);
        assert_eq!(both, added([&large, &small]));
        let alone: RollupStore = [large].into_iter().collect();
        for rollup in both.iter().chain(alone.iter()) {
            assert_eq!(
                (rollup.count, rollup.cost),
                (saturating::MAX, saturating::MAX)
            );
            let bytes = (rollup.request_bytes, rollup.response_bytes);
            assert_eq!(bytes, (saturating::MAX, saturating::MAX));
        }
    }
}

//! RollupStore in memory, for long: added to, read by key and time, folded into wider buckets.

use std::collections::btree_map::{self, Entry};
use std::collections::{BTreeMap, HashMap, hash_map};
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::RandomState;
use jiff::Timestamp;

use super::event::UsageEvent;
use super::granularity::Granularity;
use super::outcome::{Cause, Outcome};
use super::rollup::Rollup;
use super::wire::{Method, Status};
use crate::id::KeyId;

/// Sums of events by key and time, one [`Rollup`] per group.
///
/// What it holds grows with keys, buckets and endpoints; the layer bounds the endpoints, and
/// [`RollupStore::fold`] and [`RollupStore::forget`] bound the buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RollupStore {
    keys: BTreeMap<Option<KeyId>, Buckets>,
}

type Buckets = BTreeMap<(Timestamp, Granularity), Bucket>;

/// Shared with every [part](RollupStore::part) that was taken, until it changes.
type Bucket = Arc<BTreeMap<Series, Rollup>>;

/// What tells the rollups of one key and bucket apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    endpoint: Arc<str>,
    method: Method,
    status: Status,
    outcome: Outcome,
    cause: Option<Cause>,
    owner: Option<Arc<str>>,
}

impl RollupStore {
    /// Holds nothing yet.
    pub const fn new() -> Self {
        Self {
            keys: BTreeMap::new(),
        }
    }

    /// Adds an event to its group's rollup of this width.
    pub fn add_event(&mut self, event: &UsageEvent, width: Granularity) {
        let series = Series {
            endpoint: event.endpoint.clone(),
            method: event.method,
            status: event.status,
            outcome: event.outcome,
            cause: event.cause,
            owner: event.owner.clone(),
        };
        match self.entry(event.key, width.floor(event.time), width, series) {
            Entry::Occupied(mut held) => held.get_mut().add(event),
            Entry::Vacant(free) => {
                free.insert(Rollup::of(event, width));
            }
        }
    }

    /// Adds events to their groups' rollups of this width.
    ///
    /// They are added up among themselves first: many events have few groups.
    pub fn add_events(&mut self, events: &[UsageEvent], width: Granularity) {
        let mut sums: HashMap<_, Rollup, RandomState> = HashMap::default();
        for event in events {
            // A text's address stands for it while the events are borrowed; equal texts at several
            // addresses come together at the end.
            let address = |text: &Arc<str>| text.as_ptr().addr();
            let group = (
                event.key,
                event.owner.as_ref().map(address),
                width.floor(event.time),
                address(&event.endpoint),
                event.method,
                event.status,
                event.outcome,
                event.cause,
            );
            match sums.entry(group) {
                hash_map::Entry::Occupied(mut held) => held.get_mut().add(event),
                hash_map::Entry::Vacant(free) => {
                    free.insert(Rollup::of(event, width));
                }
            }
        }
        self.extend(sums.into_values());
    }

    /// Adds a rollup to its group's.
    pub fn add(&mut self, rollup: Rollup) {
        let series = Series {
            endpoint: rollup.endpoint.clone(),
            method: rollup.method,
            status: rollup.status,
            outcome: rollup.outcome,
            cause: rollup.cause,
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

    /// How many rollups are held.
    pub fn len(&self) -> usize {
        let buckets = self.keys.values().flat_map(BTreeMap::values);
        buckets.map(|bucket| bucket.len()).sum()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// All rollups, ordered by key, then by start, then by the other parts of their group.
    pub fn iter(&self) -> impl Iterator<Item = &Rollup> {
        let buckets = self.keys.values().flat_map(BTreeMap::values);
        buckets.flat_map(|bucket| bucket.values())
    }

    /// The rollups of one key, or of all, whose bucket starts in the range, as they are now. Takes a
    /// reference to each bucket and copies none.
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

    /// The rollups of one key (`None`: of anonymous requests) whose bucket starts in the range, by
    /// time. Other keys cost nothing.
    pub fn of_key(
        &self,
        key: Option<KeyId>,
        range: Range<Timestamp>,
    ) -> impl Iterator<Item = &Rollup> {
        let buckets = self.keys.get(&key).into_iter();
        buckets.flat_map(move |buckets| starting_in(buckets, range.clone()))
    }

    /// Folds narrower rollups into buckets of this width, as far as those are over by `before`.
    ///
    /// Every sum stays exactly what it was; only what is shown by a narrower width, or in a time zone
    /// that such a bucket does not fit (hours and `+05:45`, days and any zone but UTC), turns coarse.
    pub fn fold(&mut self, before: Timestamp, width: Granularity) {
        // The bucket of `before` itself may still grow; all that start earlier are over.
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

    /// Drops the rollups whose bucket is over by `before`.
    pub fn prune(&mut self, before: Timestamp) {
        for buckets in self.keys.values_mut() {
            let over: Vec<_> = starts_before(buckets, before)
                .filter(|&(start, width)| start < width.floor(before))
                .collect();
            for bucket in over {
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
    // `BTreeMap::range` panics when the range runs backwards.
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
    /// Events added up into buckets of UTC, ordered by key, then by start, then by the other parts
    /// of their group.
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
    fn a_part_stays_what_it_was_when_it_was_taken() {
        let at = |text: &str| -> UsageEvent { UsageEvent::at(text.parse().unwrap()) };
        let mut rollups = RollupStore::new();
        for time in ["2026-11-01T09:59:00Z", "2026-11-01T10:00:00Z"] {
            rollups.add_event(&at(time), Granularity::Minute);
        }
        let from = "2026-11-01T10:00:00Z".parse().unwrap();
        let part = rollups.snapshot(None, from..Timestamp::MAX);
        rollups.add_event(&at("2026-11-01T10:00:30Z"), Granularity::Minute);
        rollups.fold(Timestamp::MAX, Granularity::Hour);
        let counts: Vec<_> = part.iter().map(|rollup| rollup.count).collect();
        assert_eq!(counts, [1]);
        assert_eq!(rollups.iter().map(|rollup| rollup.count).sum::<u64>(), 3);
    }

    #[test]
    fn what_is_over_is_folded_and_forgotten_bucket_by_bucket() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let starts = |rollups: &RollupStore| -> Vec<_> {
            let rollups = rollups.clone().into_iter();
            rollups
                .map(|rollup| (rollup.start, rollup.granularity))
                .collect()
        };
        let mut rollups = RollupStore::new();
        for minute in ["09:58", "09:59", "10:00", "10:01"] {
            let event = UsageEvent::at(at(&format!("2026-11-01T{minute}:00Z")));
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
        // The minute that has begun is not over.
        rollups.prune(at("2026-11-01T10:00:59Z"));
        assert_eq!(starts(&rollups), minutes);
        rollups.prune(eleven);
        assert_eq!(starts(&rollups), minutes[1..]);
        assert!(!rollups.is_empty());
        rollups.prune(Timestamp::MAX);
        assert!(rollups.is_empty());
    }

    #[test]
    fn sums_of_rollups_made_by_hand_stop_where_all_sums_do() {
        let small = Rollup::of(&UsageEvent::at(Timestamp::UNIX_EPOCH), Granularity::Minute);
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
                (saturating::MOST, saturating::MOST)
            );
            let bytes = (rollup.request_bytes, rollup.response_bytes);
            assert_eq!(bytes, (saturating::MOST, saturating::MOST));
        }
    }
}

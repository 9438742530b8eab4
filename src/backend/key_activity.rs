//! The activity of a key: its first and its last accepted request, and the requests rejected since.

use std::collections::BTreeMap;

use crate::id::KeyId;

/// The maximum number of [`Group`]s of a key.
const GROUPS: usize = 32;

/// The time that the newest group may span before others are joined, in microseconds.
const FLOOD: i64 = 1_000_000;

/// Requests of a key. Times are in microseconds since 1970.
///
/// Adding activities gives the same result in any order, as long as there are at most [`GROUPS`] times of rejected
/// requests after the last accepted one. Beyond that, neighboring times are grouped, the older ones first. An accepted
/// request that is added late, with a time within a group, divides it in proportion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct KeyActivity {
    pub(super) first_accepted: Option<i64>,
    pub(super) last_accepted: Option<i64>,
    /// Those after the last accepted request, in order.
    rejected: Vec<Group>,
}

/// Rejected requests from one time to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    first: i64,
    last: i64,
    count: i64,
}

impl Group {
    fn of(time: i64, count: i64) -> Self {
        Self {
            first: time,
            last: time,
            count,
        }
    }

    fn with(self, other: Self) -> Self {
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
            count: self.count.saturating_add(other.count),
        }
    }

    /// The requests after a time.
    fn after(self, time: i64) -> Option<Self> {
        if time < self.first {
            return Some(self);
        }
        if self.last <= time {
            return None;
        }
        // The first request is not after the time, and the last one is.
        let length = |from: i64| i128::from(self.last) - i128::from(from);
        let between = i128::from(self.count.saturating_sub(2).max(0));
        let count = 1 + between * length(time) / length(self.first);
        Some(Self {
            first: time + 1,
            count: i64::try_from(count).unwrap_or(i64::MAX),
            ..self
        })
    }
}

impl KeyActivity {
    /// The activity of each key in a batch of requests: their key, their time and whether they were rejected. Times
    /// are limited to `now`, in case a clock is ahead.
    pub(super) fn of_batch<I>(requests: impl Fn() -> I, now: i64) -> BTreeMap<KeyId, Self>
    where
        I: Iterator<Item = (KeyId, i64, bool)>,
    {
        let mut keys: BTreeMap<KeyId, Self> = BTreeMap::new();
        let mut has_rejected = false;
        // Batches have long runs of requests of a key.
        let mut all = requests().peekable();
        while let Some((key, time, is_rejected)) = all.next() {
            let mut times = (!is_rejected).then_some([time; 2]);
            has_rejected |= is_rejected;
            while let Some((_, time, is_rejected)) = all.next_if(|next| next.0 == key) {
                has_rejected |= is_rejected;
                if !is_rejected {
                    let [first, last] = times.unwrap_or([time; 2]);
                    times = Some([first.min(time), last.max(time)]);
                }
            }
            let activity = keys.entry(key).or_default();
            if let Some([first, last]) = times {
                let known = activity.first_accepted.get_or_insert(first);
                *known = first.min(*known);
                activity.last_accepted = activity.last_accepted.max(Some(last));
            }
        }
        let rejected = has_rejected.then(&requests).into_iter().flatten();
        let mut rejected = rejected.filter(|(.., is_rejected)| *is_rejected).peekable();
        while let Some((key, time, _)) = rejected.next() {
            let Some(activity) = keys.get_mut(&key) else {
                continue;
            };
            activity.reject_at(time, now);
            while let Some((_, time, _)) = rejected.next_if(|next| next.0 == key) {
                activity.reject_at(time, now);
            }
        }
        for activity in keys.values_mut() {
            for time in [&mut activity.first_accepted, &mut activity.last_accepted] {
                *time = time.map(|time| time.min(now));
            }
        }
        keys
    }

    /// The stored activity of a key.
    pub(super) fn stored(
        [first_accepted, last_accepted]: [Option<i64>; 2],
        rejected_since: i64,
        rejected: &[u8],
    ) -> Self {
        let (groups, _) = rejected.as_chunks::<24>();
        let groups = groups.iter().map(|group| {
            let (numbers, _) = group.as_chunks::<8>();
            let number = |n: usize| numbers.get(n).map_or(0, |it| i64::from_le_bytes(*it));
            Group {
                first: number(0),
                last: number(1),
                count: number(2),
            }
        });
        let mut rejected: Vec<_> = groups.collect();
        let known = rejected.iter().map(|group| group.count);
        let unknown = rejected_since.saturating_sub(known.fold(0, i64::saturating_add));
        if unknown > 0 {
            // A record was created with a number.
            let time = last_accepted.map_or(i64::MIN, |time| time.saturating_add(1));
            rejected.insert(0, Group::of(time, unknown));
        }
        Self {
            first_accepted,
            last_accepted,
            rejected,
        }
    }

    /// The groups of rejected requests as stored. `None` if there are none.
    #[cfg(any(feature = "_sql", test))]
    pub(super) fn rejected_bytes(&self) -> Option<Vec<u8>> {
        let numbers = self.rejected.iter();
        let numbers = numbers.flat_map(|group| [group.first, group.last, group.count]);
        let bytes: Vec<_> = numbers.flat_map(i64::to_le_bytes).collect();
        Some(bytes).filter(|bytes| !bytes.is_empty())
    }

    /// The number of requests that were rejected after the last accepted one.
    pub(super) fn rejected_since(&self) -> i64 {
        let counts = self.rejected.iter().map(|group| group.count);
        counts.fold(0, i64::saturating_add)
    }

    /// Keeps only the accepted requests.
    #[cfg(feature = "_sql")]
    pub(super) fn forget_rejected(&mut self) {
        self.rejected.clear();
    }

    /// The time of the latest request.
    #[cfg(feature = "_sql")]
    pub(super) fn latest(&self) -> Option<i64> {
        // Those rejected are later than the last accepted one.
        let rejected = self.rejected.last().map(|group| group.last);
        rejected.or(self.last_accepted)
    }

    /// Adds the activity in a batch.
    pub(super) fn add(&mut self, batch: &Self) {
        // The first accepted request is unknown if there is only a last one, which was imported.
        self.first_accepted = match (self.first_accepted, self.last_accepted) {
            (None, Some(_)) => None,
            (Some(first), _) => Some(batch.first_accepted.map_or(first, |new| new.min(first))),
            (None, None) => batch.first_accepted,
        };
        if self.last_accepted < batch.last_accepted {
            self.last_accepted = batch.last_accepted;
            let groups = std::mem::take(&mut self.rejected);
            self.rejected = groups
                .into_iter()
                .filter_map(|group| self.since(group))
                .collect();
        }
        for group in &batch.rejected {
            if let Some(group) = self.since(*group) {
                self.reject(group);
            }
        }
    }

    /// The requests of a group after the last accepted one.
    fn since(&self, group: Group) -> Option<Group> {
        match self.last_accepted {
            Some(last) => group.after(last),
            None => Some(group),
        }
    }

    fn reject_at(&mut self, time: i64, now: i64) {
        if self.last_accepted < Some(time) {
            self.reject(Group::of(time.min(now.saturating_add(1)), 1));
        }
    }

    fn reject(&mut self, mut group: Group) {
        if self.rejected.len() == GROUPS
            && let Some(newest) = self.rejected.last_mut()
            && newest.first <= group.first
            && group.last.saturating_sub(newest.first) < FLOOD
        {
            *newest = newest.with(group);
            return;
        }
        let groups = &mut self.rejected;
        let start = groups.partition_point(|it| it.last < group.first);
        let end = groups.partition_point(|it| it.first <= group.last);
        for overlapping in groups.drain(start..end.max(start)) {
            group = group.with(overlapping);
        }
        groups.insert(start, group);
        if groups.len() > GROUPS {
            self.join_two();
        }
    }

    /// Joins the neighbors that span the shortest time in proportion to their age.
    fn join_two(&mut self) {
        let Some(newest) = self.rejected.last().map(|group| i128::from(group.last)) else {
            return;
        };
        let pairs = self.rejected.windows(2).enumerate();
        let costs = pairs.filter_map(|(n, pair)| {
            let [older, newer] = pair else { return None };
            let span = i128::from(newer.last) - i128::from(older.first);
            Some((n, span, newest - i128::from(newer.last) + 1))
        });
        // a / b < c / d without rounding.
        let cheapest = costs.reduce(|a, b| match a.1.checked_mul(b.2) <= b.1.checked_mul(a.2) {
            true => a,
            false => b,
        });
        if let Some((n, ..)) = cheapest
            && n + 1 < self.rejected.len()
        {
            let newer = self.rejected.remove(n + 1);
            if let Some(older) = self.rejected.get_mut(n) {
                *older = older.with(newer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> KeyId {
        KeyId::from_number(1)
    }

    fn batch(requests: &[(i64, bool)]) -> KeyActivity {
        let requests = || requests.iter().map(|&(time, is)| (key(), time, is));
        let mut keys = KeyActivity::of_batch(requests, i64::MAX);
        keys.remove(&key()).unwrap_or_default()
    }

    /// The activity after storing and loading it.
    fn reloaded(activity: &KeyActivity) -> KeyActivity {
        let times = [activity.first_accepted, activity.last_accepted];
        let bytes = activity.rejected_bytes().unwrap_or_default();
        KeyActivity::stored(times, activity.rejected_since(), &bytes)
    }

    fn all(batches: &[Vec<(i64, bool)>]) -> KeyActivity {
        batches
            .iter()
            .fold(KeyActivity::default(), |mut sum, requests| {
                sum.add(&batch(requests));
                assert_eq!(reloaded(&sum), sum);
                sum
            })
    }

    /// From the definition.
    fn expected(requests: &[(i64, bool)]) -> (Option<i64>, Option<i64>, i64) {
        let accepted = || requests.iter().filter(|it| !it.1).map(|it| it.0);
        let last = accepted().max();
        let since = requests.iter().filter(|it| it.1 && Some(it.0) > last);
        (accepted().min(), last, since.count() as i64)
    }

    fn answers(activity: &KeyActivity) -> (Option<i64>, Option<i64>, i64) {
        let KeyActivity {
            first_accepted,
            last_accepted,
            ..
        } = *activity;
        (first_accepted, last_accepted, activity.rejected_since())
    }

    proptest! {
        #[test]
        fn batches_in_any_order_give_the_defined_result(
            batches in prop::collection::vec(prop::collection::vec((0..40_i64, any::<bool>()), 0..12), 0..6),
            rotate in 0..6_usize,
        ) {
            // At most 32 times of rejected requests.
            let mut batches: Vec<Vec<_>> = batches;
            for request in batches.iter_mut().flatten() {
                request.0 = request.0.min(31);
            }
            let requests = batches.concat();
            prop_assert_eq!(answers(&all(&batches)), expected(&requests));
            if !batches.is_empty() {
                let middle = rotate % batches.len();
                batches.rotate_left(middle);
            }
            prop_assert_eq!(answers(&all(&batches)), expected(&requests));
        }

        #[test]
        fn any_number_of_rejections_in_order_is_exact(
            requests in prop::collection::vec((0..100_000_i64, any::<bool>()), 0..400),
            size in 1..50_usize,
        ) {
            let mut requests = requests;
            requests.sort_unstable();
            let batches: Vec<_> = requests.chunks(size).map(<[_]>::to_vec).collect();
            prop_assert_eq!(answers(&all(&batches)), expected(&requests));
        }

        #[test]
        fn state_is_bounded_and_late_requests_err_little(
            times in prop::collection::btree_set(0..1_000_000_i64, 200..800),
            late in 0..1_000_000_i64,
        ) {
            let rejected: Vec<_> = times.iter().map(|&time| (time, true)).collect();
            let mut activity = all(&rejected.chunks(7).map(<[_]>::to_vec).collect::<Vec<_>>());
            prop_assert!(activity.rejected.len() <= GROUPS);
            prop_assert_eq!(activity.rejected_since(), times.len() as i64);
            activity.add(&batch(&[(late, false)]));
            let is = times.range(late + 1..).count() as i64;
            let found = activity.rejected_since();
            prop_assert!((found - is).abs() <= 1 + times.len() as i64 / 4, "{found} {is}");
            prop_assert_eq!(found == 0, is == 0);
        }
    }

    #[test]
    fn clock_that_is_ahead_does_not_hide_later_requests() {
        let of = |requests: &[(i64, bool)], now| {
            let requests = || requests.iter().map(|&(time, is)| (key(), time, is));
            KeyActivity::of_batch(requests, now)[&key()].clone()
        };
        let mut activity = of(&[(500, false), (501, true)], 100);
        assert_eq!(answers(&activity), (Some(100), Some(100), 1));
        activity.add(&of(&[(200, false)], 200));
        assert_eq!(answers(&activity), (Some(100), Some(200), 0));
    }

    #[test]
    fn first_accepted_request_is_unknown_if_a_last_one_was_imported() {
        let mut activity = KeyActivity::stored([None, Some(10)], 3, &[]);
        assert_eq!(activity.rejected_since(), 3);
        activity.add(&batch(&[(5, false), (20, true)]));
        assert_eq!(answers(&activity), (None, Some(10), 4));
        activity.add(&batch(&[(15, false)]));
        assert_eq!(answers(&activity), (None, Some(15), 1));
        // Damaged bytes are ignored.
        let damaged = KeyActivity::stored([None, None], 0, &[1; 23]);
        assert_eq!(damaged, KeyActivity::default());
    }
}

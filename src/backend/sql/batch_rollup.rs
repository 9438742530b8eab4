//! A batch prepared for writing: its events grouped by caller and kind.
//!
//! A caller is a key and its owner, a kind the combination of the other attributes that many requests share. Both are
//! stored once; events and rollups reference them by number. This keeps the request log compact, and a new key costs
//! one number, not one for each of its endpoints and statuses.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::RandomState;
use uuid::Uuid;

use super::dictionary::{Caller, Kind, Numbers};
use super::micros::{MINUTE, floor};
use super::rollup_record::RollupRecord;
use super::series_rollup::{Amounts, Series, SeriesRollup};
use super::value::as_micros;
use crate::backend::key_activity::KeyActivity;
use crate::id::KeyId;
use crate::usage::UsageEvent;

/// A batch grouped by caller and kind.
#[derive(Debug)]
pub(in crate::backend) struct BatchRollup<'a> {
    pub(in crate::backend) callers: Vec<Caller>,
    pub(in crate::backend) kinds: Vec<Kind>,
    events: &'a [UsageEvent],
    /// The indexes of the caller and the kind of each event.
    of_event: Vec<(usize, usize)>,
}

impl<'a> BatchRollup<'a> {
    pub(in crate::backend) fn new(events: &'a [UsageEvent]) -> Self {
        let (mut callers, mut kinds) = (Distinct::default(), Distinct::default());
        let mut of_event = Vec::with_capacity(events.len());
        // Texts are compared by address first, which is cheap.
        let address = |text: &Arc<str>| text.as_ptr().addr();
        for event in events {
            let caller = callers.index((event.key, event.owner.as_ref().map(address)), || Caller {
                key: event.key,
                owner: event.owner.clone(),
            });
            let kind = (
                address(&event.endpoint),
                event.method,
                event.status,
                event.outcome,
                event.cause,
                event.rejection_reason,
                event.billable,
            );
            let kind = kinds.index(kind, || Kind {
                method: event.method,
                endpoint: event.endpoint.clone(),
                status: event.status,
                outcome: event.outcome,
                cause: event.cause,
                rejection_reason: event.rejection_reason,
                billable: event.billable,
            });
            of_event.push((caller, kind));
        }
        Self {
            callers: callers.values,
            kinds: kinds.values,
            events,
            of_event,
        }
    }

    /// The activity of each key. Times are limited to `now`.
    pub(in crate::backend) fn activity(&self, now: i64) -> BTreeMap<KeyId, KeyActivity> {
        let request = |event: &UsageEvent| {
            let is_rejected = event.rejection_reason.is_some();
            Some((event.key?, as_micros(event.time), is_rejected))
        };
        let requests = || self.events.iter().filter_map(request);
        KeyActivity::of_batch(requests, now)
    }

    /// The events with their series.
    pub(in crate::backend) fn events(
        &self,
        numbers: &Numbers,
    ) -> impl Iterator<Item = (&'a UsageEvent, Series)> {
        let series = self.of_event.iter().map(|&(caller, kind)| Series {
            caller: numbers.callers[caller],
            kind: numbers.kinds[kind],
        });
        self.events.iter().zip(series)
    }

    /// The rollups of the batch by minute. `None` without events.
    pub(in crate::backend) fn record(&self, numbers: &Numbers) -> Option<RollupRecord> {
        let mut rollups: HashMap<(i64, Series), Amounts, RandomState> = HashMap::default();
        for (event, series) in self.events(numbers) {
            let start = floor(as_micros(event.time), MINUTE);
            rollups.entry((start, series)).or_default().add_event(event);
        }
        let mut rollups: Vec<SeriesRollup> = rollups
            .into_iter()
            .map(|((start, series), amounts)| SeriesRollup {
                series,
                start,
                amounts,
            })
            .collect();
        rollups.sort_unstable_by_key(|rollup| (rollup.start, rollup.series));
        RollupRecord::new(&rollups)
    }
}

/// Distinct values, in the order of their first use.
struct Distinct<K, T> {
    values: Vec<T>,
    /// Indexes by a key that may differ for equal values.
    by_key: HashMap<K, usize, RandomState>,
    indexes: HashMap<T, usize, RandomState>,
}

impl<K, T> Default for Distinct<K, T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            by_key: HashMap::default(),
            indexes: HashMap::default(),
        }
    }
}

impl<K: Eq + Hash, T: Clone + Eq + Hash> Distinct<K, T> {
    fn index(&mut self, key: K, value: impl FnOnce() -> T) -> usize {
        let Self {
            values,
            by_key,
            indexes,
        } = self;
        *by_key.entry(key).or_insert_with(|| {
            let value = value();
            *indexes.entry(value.clone()).or_insert_with(|| {
                values.push(value);
                values.len() - 1
            })
        })
    }
}

/// The path to store: `None` if it is the endpoint.
pub(in crate::backend) fn stored_path(event: &UsageEvent) -> Option<&str> {
    Some(&*event.path).filter(|path| **path != *event.endpoint)
}

/// Whether the time in an event's id differs from the event's time, so that the event cannot be found by that
/// time.
pub(in crate::backend) fn id_time_differs(event: &UsageEvent) -> bool {
    uuid_millis(event.id) != Some(as_micros(event.time).div_euclid(1_000))
}

/// The time of a UUIDv7, in milliseconds since 1970 (RFC 9562).
pub(super) fn uuid_millis(id: Uuid) -> Option<i64> {
    let (high, _) = id.as_u64_pair();
    (id.get_version_num() == 7).then_some((high >> 16).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::sql::rollup_record::rollups_of;

    #[test]
    fn equal_texts_at_different_addresses_share_a_number() {
        let times = [
            "2026-11-01T10:00:10Z",
            "2026-11-01T10:00:20Z",
            "2026-11-01T11:00:00Z",
        ];
        let mut events: Vec<_> = times
            .map(|time| UsageEvent::new(time.parse().unwrap()))
            .into();
        events[0].owner = Some("".into());
        for event in &mut events {
            event.endpoint = Arc::from(String::from("/v1/things"));
        }
        let grouped = BatchRollup::new(&events);
        assert_eq!((grouped.callers.len(), grouped.kinds.len()), (2, 1));
        assert_eq!(grouped.of_event, [(0, 0), (1, 0), (1, 0)]);
        assert_eq!(grouped.callers[0].owner.as_deref(), Some(""));
        assert_eq!(grouped.callers[1].owner, None);
        let numbers = Numbers::of([40, 30], [7]);
        let record = grouped.record(&numbers).unwrap();
        let rollups = rollups_of(&record.bytes, |_, _| true).unwrap();
        let counts: Vec<_> = rollups
            .iter()
            .map(|it| (it.start, it.series.caller, it.series.kind, it.amounts.count))
            .collect();
        let [first, last] = [0, 2].map(|n: usize| as_micros(events[n].time) / MINUTE * MINUTE);
        let expected = [(first, 30, 7, 1), (first, 40, 7, 1), (last, 30, 7, 1)];
        assert_eq!(counts, expected);
    }
}

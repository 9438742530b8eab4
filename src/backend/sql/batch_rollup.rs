//! A batch prepared for writing: its events grouped into series.
//!
//! A series is a combination of key, owner, method, endpoint, status, outcome and cause. It is stored once; events
//! and rollups reference it by id. This keeps the request log compact, and a single index on series and time
//! serves all filters.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use uuid::Uuid;

use super::hash::{Hash, hash_of};
use super::micros::{MINUTE, floor};
use super::rollup_record::RollupRecord;
use super::series_rollup::{Amounts, SeriesRollup};
use super::value::{as_micros, status_codes};
use crate::id::KeyId;
use crate::usage::UsageEvent;

/// A batch grouped into series.
#[derive(Debug)]
pub(in crate::backend) struct BatchRollup<'a> {
    /// The series, ordered by hash. All processes lock rows in this order, which prevents deadlocks.
    pub(in crate::backend) series: Vec<Series<'a>>,
    /// The index in `series` of each event.
    pub(in crate::backend) series_of_event: Vec<usize>,
    /// When each key was last used, in microseconds since 1970.
    pub(in crate::backend) last_used: BTreeMap<KeyId, i64>,
    events: &'a [UsageEvent],
}

/// A series of events.
#[derive(Debug)]
pub(in crate::backend) struct Series<'a> {
    pub(in crate::backend) hash: Hash,
    /// One of its events, for the shared attributes.
    pub(in crate::backend) event: &'a UsageEvent,
}

impl<'a> BatchRollup<'a> {
    pub(in crate::backend) fn new(events: &'a [UsageEvent]) -> Self {
        // Texts are compared by address first, which is cheap. Equal texts at different addresses get the same
        // hash and therefore the same series.
        let address = |text: &Arc<str>| text.as_ptr().addr();
        let mut kinds: HashMap<_, usize, RandomState> = HashMap::default();
        let mut indexes: BTreeMap<Hash, usize> = BTreeMap::new();
        let mut series: Vec<Series<'a>> = Vec::new();
        let mut of_event = Vec::with_capacity(events.len());
        let mut used = BTreeMap::new();
        for event in events {
            let kind = (
                event.key,
                event.owner.as_ref().map(address),
                address(&event.endpoint),
                event.method,
                event.status,
                event.outcome,
                event.cause,
            );
            let index = *kinds.entry(kind).or_insert_with(|| {
                let hash = hash(event);
                *indexes.entry(hash).or_insert_with(|| {
                    series.push(Series { hash, event });
                    series.len() - 1
                })
            });
            of_event.push(index);
            if let Some(key) = event.key {
                let time = as_micros(event.time);
                let last = used.entry(key).or_insert(time);
                *last = time.max(*last);
            }
        }
        // Reorder the series by hash, and map the indexes.
        let mut sorted = vec![0; series.len()];
        for (index, &unsorted) in indexes.values().enumerate() {
            sorted[unsorted] = index;
        }
        series.sort_unstable_by_key(|series| series.hash);
        for index in &mut of_event {
            *index = sorted[*index];
        }
        Self {
            series,
            series_of_event: of_event,
            last_used: used,
            events,
        }
    }

    /// The rollups of the batch by minute, given the id of each series. `None` without events.
    pub(in crate::backend) fn record(&self, ids: &[i64]) -> Option<RollupRecord> {
        let mut rollups: HashMap<(i64, i64), Amounts, RandomState> = HashMap::default();
        for (event, &series) in self.events.iter().zip(&self.series_of_event) {
            let start = floor(as_micros(event.time), MINUTE);
            let amounts = rollups.entry((start, ids[series])).or_default();
            amounts.add_event(event);
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

fn hash(event: &UsageEvent) -> Hash {
    let (http, grpc) = status_codes(event.status);
    hash_of(&[
        event.key.as_ref().map(KeyId::as_str),
        event.owner.as_deref(),
        Some(&event.endpoint),
        Some(event.method.as_str()),
        http.map(|code| code.to_string()).as_deref(),
        grpc.map(|code| code.to_string()).as_deref(),
        Some(event.outcome.as_str()),
        event.cause.map(|cause| cause.as_str()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::sql::rollup_record::rollups_of;

    #[test]
    fn equal_texts_at_different_addresses_share_a_series() {
        let times = [
            "2026-11-01T10:00:10Z",
            "2026-11-01T10:00:20Z",
            "2026-11-01T11:00:00Z",
        ];
        let mut events: Vec<_> = times
            .map(|time| UsageEvent::new(time.parse().unwrap()))
            .into();
        events[0].owner = Some("".into());
        let grouped = BatchRollup::new(&events);
        assert_eq!(grouped.series.len(), 2);
        assert_ne!(grouped.series_of_event[0], grouped.series_of_event[1]);
        assert_eq!(grouped.series_of_event[1], grouped.series_of_event[2]);
        assert!(grouped.series.is_sorted_by_key(|series| series.hash));
        for (event, &series) in events.iter().zip(&grouped.series_of_event) {
            assert_eq!(grouped.series[series].hash, hash(event));
        }
        let ids = [40, 30];
        let record = grouped.record(&ids).unwrap();
        let rollups = rollups_of(&record.bytes, |_, _| true).unwrap();
        let counts = rollups
            .iter()
            .map(|rollup| (rollup.start, rollup.amounts.count));
        let counts: Vec<_> = counts.collect();
        let [first, .., last] =
            [&events[0], &events[2]].map(|it| as_micros(it.time) / MINUTE * MINUTE);
        assert_eq!(counts, [(first, 1), (first, 1), (last, 1)]);
        let series: Vec<_> = rollups.iter().map(|rollup| rollup.series).collect();
        assert_eq!(series, [30, 40, ids[grouped.series_of_event[2]]]);
    }
}

//! A batch prepared for writing: its events grouped into series, and their rollups.
//!
//! A series is a combination of key, owner, method, endpoint, status, outcome and cause. It is stored once; events
//! and rollups reference it by id. This keeps the request log compact, and a single index on series and time
//! serves all filters.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::value::{as_micros, status_codes};
use crate::id::KeyId;
use crate::usage::{Granularity, Rollup, UsageEvent};

/// A unique key of a series: the first 128 bits of the SHA-256 of its columns. The columns themselves cannot be
/// one, since they may be `NULL` or too long for an index.
pub(in crate::backend) type Hash = [u8; 16];

/// A batch grouped into series and rollups.
#[derive(Debug)]
pub(in crate::backend) struct BatchRollup<'a> {
    /// The series, ordered by hash. All processes lock rows in this order, which prevents deadlocks.
    pub(in crate::backend) series: Vec<Series<'a>>,
    /// The index in `series` of each event.
    pub(in crate::backend) series_of_event: Vec<usize>,
    /// Rollups by minute.
    pub(in crate::backend) minutes: Vec<SeriesRollup>,
    /// Rollups by hour.
    pub(in crate::backend) hours: Vec<SeriesRollup>,
    /// Rollups by day (UTC).
    pub(in crate::backend) days: Vec<SeriesRollup>,
    /// Rollups by minute, key, owner, outcome and cause.
    pub(in crate::backend) key_minutes: Vec<KeyRollup>,
    /// Rollups by hour, key, owner, outcome and cause.
    pub(in crate::backend) key_hours: Vec<KeyRollup>,
    /// When each key was last used, in microseconds since 1970.
    pub(in crate::backend) last_used: BTreeMap<KeyId, i64>,
}

/// A series of events.
#[derive(Debug)]
pub(in crate::backend) struct Series<'a> {
    pub(in crate::backend) hash: Hash,
    /// One of its events, for the shared attributes.
    pub(in crate::backend) event: &'a UsageEvent,
}

/// The rollup of a series in a time bucket.
#[derive(Debug)]
pub(in crate::backend) struct SeriesRollup {
    /// The index of the series.
    pub(in crate::backend) series: usize,
    /// Its `start` is that of the bucket.
    pub(in crate::backend) rollup: Rollup,
}

/// The rollup of a key, owner, outcome and cause in a time bucket.
#[derive(Debug)]
pub(in crate::backend) struct KeyRollup {
    /// The hash of key, owner, outcome and cause.
    pub(in crate::backend) hash: Hash,
    /// Only `start`, key, owner, outcome, cause and the amounts are meaningful.
    pub(in crate::backend) rollup: Rollup,
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
        let minutes = rollups(events, &of_event);
        let hours = coarser(&minutes, Granularity::Hour);
        let days = coarser(&hours, Granularity::Day);
        Self {
            series,
            series_of_event: of_event,
            key_minutes: by_key(&minutes),
            key_hours: by_key(&hours),
            minutes,
            hours,
            days,
            last_used: used,
        }
    }
}

/// Rollups by minute, ordered by series and time.
fn rollups(events: &[UsageEvent], of_event: &[usize]) -> Vec<SeriesRollup> {
    let mut rollups: HashMap<(usize, i64), Rollup, RandomState> = HashMap::default();
    for (event, &series) in events.iter().zip(of_event) {
        let start = as_micros(Granularity::Minute.floor(event.time));
        rollups
            .entry((series, start))
            .and_modify(|rollup| rollup.add_event(event))
            .or_insert_with(|| Rollup::of(event, Granularity::Minute));
    }
    let rollups = rollups.into_iter();
    let mut rollups: Vec<SeriesRollup> = rollups
        .map(|((series, _), rollup)| SeriesRollup { series, rollup })
        .collect();
    rollups.sort_unstable_by_key(|sum| (sum.series, sum.rollup.start));
    rollups
}

/// Merges rollups, ordered by series and time, into wider time buckets.
fn coarser(narrow: &[SeriesRollup], width: Granularity) -> Vec<SeriesRollup> {
    let mut wide: Vec<SeriesRollup> = Vec::new();
    for SeriesRollup { series, rollup } in narrow {
        let start = width.floor(rollup.start);
        match wide.last_mut() {
            Some(last) if (last.series, last.rollup.start) == (*series, start) => {
                last.rollup.merge(rollup);
            }
            _ => wide.push(SeriesRollup {
                series: *series,
                rollup: Rollup {
                    start,
                    granularity: width,
                    ..rollup.clone()
                },
            }),
        }
    }
    wide
}

/// Merges rollups by key, owner, outcome and cause, ordered by time and hash.
fn by_key(sums: &[SeriesRollup]) -> Vec<KeyRollup> {
    let mut by_key: BTreeMap<(Timestamp, Hash), KeyRollup> = BTreeMap::new();
    for SeriesRollup { rollup, .. } in sums {
        let hash = key_hash(rollup);
        by_key
            .entry((rollup.start, hash))
            .and_modify(|sum| sum.rollup.merge(rollup))
            .or_insert_with(|| KeyRollup {
                hash,
                rollup: rollup.clone(),
            });
    }
    by_key.into_values().collect()
}

/// The hash of key, owner, outcome and cause.
fn key_hash(rollup: &Rollup) -> Hash {
    hash_of(&[
        rollup.key.as_ref().map(KeyId::as_str),
        rollup.owner.as_deref(),
        Some(rollup.outcome.as_str()),
        rollup.cause.map(|cause| cause.as_str()),
    ])
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

fn hash_of(parts: &[Option<&str>]) -> Hash {
    let mut hash = Sha256::new();
    for part in parts {
        // Length prefixes make the concatenation unambiguous.
        let length = part.map_or(u64::MAX, |text| text.len() as u64);
        hash.update(length.to_be_bytes());
        hash.update(part.unwrap_or_default());
    }
    let digest: [u8; 32] = hash.finalize().into();
    *digest.first_chunk().unwrap_or(&[0; 16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::RollupStore;

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
        for (sums, width) in [
            (grouped.minutes, Granularity::Minute),
            (grouped.hours, Granularity::Hour),
        ] {
            let sums: RollupStore = sums.into_iter().map(|sum| sum.rollup).collect();
            let expected: RollupStore = Rollup::of_events(&events, width).into_iter().collect();
            assert_eq!(sums, expected);
        }
    }
}

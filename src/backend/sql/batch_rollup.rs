//! A batch as tables take it: events with the series that they belong to, and the sums of these.
//!
//! What many events have in common (key, owner, method, endpoint, status, outcome and cause) is their
//! series. It is written once; an event and a sum have its number. That keeps the log narrow, and
//! makes one index, on series and time, serve every question about it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::value::{as_micros, status_codes};
use crate::id::KeyId;
use crate::usage::{Granularity, Rollup, UsageEvent};

/// Names a series: 128 bits of the SHA-256 over its parts. Columns that may be empty, or longer than
/// an index takes, cannot be a key themselves.
pub(in crate::backend) type Hash = [u8; 16];

/// A batch in groups.
#[derive(Debug)]
pub(in crate::backend) struct BatchRollup<'a> {
    /// In the order of their hashes, the same in every process: whoever writes several of them at
    /// once locks them in this order.
    pub(in crate::backend) series: Vec<Series<'a>>,
    /// The place in `series` of each event.
    pub(in crate::backend) of_event: Vec<usize>,
    /// Sums by the minute.
    pub(in crate::backend) minutes: Vec<Sum>,
    /// Sums by the hour.
    pub(in crate::backend) hours: Vec<Sum>,
    /// Sums by the day of UTC.
    pub(in crate::backend) days: Vec<Sum>,
    /// Sums by the minute, by key and outcome alone.
    pub(in crate::backend) key_minutes: Vec<KeySum>,
    /// Sums by the hour, by key and outcome alone.
    pub(in crate::backend) key_hours: Vec<KeySum>,
    /// When each key was last used.
    pub(in crate::backend) used: BTreeMap<KeyId, i64>,
}

/// What events of one kind have in common.
#[derive(Debug)]
pub(in crate::backend) struct Series<'a> {
    pub(in crate::backend) hash: Hash,
    /// Any of its events.
    pub(in crate::backend) event: &'a UsageEvent,
}

/// What the events of a series add up to in a bucket of time.
#[derive(Debug)]
pub(in crate::backend) struct Sum {
    /// The place of its series.
    pub(in crate::backend) series: usize,
    /// Whose `start` is the bucket's, and whose sums are these.
    pub(in crate::backend) rollup: Rollup,
}

/// What the events of a key with one outcome add up to in a bucket of time.
#[derive(Debug)]
pub(in crate::backend) struct KeySum {
    /// Names its key, owner, outcome and cause.
    pub(in crate::backend) line: Hash,
    /// Whose `start`, key, owner, outcome, cause and sums are these.
    pub(in crate::backend) rollup: Rollup,
}

impl<'a> BatchRollup<'a> {
    pub(in crate::backend) fn new(events: &'a [UsageEvent]) -> Self {
        // A text's address stands for it while the events are borrowed; equal texts at several
        // addresses come together by their hashes.
        let address = |text: &Arc<str>| text.as_ptr().addr();
        let mut kinds: HashMap<_, usize, RandomState> = HashMap::default();
        let mut places: BTreeMap<Hash, usize> = BTreeMap::new();
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
            let place = *kinds.entry(kind).or_insert_with(|| {
                let hash = hash(event);
                *places.entry(hash).or_insert_with(|| {
                    series.push(Series { hash, event });
                    series.len() - 1
                })
            });
            of_event.push(place);
            if let Some(key) = event.key {
                let time = as_micros(event.time);
                let last = used.entry(key).or_insert(time);
                *last = time.max(*last);
            }
        }
        // From the order in which they turned up to that of their hashes.
        let mut sorted = vec![0; series.len()];
        for (place, &found) in places.values().enumerate() {
            sorted[found] = place;
        }
        series.sort_unstable_by_key(|series| series.hash);
        for place in &mut of_event {
            *place = sorted[*place];
        }
        let minutes = sums(events, &of_event);
        let hours = folded(&minutes, Granularity::Hour);
        let days = folded(&hours, Granularity::Day);
        Self {
            series,
            of_event,
            key_minutes: by_key(&minutes),
            key_hours: by_key(&hours),
            minutes,
            hours,
            days,
            used,
        }
    }
}

/// Sums by the minute, ordered by series and time.
fn sums(events: &[UsageEvent], of_event: &[usize]) -> Vec<Sum> {
    let mut sums: HashMap<(usize, i64), Rollup, RandomState> = HashMap::default();
    for (event, &series) in events.iter().zip(of_event) {
        let start = as_micros(Granularity::Minute.floor(event.time));
        sums.entry((series, start))
            .and_modify(|sum| sum.add(event))
            .or_insert_with(|| Rollup::of(event, Granularity::Minute));
    }
    let sums = sums.into_iter();
    let mut sums: Vec<Sum> = sums
        .map(|((series, _), rollup)| Sum { series, rollup })
        .collect();
    sums.sort_unstable_by_key(|sum| (sum.series, sum.rollup.start));
    sums
}

/// Sums of a wider width, from narrower ones that are ordered by series and time.
fn folded(narrow: &[Sum], width: Granularity) -> Vec<Sum> {
    let mut wide: Vec<Sum> = Vec::new();
    for Sum { series, rollup } in narrow {
        let start = width.floor(rollup.start);
        match wide.last_mut() {
            Some(last) if (last.series, last.rollup.start) == (*series, start) => {
                last.rollup.merge(rollup);
            }
            _ => wide.push(Sum {
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

/// The same sums by key, owner, outcome and cause alone, ordered by time and line.
fn by_key(sums: &[Sum]) -> Vec<KeySum> {
    let mut by_key: BTreeMap<(Timestamp, Hash), KeySum> = BTreeMap::new();
    for Sum { rollup, .. } in sums {
        let line = line(rollup);
        by_key
            .entry((rollup.start, line))
            .and_modify(|sum| sum.rollup.merge(rollup))
            .or_insert_with(|| KeySum {
                line,
                rollup: rollup.clone(),
            });
    }
    by_key.into_values().collect()
}

/// Names a key, owner, outcome and cause.
fn line(rollup: &Rollup) -> Hash {
    hash_of(&[
        rollup.key.as_ref().map(KeyId::as_str),
        rollup.owner.as_deref(),
        Some(rollup.outcome.as_str()),
        rollup.cause.map(|cause| cause.as_str()),
    ])
}

/// Whether an event's id does not tell its time: it can then not be found by that.
pub(in crate::backend) fn is_apart(event: &UsageEvent) -> bool {
    millisecond_of(event.id) != Some(as_micros(event.time).div_euclid(1_000))
}

/// The millisecond since 1970 that a UUID of version 7 tells.
pub(super) fn millisecond_of(id: Uuid) -> Option<i64> {
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
        // Lengths keep apart what would read the same when put together.
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
    fn equal_texts_at_several_addresses_are_one_series() {
        let times = [
            "2026-11-01T10:00:10Z",
            "2026-11-01T10:00:20Z",
            "2026-11-01T11:00:00Z",
        ];
        let mut events: Vec<_> = times
            .map(|time| UsageEvent::at(time.parse().unwrap()))
            .into();
        events[0].owner = Some("".into());
        let grouped = BatchRollup::new(&events);
        assert_eq!(grouped.series.len(), 2);
        assert_ne!(grouped.of_event[0], grouped.of_event[1]);
        assert_eq!(grouped.of_event[1], grouped.of_event[2]);
        assert!(grouped.series.is_sorted_by_key(|series| series.hash));
        for (event, &series) in events.iter().zip(&grouped.of_event) {
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

//! The binary format of rollup records.
//!
//! A record has rollups by minute, caller and kind: those of a batch, or what is left of several records. It consists
//! of:
//!
//! - a byte with the version of the format;
//! - the CRC-32 of the rest in four bytes, least significant first;
//! - for each minute in ascending order, its start in minutes, for the first since the year 1 and for the others since
//!   the previous one, the number of its callers, and these callers;
//! - for each caller, its number minus the previous one of the minute, the number of its kinds, and these kinds;
//! - for each kind, its number minus the previous one of the caller, the count, the cost, the request and the response
//!   bytes, the number of its latency buckets, and for each bucket its index minus the previous one, and its count.
//!
//! Numbers are in LEB128 (see [`histogram`](super::histogram)).

use sqlx::Error as SqlError;

use super::engine::{Statement, Value};
use super::histogram::{pull, push};
use super::micros::MINUTE;
use super::names::Names;
use super::series_rollup::{Amounts, Series, SeriesRollup};
use super::value::{decode, timestamp};
use crate::usage::LatencyHistogram;

const VERSION: u8 = 1;
/// The condition on records that this version of the crate can read.
pub(super) const READABLE: &str = "NOT unreadable AND format <= 1";
const HEADER_LEN: usize = 5;
/// The start of the year 1, in minutes since 1970, before which there are no events.
const FIRST_MINUTE: i64 = -1_035_593_280;

/// Rollups by minute as one value.
#[derive(Debug)]
pub(in crate::backend) struct RollupRecord {
    /// The starts of the first and the last minute, in microseconds since 1970.
    pub(in crate::backend) first: i64,
    pub(in crate::backend) last: i64,
    pub(in crate::backend) bytes: Vec<u8>,
}

impl RollupRecord {
    /// Encodes rollups, which are sorted by start, caller and kind. `None` if there are none.
    pub(super) fn new(rollups: &[SeriesRollup]) -> Option<Self> {
        let (first, last) = (rollups.first()?.start, rollups.last()?.start);
        let mut bytes = Vec::with_capacity(HEADER_LEN + rollups.len() * 16);
        bytes.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
        let mut minute = FIRST_MINUTE;
        for of_minute in rollups.chunk_by(|one, other| one.start == other.start) {
            let start = of_minute.first()?.start.div_euclid(MINUTE);
            push(&mut bytes, start.saturating_sub(minute).cast_unsigned());
            minute = start;
            let callers =
                || of_minute.chunk_by(|one, other| one.series.caller == other.series.caller);
            push(&mut bytes, callers().count() as u64);
            let mut caller = 0;
            for of_caller in callers() {
                let number = of_caller.first()?.series.caller;
                push(&mut bytes, distance(caller, number));
                push(&mut bytes, of_caller.len() as u64);
                caller = number;
                let mut kind = 0;
                for rollup in of_caller {
                    push(&mut bytes, distance(kind, rollup.series.kind));
                    kind = rollup.series.kind;
                    push_amounts(&mut bytes, &rollup.amounts);
                }
            }
        }
        let checksum = crc32fast::hash(bytes.get(HEADER_LEN..)?);
        bytes
            .get_mut(1..HEADER_LEN)?
            .copy_from_slice(&checksum.to_le_bytes());
        Some(Self { first, last, bytes })
    }

    /// Inserts the record.
    pub(in crate::backend) fn insert(self, names: &Names, is_ready: bool) -> Statement {
        let insert = "INSERT INTO {prefix}rollup_records (format, ready, first, last, rollups)
            VALUES ($1, $2, $3, $4, $5)";
        Statement::new(names, insert)
            .bind(i64::from(VERSION))
            .bind(Value::Boolean(is_ready))
            .bind(Value::Time(Some(self.first)))
            .bind(Value::Time(Some(self.last)))
            .bind(Value::Bytes(Some(self.bytes)))
    }
}

/// The distance between numbers in ascending order.
fn distance(previous: i32, next: i32) -> u64 {
    next.abs_diff(previous).into()
}

fn push_amounts(bytes: &mut Vec<u8>, amounts: &Amounts) {
    let Amounts {
        count,
        cost,
        request_bytes,
        response_bytes,
        latency,
    } = amounts;
    for number in [*count, *cost, *request_bytes, *response_bytes] {
        push(bytes, number);
    }
    push(bytes, latency.buckets().count() as u64);
    let mut last = 0;
    for (bucket, count) in latency.buckets() {
        push(bytes, (bucket - last) as u64);
        push(bytes, count);
        last = bucket;
    }
}

/// Decodes the rollups of a record that are wanted, by caller and start.
///
/// # Errors
///
/// If it is damaged, or if a later version of the crate has written it.
pub(super) fn rollups_of(
    record: &[u8],
    is_wanted: impl Fn(i32, i64) -> bool,
) -> Result<Vec<SeriesRollup>, SqlError> {
    let mut rollups = Vec::new();
    let wanted = |caller, start| is_wanted(caller, start).then_some(());
    for_each_rollup(record, wanted, |(), rollup| rollups.push(rollup))?;
    Ok(rollups)
}

/// Calls a function with each rollup of the callers that are found by their number and the start, and with what was
/// found; also with those before the place of an error.
pub(super) fn for_each_rollup<T: Copy>(
    record: &[u8],
    find: impl FnMut(i32, i64) -> Option<T>,
    mut use_rollup: impl FnMut(T, SeriesRollup),
) -> Result<(), SqlError> {
    for_each(record, find, amounts, |found, series, start, amounts| {
        let rollup = SeriesRollup {
            series,
            start,
            amounts,
        };
        use_rollup(found, rollup);
    })
}

/// Calls a function with the kind and the sums of each rollup of the callers that are found, and with what was found.
pub(super) fn for_each_sums<T: Copy>(
    record: &[u8],
    find: impl FnMut(i32, i64) -> Option<T>,
    mut use_sums: impl FnMut(T, i32, &Sums),
) -> Result<(), SqlError> {
    for_each(record, find, sums, |found, series, _, sums| {
        use_sums(found, series.kind, &sums);
    })
}

/// [`Amounts`] without latencies.
pub(super) struct Sums {
    pub(super) count: u64,
    pub(super) cost: u64,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
}

fn for_each<T: Copy, A>(
    record: &[u8],
    find: impl FnMut(i32, i64) -> Option<T>,
    pull_amounts: impl Fn(&mut &[u8]) -> Option<A>,
    use_amounts: impl FnMut(T, Series, i64, A),
) -> Result<(), SqlError> {
    let damaged = || decode("damaged rollup record");
    let (header, mut bytes) = record.split_at_checked(HEADER_LEN).ok_or_else(damaged)?;
    let [version, checksum @ ..] = header else {
        return Err(damaged());
    };
    if *version != VERSION {
        return Err(decode(format!("rollup record of version {version}")));
    }
    if *checksum != crc32fast::hash(bytes).to_le_bytes() {
        return Err(damaged());
    }
    read(&mut bytes, find, pull_amounts, use_amounts).ok_or_else(damaged)
}

fn read<T: Copy, A>(
    bytes: &mut &[u8],
    mut find: impl FnMut(i32, i64) -> Option<T>,
    pull_amounts: impl Fn(&mut &[u8]) -> Option<A>,
    mut use_amounts: impl FnMut(T, Series, i64, A),
) -> Option<()> {
    let mut minute = FIRST_MINUTE;
    while !bytes.is_empty() {
        minute = minute.checked_add(pull(bytes)?.try_into().ok()?)?;
        let start = minute.checked_mul(MINUTE)?;
        timestamp(start).ok()?;
        let mut caller: i32 = 0;
        for _ in 0..pull(bytes)? {
            caller = caller.checked_add(pull(bytes)?.try_into().ok()?)?;
            let found = find(caller, start);
            let mut kind: i32 = 0;
            for _ in 0..pull(bytes)? {
                kind = kind.checked_add(pull(bytes)?.try_into().ok()?)?;
                if let Some(found) = found {
                    let amounts = pull_amounts(bytes)?;
                    use_amounts(found, Series { caller, kind }, start, amounts);
                } else {
                    sums(bytes)?;
                }
            }
        }
    }
    Some(())
}

fn amounts(bytes: &mut &[u8]) -> Option<Amounts> {
    let mut latency = LatencyHistogram::new();
    let sums = pull_sums(bytes, |bucket, count| latency.add_to_bucket(bucket, count))?;
    Some(Amounts {
        count: sums.count,
        cost: sums.cost,
        request_bytes: sums.request_bytes,
        response_bytes: sums.response_bytes,
        latency,
    })
}

#[inline]
fn sums(bytes: &mut &[u8]) -> Option<Sums> {
    pull_sums(bytes, |bucket, _| {
        LatencyHistogram::has_bucket(bucket).then_some(())
    })
}

/// Reads sums, and calls a function with each latency bucket and its count.
#[inline]
fn pull_sums(
    bytes: &mut &[u8],
    mut add_to_bucket: impl FnMut(usize, u64) -> Option<()>,
) -> Option<Sums> {
    let sums = Sums {
        count: pull(bytes)?,
        cost: pull(bytes)?,
        request_bytes: pull(bytes)?,
        response_bytes: pull(bytes)?,
    };
    let mut bucket: usize = 0;
    for _ in 0..pull(bytes)? {
        bucket = bucket.checked_add(pull(bytes)?.try_into().ok()?)?;
        add_to_bucket(bucket, pull(bytes)?)?;
    }
    Some(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::MIN_TIME;
    use proptest::prelude::*;

    fn amounts() -> impl Strategy<Value = Amounts> {
        let number = || prop_oneof![0..300_u64, Just(i64::MAX as u64)];
        let latencies = proptest::collection::vec(prop_oneof![0..5_000_u64, any::<u64>()], 0..9);
        (number(), number(), number(), number(), latencies).prop_map(
            |(count, cost, request_bytes, response_bytes, latencies)| Amounts {
                count,
                cost,
                request_bytes,
                response_bytes,
                latency: latencies.into_iter().collect(),
            },
        )
    }

    fn rollups() -> impl Strategy<Value = Vec<SeriesRollup>> {
        let first = MIN_TIME.as_microsecond().div_euclid(MINUTE);
        let last = jiff::Timestamp::MAX.as_microsecond().div_euclid(MINUTE);
        let minute = prop_oneof![0..3_i64, first..=last, Just(first), Just(last)];
        let number = || prop_oneof![0..9_i32, 0..=i32::MAX];
        let key = (minute, number(), number());
        proptest::collection::btree_map(key, amounts(), 0..40).prop_map(|all| {
            all.into_iter()
                .map(|((minute, caller, kind), amounts)| SeriesRollup {
                    series: Series { caller, kind },
                    start: minute * MINUTE,
                    amounts,
                })
                .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn records_round_trip(rollups in rollups()) {
            match RollupRecord::new(&rollups) {
                None => prop_assert!(rollups.is_empty()),
                Some(record) => {
                    let starts = rollups.iter().map(|rollup| rollup.start);
                    prop_assert_eq!(starts.clone().min(), Some(record.first));
                    prop_assert_eq!(starts.max(), Some(record.last));
                    prop_assert_eq!(&rollups_of(&record.bytes, |_, _| true).unwrap(), &rollups);
                    let is_wanted = |caller, start| caller % 2 == 1 && start >= 0;
                    let found = rollups_of(&record.bytes, is_wanted).unwrap();
                    let wanted = rollups.into_iter().filter(|it| is_wanted(it.series.caller, it.start));
                    prop_assert_eq!(found, wanted.collect::<Vec<_>>());
                }
            }
        }

        #[test]
        fn damaged_records_are_errors(
            rollups in rollups(),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u32,
        ) {
            prop_assume!(!rollups.is_empty());
            let mut record = RollupRecord::new(&rollups).unwrap().bytes;
            let index = at.index(record.len());
            record[index] ^= 1_u8 << bit;
            prop_assert!(rollups_of(&record, |_, _| true).is_err());
            record.truncate(index);
            prop_assert!(rollups_of(&record, |_, _| true).is_err());
        }

        #[test]
        fn any_bytes_with_a_valid_checksum_are_decoded_or_an_error(
            rest in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut record = vec![VERSION];
            record.extend_from_slice(&crc32fast::hash(&rest).to_le_bytes());
            record.extend_from_slice(&rest);
            let _ = rollups_of(&record, |caller, _| caller % 2 == 0);
        }
    }

    #[test]
    fn records_of_later_versions_are_errors_that_name_the_version() {
        let error = rollups_of(&[7, 0, 0, 0, 0, 1], |_, _| true)
            .unwrap_err()
            .to_string();
        assert!(error.contains("version 7"), "{error}");
    }
}

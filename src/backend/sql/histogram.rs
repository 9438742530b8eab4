//! Latencies in a column.
//!
//! A histogram is written as pairs of numbers, each in LEB128 as DWARF defines it (seven bits a byte,
//! the lowest first, the highest bit set where another byte follows): the bucket's place counted from
//! 1, and how many latencies it has. What makes this form worth having is that two of them, one behind
//! the other, are their sum: databases add them up by joining bytes. Neither number is ever zero, so
//! that no byte is.

use sqlx::Error as SqlError;

use super::value::decode;
use crate::usage::LatencyHistogram;

pub(in crate::backend) fn to_bytes(histogram: &LatencyHistogram) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    for (bucket, count) in histogram.buckets() {
        push(&mut bytes, bucket as u64 + 1);
        push(&mut bytes, count);
    }
    bytes
}

/// Reads one histogram, or the sum of several that stand one behind the other.
pub(in crate::backend) fn from_bytes(mut bytes: &[u8]) -> Result<LatencyHistogram, SqlError> {
    let pair = || {
        if bytes.is_empty() {
            return None;
        }
        let pair = pull(&mut bytes).zip(pull(&mut bytes));
        let pair = pair.and_then(|(place, count)| Some((place.checked_sub(1)? as usize, count)));
        Some(pair.ok_or_else(|| decode("half a histogram")))
    };
    let histogram = LatencyHistogram::from_buckets(pair)?;
    histogram.ok_or_else(|| decode("a histogram of another kind"))
}

fn push(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn pull(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_histogram_is_an_error() {
        for bytes in [
            &b"\x01"[..],
            b"\x80",
            b"\x00\x01",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01",
            b"\xff\x7f\x01",
        ] {
            assert!(from_bytes(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn one_behind_the_other_is_the_sum(
            a in proptest::collection::vec(any::<u64>(), 0..50),
            b in proptest::collection::vec(0..100_000_u64, 0..50),
        ) {
            let of = |all: &[u64]| all.iter().copied().collect::<LatencyHistogram>();
            let joined = [to_bytes(&of(&a)), to_bytes(&of(&b))].concat();
            prop_assert!(!joined.contains(&0));
            let sum = of(&[a, b].concat());
            prop_assert_eq!(from_bytes(&joined).unwrap(), sum);
        }
    }
}

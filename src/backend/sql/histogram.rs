//! The binary format of latency histograms in the database.
//!
//! A histogram is a sequence of pairs of unsigned LEB128 numbers as defined by DWARF (seven bits per byte, least
//! significant first, with the highest bit set on all bytes but the last): a bucket index counted from 1, and its
//! count. The database merges histograms by concatenating their bytes. Neither number is ever zero, so no byte is
//! zero.

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

/// Decodes a histogram, or several concatenated ones into their sum.
pub(in crate::backend) fn from_bytes(mut bytes: &[u8]) -> Result<LatencyHistogram, SqlError> {
    let pair = || {
        if bytes.is_empty() {
            return None;
        }
        let pair = pull(&mut bytes).zip(pull(&mut bytes));
        let pair = pair.and_then(|(index, count)| Some((index.checked_sub(1)? as usize, count)));
        Some(pair.ok_or_else(|| decode("malformed histogram")))
    };
    let histogram = LatencyHistogram::from_buckets(pair)?;
    histogram.ok_or_else(|| decode("histogram bucket out of range"))
}

pub(super) fn push(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[inline]
pub(super) fn pull(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    *bytes = rest;
    // Most numbers are small.
    if first & 0x80 == 0 {
        return Some(first.into());
    }
    let mut number = u64::from(first & 0x7f);
    for shift in (7..64).step_by(7) {
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
    fn malformed_histograms_are_errors() {
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
        fn concatenated_histograms_are_their_sum(
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

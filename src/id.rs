//! Key ids, and time-ordered UUIDs for events.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::parse_error::ParseError;

/// The digits of base62 in the order of their values: `0-9A-Za-z`.
pub(crate) const BASE62: &[u8; 62] =
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Whether all bytes are base62 digits. Does not stop at the first mismatch, which is faster for the short
/// inputs here.
#[inline]
pub(crate) fn is_base62(text: &[u8]) -> bool {
    text.iter()
        .fold(true, |all, digit| all & digit.is_ascii_alphanumeric())
}

/// The public part of a secret and the primary key of its record: sixteen base62 digits (95 bits).
///
/// Safe to log, display and put into URLs: it grants no access.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; Self::LEN]);

impl KeyId {
    /// The number of digits in a key id.
    pub const LEN: usize = 16;

    /// Parses exactly sixteen base62 digits.
    pub(crate) fn from_digits(digits: &[u8]) -> Option<Self> {
        let digits: [u8; Self::LEN] = digits.try_into().ok()?;
        is_base62(&digits).then_some(Self(digits))
    }

    /// Derives an id from a SHA-256 digest: the sixteen lowest base62 digits of its first half.
    pub(crate) fn from_sha256(digest: &[u8; 32]) -> Self {
        let half: &[u8; 16] = digest.first_chunk().unwrap_or(&[0; 16]);
        Self::from_number(u128::from_be_bytes(*half))
    }

    /// Encodes a number as an id: its sixteen lowest base62 digits.
    pub(crate) fn from_number(mut number: u128) -> Self {
        let mut digits = [0; Self::LEN];
        for digit in digits.iter_mut().rev() {
            *digit = BASE62[(number % 62) as usize];
            number /= 62;
        }
        Self(digits)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

const INVALID: ParseError = ParseError::new("invalid key id: expected 16 base62 digits");

impl FromStr for KeyId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_digits(text.as_bytes()).ok_or(INVALID)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A version 7 UUID (RFC 9562) for a time in microseconds since the Unix epoch.
///
/// Its 74 random bits come from a thread-local generator seeded by the operating system.
pub(crate) fn uuid_at(micros: i64) -> Uuid {
    thread_local! {
        static RANDOM: std::cell::RefCell<fastrand::Rng> =
            std::cell::RefCell::new(getrandom::u64().map_or_else(
                |_| fastrand::Rng::new(),
                fastrand::Rng::with_seed,
            ));
    }
    let random = RANDOM.with_borrow_mut(|random| random.u128(..));
    let bytes = random.to_ne_bytes();
    let tail: &[u8; 10] = bytes.first_chunk().unwrap_or(&[0; 10]);
    let millis = u64::try_from(micros / 1_000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, tail).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_id_round_trips_through_text() {
        let id: KeyId = "3fK9aB0000zzZZ19".parse().unwrap();
        assert_eq!(id.to_string(), "3fK9aB0000zzZZ19");
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"3fK9aB0000zzZZ19\"");
        let back: KeyId = serde_json::from_str("\"3fK9aB0000zzZZ19\"").unwrap();
        assert_eq!(back, id);
    }

    #[test]
    fn invalid_key_ids_are_rejected() {
        for text in [
            "",
            "3fK9",
            "3fK9aB0000zzZZ1_",
            "3fK9aB0000zzZZ19a",
            "ééééffff",
        ] {
            assert_eq!(text.parse::<KeyId>(), Err(INVALID), "{text}");
        }
    }

    #[test]
    fn numbers_are_encoded_in_base62() {
        assert_eq!(KeyId::from_number(0).as_str(), "0000000000000000");
        assert_eq!(KeyId::from_number(61 + 62).as_str(), "000000000000001z");
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow under Miri")]
    fn uuids_are_version_7_and_unique() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            let id = uuid_at(1_700_000_000_123_456);
            assert_eq!(id.get_version_num(), 7);
            assert_eq!(
                id.get_timestamp().unwrap().to_unix(),
                (1_700_000_000, 123_000_000)
            );
            assert!(seen.insert(id));
        }
    }
}

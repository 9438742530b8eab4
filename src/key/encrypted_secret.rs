//! A secret that was encrypted, as a store keeps it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The encrypted secret of a [recoverable](super::Key::recoverable) key: bytes that nobody can make
/// anything of without the application's encryption key.
///
/// An [`Issuer`](super::Issuer) that has a vault makes and opens them; their form is that of `Vault`, and
/// nothing to a store. As text, they are hexadecimal digits. `Debug` shows how many bytes there are.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptedSecret(Box<[u8]>);

impl EncryptedSecret {
    /// The bytes that a store has kept.
    pub fn from_bytes(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes for a store to keep.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for EncryptedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptedSecret({} bytes)", self.0.len())
    }
}

impl Serialize for EncryptedSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Hex<'a>(&'a [u8]);
        impl fmt::Display for Hex<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        serializer.collect_str(&Hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for EncryptedSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let (pairs, rest) = text.as_bytes().as_chunks();
        let digit = |b: u8| char::from(b).to_digit(16);
        let byte = |[high, low]: &[u8; 2]| Some((digit(*high)? * 16 + digit(*low)?) as u8);
        let bytes = pairs.iter().map(byte).collect::<Option<Box<[u8]>>>();
        bytes
            .filter(|_| rest.is_empty())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("not pairs of hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_secrets_round_trip_as_text() {
        let sealed = EncryptedSecret::from_bytes([0, 1, 0xab, 0xff]);
        let json = serde_json::to_string(&sealed).unwrap();
        assert_eq!(json, r#""0001abff""#);
        assert_eq!(
            serde_json::from_str::<EncryptedSecret>(&json).unwrap(),
            sealed
        );
        for text in ["0", "0g", "000", "é", "+1", " 1"] {
            let json = serde_json::to_string(text).unwrap();
            assert!(
                serde_json::from_str::<EncryptedSecret>(&json).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn rule_1_debug_shows_no_byte() {
        let sealed = EncryptedSecret::from_bytes(vec![0xab; 128]);
        assert_eq!(format!("{sealed:?}"), "EncryptedSecret(128 bytes)");
    }
}

//! Encrypted secrets, as held by stores.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The encrypted secret of a [recoverable](super::Key::recoverable) key. Useless without the encryption key of the
/// application.
///
/// An [`Issuer`](super::Issuer) with a vault encrypts and decrypts it. The format is that of `Vault`; for a store,
/// the bytes are opaque. Serialized as hexadecimal digits. `Debug` shows only the number of bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptedSecret(Box<[u8]>);

impl EncryptedSecret {
    /// An encrypted secret from the bytes in a store.
    pub fn from_bytes(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes to store.
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
        bytes.filter(|_| rest.is_empty()).map(Self).ok_or_else(|| {
            serde::de::Error::custom("expected an even number of hexadecimal digits")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encrypted_secrets_round_trip_as_text() {
        let encrypted = EncryptedSecret::from_bytes([0, 1, 0xab, 0xff]);
        let json = serde_json::to_string(&encrypted).unwrap();
        assert_eq!(json, r#""0001abff""#);
        assert_eq!(
            serde_json::from_str::<EncryptedSecret>(&json).unwrap(),
            encrypted
        );
        for text in ["0", "0g", "000", "é", "+1", " 1"] {
            let json = serde_json::to_string(text).unwrap();
            assert!(
                serde_json::from_str::<EncryptedSecret>(&json).is_err(),
                "{text}"
            );
        }
    }

    mod secret_confidentiality {
        use super::*;

        #[test]
        fn debug_output_has_no_bytes() {
            let encrypted = EncryptedSecret::from_bytes(vec![0xab; 128]);
            assert_eq!(format!("{encrypted:?}"), "EncryptedSecret(128 bytes)");
        }
    }
}

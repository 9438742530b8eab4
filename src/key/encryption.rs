//! Encryption of recoverable secrets.
//!
//! ```text
//!  1 byte   24 bytes      length of the secret       16 bytes
//! ╭───────╮╭────────╮╭───────────────────────────╮╭────────╮
//! │ 0x01  ││ nonce  ││        ciphertext         ││  tag   │
//! ╰───────╯╰────────╯╰───────────────────────────╯╰────────╯
//! ```
//!
//! XChaCha20-Poly1305
//! ([draft-irtf-cfrg-xchacha](https://datatracker.ietf.org/doc/html/draft-irtf-cfrg-xchacha-03)), whose nonces are
//! long enough to be random. The first byte is the version. Version and key id are the associated data, so that a
//! ciphertext cannot be decrypted for another key.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::encoded::decode;
use super::encrypted_secret::EncryptedSecret;
use super::secret::Secret;
use crate::id::KeyId;
use crate::invalid_config::InvalidConfig;

const VERSION: u8 = 1;
const NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;

/// The encryption keys of the application. The first encrypts new secrets; all decrypt the secrets encrypted with
/// them.
///
/// Pass a vault to [`Issuer::vault`](super::Issuer::vault) to issue [recoverable](super::NewKey::recoverable)
/// keys. Database and encryption key together reveal the secrets: keep the key in the environment or a secret
/// manager, never in the database or its backups.
///
/// Parsed from 64 hexadecimal digits, or from base64 in the standard or URL-safe alphabet, with or without
/// padding. Generate a key with `openssl rand -base64 32`. `Debug` shows nothing of the keys, and their memory is
/// zeroed on drop.
///
/// To replace the encryption key, make the old one a [previous key](Self::with_previous_key); remove it when all
/// its recoverable keys are rotated, revoked or deleted.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::env::var;
///
/// use keytally::key::Vault;
///
/// let mut vault: Vault = var("ENCRYPTION_KEY")?.parse()?;
/// if let Ok(previous) = var("PREVIOUS_ENCRYPTION_KEY") {
///     vault = vault.with_previous_key(previous.parse()?);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Vault(Vec<Arc<XChaCha20Poly1305>>);

impl Vault {
    /// A vault with this encryption key: 32 random bytes, not a password.
    pub fn new(key: [u8; 32]) -> Self {
        let key = Zeroizing::new(key);
        Self(vec![Arc::new(XChaCha20Poly1305::new((&*key).into()))])
    }

    /// Also decrypts secrets encrypted with these keys. They do not encrypt new secrets.
    #[must_use]
    pub fn with_previous_key(mut self, previous: Self) -> Self {
        self.0.extend(previous.0);
        self
    }

    /// Encrypts a secret for its key, with a random nonce.
    pub(super) fn encrypt(&self, secret: &Secret) -> Result<EncryptedSecret, getrandom::Error> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce)?;
        Ok(self.encrypt_with(nonce, secret.id(), secret.expose()))
    }

    pub(super) fn encrypt_with(
        &self,
        nonce: [u8; NONCE_LEN],
        id: KeyId,
        text: &str,
    ) -> EncryptedSecret {
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + NONCE_LEN + text.len() + TAG_LEN));
        bytes.push(VERSION);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(text.as_bytes());
        let buffer = &mut bytes[1 + NONCE_LEN..];
        let tag = self.0[0]
            .encrypt_inout_detached(&XNonce::from(nonce), &associated_data(id), buffer.into())
            .unwrap_or_else(|_| unreachable!("secrets are shorter than 256 GiB"));
        bytes.extend_from_slice(&tag);
        EncryptedSecret::from_bytes(&bytes[..])
    }

    /// Decrypts the secret of a key. `None` if it was encrypted for another key, with an unknown encryption key or
    /// in another format, or was modified.
    pub(super) fn decrypt(
        &self,
        encrypted: &EncryptedSecret,
        id: KeyId,
    ) -> Option<Zeroizing<String>> {
        let (&version, rest) = encrypted.as_bytes().split_first()?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (text, tag) = rest.split_last_chunk::<TAG_LEN>()?;
        if version != VERSION {
            return None;
        }
        let (nonce, tag) = (XNonce::from(*nonce), Tag::from(*tag));
        self.0.iter().find_map(|cipher| {
            let mut text = Zeroizing::new(text.to_vec());
            cipher
                .decrypt_inout_detached(&nonce, &associated_data(id), (&mut text[..]).into(), &tag)
                .ok()?;
            Some(Zeroizing::new(str::from_utf8(&text).ok()?.to_owned()))
        })
    }
}

/// The associated data: version and key id.
fn associated_data(id: KeyId) -> [u8; 1 + KeyId::LEN] {
    let mut data = [VERSION; 1 + KeyId::LEN];
    data[1..].copy_from_slice(id.as_str().as_bytes());
    data
}

impl FromStr for Vault {
    type Err = InvalidConfig;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decode(text.as_bytes())
            .map(Self::new)
            .ok_or(InvalidConfig::new(
                "encryption key",
                "32 bytes: 64 hexadecimal digits, or 43 characters of base64",
            ))
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(..)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::Prefix;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn vault() -> Vault {
        Vault::new(std::array::from_fn(|index| index as u8))
    }

    fn other() -> Vault {
        Vault::new([7; 32])
    }

    fn secret() -> Secret {
        Secret::generate(&Prefix::new("acme_live").unwrap()).unwrap()
    }

    fn decrypted(vault: &Vault, encrypted: &EncryptedSecret, id: KeyId) -> Option<String> {
        vault.decrypt(encrypted, id).map(|text| text.to_string())
    }

    #[test]
    fn secrets_are_encrypted_in_the_documented_format() {
        // Encrypted with libsodium.
        let bytes = "404142434445464748494a4b4c4d4e4f5051525354555657\
            b55a68158f8c1060eaabb4d8e4a504c6e38a9a887e0124a83a54c82d5f6071fb\
            2e8a5b1464d0ea419c86be384dafec9ede023c8a2ce1f1faf19439824aea3e2e\
            52e2046288ed7884b23fc668f113ce8e";
        let json = format!("\"01{bytes}\"");
        let known: EncryptedSecret = serde_json::from_str(&json).unwrap();
        let text = "acme_live_3fK9aTq07LmXw2Pe5hVdRk8sYz1BnQc4JtGu6oEiAbCdEfGh1vYXrz";
        let id = Secret::parse(text).unwrap().id();
        let nonce = std::array::from_fn(|index| index as u8 + 64);
        assert_eq!(vault().encrypt_with(nonce, id, text), known);
        assert_eq!(decrypted(&vault(), &known, id).as_deref(), Some(text));
    }

    #[test]
    fn encryption_round_trips_and_is_not_deterministic() {
        let secret = secret();
        let [first, second] = [(); 2].map(|()| vault().encrypt(&secret).unwrap());
        assert_ne!(first, second);
        for encrypted in [first, second] {
            let text = decrypted(&vault(), &encrypted, secret.id());
            assert_eq!(text.as_deref(), Some(secret.expose()));
        }
    }

    #[test]
    fn encrypted_secret_does_not_decrypt_for_another_key() {
        let [first, second] = [secret(), secret()];
        let encrypted = vault().encrypt(&first).unwrap();
        assert_eq!(decrypted(&vault(), &encrypted, second.id()), None);
    }

    #[test]
    fn previous_keys_decrypt_but_do_not_encrypt() {
        let secret = secret();
        let id = secret.id();
        let before = vault().encrypt(&secret).unwrap();
        assert_eq!(decrypted(&other(), &before, id), None);
        let both = other().with_previous_key(vault());
        assert!(decrypted(&both, &before, id).is_some());
        let after = both.encrypt(&secret).unwrap();
        assert_eq!(decrypted(&vault(), &after, id), None);
        assert!(decrypted(&other(), &after, id).is_some());
        let three = Vault::new([8; 32]).with_previous_key(both);
        assert!(decrypted(&three, &before, id).is_some());
        assert!(decrypted(&three, &after, id).is_some());
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow under Miri")]
    fn modified_encrypted_secret_does_not_decrypt() {
        let secret = secret();
        let encrypted = vault().encrypt(&secret).unwrap();
        let bytes = encrypted.as_bytes();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.to_vec();
                changed[at] ^= 1 << bit;
                let changed = EncryptedSecret::from_bytes(changed);
                assert_eq!(
                    decrypted(&vault(), &changed, secret.id()),
                    None,
                    "{at}.{bit}"
                );
            }
            let cut = EncryptedSecret::from_bytes(&bytes[..at]);
            assert_eq!(decrypted(&vault(), &cut, secret.id()), None, "{at}");
        }
        let longer = EncryptedSecret::from_bytes([bytes, &[0]].concat());
        assert_eq!(decrypted(&vault(), &longer, secret.id()), None);
    }

    #[test]
    fn encryption_keys_parse_from_hexadecimal_and_base64() {
        let secret = secret();
        let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
        for text in [HEX, &HEX.to_uppercase(), base64, &format!("{base64}=")] {
            let encrypted = text.parse::<Vault>().unwrap().encrypt(&secret).unwrap();
            assert!(
                decrypted(&vault(), &encrypted, secret.id()).is_some(),
                "{text}"
            );
        }
        // The alphabets differ in their last two digits.
        let encrypted = Vault::new([0xfb, 0xff, 0xfe].repeat(11)[..32].try_into().unwrap())
            .encrypt(&secret)
            .unwrap();
        for digits in ["+//+", "-__-"] {
            let text = format!("{}{}8=", digits.repeat(10), &digits[..2]);
            let vault = text.parse::<Vault>().unwrap();
            assert!(
                decrypted(&vault, &encrypted, secret.id()).is_some(),
                "{text}"
            );
        }
    }

    #[test]
    fn malformed_encryption_keys_are_rejected() {
        let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        for text in [
            "",
            "correct horse battery staple",
            &HEX[1..],
            &HEX[2..],
            &format!("{HEX}0"),
            &format!("{HEX}00"),
            &format!("0x{}", &HEX[2..]),
            &format!("{HEX}\n"),
            &format!("{}g", &HEX[1..]),
            &format!("{base64}="),
            &format!("{base64}\n"),
            &format!(" {base64}"),
            &base64[1..],
            &base64[..42],
            &format!("A{base64}"),
            &base64.replace('8', "9"),
            &base64.replace("AA", "A*"),
            &base64.replace("AA", "é"),
        ] {
            let error = text.parse::<Vault>().unwrap_err();
            assert_eq!(error.field, "encryption key", "{text}");
        }
    }

    mod secret_confidentiality {
        use super::*;

        #[test]
        fn debug_output_has_no_encryption_key() {
            assert_eq!(
                format!("{:?}", vault().with_previous_key(other())),
                "Vault(..)"
            );
            assert_eq!(format!("{:#?}", vault()), "Vault(..)");
        }
    }

    proptest! {
        #[test]
        fn decrypting_arbitrary_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let id = secret().id();
            prop_assert_eq!(decrypted(&vault(), &EncryptedSecret::from_bytes(bytes), id), None);
        }
    }
}

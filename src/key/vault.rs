//! Encrypts secrets that are to be read again.
//!
//! ```text
//!  1 byte   24 bytes   as many as the secret has   16 bytes
//! ╭───────╮╭────────╮╭───────────────────────────╮╭────────╮
//! │ 0x01  ││ nonce  ││        ciphertext         ││  tag   │
//! ╰───────╯╰────────╯╰───────────────────────────╯╰────────╯
//! ```
//!
//! XChaCha20-Poly1305 ([draft-irtf-cfrg-xchacha](https://datatracker.ietf.org/doc/html/draft-irtf-cfrg-xchacha-03)),
//! whose nonces are long enough to be random. The version in front and the id of the key are its
//! associated data: what was sealed for one key cannot be opened for another.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::digest::from_hex;
use super::sealed::Sealed;
use super::token::Secret;
use crate::id::KeyId;

const VERSION: u8 = 1;
const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;

/// The application's encryption keys: the first seals new secrets, every one opens those that were
/// sealed under it.
///
/// Give it to an [`Issuer`](super::Issuer::vault), and secrets can be read again where a key
/// [is to be so](super::NewKey::recoverable). Who has both the database and the encryption key has the
/// secrets: keep them apart, the key in the environment or a secret manager, never in the database or
/// its backups.
///
/// As text, an encryption key is 64 hexadecimal digits, or base64 in either alphabet, with or without
/// `=` at its end. `openssl rand -base64 32` makes one. `Debug` shows nothing of it, and the memory is
/// wiped on drop.
///
/// To change the encryption key, put the new one first; when every recoverable key was rotated, revoked
/// or deleted, drop the old one.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use keytally::key::Vault;
///
/// let new: Vault = "hOMcXDiPX0sR3aGV8yEMjYc2Hh1Qb3m4V9zv7o7yq1E=".parse()?;
/// let vault = new.also("84e31c5c388f5f4b11dda195f3210c8d87361e1d506f79b857dcefee8ef2ab51".parse()?);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Vault(Vec<Arc<XChaCha20Poly1305>>);

/// A text that is not an encryption key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an encryption key is 32 bytes: 64 hexadecimal digits, or 43 of base64")]
pub struct InvalidVaultKey;

impl Vault {
    /// A vault with this encryption key: 32 random bytes, not a password.
    pub fn new(key: [u8; 32]) -> Self {
        let key = Zeroizing::new(key);
        Self(vec![Arc::new(XChaCha20Poly1305::new((&*key).into()))])
    }

    /// Opens what was sealed under these keys too; seals nothing under them.
    #[must_use]
    pub fn also(mut self, old: Self) -> Self {
        self.0.extend(old.0);
        self
    }

    /// Seals a secret for the key that it belongs to.
    pub(super) fn seal(&self, secret: &Secret) -> Result<Sealed, getrandom::Error> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce)?;
        Ok(self.seal_with(nonce, secret.id(), secret.expose()))
    }

    fn seal_with(&self, nonce: [u8; NONCE_LEN], id: KeyId, text: &str) -> Sealed {
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + NONCE_LEN + text.len() + TAG_LEN));
        bytes.push(VERSION);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(text.as_bytes());
        let buffer = &mut bytes[1 + NONCE_LEN..];
        let tag = self.0[0]
            .encrypt_inout_detached(&XNonce::from(nonce), &associated(id), buffer.into())
            .unwrap_or_else(|_| unreachable!("a secret is far shorter than 256 GiB"));
        bytes.extend_from_slice(&tag);
        Sealed::from_bytes(&bytes[..])
    }

    /// Opens what was sealed for this key. `None` if that is not what it is: sealed for another key,
    /// under an encryption key that is not here, in another form, or changed since.
    pub(super) fn open(&self, sealed: &Sealed, id: KeyId) -> Option<Zeroizing<String>> {
        let (&version, rest) = sealed.as_bytes().split_first()?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (text, tag) = rest.split_last_chunk::<TAG_LEN>()?;
        if version != VERSION {
            return None;
        }
        let (nonce, tag) = (XNonce::from(*nonce), Tag::from(*tag));
        self.0.iter().find_map(|cipher| {
            let mut text = Zeroizing::new(text.to_vec());
            cipher
                .decrypt_inout_detached(&nonce, &associated(id), (&mut text[..]).into(), &tag)
                .ok()?;
            Some(Zeroizing::new(str::from_utf8(&text).ok()?.to_owned()))
        })
    }
}

/// What is not encrypted but has to be the same again.
fn associated(id: KeyId) -> [u8; 1 + KeyId::LEN] {
    let mut data = [VERSION; 1 + KeyId::LEN];
    data[1..].copy_from_slice(id.as_str().as_bytes());
    data
}

impl FromStr for Vault {
    type Err = InvalidVaultKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let key = from_hex(text).or_else(|| from_base64(text));
        key.map(Self::new).ok_or(InvalidVaultKey)
    }
}

/// 32 bytes in base64 ([RFC 4648](https://www.rfc-editor.org/rfc/rfc4648#section-4)) in either alphabet.
fn from_base64(text: &str) -> Option<[u8; KEY_LEN]> {
    let digits = text.strip_suffix('=').unwrap_or(text).as_bytes();
    if digits.len() != 43 {
        return None;
    }
    let mut key = Zeroizing::new([0; KEY_LEN]);
    // Bits that were read and are not yet written.
    let (mut bits, mut count) = (0u32, 0);
    let mut bytes = key.iter_mut();
    for &digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            *bytes.next()? = (bits >> count) as u8;
            bits &= (1 << count) - 1;
        }
    }
    // Two bits are left over: others than zeros would be another text for the same key.
    (bits == 0).then_some(*key)
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(..)")
    }
}

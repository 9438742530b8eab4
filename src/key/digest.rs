//! Digests of secrets, and their verification.
//!
//! A digest is the SHA-256 of the whole secret, or its HMAC-SHA-256 under a pepper: a value that the application
//! keeps outside the database, so that a stolen database alone cannot be used to verify guesses. A slow password
//! hash adds nothing, because 190 random bits cannot be brute-forced, but it would cost time on every request.
//!
//! A pepper protects the digest only. The id of a key imported from its secret, or with a plain SHA-256, is 95 bits of
//! that SHA-256, which is enough to brute-force a guessable secret.

use std::array;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::encoded::{decode, from_hex};
use crate::id::KeyId;
use crate::invalid_config::InvalidConfig;
use crate::parse_error::ParseError;

/// The digest of a secret, as held by a store.
///
/// As text: `sha256:<hex>`, `hmac-sha256:<pepper>:<hex>`, `sha512:<hex>` with the first 32 bytes of the SHA-512, or
/// `password-hash:<hash>` for keys that were imported with a bcrypt or Argon2 hash (feature `password-hashes`). `Debug`
/// shows only the algorithm and the pepper name.
#[derive(Clone, PartialEq, Eq)]
pub struct Digest {
    pepper: PepperName,
    bytes: [u8; 32],
    /// The password hash of which `bytes` is the SHA-256. Boxed, because few keys have one.
    password_hash: Option<Box<Arc<str>>>,
}

/// The maximum length of a password hash.
pub(super) const MAX_PASSWORD_HASH: usize = 512;

const INVALID: ParseError =
    ParseError::new("invalid digest: expected the bytes of the hash, hexadecimal digits or base64");

impl Digest {
    const fn new(pepper: PepperName, bytes: [u8; 32]) -> Self {
        Self {
            pepper,
            bytes,
            password_hash: None,
        }
    }

    /// A digest that no secret has until it is replaced, with a password hash to verify the secret.
    pub(super) fn of_password_hash(hash: &str) -> Self {
        Self {
            password_hash: Some(Box::new(hash.into())),
            ..Self::new(PepperName::PASSWORD_HASH, sha256(hash.as_bytes()))
        }
    }

    /// The password hash to verify the secret with, if it has not been replaced.
    pub(crate) fn password_hash(&self) -> Option<&Arc<str>> {
        self.password_hash.as_deref()
    }

    /// The SHA-256 of a secret, as 32 bytes, 64 hexadecimal digits or base64 with either alphabet.
    ///
    /// ```
    /// use keytally::key::Digest;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hex = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    /// let base64 = "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=";
    /// assert_eq!(Digest::from_sha256(hex)?, Digest::from_sha256(base64)?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ParseError`] for anything else, and for bytes that are all printable: the text of a shorter hash.
    pub fn from_sha256(hash: impl AsRef<[u8]>) -> Result<Self, ParseError> {
        Ok(Self::new(
            PepperName::NONE,
            hash_from(hash.as_ref()).ok_or(INVALID)?,
        ))
    }

    /// The HMAC-SHA-256 of a secret under the pepper with this name (see [`Peppers::new`]), in the same encodings as
    /// in [`from_sha256`](Self::from_sha256).
    ///
    /// # Errors
    ///
    /// As [`from_sha256`](Self::from_sha256), and for an invalid name.
    pub fn from_hmac_sha256(pepper: &str, hash: impl AsRef<[u8]>) -> Result<Self, ParseError> {
        Ok(Self::new(
            PepperName::new(pepper).ok_or(INVALID_PEPPER)?,
            hash_from(hash.as_ref()).ok_or(INVALID)?,
        ))
    }

    /// The SHA-512 of a secret, as 64 bytes, 128 hexadecimal digits or base64 with either alphabet. Its first 32 bytes
    /// are kept.
    ///
    /// # Errors
    ///
    /// As [`from_sha256`](Self::from_sha256).
    pub fn from_sha512(hash: impl AsRef<[u8]>) -> Result<Self, ParseError> {
        let hash: [u8; 64] = hash_from(hash.as_ref()).ok_or(INVALID)?;
        Ok(Self::of_sha512(&hash))
    }

    fn of_sha512(hash: &[u8; 64]) -> Self {
        Self::new(PepperName::SHA_512, *hash.first_chunk().unwrap_or(&[0; 32]))
    }

    /// The name of the pepper that it was computed with, if any.
    pub fn pepper(&self) -> Option<&str> {
        (!PepperName::ALGORITHMS.contains(&self.pepper)).then(|| self.pepper.as_str())
    }

    /// The id of the key that is imported with this digest: 95 bits in base62, of the digest itself if it is a plain
    /// SHA-256, and otherwise of the SHA-256 of its algorithm or pepper name and the digest.
    pub fn imported_id(&self) -> KeyId {
        if self.pepper == PepperName::NONE {
            return KeyId::from_sha256(&self.bytes);
        }
        let hash = Sha256::new().chain_update(self.pepper.bytes);
        KeyId::from_sha256(&hash.chain_update(self.bytes).finalize().into())
    }

    /// The name of its algorithm, unless it was computed with a pepper.
    fn algorithm(&self) -> &'static str {
        match self.pepper {
            PepperName::SHA_512 => "sha512",
            PepperName::PASSWORD_HASH => "password-hash",
            _ => "sha256",
        }
    }

    /// A placeholder digest that no secret has.
    pub(crate) fn dummy() -> Self {
        Self::new(PepperName::NONE, [0; 32])
    }

    /// The SHA-512 of a secret.
    pub(crate) fn sha512(secret: &[u8]) -> Self {
        Self::of_sha512(&Sha512::digest(secret).into())
    }

    /// Whether the key with the other digest exists and both are the same. Takes the same time for all digests.
    pub(crate) fn matches(&self, other: &Self, exists: bool) -> bool {
        let is_equal = words(&self.bytes).ct_eq(&words(&other.bytes));
        (is_equal & self.pepper.ct_eq(&other.pepper) & Choice::from(u8::from(exists))).into()
    }

    /// The plain SHA-256 of a secret.
    pub(crate) fn sha256(secret: &[u8]) -> Self {
        Self::new(PepperName::NONE, sha256(secret))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pepper() {
            Some(pepper) => write!(f, "hmac-sha256:{pepper}:")?,
            None => write!(f, "{}:", self.algorithm())?,
        }
        if let Some(hash) = &self.password_hash {
            return f.write_str(hash);
        }
        self.bytes
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pepper() {
            Some(pepper) => write!(f, "Digest(hmac-sha256:{pepper})"),
            None => write!(f, "Digest({})", self.algorithm()),
        }
    }
}

impl FromStr for Digest {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let from = |pepper, hex: &str| {
            let bytes = from_hex(hex.as_bytes()).ok_or(INVALID)?;
            Ok(Self::new(pepper, bytes))
        };
        match text.split_once(':').ok_or(INVALID)? {
            ("sha256", hex) => from(PepperName::NONE, hex),
            ("sha512", hex) => from(PepperName::SHA_512, hex),
            ("password-hash", hash) => {
                let is_valid = hash.len() <= MAX_PASSWORD_HASH
                    && hash.starts_with('$')
                    && hash.bytes().all(|b| b.is_ascii_graphic());
                is_valid
                    .then(|| Self::of_password_hash(hash))
                    .ok_or(INVALID)
            }
            ("hmac-sha256", rest) => {
                let (pepper, hex) = rest.split_once(':').ok_or(INVALID)?;
                from(PepperName::new(pepper).ok_or(INVALID)?, hex)
            }
            _ => Err(INVALID),
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

const INVALID_PEPPER: ParseError =
    ParseError::new("invalid pepper name: expected 1 to 32 characters of a-z, 0-9 and -");

/// A hash as its bytes or encoded. The encodings differ in length.
fn hash_from<const N: usize>(hash: &[u8]) -> Option<[u8; N]> {
    match hash.try_into() {
        // The text of a shorter hash.
        Ok(_) if hash.iter().all(|b| b.is_ascii_graphic() || *b == b' ') => None,
        Ok(bytes) => Some(bytes),
        Err(_) => decode(hash),
    }
}

/// The application's peppers. The first computes new digests; all verify the digests computed with them.
///
/// To replace the pepper, put the new one first; remove the old one when all its keys are rotated or expired.
/// Without peppers, digests are plain SHA-256.
///
/// A pepper prevents guesses from being verified with a stolen database, except for
/// [imported](super::ImportedKey::from_secret) secrets in another format: their ids are derived from the plain
/// SHA-256.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use keytally::key::Peppers;
///
/// let peppers = Peppers::new([
///     ("2026", &b"32 random bytes from the environment"[..]),
///     ("2025", b"the previous one, until its keys expire"),
/// ])?;
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct Peppers(Vec<(PepperName, Hmac<Sha256>)>);

impl Peppers {
    /// No peppers: digests are plain SHA-256.
    pub fn none() -> Self {
        Self::default()
    }

    /// Peppers by name. The first one is used for new keys; the others verify keys that were created with them.
    /// The name is stored with every digest.
    ///
    /// # Errors
    ///
    /// Returns an error if a name is not 1 to 32 characters of `a-z`, `0-9` and `-` or is not unique, or a pepper
    /// is shorter than 16 bytes.
    pub fn new<'a>(
        peppers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, InvalidConfig> {
        let mut all = Self::none();
        for (name, pepper) in peppers {
            let name = PepperName::new(name).ok_or(InvalidConfig::new(
                "pepper",
                "a name must be 1 to 32 characters of a-z, 0-9 and -",
            ))?;
            if all.0.iter().any(|(other, _)| *other == name) {
                return Err(InvalidConfig::new("pepper", "names must be unique"));
            }
            let short = InvalidConfig::new("pepper", "a pepper must have at least 16 bytes");
            if pepper.len() < 16 {
                return Err(short);
            }
            let keyed = Hmac::new_from_slice(pepper).map_err(|_| short)?;
            all.0.push((name, keyed));
        }
        Ok(all)
    }

    /// The digest of a new secret.
    pub(crate) fn digest(&self, secret: &[u8]) -> Digest {
        match self.0.first() {
            Some((name, keyed)) => Digest::new(*name, hmac(keyed, secret)),
            None => Digest::sha256(secret),
        }
    }

    /// Whether there is a pepper with this name.
    pub(super) fn has(&self, pepper: &str) -> bool {
        self.0.iter().any(|(name, _)| name.as_str() == pepper)
    }

    /// The digest of a secret under the pepper with this name.
    pub(super) fn digest_with(&self, pepper: &str, secret: &[u8]) -> Option<Digest> {
        let mut peppers = self.0.iter();
        let (name, keyed) = peppers.find(|(name, _)| name.as_str() == pepper)?;
        Some(Digest::new(*name, hmac(keyed, secret)))
    }

    /// The digests of a secret under each pepper.
    #[cfg(feature = "dashboard")]
    pub(super) fn digests(&self, secret: &[u8]) -> impl Iterator<Item = Digest> {
        let peppers = self.0.iter();
        peppers.map(|(name, keyed)| Digest::new(*name, hmac(keyed, secret)))
    }

    /// Whether the secret has this digest. Takes the same work for every secret and digest. A digest with an
    /// unknown pepper matches nothing.
    ///
    /// If `exists` is false, nothing matches: the work is that for a digest with the first pepper, and `digest` is
    /// read anyway.
    #[inline]
    pub(crate) fn verify(&self, secret: &[u8], digest: &Digest, exists: bool) -> bool {
        let exists = Choice::from(u8::from(exists));
        // Copied, so that the following reads do not depend on which one is chosen.
        let name = self.0.first().map_or(digest.pepper, |(first, _)| {
            PepperName::conditional_select(first, &digest.pepper, exists)
        });
        // Compares all names: the time must not depend on the position.
        let (mut place, mut named) = (0, Choice::from(0));
        for (nth, (known, _)) in (0_u32..).zip(&self.0) {
            let is_this = known.ct_eq(&name);
            place.conditional_assign(&nth, is_this);
            named |= is_this;
        }
        // With peppers, both digests are always computed: the time must not distinguish plain digests or unknown
        // peppers.
        let mut computed = words(&sha256(secret));
        if let Some((_, keyed)) = self.0.get(place as usize) {
            let peppered = words(&hmac(keyed, secret));
            computed = select(&computed, &peppered, named);
        }
        let equal = computed.ct_eq(&words(&digest.bytes));
        (equal & exists & (named | name.ct_eq(&PepperName::NONE))).into()
    }
}

impl fmt::Debug for Peppers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name.as_str()))
            .finish()
    }
}

/// Comparing four words takes an eighth of the steps of comparing bytes.
fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

fn select(one: &[u64; 4], other: &[u64; 4], choice: Choice) -> [u64; 4] {
    array::from_fn(|nth| u64::conditional_select(&one[nth], &other[nth], choice))
}

/// The name of a pepper, stored inline so that comparing it reads no other memory of the key.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PepperName {
    /// Padded with zeros, which names do not contain. All zeros for a plain digest.
    bytes: [u8; Self::MAX_LEN],
}

impl ConditionallySelectable for PepperName {
    #[inline]
    fn conditional_select(one: &Self, other: &Self, choice: Choice) -> Self {
        let mut bytes = [0; Self::MAX_LEN];
        let chosen = select(&words(&one.bytes), &words(&other.bytes), choice);
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(chosen) {
            *bytes = word.to_ne_bytes();
        }
        Self { bytes }
    }
}

impl ConstantTimeEq for PepperName {
    #[inline]
    fn ct_eq(&self, other: &Self) -> Choice {
        words(&self.bytes).ct_eq(&words(&other.bytes))
    }
}

impl PepperName {
    const MAX_LEN: usize = 32;
    /// The name of plain digests.
    const NONE: Self = Self {
        bytes: [0; Self::MAX_LEN],
    };
    /// Marks SHA-512 digests.
    const SHA_512: Self = Self::mark(b':');
    /// Marks digests with a password hash.
    const PASSWORD_HASH: Self = Self::mark(b'$');
    /// The marks of digests without a pepper.
    const ALGORITHMS: [Self; 3] = [Self::NONE, Self::SHA_512, Self::PASSWORD_HASH];

    /// A mark, which is not a valid name.
    const fn mark(mark: u8) -> Self {
        let mut bytes = [0; Self::MAX_LEN];
        bytes[0] = mark;
        Self { bytes }
    }

    fn new(name: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=Self::MAX_LEN).contains(&name.len()) || !name.bytes().all(allowed) {
            return None;
        }
        let mut bytes = [0; Self::MAX_LEN];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Some(Self { bytes })
    }

    fn as_str(&self) -> &str {
        let name = self.bytes.split(|byte| *byte == 0).next();
        // Valid UTF-8: constructed from a `&str`.
        str::from_utf8(name.unwrap_or_default()).unwrap_or_default()
    }
}

fn sha256(secret: &[u8]) -> [u8; 32] {
    #[cfg(test)]
    tests::COMPUTED.with_borrow_mut(|computed| computed.sha256 += 1);
    Sha256::digest(secret).into()
}

fn hmac(keyed: &Hmac<Sha256>, secret: &[u8]) -> [u8; 32] {
    #[cfg(test)]
    tests::COMPUTED.with_borrow_mut(|computed| computed.hmac += 1);
    let mut mac = keyed.clone();
    mac.update(secret);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
pub(crate) mod tests;

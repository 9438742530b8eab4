//! What a store keeps instead of a secret, and how the two are compared.
//!
//! A digest is the SHA-256 of the whole secret, or its HMAC-SHA-256 under a pepper: a text that the
//! application keeps outside the database, so that a stolen database alone cannot even be searched
//! for a known secret. A slow password hash would buy nothing: nobody can try 2¹⁹⁰ secrets, but every
//! request would pay.
//!
//! A pepper protects the digest. The id of an imported key is no digest, but 95 bits of the plain
//! SHA-256 of its secret: enough to search for a secret that people could guess.

use std::array;
use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::id::KeyId;
use crate::invalid_config::InvalidConfig;

/// The digest of a secret, as a store keeps it.
///
/// As text: `sha256:<hex>`, or `hmac-sha256:<pepper>:<hex>`. `Debug` shows the kind only.
#[derive(Clone, PartialEq, Eq)]
pub struct Digest {
    pepper: PepperName,
    bytes: [u8; 32],
}

/// A text that is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a digest")]
pub struct InvalidDigest;

impl Digest {
    /// The digest that another system kept: a SHA-256 in 64 hexadecimal digits.
    ///
    /// # Errors
    ///
    /// [`InvalidDigest`] for every other text.
    pub fn from_sha256_hex(text: &str) -> Result<Self, InvalidDigest> {
        Ok(Self {
            pepper: PepperName::NONE,
            bytes: from_hex(text).ok_or(InvalidDigest)?,
        })
    }

    /// The name of the pepper under which it was made, if one was.
    pub fn pepper(&self) -> Option<&str> {
        Some(self.pepper.as_str()).filter(|name| !name.is_empty())
    }

    /// The id of a key whose secret has another format: made from the SHA-256 of the secret, so
    /// that importing needs no more than that and the request path finds it again.
    pub(crate) fn imported_id(&self) -> KeyId {
        KeyId::from_sha256(&self.bytes)
    }

    /// The plain one that no secret has.
    pub(crate) fn dummy() -> Self {
        Self {
            pepper: PepperName::NONE,
            bytes: [0; 32],
        }
    }

    /// The plain SHA-256 of a secret.
    pub(crate) fn sha256(secret: &[u8]) -> Self {
        Self {
            pepper: PepperName::NONE,
            bytes: sha256(secret),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pepper() {
            Some(pepper) => write!(f, "hmac-sha256:{pepper}:")?,
            None => f.write_str("sha256:")?,
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
            None => f.write_str("Digest(sha256)"),
        }
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(hex) = text.strip_prefix("sha256:") {
            return Self::from_sha256_hex(hex);
        }
        let (pepper, hex) = text
            .strip_prefix("hmac-sha256:")
            .and_then(|rest| rest.split_once(':'))
            .ok_or(InvalidDigest)?;
        Ok(Self {
            pepper: PepperName::new(pepper).ok_or(InvalidDigest)?,
            bytes: from_hex(hex).ok_or(InvalidDigest)?,
        })
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

pub(super) fn from_hex(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |b: u8| char::from(b).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}

/// The application's peppers: the first makes new digests, every one checks those made under it.
///
/// To change the pepper, put the new one first; when every key was rotated or has expired, drop the
/// old one. Without any pepper, digests are plain SHA-256.
///
/// A pepper keeps a stolen database from being searched for secrets, but not for those of another form
/// that were [imported](super::Issuer::import_secret): their ids are made from the plain SHA-256.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use keytally::key::Peppers;
///
/// let peppers = Peppers::new([
///     ("2026", &b"thirty-two random bytes, say, from env"[..]),
///     ("2025", b"the one before, until its keys are gone"),
/// ])?;
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct Peppers(Vec<(PepperName, Hmac<Sha256>)>);

impl Peppers {
    /// No pepper: digests are plain SHA-256.
    pub fn none() -> Self {
        Self::default()
    }

    /// Peppers by name. The first one is used for new keys; the others verify keys that were created under them. The
    /// name is stored with every digest.
    ///
    /// # Errors
    ///
    /// If a name is not 1 to 32 characters of `a-z`, `0-9` and `-`, or is there twice, or a pepper is shorter than 16
    /// bytes.
    pub fn new<'a>(
        peppers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, InvalidConfig> {
        let mut all = Self::none();
        for (name, pepper) in peppers {
            let name = PepperName::new(name).ok_or(InvalidConfig::new(
                "pepper",
                "a name is 1 to 32 characters of a-z, 0-9 and -",
            ))?;
            if all.0.iter().any(|(other, _)| *other == name) {
                return Err(InvalidConfig::new("pepper", "names must be unique"));
            }
            let short = InvalidConfig::new("pepper", "a pepper has at least 16 bytes");
            if pepper.len() < 16 {
                return Err(short);
            }
            let prepared = Hmac::new_from_slice(pepper).map_err(|_| short)?;
            all.0.push((name, prepared));
        }
        Ok(all)
    }

    /// The digest of a new secret.
    pub(crate) fn digest(&self, secret: &[u8]) -> Digest {
        match self.0.first() {
            Some((name, prepared)) => Digest {
                pepper: *name,
                bytes: hmac(prepared, secret),
            },
            None => Digest::sha256(secret),
        }
    }

    /// Whether the secret has this digest, with the same work whatever the secret and the digest. A
    /// digest under a pepper that is not here matches nothing.
    ///
    /// Nor does anything match where there is no such key: the work is that for one made under the
    /// first pepper, and the digest is read all the same.
    #[inline]
    pub(crate) fn verify(&self, secret: &[u8], digest: &Digest, exists: bool) -> bool {
        let exists = Choice::from(u8::from(exists));
        // Copied, so that it lies in one place, whichever it is.
        let name = self.0.first().map_or(digest.pepper, |(first, _)| {
            PepperName::conditional_select(first, &digest.pepper, exists)
        });
        // Looked for among all of them: the time must not tell which one it is.
        let (mut place, mut named) = (0, Choice::from(0));
        for (nth, (known, _)) in (0_u32..).zip(&self.0) {
            let is_this = known.ct_eq(&name);
            place.conditional_assign(&nth, is_this);
            named |= is_this;
        }
        // Where there are peppers, both are computed for every digest: nor must it tell a plain one, or
        // one under a pepper that is gone, from another.
        let mut computed = words(&sha256(secret));
        if let Some((_, prepared)) = self.0.get(place as usize) {
            let peppered = words(&hmac(prepared, secret));
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

/// Four words compare in an eighth of the steps that their bytes take.
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

/// What a pepper is called, within the digest: to read it, nothing else of a key has to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PepperName {
    /// 0 for a plain digest.
    len: u8,
    bytes: [u8; Self::LONGEST],
}

impl ConditionallySelectable for PepperName {
    #[inline]
    fn conditional_select(one: &Self, other: &Self, choice: Choice) -> Self {
        let mut bytes = [0; Self::LONGEST];
        let chosen = select(&words(&one.bytes), &words(&other.bytes), choice);
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(chosen) {
            *bytes = word.to_ne_bytes();
        }
        let len = u8::conditional_select(&one.len, &other.len, choice);
        Self { len, bytes }
    }
}

impl ConstantTimeEq for PepperName {
    #[inline]
    fn ct_eq(&self, other: &Self) -> Choice {
        // No name has a byte of 0, with which the rest is filled: the length is in them.
        words(&self.bytes).ct_eq(&words(&other.bytes))
    }
}

impl PepperName {
    const LONGEST: usize = 32;
    /// That of no pepper.
    const NONE: Self = Self {
        len: 0,
        bytes: [0; Self::LONGEST],
    };

    fn new(name: &str) -> Option<Self> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=Self::LONGEST).contains(&name.len()) || !name.bytes().all(fits) {
            return None;
        }
        let mut bytes = [0; Self::LONGEST];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Some(Self {
            len: name.len() as u8,
            bytes,
        })
    }

    fn as_str(&self) -> &str {
        // Always text: it was made of some.
        str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

fn sha256(secret: &[u8]) -> [u8; 32] {
    #[cfg(test)]
    tests::COMPUTED.with_borrow_mut(|computed| computed.sha256 += 1);
    Sha256::digest(secret).into()
}

fn hmac(prepared: &Hmac<Sha256>, secret: &[u8]) -> [u8; 32] {
    #[cfg(test)]
    tests::COMPUTED.with_borrow_mut(|computed| computed.hmac += 1);
    let mut mac = prepared.clone();
    mac.update(secret);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Digests computed by the thread.
    #[derive(Debug, Default, PartialEq, Eq)]
    pub(crate) struct Computed {
        pub(crate) sha256: usize,
        pub(crate) hmac: usize,
    }

    thread_local! {
        pub(crate) static COMPUTED: RefCell<Computed> = RefCell::default();
    }

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn two() -> Peppers {
        let peppers = [
            ("new", &b"0123456789abcdef"[..]),
            ("old", b"fedcba9876543210"),
        ];
        Peppers::new(peppers).unwrap()
    }

    #[test]
    fn plain_digests_are_sha256() {
        let digest = Peppers::none().digest(b"abc");
        assert_eq!(digest.to_string(), format!("sha256:{ABC}"));
        assert_eq!(Digest::from_sha256_hex(&ABC.to_uppercase()), Ok(digest));
    }

    #[test]
    fn peppered_digests_are_hmac_sha256() {
        // RFC 4231, test case 6: a key of 131 bytes.
        let peppers = Peppers::new([("p", &[0xaa; 131][..])]).unwrap();
        let digest = peppers.digest(b"Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(
            digest.to_string(),
            "hmac-sha256:p:60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn a_retired_pepper_still_checks_but_makes_no_digests() {
        let old_only = Peppers::new([("old", &b"fedcba9876543210"[..])]).unwrap();
        let digest = old_only.digest(b"secret");
        assert!(two().verify(b"secret", &digest, true));
        assert!(!two().verify(b"secreT", &digest, true));
        assert_eq!(two().digest(b"secret").pepper(), Some("new"));
        assert!(!Peppers::none().verify(b"secret", &digest, true));
    }

    #[test]
    fn nothing_matches_where_there_is_no_key() {
        for peppers in [Peppers::none(), two()] {
            let digest = peppers.digest(b"secret");
            assert!(peppers.verify(b"secret", &digest, true));
            assert!(!peppers.verify(b"secret", &digest, false));
            assert!(!peppers.verify(b"secret", &Digest::dummy(), false));
        }
    }

    #[test]
    fn each_of_many_peppers_checks_what_was_made_under_it() {
        let peppers = [0_u8, 1, 2, 3, 4].map(|nth| (format!("p{nth}"), [nth; 16]));
        let peppers = peppers.iter().map(|(name, pepper)| (&**name, &pepper[..]));
        let all = Peppers::new(peppers).unwrap();
        for pepper in &all.0 {
            let digest = Peppers(vec![pepper.clone()]).digest(b"secret");
            assert!(all.verify(b"secret", &digest, true));
            assert!(!all.verify(b"secreT", &digest, true));
        }
        // One name begins like another.
        let gone = Peppers::new([("p", &[0; 16][..])]).unwrap();
        assert!(!all.verify(b"secret", &gone.digest(b"secret"), true));
        assert!(all.verify(b"secret", &Digest::sha256(b"secret"), true));
    }

    #[test]
    fn the_name_that_is_chosen_is_whole() {
        let longest = PepperName::new("abcdefghijklmnopqrstuvwxyz-01234").unwrap();
        for (exists, chosen) in [(0, PepperName::NONE), (1, longest)] {
            let name = PepperName::conditional_select(&PepperName::NONE, &longest, exists.into());
            assert_eq!(name.as_str(), chosen.as_str());
        }
    }

    #[test]
    fn rule_3_every_digest_takes_the_same_work() {
        let gone = Digest {
            pepper: PepperName::new("gone").unwrap(),
            ..Digest::dummy()
        };
        let old = two().0.pop().map(|pepper| Peppers(vec![pepper])).unwrap();
        for (peppers, hmac) in [(Peppers::none(), 0), (two(), 1)] {
            for digest in [
                Digest::dummy(),
                peppers.digest(b"secret"),
                Peppers::none().digest(b"secret"),
                old.digest(b"secret"),
                gone.clone(),
            ] {
                for secret in [b"secret", b"secreT"] {
                    COMPUTED.take();
                    for exists in [true, false] {
                        let _ = peppers.verify(secret, &digest, exists);
                        assert_eq!(COMPUTED.take(), Computed { sha256: 1, hmac }, "{digest:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn digests_round_trip_as_text() {
        for digest in [Peppers::none().digest(b"a"), two().digest(b"a")] {
            assert_eq!(digest.to_string().parse(), Ok(digest));
        }
        let hex = "0".repeat(64);
        for text in [
            String::new(),
            hex.clone(),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:g{}", &hex[1..]),
            format!("hmac-sha256:{hex}"),
            format!("hmac-sha256:A:{hex}"),
            format!("sha256:{}é", &hex[2..]),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(InvalidDigest), "{text}");
        }
    }

    #[test]
    fn rule_1_debug_shows_neither_digest_nor_pepper() {
        let debug = format!("{:?} {:?}", two().digest(b"a"), two());
        assert_eq!(debug, r#"Digest(hmac-sha256:new) ["new", "old"]"#);
    }

    #[test]
    fn invalid_peppers_are_rejected() {
        let reason = |name, pepper| {
            let pepper: &[u8] = pepper;
            let peppers = Peppers::new([("new", &b"0123456789abcdef"[..]), (name, pepper)]);
            peppers.unwrap_err().reason
        };
        assert!(reason("New", b"0123456789abcdef").contains("a-z"));
        assert!(reason("new", b"0123456789abcdef").contains("unique"));
        assert!(reason("x", b"0123456789abcde").contains("16 bytes"));
    }
}

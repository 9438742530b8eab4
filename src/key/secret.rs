//! The text of a secret: how it is made, read and checked.
//!
//! ```text
//! acme_live_3fK9aTq07LmXw2Pe5hVdRk8sYz1BnQc4JtGu6oEiAbCdEfGh0kZ3Wq
//! ╰───────╯ ╰──────────────╯╰──────────────────────────────╯╰────╯
//!  prefix      16 of id              32 of secret           6 of checksum
//! ```
//!
//! All but the prefix is base62 (`0-9A-Za-z`). The checksum is the CRC-32 (IEEE) of all characters
//! before it in six base62 digits, as GitHub's tokens have it
//! ([source](https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/)),
//! so that a scanner can tell a leaked key from a look-alike without asking anyone. This regular expression
//! finds them in any text; [`Prefix::secret_pattern`] has one for a prefix:
//!
//! ```text
//! [a-z][a-z0-9]*(_[a-z0-9]+)*_[0-9A-Za-z]{54}
//! ```

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::id::{BASE62, KeyId, is_base62};

const SECRET_LEN: usize = 32;
const CHECKSUM_LEN: usize = 6;
pub(super) const BODY_LEN: usize = KeyId::LEN + SECRET_LEN + CHECKSUM_LEN;
/// The longest prefix.
pub(super) const MAX_PREFIX_LEN: usize = 32;
/// Digits of the id that a hint shows.
pub(super) const HINT_LEN: usize = 4;

/// The plain text that a client sends: shown once, when its key is issued, and never stored, unless its key
/// is [recoverable](super::Key::recoverable) and it is encrypted.
///
/// `Debug` and `Display` show the hint only; the memory is wiped on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    text: Zeroizing<String>,
    id: KeyId,
}

/// A text that is not a secret of this crate's making: another length, alphabet or checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed API key")]
pub struct MalformedSecret;

impl Secret {
    /// Makes a new secret from the operating system's randomness: 95 bits of id, 190 of secret.
    ///
    /// # Errors
    ///
    /// When the operating system has no randomness to give.
    pub fn generate(prefix: &Prefix) -> Result<Self, getrandom::Error> {
        Self::make(prefix, None)
    }

    /// The same for a key whose id is there already.
    pub(crate) fn generate_for(prefix: &Prefix, id: KeyId) -> Result<Self, getrandom::Error> {
        Self::make(prefix, Some(id))
    }

    fn make(prefix: &Prefix, id: Option<KeyId>) -> Result<Self, getrandom::Error> {
        let mut text = Zeroizing::new(String::with_capacity(prefix.0.len() + 1 + BODY_LEN));
        text.push_str(&prefix.0);
        text.push('_');
        match id {
            Some(id) => text.push_str(id.as_str()),
            None => push_random_digits(&mut text, KeyId::LEN)?,
        }
        push_random_digits(&mut text, SECRET_LEN)?;
        for digit in checksum(text.as_bytes()) {
            text.push(char::from(digit));
        }
        Ok(Self {
            id: id_of(text.as_bytes())
                .unwrap_or_else(|_| unreachable!("parsing accepts what generating makes")),
            text,
        })
    }

    /// Reads a secret; accepts exactly what [`Secret::generate`] makes.
    ///
    /// # Errors
    ///
    /// [`MalformedSecret`] for every other text.
    pub fn parse(text: &str) -> Result<Self, MalformedSecret> {
        let id = id_of(text.as_bytes())?;
        Ok(Self {
            text: Zeroizing::new(text.to_owned()),
            id,
        })
    }

    /// The whole secret: the one way out. Show it to its owner and forget it.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The id of the key it belongs to.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// What may be shown for people to recognize the key by: `acme_live_3fK9…`.
    pub fn hint(&self) -> String {
        let id_starts = self.text.len() - BODY_LEN;
        format!("{}…", &self.text[..id_starts + HINT_LEN])
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.hint())
    }
}

/// Shows the hint, not the secret.
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.hint())
    }
}

/// What an application's secrets begin with, such as `acme_live`.
///
/// One to 32 characters: words of `a-z` and `0-9` joined by single underscores, beginning with a
/// letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(Arc<str>);

/// A text that cannot be a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a prefix is 1 to 32 characters: words of a-z and 0-9 joined by `_`, beginning with a letter"
)]
pub struct InvalidPrefix;

impl Prefix {
    /// Checks a prefix.
    ///
    /// # Errors
    ///
    /// [`InvalidPrefix`] if it does not have the form above.
    pub fn new(text: &str) -> Result<Self, InvalidPrefix> {
        if is_prefix(text.as_bytes()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidPrefix)
        }
    }

    /// A regular expression that finds secrets with this prefix, for scanners of repositories and logs. It has no
    /// word boundaries, so that `%3D`, `\n` in escaped JSON, terminal colours or `PROD_` before a secret do not hide
    /// it. [`Secret::parse`] tells by the checksum whether a match is a secret.
    ///
    /// ```
    /// use keytally::key::Prefix;
    ///
    /// let prefix = Prefix::new("acme_live").unwrap();
    /// assert_eq!(prefix.secret_pattern(), "acme_live_[0-9A-Za-z]{54}");
    /// ```
    pub fn secret_pattern(&self) -> String {
        format!("{}_[0-9A-Za-z]{{{BODY_LEN}}}", self.0)
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_prefix(text: &[u8]) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if text.len() > MAX_PREFIX_LEN {
        return false;
    }
    // Every word ends before an underscore or the end, and none is empty.
    let mut between = true;
    for &byte in text {
        if !word(byte) && (byte != b'_' || between) {
            return false;
        }
        between = byte == b'_';
    }
    !between && text[0].is_ascii_lowercase()
}

/// The id in a text whose shape and checksum are those of a secret.
#[inline]
pub(crate) fn id_of(bytes: &[u8]) -> Result<KeyId, MalformedSecret> {
    let body_starts = bytes.len().checked_sub(BODY_LEN).ok_or(MalformedSecret)?;
    let (head, body) = bytes.split_at(body_starts);
    let prefix = head.strip_suffix(b"_").ok_or(MalformedSecret)?;
    let id = KeyId::from_digits(&body[..KeyId::LEN]).ok_or(MalformedSecret)?;
    let digits = &body[KeyId::LEN..];
    if !is_prefix(prefix) || !is_base62(digits) {
        return Err(MalformedSecret);
    }
    let (checked, sum) = bytes.split_at(bytes.len() - CHECKSUM_LEN);
    if base62_value(sum) != u64::from(crc32fast::hash(checked)) {
        return Err(MalformedSecret);
    }
    Ok(id)
}

/// The number that base62 digits stand for.
fn base62_value(digits: &[u8]) -> u64 {
    let value = |digit: u8| u64::from(VALUES[usize::from(digit)]);
    digits
        .iter()
        .fold(0, |number, &digit| number * 62 + value(digit))
}

/// What each base62 digit stands for.
const VALUES: [u8; 256] = {
    let mut values = [0; 256];
    let mut value = 0;
    while value < BASE62.len() {
        values[BASE62[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// CRC-32 (IEEE) in six base62 digits, padded with zeros.
fn checksum(text: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut number = crc32fast::hash(text);
    let mut digits = [b'0'; CHECKSUM_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(number % 62) as usize];
        number /= 62;
    }
    digits
}

/// Appends uniformly distributed digits: bytes that would favour some of them are thrown away.
fn push_random_digits(text: &mut String, count: usize) -> Result<(), getrandom::Error> {
    const FAIR: u8 = 248; // 4 × 62
    let mut left = count;
    let mut random = Zeroizing::new([0; 64]);
    while left > 0 {
        getrandom::fill(&mut *random)?;
        for &byte in random.iter().filter(|&&byte| byte < FAIR).take(left) {
            text.push(char::from(BASE62[usize::from(byte % 62)]));
            left -= 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix() -> Prefix {
        Prefix::new("acme_live").unwrap()
    }

    #[test]
    fn checksums_are_githubs() {
        assert_eq!(&checksum(b"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ"), b"0mLq17");
        assert_eq!(&checksum(b"qkJaB6MffYVzZXWqmcoF49yrUxP3wf"), b"0LsakP");
    }

    #[test]
    fn a_secret_has_the_documented_form() {
        let secret = Secret::generate(&prefix()).unwrap();
        assert_eq!(secret.expose().len(), "acme_live_".len() + 54);
        assert!(secret.expose().starts_with("acme_live_"));
        assert_eq!(&secret.expose()[10..26], secret.id().as_str());
        assert_ne!(Secret::generate(&prefix()).unwrap(), secret);
    }

    /// Within six standard deviations; one byte too many taken for a digit would be eight beyond.
    #[test]
    #[cfg_attr(miri, ignore = "so many digits take minutes")]
    fn every_digit_is_as_likely() {
        let mut text = String::new();
        push_random_digits(&mut text, 200_000).unwrap();
        let mut counts = [0; 128];
        for byte in text.bytes() {
            counts[usize::from(byte)] += 1;
        }
        for digit in BASE62 {
            let count = counts[usize::from(*digit)];
            assert!(
                (2_900..3_550).contains(&count),
                "{count} of {}",
                *digit as char
            );
        }
        assert_eq!(text.len(), 200_000);
    }

    #[test]
    fn rule_1_a_secret_is_not_printed() {
        let secret = Secret::generate(&prefix()).unwrap();
        let hint = format!("acme_live_{}…", &secret.id().as_str()[..4]);
        assert_eq!(format!("{secret}"), hint);
        assert_eq!(format!("{secret:?}"), format!("Secret({hint})"));
    }

    #[test]
    fn a_right_checksum_is_not_enough() {
        let digits = "0".repeat(KeyId::LEN + SECRET_LEN);
        let whole = |start: String| {
            let sum = checksum(start.as_bytes());
            format!("{start}{}", std::str::from_utf8(&sum).unwrap())
        };
        assert!(Secret::parse(&whole(format!("acme_{digits}"))).is_ok());
        for start in [
            format!("Acme_{digits}"),
            format!("_{digits}"),
            format!("acme-{digits}"),
            format!("acme_-{}", &digits[1..]),
            format!("acme_{}-", &digits[1..]),
        ] {
            let text = whole(start);
            assert_eq!(Secret::parse(&text), Err(MalformedSecret), "{text}");
        }
    }

    /// As they stand in the README and in this module's documentation.
    #[test]
    #[cfg_attr(miri, ignore = "compiling regular expressions takes minutes")]
    fn scanners_find_secrets_whatever_stands_around_them() {
        const ANY: &str = "[a-z][a-z0-9]*(_[a-z0-9]+)*_[0-9A-Za-z]{54}";
        for text in [include_str!("../../README.md"), include_str!("secret.rs")] {
            assert!(
                text.lines()
                    .any(|line| line.trim_start_matches("//! ") == ANY)
            );
        }
        let of_prefix = regex::Regex::new(&prefix().secret_pattern()).unwrap();
        let of_any = regex::Regex::new(ANY).unwrap();
        let secret = Secret::generate(&prefix()).unwrap();
        let secret = secret.expose();
        for (before, after) in [
            ("", ""),
            ("key=", "&x"),
            ("key%3D", "%26x"),
            ("%22", "%22"),
            (r#"{\"key\":\""#, r#"\"}"#),
            (r"first line\n", r"\nnext"),
            ("\x1b[31m", "\x1b[0m"),
            ("PROD_", "_2024"),
            ("Bearer ", ","),
            ("x", "x"),
        ] {
            let text = format!("{before}{secret}{after}");
            let found = of_prefix.find(&text).expect(&text);
            assert_eq!(found.as_str(), secret, "{text}");
            assert!(Secret::parse(found.as_str()).is_ok());
            // One of any prefix may begin with what is before it.
            assert!(of_any.find(&text).expect(&text).as_str().ends_with(secret));
        }
        assert!(of_any.find("/v1/postings/some_name_0123456789").is_none());
    }

    #[test]
    fn prefixes_have_a_form() {
        for text in ["a", "acme", "acme_live", "a1_2b", &"a".repeat(32)] {
            assert_eq!(Prefix::new(text).unwrap().as_str(), text);
        }
        for text in [
            "",
            "_a",
            "a_",
            "a__b",
            "1a",
            "Acme",
            "a-b",
            "é",
            &"a".repeat(33),
        ] {
            assert_eq!(Prefix::new(text), Err(InvalidPrefix), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_accepts_what_generating_makes(text in "[a-z][a-z0-9]{0,9}(_[a-z0-9]{1,7}){0,2}") {
            let secret = Secret::generate(&Prefix::new(&text).unwrap()).unwrap();
            prop_assert_eq!(Secret::parse(secret.expose()).unwrap(), secret);
        }

        #[test]
        fn parsing_refuses_every_other_character(at in 0usize..64, to in any::<char>()) {
            let secret = Secret::generate(&prefix()).unwrap();
            let mut chars: Vec<char> = secret.expose().chars().collect();
            prop_assume!(chars[at] != to);
            chars[at] = to;
            let text: String = chars.into_iter().collect();
            prop_assert_eq!(Secret::parse(&text), Err(MalformedSecret));
        }

        #[test]
        fn parsing_never_panics(text in any::<String>()) {
            prop_assert_eq!(Secret::parse(&text), Err(MalformedSecret));
        }

        #[test]
        fn parsing_refuses_other_lengths(cut in 1usize..64, tail in "[0-9A-Za-z]{1,8}") {
            let secret = Secret::generate(&prefix()).unwrap();
            let longer = format!("{}{tail}", secret.expose());
            prop_assert!(Secret::parse(&secret.expose()[cut..]).is_err());
            prop_assert!(Secret::parse(&secret.expose()[..64 - cut]).is_err());
            prop_assert!(Secret::parse(&longer).is_err());
        }
    }
}

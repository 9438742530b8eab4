//! The format of secrets: generation, parsing and checksum.
//!
//! ```text
//! acme_live_3fK9aTq07LmXw2Pe5hVdRk8sYz1BnQc4JtGu6oEiAbCdEfGh0kZ3Wq
//! ╰───────╯ ╰──────────────╯╰──────────────────────────────╯╰────╯
//!  prefix     key id (16)             secret (32)        checksum (6)
//! ```
//!
//! Everything after the prefix is base62 (`0-9A-Za-z`). The checksum is the CRC-32 (IEEE) of all characters before
//! it, in six base62 digits, as in GitHub's tokens
//! ([source](https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/)):
//! a scanner can distinguish leaked secrets from similar strings offline. This regular expression matches secrets
//! with any prefix; [`Prefix::secret_pattern`] returns one for a single prefix:
//!
//! ```text
//! [a-z][a-z0-9]*(_[a-z0-9]+)*_[0-9A-Za-z]{54}
//! ```

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::id::{BASE62, KeyId, is_base62};
use crate::invalid_config::InvalidConfig;
use crate::parse_error::ParseError;

const SECRET_LEN: usize = 32;
const CHECKSUM_LEN: usize = 6;
pub(super) const BODY_LEN: usize = KeyId::LEN + SECRET_LEN + CHECKSUM_LEN;
/// The maximum length of a prefix.
pub(super) const MAX_PREFIX_LEN: usize = 32;
/// The number of id digits in a hint.
pub(super) const HINT_LEN: usize = 4;

/// The secret of a key in plain text, as clients send it. It is shown once, when the key is issued, and never
/// stored, unless the key is [recoverable](super::Key::recoverable) and the secret is encrypted.
///
/// `Debug` shows only the hint. The memory is zeroed on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    text: Zeroizing<String>,
    id: KeyId,
}

const MALFORMED: ParseError = ParseError::new("malformed API key");

impl Secret {
    /// Generates a secret from the randomness of the operating system: 95 bits of id and 190 bits of secret.
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system provides no randomness.
    pub fn generate(prefix: &Prefix) -> Result<Self, getrandom::Error> {
        Self::generate_with(prefix, None)
    }

    /// Generates a secret for a given key id.
    pub(crate) fn generate_for(prefix: &Prefix, id: KeyId) -> Result<Self, getrandom::Error> {
        Self::generate_with(prefix, Some(id))
    }

    fn generate_with(prefix: &Prefix, id: Option<KeyId>) -> Result<Self, getrandom::Error> {
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
                .unwrap_or_else(|| unreachable!("generated secrets are well-formed")),
            text,
        })
    }

    /// Parses a secret. Accepts exactly the format of [`Secret::generate`].
    ///
    /// # Errors
    ///
    /// [`ParseError`] for any other text.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let id = id_of(text.as_bytes()).ok_or(MALFORMED)?;
        Ok(Self {
            text: Zeroizing::new(text.to_owned()),
            id,
        })
    }

    /// The secret in plain text. Show it to the owner and discard it.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The id of the key that the secret belongs to.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The beginning of the secret, which may be displayed to recognize the key: `acme_live_3fK9…`.
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

/// The prefix of all secrets of an application, such as `acme_live`.
///
/// 1 to 32 characters: words of `a-z` and `0-9` joined by single underscores, starting with a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// Validates a prefix.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] if the prefix is malformed.
    pub fn new(text: &str) -> Result<Self, InvalidConfig> {
        if is_prefix(text.as_bytes()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidConfig::new(
                "prefix",
                "1 to 32 characters: words of a-z and 0-9 joined by _, starting with a letter",
            ))
        }
    }

    /// A regular expression that matches secrets with this prefix, for scanners of repositories and logs. It has
    /// no word boundaries, so that `%3D`, `\n` in escaped JSON, terminal colors or `PROD_` before a secret do not
    /// hide it. [`Secret::parse`] verifies the checksum of a match.
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

pub(super) fn is_prefix(text: &[u8]) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if text.len() > MAX_PREFIX_LEN {
        return false;
    }
    // Words are separated by single underscores.
    let mut after_separator = true;
    for &byte in text {
        if !word(byte) && (byte != b'_' || after_separator) {
            return false;
        }
        after_separator = byte == b'_';
    }
    !after_separator && text[0].is_ascii_lowercase()
}

/// Whether the length and the end of the prefix are those of a secret.
#[inline]
pub(super) fn has_secret_shape(bytes: &[u8]) -> bool {
    let prefix_len = bytes.len().wrapping_sub(BODY_LEN + 1);
    (1..=MAX_PREFIX_LEN).contains(&prefix_len) && bytes[prefix_len] == b'_'
}

/// The key id in a secret, if format and checksum are valid.
#[inline]
pub(crate) fn id_of(bytes: &[u8]) -> Option<KeyId> {
    let body_starts = bytes.len().checked_sub(BODY_LEN)?;
    let (head, body) = bytes.split_at(body_starts);
    let prefix = head.strip_suffix(b"_")?;
    let id = KeyId::from_digits(&body[..KeyId::LEN])?;
    let digits = &body[KeyId::LEN..];
    if !is_prefix(prefix) || !is_base62(digits) {
        return None;
    }
    let (checked, checksum) = bytes.split_at(bytes.len() - CHECKSUM_LEN);
    if base62_value(checksum) != u64::from(crc32fast::hash(checked)) {
        return None;
    }
    Some(id)
}

/// The number encoded by base62 digits.
fn base62_value(digits: &[u8]) -> u64 {
    let value = |digit: u8| u64::from(VALUES[usize::from(digit)]);
    digits
        .iter()
        .fold(0, |number, &digit| number * 62 + value(digit))
}

/// The value of each base62 digit.
const VALUES: [u8; 256] = {
    let mut values = [0; 256];
    let mut value = 0;
    while value < BASE62.len() {
        values[BASE62[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// CRC-32 (IEEE) in six base62 digits, zero-padded.
fn checksum(text: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut number = crc32fast::hash(text);
    let mut digits = [b'0'; CHECKSUM_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(number % 62) as usize];
        number /= 62;
    }
    digits
}

/// Appends uniformly distributed digits. Rejects bytes that would bias them.
fn push_random_digits(text: &mut String, count: usize) -> Result<(), getrandom::Error> {
    const UNBIASED: u8 = 248; // 4 × 62
    let mut remaining = count;
    let mut random = Zeroizing::new([0; 64]);
    while remaining > 0 {
        getrandom::fill(&mut *random)?;
        for &byte in random
            .iter()
            .filter(|&&byte| byte < UNBIASED)
            .take(remaining)
        {
            text.push(char::from(BASE62[usize::from(byte % 62)]));
            remaining -= 1;
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
    fn checksum_matches_github_tokens() {
        assert_eq!(&checksum(b"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ"), b"0mLq17");
        assert_eq!(&checksum(b"qkJaB6MffYVzZXWqmcoF49yrUxP3wf"), b"0LsakP");
    }

    #[test]
    fn secret_has_the_documented_format() {
        let secret = Secret::generate(&prefix()).unwrap();
        assert_eq!(secret.expose().len(), "acme_live_".len() + 54);
        assert!(secret.expose().starts_with("acme_live_"));
        assert_eq!(&secret.expose()[10..26], secret.id().as_str());
        assert_ne!(Secret::generate(&prefix()).unwrap(), secret);
    }

    /// The bounds are six standard deviations. Accepting one biased byte would be eight beyond them.
    #[test]
    #[cfg_attr(miri, ignore = "too slow under Miri")]
    fn digits_are_uniformly_distributed() {
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

    mod secret_confidentiality {
        use super::*;

        #[test]
        fn debug_output_has_no_secret() {
            let secret = Secret::generate(&prefix()).unwrap();
            let hint = format!("acme_live_{}…", &secret.id().as_str()[..4]);
            assert_eq!(secret.hint(), hint);
            assert_eq!(format!("{secret:?}"), format!("Secret({hint})"));
        }
    }

    #[test]
    fn malformed_secrets_with_valid_checksums_are_rejected() {
        let digits = "0".repeat(KeyId::LEN + SECRET_LEN);
        let with_checksum = |start: String| {
            let sum = checksum(start.as_bytes());
            format!("{start}{}", std::str::from_utf8(&sum).unwrap())
        };
        assert!(Secret::parse(&with_checksum(format!("acme_{digits}"))).is_ok());
        for start in [
            format!("Acme_{digits}"),
            format!("_{digits}"),
            format!("acme-{digits}"),
            format!("acme_-{}", &digits[1..]),
            format!("acme_{}-", &digits[1..]),
        ] {
            let text = with_checksum(start);
            assert_eq!(Secret::parse(&text), Err(MALFORMED), "{text}");
        }
    }

    /// Both documents must contain the pattern tested here.
    #[test]
    #[cfg_attr(miri, ignore = "too slow under Miri")]
    fn patterns_match_secrets_in_any_context() {
        const ANY: &str = "[a-z][a-z0-9]*(_[a-z0-9]+)*_[0-9A-Za-z]{54}";
        for text in [
            include_str!("../guide/security.md"),
            include_str!("secret.rs"),
        ] {
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
            // The pattern for any prefix may match more at the beginning.
            assert!(of_any.find(&text).expect(&text).as_str().ends_with(secret));
        }
        assert!(of_any.find("/v1/postings/some_name_0123456789").is_none());
    }

    #[test]
    fn malformed_prefixes_are_rejected() {
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
            assert_eq!(Prefix::new(text).unwrap_err().field, "prefix", "{text}");
        }
    }

    proptest! {
        #[test]
        fn generated_secrets_parse(text in "[a-z][a-z0-9]{0,9}(_[a-z0-9]{1,7}){0,2}") {
            let secret = Secret::generate(&Prefix::new(&text).unwrap()).unwrap();
            prop_assert_eq!(Secret::parse(secret.expose()).unwrap(), secret);
        }

        #[test]
        fn changed_characters_are_rejected(at in 0usize..64, to in any::<char>()) {
            let secret = Secret::generate(&prefix()).unwrap();
            let mut chars: Vec<char> = secret.expose().chars().collect();
            prop_assume!(chars[at] != to);
            chars[at] = to;
            let text: String = chars.into_iter().collect();
            prop_assert_eq!(Secret::parse(&text), Err(MALFORMED));
        }

        #[test]
        fn arbitrary_texts_are_rejected_without_panic(text in any::<String>()) {
            prop_assert_eq!(Secret::parse(&text), Err(MALFORMED));
        }

        #[test]
        fn other_lengths_are_rejected(cut in 1usize..64, tail in "[0-9A-Za-z]{1,8}") {
            let secret = Secret::generate(&prefix()).unwrap();
            let longer = format!("{}{tail}", secret.expose());
            prop_assert!(Secret::parse(&secret.expose()[cut..]).is_err());
            prop_assert!(Secret::parse(&secret.expose()[..64 - cut]).is_err());
            prop_assert!(Secret::parse(&longer).is_err());
        }
    }
}

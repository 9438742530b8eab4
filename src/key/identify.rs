//! Identifies the keys of secrets in a text.

#[cfg(feature = "password-hashes")]
use std::ops::RangeInclusive;

use super::digest::Digest;
#[cfg(feature = "password-hashes")]
use super::imported_format::id_of_prefix;
use super::issuer::{Issuer, is_importable};
use super::redact::ids_of_secrets;
use super::secret::is_prefix;
use crate::id::{KeyId, is_base62};

/// The maximum number of secrets, of words that may be secrets of other systems, and of separators in each.
const MAX_SECRETS: usize = 16;
const MAX_WORDS: usize = 4;
const MAX_SEPARATORS: usize = 4;

/// The lengths of prefixes by which other systems find password hashes, if they end at no separator.
#[cfg(feature = "password-hashes")]
const PREFIX_LENGTHS: RangeInclusive<usize> = 4..=16;

/// The ids of the keys that a text may have the secret of, the most likely one first.
///
/// Finds secrets of this crate anywhere in the text, and a truncated or mistyped one that is the whole text. Every long
/// word may be a secret that another system issued, whose id depends on how that system hashed it.
pub(crate) fn identify(text: &str, issuer: Option<&Issuer>) -> Vec<KeyId> {
    let mut ids: Vec<_> = ids_of_secrets(text).take(MAX_SECRETS).collect();
    ids.extend(id_of_damaged(text));
    let words = text.split_whitespace();
    let words = words.map(|word| word.trim_matches(|c| "\"'`,;".contains(c)));
    for word in words
        .filter(|it| is_importable(it.as_bytes()))
        .take(MAX_WORDS)
    {
        ids.extend(hashed_parts(word).flat_map(|part| imported_ids(part, issuer)));
        #[cfg(feature = "password-hashes")]
        ids.extend(prefixes(word).map(id_of_prefix));
    }
    ids
}

/// The id in a secret with a wrong length or checksum. It must have digits after the id.
fn id_of_damaged(text: &str) -> Option<KeyId> {
    let text = text.trim().trim_end_matches(['…', '.', '*']);
    let (prefix, digits) = text.rsplit_once('_')?;
    let (id, rest) = digits.as_bytes().split_at_checked(KeyId::LEN)?;
    let is_secret = is_prefix(prefix.as_bytes()) && !rest.is_empty() && is_base62(rest);
    is_secret.then(|| KeyId::from_digits(id)).flatten()
}

/// The positions of the first separators in a printable ASCII text.
fn separators(word: &str) -> impl Iterator<Item = usize> {
    let is_first = |(at, c): &(usize, char)| !c.is_alphanumeric() && !word[..*at].contains(*c);
    let separators = word.char_indices().filter(is_first);
    separators.map(|(at, _)| at).take(MAX_SEPARATORS)
}

/// The parts of a secret that another system may have hashed: all of it, or what follows a separator.
fn hashed_parts(word: &str) -> impl Iterator<Item = &[u8]> {
    let after = separators(word).map(|at| &word[at + 1..]);
    let parts = std::iter::once(word).chain(after).map(str::as_bytes);
    parts.filter(|part| is_importable(part))
}

/// The prefixes by which another system may find the password hash of a secret.
#[cfg(feature = "password-hashes")]
fn prefixes(word: &str) -> impl Iterator<Item = &str> {
    separators(word)
        .chain(PREFIX_LENGTHS)
        .filter_map(|end| word.get(..end))
}

/// The ids under which another system's secret may be imported.
fn imported_ids(hashed: &[u8], issuer: Option<&Issuer>) -> Vec<KeyId> {
    let plain = [Digest::sha256(hashed), Digest::sha512(hashed)];
    let peppered = issuer.map(|issuer| issuer.peppers.digests(hashed));
    let digests = plain.into_iter().chain(peppered.into_iter().flatten());
    digests.map(|digest| digest.imported_id()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(feature = "password-hashes")]
    use crate::key::SecretPrefix;
    use crate::key::{ImportedFormat, Peppers, Prefix, Secret};

    fn identified(text: &str, id: KeyId) -> bool {
        identify(text, None).contains(&id)
    }

    #[test]
    fn secrets_are_identified_in_any_text() {
        let secret = Secret::generate(&Prefix::new("acme_live").unwrap()).unwrap();
        let (text, id) = (secret.expose(), secret.id());
        for text in [
            text.to_owned(),
            format!("  {text}\n"),
            format!("Authorization: Bearer {text}"),
            format!("curl -H 'x-api-key: {text}' https://api.example"),
            format!(r#"{{"key":"{text}"}}"#),
            format!("KEY={text};other=1"),
            format!("PROD_{text}_2024"),
            // Truncated, mistyped and longer.
            text[..40].to_owned(),
            format!("{}…", &text[..40]),
            format!("{}******", &text[..30]),
            format!("{}x", &text[..63]),
            format!("{text}x"),
        ] {
            assert_eq!(identify(&text, None).first(), Some(&id), "{text}");
        }
        // Without a digit of the secret itself, it is only an id.
        for text in [
            "",
            id.as_str(),
            &secret.hint(),
            &text[..26],
            "an_integration",
        ] {
            assert!(!identified(text, id), "{text}");
        }
    }

    #[test]
    fn imported_secrets_are_identified_in_every_format() {
        let peppers = Peppers::new([("old", &[7; 16][..]), ("new", &[8; 16][..])]).unwrap();
        let issuer = Issuer::new("acme_live").unwrap().peppers(peppers.clone());
        let secret = "17|sk-9fQ2hX7bLmT4vWc8";
        for format in [
            ImportedFormat::sha256(),
            ImportedFormat::sha512(),
            ImportedFormat::hmac_sha256("old"),
            ImportedFormat::hmac_sha256("new"),
            ImportedFormat::sha256().after('|'),
            ImportedFormat::sha512().after('-'),
            ImportedFormat::hmac_sha256("new").after('|'),
            #[cfg(feature = "password-hashes")]
            ImportedFormat::password_hash(SecretPrefix::Before('-')),
            #[cfg(feature = "password-hashes")]
            ImportedFormat::password_hash(SecretPrefix::First(8)),
        ] {
            let id = format.candidate(secret.as_bytes(), &peppers).unwrap().id;
            for text in [secret, &format!("Bearer \"{secret}\"")] {
                let ids = identify(text, Some(&issuer));
                assert!(ids.contains(&id), "{format:?} {text}");
            }
        }
        assert!(identified(secret, KeyId::of_secret(secret).unwrap()));
    }

    #[test]
    fn the_number_of_ids_is_bounded() {
        let secret = Secret::generate(&Prefix::new("a").unwrap()).unwrap();
        let text = format!("{} a-b.c_d|e/0123456789abcdef ", secret.expose()).repeat(1_000);
        let most = MAX_SECRETS + MAX_WORDS * (2 * (1 + MAX_SEPARATORS) + MAX_SEPARATORS + 13);
        assert!((MAX_SECRETS..=most).contains(&identify(&text, None).len()));
    }
}

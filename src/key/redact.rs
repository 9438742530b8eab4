//! Redaction of secrets in client-controlled texts before they are stored.

use crate::text::floor_char_boundary;
use std::borrow::Cow;
use std::ops::Range;

use super::secret::{BODY_LEN, HINT_LEN, MAX_PREFIX_LEN, id_of};
#[cfg(feature = "dashboard")]
use crate::id::KeyId;

/// The number of levels of percent-encoding that are decoded.
const MAX_DECODINGS: usize = 3;
/// The maximum length of an encoded secret: each level of percent-encoding triples it at most.
const MAX_SECRET_LEN: usize = (MAX_PREFIX_LEN + 1 + BODY_LEN) * 3_usize.pow(MAX_DECODINGS as u32);

/// The first `max_len` bytes of a text, with every secret reduced to its hint.
///
/// Secrets are detected by their checksum, whatever surrounds them, percent-encoded or not. A standalone word in
/// the format of a secret is redacted even if its checksum is wrong, so that mistyped secrets are not stored
/// either. The cost does not depend on the length of the part that is cut off.
#[inline]
pub(crate) fn redact_secrets(text: &str, max_len: usize) -> Cow<'_, str> {
    if text.len() <= BODY_LEN.min(max_len) {
        Cow::Borrowed(text)
    } else {
        redacted(text, max_len)
    }
}

/// Whether the text contains a secret.
pub(crate) fn has_secret(text: &str) -> bool {
    matches!(redact_secrets(text, text.len()), Cow::Owned(_))
}

fn redacted(text: &str, max_len: usize) -> Cow<'_, str> {
    let kept = &text[..floor_char_boundary(text, max_len)];
    // A secret that starts in `kept` ends in `searched`.
    let searched = &text[..floor_char_boundary(text, max_len.saturating_add(MAX_SECRET_LEN))];
    let mut found = Vec::new();
    find_secrets(searched.as_bytes(), |range| found.push(range));
    let mut decoded = Decoded::of(searched);
    for _ in 0..MAX_DECODINGS {
        if !decoded.decode() {
            break;
        }
        find_secrets(&decoded.bytes, |range| {
            found.push(decoded.starts[range.start]..decoded.starts[range.end]);
        });
    }
    found.retain(|range| range.start < kept.len());
    if found.is_empty() {
        return Cow::Borrowed(kept);
    }
    found.sort_unstable_by_key(|range| range.start);
    let mut redacted = String::new();
    let mut done = 0;
    for range in found {
        // Overlapping matches are those of other decoding levels.
        if range.start >= done {
            redacted.push_str(&kept[done..range.start]);
            redacted.push('…');
            done = range.end.min(kept.len());
        }
    }
    redacted.push_str(&kept[done..]);
    redacted.truncate(floor_char_boundary(&redacted, max_len));
    Cow::Owned(redacted)
}

/// The ids in the secrets that a text contains, also in those with a wrong checksum.
#[cfg(feature = "dashboard")]
pub(crate) fn ids_of_secrets(text: &str) -> impl Iterator<Item = KeyId> {
    let bodies = bodies(text.as_bytes());
    let secrets = bodies.filter(|body| body.is_alone() || body.has_checksum());
    secrets.filter_map(|body| {
        let digits = &body.text[body.underscore + 1..];
        KeyId::from_digits(digits.first_chunk::<{ KeyId::LEN }>()?)
    })
}

/// Whether a credential contains a secret, detected by its checksum, or a word that resembles a mistyped or
/// truncated secret. Unlike [`has_secret`], it does not match parts of longer random tokens such as JWTs.
///
/// Only the first 16 KiB are searched, because unauthenticated clients choose the length.
pub(crate) fn credential_has_secret(credential: &[u8]) -> bool {
    let credential = truncate_for_search(credential);
    let mut words = credential.split(|b| b" \t,;:=\"'".contains(b));
    words.any(is_almost_secret) || bodies(credential).any(|body| body.has_checksum())
}

/// The part of a credential that is searched for secrets.
pub(crate) fn truncate_for_search(credential: &[u8]) -> &[u8] {
    &credential[..credential.len().min(16 << 10)]
}

/// Whether a word is a prefix and a body of approximately the right length.
fn is_almost_secret(word: &[u8]) -> bool {
    const LENGTHS: Range<usize> = BODY_LEN - 10..BODY_LEN + 9;
    let Some(underscore) = word.iter().rposition(|b| *b == b'_') else {
        return false;
    };
    let (prefix, body) = (&word[..underscore], &word[underscore + 1..]);
    let is_prefix = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_';
    (1..=MAX_PREFIX_LEN).contains(&prefix.len())
        && prefix.iter().all(is_prefix)
        && LENGTHS.contains(&body.len())
        && body.iter().all(u8::is_ascii_alphanumeric)
}

/// Reports the part of each secret that must not be stored: the body after the hint.
fn find_secrets(bytes: &[u8], mut found: impl FnMut(Range<usize>)) {
    for body in bodies(bytes) {
        if body.is_alone() || body.has_checksum() {
            found(body.underscore + 1 + HINT_LEN..body.end);
        }
    }
}

/// A candidate: text in the format of prefix and body of a secret.
struct Body<'a> {
    text: &'a [u8],
    /// The earliest possible start of the prefix.
    start: usize,
    underscore: usize,
    end: usize,
}

fn bodies(text: &[u8]) -> impl Iterator<Item = Body<'_>> {
    let is_prefix = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let underscores = text.iter().enumerate().filter(|(_, b)| **b == b'_');
    underscores.filter_map(move |(underscore, _)| {
        let end = underscore + 1 + BODY_LEN;
        let body = text.get(underscore + 1..end)?;
        let behind_prefix = text[..underscore].last().is_some_and(is_prefix);
        let is_body = behind_prefix && body.iter().all(u8::is_ascii_alphanumeric);
        is_body.then_some(Body {
            text,
            start: underscore.saturating_sub(MAX_PREFIX_LEN),
            underscore,
            end,
        })
    })
}

impl Body<'_> {
    /// Whether the body is followed by a word boundary.
    fn is_alone(&self) -> bool {
        let next = self.text.get(self.end);
        !next.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
    }

    fn has_checksum(&self) -> bool {
        let mut starts = self.start..self.underscore;
        starts.any(|start| id_of(&self.text[start..self.end]).is_some())
    }
}

/// A decoded text, and the original position of each byte.
struct Decoded {
    bytes: Vec<u8>,
    /// Has one more element than `bytes`: the end of the original.
    starts: Vec<usize>,
}

impl Decoded {
    fn of(text: &str) -> Self {
        // Most texts have nothing to decode and are not copied.
        let len = if text.contains('%') { text.len() } else { 0 };
        Self {
            bytes: text.as_bytes()[..len].to_vec(),
            starts: (0..=len).collect(),
        }
    }

    /// Decodes one level in place; `false` if there is nothing to decode.
    fn decode(&mut self) -> bool {
        let (mut read, mut written) = (0, 0);
        while read < self.bytes.len() {
            let (byte, len) = match percent_encoded(&self.bytes[read..]) {
                Some(byte) => (byte, 3),
                None => (self.bytes[read], 1),
            };
            self.bytes[written] = byte;
            self.starts[written] = self.starts[read];
            read += len;
            written += 1;
        }
        self.starts[written] = self.starts[read];
        self.bytes.truncate(written);
        self.starts.truncate(written + 1);
        written < read
    }
}

/// The percent-encoded byte at the start of a text (RFC 3986 §2.1).
fn percent_encoded(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else {
        return None;
    };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Prefix, Secret};

    fn without_secrets(text: &str) -> String {
        super::redact_secrets(text, usize::MAX).into_owned()
    }

    mod secret_confidentiality {
        use super::*;

        #[test]
        fn secrets_in_texts_are_reduced_to_hints() {
            for prefix in ["a", "acme_live", "a1_2b"] {
                let secret = Secret::generate(&Prefix::new(prefix).unwrap()).unwrap();
                let (text, hint) = (secret.expose(), secret.hint());
                for (before, after) in [
                    ("", ""),
                    ("/v1/keys/", "/usage"),
                    ("é=", ".json"),
                    ("x_", "é"),
                    ("/f/", "_2024.csv"),
                    ("/f/", "x"),
                    ("/f/", "%41"),
                    ("", "_1"),
                    ("0", &*"z".repeat(54)),
                    ("A", "_"),
                    ("%5F", "%5F"),
                ] {
                    assert_eq!(
                        without_secrets(&format!("{before}{text}{after}")),
                        format!("{before}{hint}{after}")
                    );
                }
                // Encodes every character, repeatedly.
                let encode = |text: &str| text.bytes().map(|b| format!("%{b:02x}")).collect();
                let mut encoded: String = text.into();
                for _ in 0..3 {
                    encoded = encode(&encoded);
                    let redacted = without_secrets(&format!("/{encoded}/x"));
                    let end = redacted.find('…').expect("the secret is redacted");
                    assert!(encoded.starts_with(&redacted[1..end]));
                    assert_eq!(&redacted[end..], "…/x");
                    // The length of the encoded hint remains.
                    let unit = encoded.len() / text.len();
                    assert_eq!(end - 1, unit * (hint.len() - '…'.len_utf8()));
                }
                assert_eq!(
                    without_secrets(&format!("/{}", text.replace('_', "%5F"))),
                    format!("/{}", hint.replace('_', "%5F"))
                );
                assert_eq!(
                    without_secrets(&format!("/{text}/{text}")),
                    format!("/{hint}/{hint}")
                );
                assert!(has_secret(text));
            }
        }
    }

    #[test]
    fn other_texts_are_unchanged() {
        let digits = "0".repeat(BODY_LEN);
        for text in [
            String::new(),
            "/v1/postings/1".to_owned(),
            digits.clone(),
            format!("_{digits}"),
            format!("/_{digits}"),
            format!("A_{digits}"),
            format!("a-{digits}"),
            format!("a_{}", &digits[1..]),
            format!("a_{digits}0"),
            format!("a_{digits}_"),
            format!("a_{}é", &digits[1..]),
            format!("a_{digits}_2024.csv"),
            format!("a_{digits}x"),
            format!("/100%/{}", "x".repeat(60)),
            "%".repeat(60),
            "a_".repeat(100),
        ] {
            assert_eq!(without_secrets(&text), text);
            assert!(!has_secret(&text), "{text}");
        }
    }
}

//! Credentials in headers: lists of equal values, schemes of `Authorization`, and secrets that no source reads.

use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use crate::key::{holds_secret, searched};

/// The text without blanks around it; of a list of equal texts, as some clients join a header that they send
/// twice, one of them.
#[inline]
pub(super) fn one_of_equal(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    if !value.contains(&b',') {
        return value;
    }
    let parts = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    // RFC 9110 §5.6.1.2: empty elements count for nothing.
    let mut parts = parts.filter(|part| !part.is_empty());
    let first = parts.next().unwrap_or_default();
    if parts.all(|part| part == first) {
        first
    } else {
        value
    }
}

/// The token of a scheme of `Authorization`, whose name is written in any case (RFC 9110 §11.1).
#[inline]
pub(super) fn token_of<'a>(scheme: &str, value: &'a [u8]) -> Option<&'a [u8]> {
    let (name, rest) = value.split_at_checked(scheme.len())?;
    let token = rest.trim_ascii();
    let is_its = name.eq_ignore_ascii_case(scheme.as_bytes()) && rest.first() == Some(&b' ');
    (is_its && !token.is_empty()).then_some(token)
}

/// The user name and the password of the `Basic` scheme (RFC 7617), with the colon between them.
#[cold]
fn basic(value: &[u8]) -> Option<Vec<u8>> {
    decoded(token_of("basic", value)?)
}

/// The user name of the `Basic` scheme; the password counts for nothing.
#[cold]
pub(super) fn basic_user(value: &[u8]) -> Option<Vec<u8>> {
    let mut user = basic(value)?;
    let colon = user.iter().position(|b| *b == b':')?;
    user.truncate(colon);
    (!user.is_empty()).then_some(user)
}

/// Takes the values of `Authorization` away that are ours, and answers the first of them.
pub(super) fn remove_authorization(
    headers: &mut HeaderMap,
    is_ours: impl Fn(&HeaderValue) -> bool,
) -> Option<HeaderValue> {
    let values: Vec<HeaderValue> = headers.get_all(AUTHORIZATION).iter().cloned().collect();
    headers.remove(AUTHORIZATION);
    let (ours, others): (Vec<_>, Vec<_>) = values.into_iter().partition(is_ours);
    for other in others {
        headers.append(AUTHORIZATION, other);
    }
    ours.into_iter().next()
}

/// Whether a header's value has a secret, as it is or in a word in base64, as `Basic` and others have it.
pub(super) fn has_unread_secret(value: &[u8]) -> bool {
    let value = searched(value);
    let mut words = value.split(|b| b" \t,;:\"'".contains(b));
    holds_secret(value) || words.any(|word| decoded(word).is_some_and(|text| holds_secret(&text)))
}

/// A word of base64 in either alphabet (RFC 4648), padded or not.
fn decoded(word: &[u8]) -> Option<Vec<u8>> {
    let end = word
        .iter()
        .rposition(|b| *b != b'=')
        .map_or(0, |last| last + 1);
    let standard = |b: &u8| match b {
        b'-' => b'+',
        b'_' => b'/',
        other => *other,
    };
    let word: Vec<u8> = word[..end].iter().map(standard).collect();
    BASE64.decode(word).ok()
}

const BASE64: GeneralPurpose = {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true);
    GeneralPurpose::new(&alphabet::STANDARD, config)
};

//! Parsing of credentials in headers: repeated values, `Authorization` schemes, and detection of unread secrets.

use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use crate::key::{credential_has_secret, truncate_for_search};

/// The trimmed value. A comma-separated list of equal values, as produced by joining a repeated header, counts as
/// one value.
#[inline]
pub(super) fn one_of_equal(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    if memchr::memchr(b',', value).is_none() {
        return value;
    }
    let parts = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    // RFC 9110 §5.6.1.2: empty elements are ignored.
    let mut parts = parts.filter(|part| !part.is_empty());
    let first = parts.next().unwrap_or_default();
    if parts.all(|part| part == first) {
        first
    } else {
        value
    }
}

/// The token of an `Authorization` scheme, whose name is case-insensitive (RFC 9110 §11.1).
#[inline]
pub(super) fn token_of<'a>(scheme: &str, value: &'a [u8]) -> Option<&'a [u8]> {
    let (name, rest) = value.split_at_checked(scheme.len())?;
    let token = rest.trim_ascii();
    let is_scheme = name.eq_ignore_ascii_case(scheme.as_bytes()) && rest.first() == Some(&b' ');
    (is_scheme && !token.is_empty()).then_some(token)
}

/// The decoded `user:password` of the `Basic` scheme (RFC 7617).
#[cold]
fn basic(value: &[u8]) -> Option<Vec<u8>> {
    decoded(token_of("basic", value)?)
}

/// The user name of the `Basic` scheme. The password is ignored.
#[cold]
pub(super) fn basic_user(value: &[u8]) -> Option<Vec<u8>> {
    let mut user = basic(value)?;
    let colon = user.iter().position(|b| *b == b':')?;
    user.truncate(colon);
    (!user.is_empty()).then_some(user)
}

/// Removes the matching values of `Authorization` and returns the first of them.
pub(super) fn remove_authorization(
    headers: &mut HeaderMap,
    is_own: impl Fn(&HeaderValue) -> bool,
) -> Option<HeaderValue> {
    let values: Vec<HeaderValue> = headers.get_all(AUTHORIZATION).iter().cloned().collect();
    headers.remove(AUTHORIZATION);
    let (own, others): (Vec<_>, Vec<_>) = values.into_iter().partition(is_own);
    for other in others {
        headers.append(AUTHORIZATION, other);
    }
    own.into_iter().next()
}

/// Whether a header value contains a secret, either verbatim or in a base64-encoded word, as in `Basic`.
pub(super) fn has_unread_secret(value: &[u8]) -> bool {
    let value = truncate_for_search(value);
    let mut words = value.split(|b| b" \t,;:\"'".contains(b));
    credential_has_secret(value)
        || words.any(|word| decoded(word).is_some_and(|text| credential_has_secret(&text)))
}

/// Decodes base64 in either alphabet of RFC 4648, with or without padding.
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

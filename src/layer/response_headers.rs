//! The headers added to responses: request id, rate limits and cache control.

use bytes::{Buf, Bytes};
use http::header::{CACHE_CONTROL, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::key::has_secret;
use crate::limit::{Decision, LimitHeaders};

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The headers that the layer adds to responses, for `Access-Control-Expose-Headers`: browsers hide them from
/// scripts of other origins unless the CORS layer exposes them.
///
/// ```
/// # fn expose_headers<const N: usize>(_: [http::HeaderName; N]) {}
/// // tower_http::cors::CorsLayer::new().allow_origin(..)
/// //     .expose_headers(keytally::RESPONSE_HEADERS)
/// expose_headers(keytally::RESPONSE_HEADERS);
/// ```
pub const RESPONSE_HEADERS: [HeaderName; 8] = [
    RATELIMIT,
    RATELIMIT_POLICY,
    RETRY_AFTER,
    WWW_AUTHENTICATE,
    X_RATELIMIT_LIMIT,
    X_RATELIMIT_REMAINING,
    X_RATELIMIT_RESET,
    X_REQUEST_ID,
];

/// The rate limit headers of responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HeaderStyle {
    /// `RateLimit-Policy: "burst";q=100;w=60` and `RateLimit: "burst";r=50;t=30`, after
    /// [draft-ietf-httpapi-ratelimit-headers-10](https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/),
    /// with an item for each limit of the key: `q` requests are allowed per `w` seconds, `r` remain, and the limit
    /// is fully replenished after `t` seconds.
    #[default]
    Draft,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset` (in seconds from now) for a single
    /// limit: the exceeded limit with the longest wait, or else the limit with the fewest remaining requests. Ties
    /// are resolved in favor of the longest reset.
    XRateLimit,
    /// No rate limit headers.
    None,
}

/// The value of `x-request-id`.
#[derive(Clone, Copy)]
pub(crate) enum WireId<'a> {
    /// Sent by the client or set by an outer layer.
    Client(&'a str),
    Generated(Uuid),
}

/// Builds the header values of a response in one allocation: the request id and the rate limit items.
pub(crate) struct HeaderText {
    short: [u8; Self::SHORT],
    len: usize,
    /// The whole text, if it is longer.
    long: Vec<u8>,
}

/// A range of a [`HeaderText`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TextRange {
    start: u16,
    end: u16,
}

struct Short([u8; HeaderText::SHORT]);

impl AsRef<[u8]> for Short {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl HeaderText {
    const SHORT: usize = 112;

    pub(crate) fn new() -> Self {
        Self {
            short: [0; Self::SHORT],
            len: 0,
            long: Vec::new(),
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, part: &[u8]) {
        let end = self.len + part.len();
        match self.short.get_mut(self.len..end) {
            Some(room) => room.copy_from_slice(part),
            None => self.push_long(part),
        }
        self.len = end;
    }

    #[cold]
    fn push_long(&mut self, part: &[u8]) {
        if self.long.is_empty() {
            let short = self.short.get(..self.len).unwrap_or_default();
            self.long.extend_from_slice(short);
        }
        self.long.extend_from_slice(part);
    }

    /// The text since a start.
    fn since(&self, start: usize) -> TextRange {
        TextRange {
            start: start as u16,
            end: self.len as u16,
        }
    }

    #[inline]
    fn push_number(&mut self, number: u32) {
        self.push(itoa::Buffer::new().format(number).as_bytes());
    }

    #[inline]
    pub(crate) fn push_id(&mut self, id: Uuid) {
        let mut digits = [0; Hyphenated::LENGTH];
        id.as_hyphenated().encode_lower(&mut digits);
        self.push(&digits);
    }

    /// `"burst";r=50;t=30, "day";r=900;t=4000`
    #[inline]
    fn push_statuses(&mut self, headers: &LimitHeaders, decision: &Decision) -> TextRange {
        let start = self.len;
        for (index, (item, status)) in headers.items.iter().zip(decision.statuses()).enumerate() {
            if index > 0 {
                self.push(b", ");
            }
            self.push(item.as_bytes());
            self.push_number(status.remaining);
            self.push(b";t=");
            self.push_number(status.reset_secs);
        }
        self.since(start)
    }

    fn into_bytes(self) -> Bytes {
        if self.long.is_empty() {
            Bytes::from_owner(Short(self.short))
        } else {
            self.long.into()
        }
    }
}

#[inline]
fn header(mut text: Bytes, range: TextRange) -> Option<HeaderValue> {
    text.truncate(usize::from(range.end));
    text.advance(usize::from(range.start));
    HeaderValue::from_maybe_shared(text).ok()
}

/// The request id sent by the client, if it is safe in logs and headers: 1 to 128 characters of a restricted
/// alphabet, without a secret.
pub(crate) fn valid_request_id(id: &HeaderValue) -> Option<&str> {
    let is_allowed = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:/+=@~".contains(b);
    let is_valid = (1..=128).contains(&id.len()) && id.as_bytes().iter().all(is_allowed);
    let id = is_valid.then(|| id.to_str().ok())??;
    (!has_secret(id)).then_some(id)
}

/// The headers to add to a response.
#[derive(Clone, Copy)]
pub(crate) struct ResponseHeaders<'a> {
    pub(crate) request_id: WireId<'a>,
    pub(crate) style: HeaderStyle,
    /// The status of the key's rate limits, if it has any.
    pub(crate) limited: Option<(&'a LimitHeaders, &'a Decision)>,
    /// The value of `Vary`.
    pub(crate) vary: Option<&'a HeaderValue>,
    /// Whether to add `Cache-Control: private`.
    pub(crate) private: bool,
}

impl<'a> ResponseHeaders<'a> {
    /// The request id alone.
    pub(crate) fn request_id(request_id: WireId<'a>) -> Self {
        Self {
            request_id,
            style: HeaderStyle::None,
            limited: None,
            vary: None,
            private: false,
        }
    }

    /// Adds the headers to a response.
    #[inline]
    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        match (self.style, self.limited) {
            (HeaderStyle::Draft, Some((limits, decision))) => {
                self.add_draft(limits, decision, headers);
            }
            (style, limited) => {
                self.add_request_id(headers);
                if let (HeaderStyle::XRateLimit, Some((limits, decision))) = (style, limited) {
                    add_tightest(limits, decision, headers);
                }
            }
        }
        if let Some(vary) = self.vary {
            headers.append(VARY, vary.clone());
        }
        if self.private && !headers.contains_key(CACHE_CONTROL) {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
        }
    }

    fn add_request_id(self, headers: &mut HeaderMap) {
        let id = match self.request_id {
            WireId::Client(id) => HeaderValue::from_str(id),
            WireId::Generated(id) => {
                let mut digits = [0; Hyphenated::LENGTH];
                HeaderValue::from_str(id.as_hyphenated().encode_lower(&mut digits))
            }
        };
        if let Ok(id) = id {
            headers.insert(X_REQUEST_ID, id);
        }
    }

    /// Adds the request id and the headers of [`HeaderStyle::Draft`].
    #[inline]
    fn add_draft(self, limits: &LimitHeaders, decision: &Decision, headers: &mut HeaderMap) {
        let mut text = HeaderText::new();
        match self.request_id {
            WireId::Client(id) => text.push(id.as_bytes()),
            WireId::Generated(id) => text.push_id(id),
        }
        let request_id = text.since(0);
        let status = text.push_statuses(limits, decision);
        let text = text.into_bytes();
        if let Some(id) = header(text.clone(), request_id) {
            headers.insert(X_REQUEST_ID, id);
        }
        // List headers: items of an inner layer are kept.
        headers.append(RATELIMIT_POLICY, limits.policy.clone());
        if let Some(status) = header(text, status) {
            headers.append(RATELIMIT, status);
        }
    }
}

/// Adds the headers of [`HeaderStyle::XRateLimit`].
fn add_tightest(limits: &LimitHeaders, decision: &Decision, headers: &mut HeaderMap) {
    if let Some((index, status)) = decision.tightest()
        && let Some(&limit) = limits.bursts.get(index)
    {
        headers.insert(X_RATELIMIT_LIMIT, limit.into());
        headers.insert(X_RATELIMIT_REMAINING, status.remaining.into());
        headers.insert(X_RATELIMIT_RESET, status.reset_secs.into());
    }
}

/// Adds headers, from [`ResponseHeaders::apply`], to the response of a request that is not recorded by this layer. Keeps
/// the request id set by a nested layer or the service.
#[cold]
pub(crate) fn add_to_nested(added: HeaderMap, headers: &mut HeaderMap) {
    for (name, value) in added {
        // Later values of a name come without it; `apply` adds one value of each.
        let Some(name) = name else { continue };
        if name == VARY || name == RATELIMIT || name == RATELIMIT_POLICY {
            headers.append(name, value);
        } else if name == X_REQUEST_ID || name == CACHE_CONTROL {
            headers.entry(name).or_insert(value);
        } else {
            headers.insert(name, value);
        }
    }
}

/// Adds the request id, of headers from [`ResponseHeaders::apply`], to the rejection of a request that was admitted
/// before.
pub(crate) fn add_request_id(added: HeaderMap, headers: &mut HeaderMap) {
    if let Some(id) = added.get(X_REQUEST_ID) {
        headers.insert(X_REQUEST_ID, id.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{LimitStatus, RateLimit};

    #[test]
    fn ranges_are_valid_for_short_and_long_texts() {
        for path in ["/short".to_owned(), "/l".repeat(300)] {
            let mut text = HeaderText::new();
            text.push(path.as_bytes());
            let first = text.since(0);
            text.push(b"second");
            let second = text.since(path.len());
            let bytes = text.into_bytes();
            assert_eq!(header(bytes.clone(), first).unwrap(), path);
            assert_eq!(header(bytes, second).unwrap(), "second");
        }
    }

    #[test]
    fn limits_are_lists_of_items() {
        let limits = [
            RateLimit::per_second(10).with_burst(20).with_name("burst"),
            RateLimit::per_hour(1_000).with_name("hourly"),
        ];
        let headers = LimitHeaders::new(&limits).unwrap();
        let decision =
            Decision::new(
                [(19, 1), (7, 3_575)].map(|(remaining, reset_secs)| LimitStatus {
                    remaining,
                    reset_secs,
                }),
            );
        let response_headers = ResponseHeaders {
            style: HeaderStyle::Draft,
            limited: Some((&headers, &decision)),
            ..ResponseHeaders::request_id(WireId::Client("id"))
        };
        let mut map = HeaderMap::new();
        response_headers.apply(&mut map);
        assert_eq!(map["x-request-id"], "id");
        assert_eq!(
            map["ratelimit-policy"],
            "\"burst\";q=20;w=2, \"hourly\";q=1000;w=3600"
        );
        assert_eq!(
            map["ratelimit"],
            "\"burst\";r=19;t=1, \"hourly\";r=7;t=3575"
        );
    }

    #[test]
    fn invalid_request_ids_are_ignored() {
        let long = "a".repeat(129);
        let prefix = crate::key::Prefix::new("acme_live").unwrap();
        let secret = crate::key::Secret::generate(&prefix).unwrap();
        for (id, is_valid) in [
            (&*format!("{}_1", secret.expose()), false),
            (&*format!("{}x", secret.expose()), false),
            (&*format!("x{}", secret.expose()), false),
            ("abc-1", true),
            ("", false),
            ("a b", false),
            ("a\"b", false),
            (&*long, false),
            (&*"a".repeat(128), true),
            (&*format!("id:acme_live_{}", "0".repeat(54)), false),
        ] {
            let value = id.parse().unwrap();
            assert_eq!(valid_request_id(&value), is_valid.then_some(id));
        }
    }
}

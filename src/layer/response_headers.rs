//! The headers added to responses: request id, rate limits and cache control.

use http::header::{CACHE_CONTROL, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

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
    /// with an item for each limit of the key and its owner: `q` requests are allowed per `w` seconds, `r` remain, and the limit
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

/// Builds a header value without allocating, unless it is long.
struct HeaderText {
    short: [u8; Self::SHORT],
    len: usize,
    /// The whole text, if it is longer.
    long: Vec<u8>,
}

impl HeaderText {
    const SHORT: usize = 64;

    fn new() -> Self {
        Self {
            short: [0; Self::SHORT],
            len: 0,
            long: Vec::new(),
        }
    }

    #[inline]
    fn push(&mut self, part: &[u8]) {
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

    #[inline]
    fn push_number(&mut self, number: u32) {
        self.push(itoa::Buffer::new().format(number).as_bytes());
    }

    /// `"burst";r=50;t=30, "day";r=900;t=4000`
    #[inline]
    fn push_statuses(&mut self, headers: &LimitHeaders, decision: &Decision) {
        for (index, (item, status)) in headers.items.iter().zip(decision.statuses()).enumerate() {
            if index > 0 {
                self.push(b", ");
            }
            self.push(item.as_bytes());
            self.push_number(status.remaining);
            self.push(b";t=");
            self.push_number(status.reset_secs);
        }
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        self.short.get(..self.len).unwrap_or(&self.long)
    }
}

/// The hyphenated form of the id (RFC 9562), in half of the instructions of the `uuid` crate.
#[inline]
fn hyphenated(id: Uuid) -> [u8; 36] {
    const HEX: [[u8; 2]; 256] = {
        let digits = b"0123456789abcdef";
        let mut hex = [[0; 2]; 256];
        let mut byte = 0;
        while byte < 256 {
            hex[byte] = [digits[byte / 16], digits[byte % 16]];
            byte += 1;
        }
        hex
    };
    const OFFSETS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut text = [b'-'; 36];
    for (byte, offset) in id.as_bytes().iter().zip(OFFSETS) {
        [text[offset], text[offset + 1]] = HEX[usize::from(*byte)];
    }
    text
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

    #[inline]
    fn add_request_id(self, headers: &mut HeaderMap) {
        let id = match self.request_id {
            WireId::Client(id) => HeaderValue::from_str(id),
            WireId::Generated(id) => HeaderValue::from_bytes(&hyphenated(id)),
        };
        if let Ok(id) = id {
            headers.insert(X_REQUEST_ID, id);
        }
    }

    /// Adds the request id and the headers of [`HeaderStyle::Draft`].
    #[inline]
    fn add_draft(self, limits: &LimitHeaders, decision: &Decision, headers: &mut HeaderMap) {
        self.add_request_id(headers);
        // List headers: items of an inner layer are kept.
        if let Some(policy) = &limits.policy {
            headers.append(RATELIMIT_POLICY, policy.clone());
        }
        let mut text = HeaderText::new();
        text.push_statuses(limits, decision);
        if let Ok(status) = HeaderValue::from_bytes(text.as_bytes()) {
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
    fn short_and_long_texts_are_complete() {
        for part in [
            "",
            "short",
            &"l".repeat(64),
            &"l".repeat(65),
            &"l".repeat(300),
        ] {
            let mut text = HeaderText::new();
            text.push(b"first");
            text.push(part.as_bytes());
            text.push(b"last");
            assert_eq!(text.as_bytes(), format!("first{part}last").as_bytes());
        }
    }

    #[test]
    fn ids_are_hyphenated() {
        for id in [
            Uuid::nil(),
            Uuid::max(),
            Uuid::from_u128(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210),
        ] {
            assert_eq!(hyphenated(id), *id.to_string().as_bytes());
        }
    }

    #[test]
    fn limits_are_lists_of_items() {
        let limits = [
            RateLimit::per_second(10).with_burst(20).with_name("burst"),
            RateLimit::per_hour(1_000).with_name("hourly"),
        ];
        let headers = LimitHeaders::new(&limits);
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

//! What a response is given on its way out: the request id, and where the key's limits stand.

use bytes::{Buf, Bytes};
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

/// The headers that the layer adds to responses and that browsers hide from scripts of other origins, unless the CORS
/// layer exposes them.
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

/// In which headers clients are told where their limits stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HeaderStyle {
    /// `RateLimit-Policy: "burst";q=100;w=60` and `RateLimit: "burst";r=50;t=30`, after
    /// [draft-ietf-httpapi-ratelimit-headers-10](https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/),
    /// with all limits of the key. `q` requests each `w` seconds are the limit's rate, `r` requests are left of
    /// its burst, and after `t` seconds all of it can be spent again.
    #[default]
    Draft,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset` (in seconds from now) of one limit: of those that refuse,
    /// the one with the longest wait; else the one with the least left, and of several the one that takes the
    /// longest to reset.
    XRateLimit,
    /// None.
    None,
}

/// A request's id on the wire.
#[derive(Clone, Copy)]
pub(crate) enum WireId<'a> {
    /// The client's or an outer layer's.
    Client(&'a str),
    Generated(Uuid),
}

/// Text of headers, gathered into one allocation: the request id and the standings.
pub(crate) struct HeaderText {
    short: [u8; Self::SHORT],
    len: usize,
    long: Vec<u8>,
}

/// The stretch of a [`Text`] from one place to another.
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

    pub(crate) fn push(&mut self, part: &[u8]) -> TextRange {
        let start = self.len;
        self.len += part.len();
        match self.short.get_mut(start..self.len) {
            Some(room) if self.long.is_empty() => room.copy_from_slice(part),
            _ => {
                if self.long.is_empty() {
                    self.long.extend_from_slice(&self.short[..start]);
                }
                self.long.extend_from_slice(part);
            }
        }
        TextRange {
            start: start as u16,
            end: self.len as u16,
        }
    }

    fn push_number(&mut self, number: u32) {
        self.push(itoa::Buffer::new().format(number).as_bytes());
    }

    pub(crate) fn push_id(&mut self, id: Uuid) -> TextRange {
        let mut digits = [0; uuid::fmt::Hyphenated::LENGTH];
        id.as_hyphenated().encode_lower(&mut digits);
        self.push(&digits)
    }

    /// `"burst";r=50;t=30, "day";r=900;t=4000`
    fn push_statuses(&mut self, headers: &LimitHeaders, decision: &Decision) -> TextRange {
        let start = self.len;
        for (index, (item, standing)) in headers.items.iter().zip(decision.statuses()).enumerate() {
            if index > 0 {
                self.push(b", ");
            }
            self.push(item.as_bytes());
            self.push_number(standing.remaining);
            self.push(b";t=");
            self.push_number(standing.reset_secs);
        }
        TextRange {
            start: start as u16,
            end: self.len as u16,
        }
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
fn header(mut text: Bytes, stretch: TextRange) -> Option<HeaderValue> {
    text.truncate(usize::from(stretch.end));
    text.advance(usize::from(stretch.start));
    HeaderValue::from_maybe_shared(text).ok()
}

/// The id that a request came with, if it is one that can be trusted in logs and headers: 1 to 128
/// characters of those that ids are made of, and no secret.
pub(crate) fn valid_request_id(id: &HeaderValue) -> Option<&str> {
    let sane = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:/+=@~".contains(b);
    let sane = (1..=128).contains(&id.len()) && id.as_bytes().iter().all(sane);
    let id = sane.then(|| id.to_str().ok())??;
    (!has_secret(id)).then_some(id)
}

/// The headers that a response will be given.
#[derive(Debug)]
pub(crate) struct ResponseHeaders {
    /// What the stretches are of.
    text: Bytes,
    request_id: TextRange,
    limits: Limits,
    /// For caches: what the response depends on, and whether it is for private ones alone.
    vary: Option<HeaderValue>,
    private: bool,
}

#[derive(Debug)]
enum Limits {
    None,
    Draft {
        policy: HeaderValue,
        standing: TextRange,
    },
    XRateLimit {
        limit: u32,
        remaining: u32,
        reset: u32,
    },
}

impl ResponseHeaders {
    /// The request's id and, where the key has limits, where they stand.
    #[inline]
    pub(crate) fn new(
        request_id: WireId<'_>,
        style: HeaderStyle,
        limited: Option<(&LimitHeaders, &Decision)>,
    ) -> Self {
        let mut text = HeaderText::new();
        let request_id = match request_id {
            WireId::Client(id) => text.push(id.as_bytes()),
            WireId::Generated(id) => text.push_id(id),
        };
        let limits = match (style, limited) {
            (HeaderStyle::None, _) | (_, None) => Limits::None,
            (HeaderStyle::Draft, Some((headers, decision))) => Limits::Draft {
                policy: headers.policy.clone(),
                standing: text.push_statuses(headers, decision),
            },
            (HeaderStyle::XRateLimit, Some((headers, decision))) => {
                let tightest = decision.tightest().and_then(|(index, standing)| {
                    let &limit = headers.bursts.get(index)?;
                    Some(Limits::XRateLimit {
                        limit,
                        remaining: standing.remaining,
                        reset: standing.reset_secs,
                    })
                });
                tightest.unwrap_or(Limits::None)
            }
        };
        Self {
            text: text.into_bytes(),
            request_id,
            limits,
            vary: None,
            private: false,
        }
    }

    /// Tells caches that the response is for one key: `vary` names where keys are looked for.
    #[inline]
    pub(crate) fn for_authenticated(mut self, vary: Option<&HeaderValue>, private: bool) -> Self {
        self.vary = vary.cloned();
        self.private = private;
        self
    }

    /// Puts the headers on the response of a request that is not accounted for here: an id that a
    /// layer further in or the service gave it stays.
    pub(crate) fn complete(&mut self, headers: &mut HeaderMap) {
        let own = headers.get(X_REQUEST_ID).cloned();
        self.apply(headers);
        if let Some(own) = own {
            headers.insert(X_REQUEST_ID, own);
        }
    }

    /// Puts the id on the refusal of a request that was admitted before: it shows no limits.
    pub(crate) fn complete_rejection(&mut self, headers: &mut HeaderMap) {
        self.limits = Limits::None;
        (self.vary, self.private) = (None, false);
        self.apply(headers);
    }

    /// Puts the headers on a response: once.
    #[inline]
    pub(crate) fn apply(&mut self, headers: &mut HeaderMap) {
        if let Some(id) = header(self.text.clone(), self.request_id) {
            headers.insert(X_REQUEST_ID, id);
        }
        if let Some(vary) = self.vary.take() {
            headers.append(VARY, vary);
        }
        if self.private && !headers.contains_key(CACHE_CONTROL) {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
        }
        match std::mem::replace(&mut self.limits, Limits::None) {
            Limits::None => {}
            Limits::Draft { policy, standing } => {
                // Lists: an inner layer's own items stay beside these.
                headers.append(RATELIMIT_POLICY, policy);
                if let Some(standing) = header(std::mem::take(&mut self.text), standing) {
                    headers.append(RATELIMIT, standing);
                }
            }
            Limits::XRateLimit {
                limit,
                remaining,
                reset,
            } => {
                headers.insert(X_RATELIMIT_LIMIT, limit.into());
                headers.insert(X_RATELIMIT_REMAINING, remaining.into());
                headers.insert(X_RATELIMIT_RESET, reset.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{LimitStatus, RateLimit};

    #[test]
    fn texts_keep_their_stretches_short_and_long() {
        for path in ["/short".to_owned(), "/l".repeat(300)] {
            let mut text = HeaderText::new();
            let first = text.push(path.as_bytes());
            let second = text.push(b"second");
            let bytes = text.into_bytes();
            assert_eq!(header(bytes.clone(), first).unwrap(), path);
            assert_eq!(header(bytes, second).unwrap(), "second");
        }
    }

    #[test]
    fn standings_are_lists_of_items() {
        let limits = [
            RateLimit::per_second(10).with_burst(20).with_name("burst"),
            RateLimit::per_hour(1_000).with_name("hourly"),
        ];
        let headers = LimitHeaders::new(&limits).unwrap();
        let mut decision = Decision::default();
        decision.push(LimitStatus {
            remaining: 19,
            reset_secs: 1,
        });
        decision.push(LimitStatus {
            remaining: 7,
            reset_secs: 3_575,
        });
        let limited = Some((&headers, &decision));
        let mut additions = ResponseHeaders::new(WireId::Client("id"), HeaderStyle::Draft, limited);
        let mut map = HeaderMap::new();
        additions.apply(&mut map);
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
    fn insane_request_ids_are_not_taken() {
        let long = "a".repeat(129);
        let prefix = crate::key::Prefix::new("acme_live").unwrap();
        let secret = crate::key::Secret::generate(&prefix).unwrap();
        for (id, sane) in [
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
            assert_eq!(valid_request_id(&value), sane.then_some(id));
        }
    }
}

//! Refusals, as the client and as outer layers see them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::grpc;
use super::request_parts::RequestParts;
use super::retry;
use crate::id::KeyId;
use crate::telemetry;
use crate::usage::RejectionReason;

/// Why a request was refused: in the response's extensions, for outer layers, metrics and logs. The
/// client learns less. The limits that are reached are told by [`violated`](Self::violated).
///
/// | reason | HTTP | gRPC |
/// |---|---|---|
/// | none, malformed, ambiguous, unknown, wrong, disabled, revoked, expired | 401 | `UNAUTHENTICATED` |
/// | address, scope | 403 | `PERMISSION_DENIED` |
/// | rate limited, look-up budget | 429 | `RESOURCE_EXHAUSTED` |
/// | store, limiter or recorder unavailable | 503 | `UNAVAILABLE` |
///
/// An address that has used up its [budget of look-ups](crate::ApiKeyLayer::lookup_limit) gets 429 for keys that are
/// unknown, wrong, disabled, revoked or expired.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// Why.
    pub reason: RejectionReason,
    /// The key, where the secret that was sent is that key's.
    pub key: Option<KeyId>,
    /// Seconds after which trying again makes sense, where waiting helps.
    pub retry_after_secs: Option<u64>,
    /// The names of the rate limits that are reached, if any are.
    pub(crate) violated: Option<Arc<[Arc<str>]>>,
    /// The scope that the route asks for.
    pub scope: Option<Arc<str>>,
}

/// Logs a rejected request.
pub(super) fn log_rejection(reason: RejectionReason, key: Option<KeyId>) {
    match key {
        Some(key) => telemetry::debug!(%reason, %key, "request rejected"),
        None => telemetry::debug!(%reason, "request rejected"),
    }
}

impl Rejection {
    /// What could not be checked may be tried again soon; other waits are for the caller to set.
    pub(crate) fn new(reason: RejectionReason) -> Self {
        let mut rejection = Self {
            reason,
            key: None,
            retry_after_secs: None,
            violated: None,
            scope: None,
        };
        if rejection.status() == StatusCode::SERVICE_UNAVAILABLE {
            rejection.retry_after_secs = Some(1);
        }
        rejection
    }

    /// The names of the rate limits that are reached.
    pub fn violated(&self) -> &[Arc<str>] {
        self.violated.as_deref().unwrap_or_default()
    }

    /// The HTTP status that the client gets.
    pub fn status(&self) -> StatusCode {
        match self.reason {
            RejectionReason::Address | RejectionReason::Scope => StatusCode::FORBIDDEN,
            RejectionReason::RateLimited | RejectionReason::LookupLimit => {
                StatusCode::TOO_MANY_REQUESTS
            }
            RejectionReason::StoreUnavailable
            | RejectionReason::LimiterUnavailable
            | RejectionReason::RecorderFull => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The gRPC status that the client of a call gets.
    pub fn grpc_status(&self) -> u8 {
        match self.status() {
            StatusCode::FORBIDDEN => grpc::PERMISSION_DENIED,
            StatusCode::TOO_MANY_REQUESTS => grpc::RESOURCE_EXHAUSTED,
            StatusCode::SERVICE_UNAVAILABLE => grpc::UNAVAILABLE,
            _ => grpc::UNAUTHENTICATED,
        }
    }
}

type Customize = dyn Fn(&Rejection, Response<Bytes>) -> Response<Bytes> + Send + Sync;

/// Makes the answers of refusals; their constant parts are made once.
#[derive(Clone)]
pub(crate) struct Rejections {
    challenge: HeaderValue,
    challenge_invalid: HeaderValue,
    realm: Arc<str>,
    /// The schemes of `Authorization` in which keys are looked for.
    schemes: Vec<Arc<str>>,
    /// Refuses in HTTP whatever a request claims to be.
    pub(crate) without_grpc: bool,
    /// The longest wait that gRPC clients are told to sit out.
    pub(crate) max_pushback: Duration,
    pub(crate) customize: Option<Arc<Customize>>,
}

/// A realm that cannot stand in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a realm is 1 to 100 printable ASCII characters without quotes and backslashes")]
pub struct InvalidRealm;

/// What is refused to one key is not refused to another.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const UNAUTHORIZED: &[u8] = br#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"A valid API key is required."}"#;
const FORBIDDEN: &[u8] = br#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"This API key may not be used from here."}"#;
const SCOPE: &[u8] = br#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"This API key lacks a scope that is required."}"#;
const UNAVAILABLE: &[u8] = br#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"The request could not be checked. Try again."}"#;
const TOO_MANY_LOOKUPS: &[u8] = br#"{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"Too many API keys that do not work came from this address. Try again later."}"#;
/// With the problem type of draft-ietf-httpapi-ratelimit-headers.
const RATE_LIMITED: &str = r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Too Many Requests","status":429,"detail":""#;
const VIOLATED: &str = r#"","violated-policies":["#;

impl Default for Rejections {
    fn default() -> Self {
        Self {
            challenge: HeaderValue::from_static(r#"Bearer realm="api""#),
            challenge_invalid: HeaderValue::from_static(
                r#"Bearer realm="api", error="invalid_token""#,
            ),
            realm: "api".into(),
            schemes: vec!["Bearer".into()],
            without_grpc: false,
            max_pushback: Duration::from_secs(1),
            customize: None,
        }
    }
}

impl Rejections {
    /// With this realm in the challenges.
    pub(crate) fn realm(self, realm: &str) -> Result<Self, InvalidRealm> {
        let fits = (1..=100).contains(&realm.len())
            && realm
                .bytes()
                .all(|b| (b == b' ' || b.is_ascii_graphic()) && b != b'"' && b != b'\\');
        if !fits {
            return Err(InvalidRealm);
        }
        let realm = realm.into();
        Ok(Self { realm, ..self }.with_challenges())
    }

    /// With a challenge for each of these schemes (RFC 9110 §11.6.1); for `Bearer` where there is none.
    pub(crate) fn offer(&mut self, schemes: impl Iterator<Item = Arc<str>>) {
        self.schemes = schemes.collect();
        if self.schemes.is_empty() {
            self.schemes.push("Bearer".into());
        }
        *self = std::mem::take(self).with_challenges();
    }

    fn with_challenges(mut self) -> Self {
        let challenges = |error: &str| {
            let challenge = |scheme: &Arc<str>| {
                let error = if **scheme == *"Bearer" { error } else { "" };
                format!("{scheme} realm=\"{}\"{error}", self.realm)
            };
            let challenges: Vec<_> = self.schemes.iter().map(challenge).collect();
            // A scheme that cannot stand in a header is not offered.
            HeaderValue::from_str(&challenges.join(", ")).ok()
        };
        let (missing, invalid) = (challenges(""), challenges(", error=\"invalid_token\""));
        self.challenge = missing.unwrap_or(self.challenge);
        self.challenge_invalid = invalid.unwrap_or(self.challenge_invalid);
        self
    }

    /// The answer to a refused request, with the rejection in its extensions.
    pub(crate) fn answer(&self, rejection: Rejection, head: RequestParts<'_>) -> Response<Bytes> {
        let may_be_grpc = !self.without_grpc && !has_http_route(head);
        let claimed = || grpc::claimed(head.method(), head.headers());
        let mut response = match may_be_grpc.then(claimed).flatten() {
            Some(content_type) => self.trailers_only(&rejection, content_type, head.headers()),
            None => self.problem(&rejection),
        };
        if let Some(customize) = &self.customize {
            response = customize(&rejection, response);
            // The server tells the length that the body has by now.
            response.headers_mut().remove(CONTENT_LENGTH);
            if response.headers().contains_key(grpc::GRPC_STATUS) {
                // Trailers-Only: there is no room for a body.
                *response.body_mut() = Bytes::new();
            }
        }
        response.extensions_mut().insert(rejection);
        response
    }

    fn problem(&self, rejection: &Rejection) -> Response<Bytes> {
        let body = match rejection.status() {
            StatusCode::TOO_MANY_REQUESTS if rejection.reason == RejectionReason::LookupLimit => {
                Bytes::from_static(TOO_MANY_LOOKUPS)
            }
            StatusCode::TOO_MANY_REQUESTS => rate_limited(rejection),
            StatusCode::SERVICE_UNAVAILABLE => Bytes::from_static(UNAVAILABLE),
            StatusCode::FORBIDDEN if rejection.reason == RejectionReason::Scope => {
                Bytes::from_static(SCOPE)
            }
            StatusCode::FORBIDDEN => Bytes::from_static(FORBIDDEN),
            _ => Bytes::from_static(UNAUTHORIZED),
        };
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = rejection.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(CACHE_CONTROL, NO_STORE);
        match rejection.status() {
            StatusCode::UNAUTHORIZED if rejection.reason == RejectionReason::Missing => {
                headers.insert(WWW_AUTHENTICATE, self.challenge.clone());
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, self.challenge_invalid.clone());
            }
            StatusCode::FORBIDDEN => {
                if let Some(challenge) = self.insufficient_scope(rejection) {
                    headers.insert(WWW_AUTHENTICATE, challenge);
                }
            }
            _ => {}
        }
        if let Some(secs) = rejection.retry_after_secs {
            headers.insert(RETRY_AFTER, secs.into());
        }
        *response.body_mut() = body;
        response
    }

    fn trailers_only(
        &self,
        rejection: &Rejection,
        content_type: HeaderValue,
        request: &HeaderMap,
    ) -> Response<Bytes> {
        let message = grpc_message(rejection);
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(grpc::GRPC_STATUS, u16::from(rejection.grpc_status()).into());
        // None of the messages has a character that would have to be percent-encoded.
        headers.insert(grpc::GRPC_MESSAGE, HeaderValue::from_static(message));
        let wait = rejection.retry_after_secs.map(Duration::from_secs);
        if wait.is_some() || rejection.reason == RejectionReason::RateLimited {
            let pushback = retry::pushback(wait, self.max_pushback, request);
            headers.insert(grpc::GRPC_PUSHBACK, pushback);
        }
        if let Some(wait) = wait {
            headers.insert(RETRY_AFTER, wait.as_secs().into());
            if let Some(details) = retry::details(rejection.grpc_status(), message, wait) {
                headers.insert(grpc::GRPC_STATUS_DETAILS, details);
            }
        }
        response
    }

    /// RFC 6750 §3.1: the scope that would be needed, if it can be said in a header.
    fn insufficient_scope(&self, rejection: &Rejection) -> Option<HeaderValue> {
        let scope = rejection.scope.as_ref()?;
        let realm = &self.realm;
        let mut text = format!("Bearer realm=\"{realm}\", error=\"insufficient_scope\"");
        let sayable = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if scope.bytes().all(sayable) {
            text.push_str(&format!(", scope=\"{scope}\""));
        }
        HeaderValue::from_str(&text).ok()
    }
}

impl std::fmt::Debug for Rejections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rejections")
            .field("realm", &self.realm)
            .finish_non_exhaustive()
    }
}

/// Whether axum matched a route that is not one of tonic's router.
#[cfg_attr(not(feature = "axum"), expect(unused_variables))]
fn has_http_route(head: RequestParts<'_>) -> bool {
    #[cfg(feature = "axum")]
    if let Some(route) = head.extensions().get::<axum::extract::MatchedPath>() {
        return !route.as_str().contains("/{*");
    }
    false
}

fn rate_limited(rejection: &Rejection) -> Bytes {
    let mut digits = itoa::Buffer::new();
    let detail = match rejection.retry_after_secs {
        Some(secs) if rejection.key.is_none() => [
            "The rate limit for requests without an API key is exceeded. Try again in ",
            digits.format(secs),
            " s.",
        ],
        Some(secs) => [
            "A rate limit of this API key is reached. Try again in ",
            digits.format(secs),
            " s.",
        ],
        None => [
            "This request costs more than a rate limit of this API key allows.",
            "",
            "",
        ],
    };
    // The names need no escaping: a limit's name is made of a-z, 0-9, `_` and `-`.
    let names = match rejection.violated() {
        [one] => Cow::Borrowed(&**one),
        several => Cow::Owned(several.join("\",\"")),
    };
    let [before, secs, after] = detail;
    let quote = if names.is_empty() { "" } else { "\"" };
    // Joined at once, so that what is handed on has its exact size.
    let parts = [
        RATE_LIMITED,
        before,
        secs,
        after,
        VIOLATED,
        quote,
        &names,
        quote,
        "]}",
    ];
    parts.concat().into()
}

fn grpc_message(rejection: &Rejection) -> &'static str {
    match rejection.status() {
        StatusCode::UNAUTHORIZED => "a valid API key is required",
        StatusCode::FORBIDDEN if rejection.reason == RejectionReason::Scope => {
            "this API key lacks a scope that is required"
        }
        StatusCode::FORBIDDEN => "this API key may not be used from here",
        StatusCode::TOO_MANY_REQUESTS if rejection.reason == RejectionReason::LookupLimit => {
            "too many API keys that do not work came from this address"
        }
        StatusCode::TOO_MANY_REQUESTS if rejection.key.is_none() => {
            "the rate limit for requests without an API key is exceeded"
        }
        StatusCode::TOO_MANY_REQUESTS => "a rate limit of this API key is reached",
        _ => "the request could not be checked",
    }
}

#[cfg(test)]
mod tests;

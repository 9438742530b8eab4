//! Rejections: their reason, and their HTTP and gRPC responses.

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
use crate::invalid_config::InvalidConfig;
use crate::log_throttle::LogThrottle;
use crate::telemetry;
use crate::usage::RejectionReason;

/// The reason and details of a rejected request.
///
/// It is in the extensions of the response, for outer layers, metrics and logs. Clients see less: all reasons with
/// status 401 produce the same response, except that the challenge for a missing key has no `error`.
///
/// | reason | HTTP | gRPC |
/// |---|---|---|
/// | missing, malformed, ambiguous, unknown, wrong secret, disabled, revoked, expired | 401 | `UNAUTHENTICATED` |
/// | address, scope | 403 | `PERMISSION_DENIED` |
/// | rate limited, lookup limit | 429 | `RESOURCE_EXHAUSTED` |
/// | store, limiter or recorder unavailable | 503 | `UNAVAILABLE` |
///
/// HTTP responses are problem details ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) with `WWW-Authenticate`
/// ([RFC 6750](https://www.rfc-editor.org/rfc/rfc6750)) for 401 and for missing scopes, and `Retry-After` where
/// waiting helps.
///
/// A client IP above the [lookup limit](crate::ApiKeyLayer::lookup_limit) gets 429 instead of 401 for keys that
/// are unknown, disabled, revoked or expired, and for wrong secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// The reason.
    pub reason: RejectionReason,
    /// The id of the key, if its secret was sent.
    pub key: Option<KeyId>,
    /// The value of `Retry-After` in seconds. `None` if waiting does not help.
    pub retry_after_secs: Option<u64>,
    /// The names of the exceeded rate limits.
    pub(crate) violated: Option<Arc<[Arc<str>]>>,
    /// The missing scope, for [`RejectionReason::Scope`]. `None` if the path has no rule in
    /// [`RequireScope::by_path`](super::RequireScope::by_path).
    pub scope: Option<Arc<str>>,
}

/// Logs a rejected request.
pub(super) fn log_rejection(reason: RejectionReason, key: Option<KeyId>) {
    telemetry::debug!(%reason, key = key.as_ref().map(KeyId::as_str), "request rejected");
}

/// Logs a request that needs a key, but was not handled by an `ApiKeyLayer`.
pub(super) fn log_no_layer(path: &str) {
    static THROTTLE: LogThrottle = LogThrottle::new();
    if let Some(count) = THROTTLE.record() {
        telemetry::error!(
            count,
            path = &*crate::key::redact_secrets(path, 1_024),
            "no ApiKeyLayer has handled the request: add the layer around this route"
        );
    }
}

impl Rejection {
    /// Rejections with 503 are retried after a second; other waits are set by the caller.
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

    /// Returns the names of the exceeded rate limits.
    pub fn violated_limits(&self) -> &[Arc<str>] {
        self.violated.as_deref().unwrap_or_default()
    }

    /// Returns the HTTP status of the response.
    pub fn status(&self) -> StatusCode {
        match self.reason {
            RejectionReason::ClientIp | RejectionReason::Scope => StatusCode::FORBIDDEN,
            RejectionReason::RateLimited | RejectionReason::LookupLimit => {
                StatusCode::TOO_MANY_REQUESTS
            }
            RejectionReason::StoreUnavailable
            | RejectionReason::LimiterUnavailable
            | RejectionReason::RecorderFull => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// Returns the [gRPC status code](https://grpc.io/docs/guides/status-codes/) of the response to a gRPC call.
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

/// Builds the responses of rejected requests. Constant parts are prepared once.
#[derive(Clone)]
pub(crate) struct Rejections {
    challenge: HeaderValue,
    challenge_invalid: HeaderValue,
    realm: Arc<str>,
    /// The `Authorization` schemes of the credential sources.
    schemes: Vec<Arc<str>>,
    /// Whether rejections are always plain HTTP responses.
    pub(crate) without_grpc: bool,
    /// The maximum `grpc-retry-pushback-ms`.
    pub(crate) max_pushback: Duration,
    pub(crate) customize: Option<Arc<Customize>>,
}

/// A rejection depends on the key, so caches must not store it.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const UNAUTHORIZED: &[u8] = br#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"A valid API key is required."}"#;
const FORBIDDEN: &[u8] = br#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"This API key is not allowed from this IP address."}"#;
const SCOPE: &[u8] = br#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"This API key lacks a required scope."}"#;
const UNAVAILABLE: &[u8] = br#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"The request could not be authorized. Try again later."}"#;
const NO_LAYER: &[u8] = br#"{"type":"about:blank","title":"Internal Server Error","status":500,"detail":"The server is misconfigured."}"#;
const TOO_MANY_LOOKUPS: &[u8] = br#"{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"Too many invalid API keys from this IP address. Try again later."}"#;
/// The problem type of draft-ietf-httpapi-ratelimit-headers.
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
    /// Sets the realm of the challenges.
    pub(crate) fn realm(self, realm: &str) -> Result<Self, InvalidConfig> {
        let is_valid = (1..=100).contains(&realm.len())
            && realm
                .bytes()
                .all(|b| (b == b' ' || b.is_ascii_graphic()) && b != b'"' && b != b'\\');
        if !is_valid {
            let reason = "1 to 100 printable ASCII characters without quotes and backslashes";
            return Err(InvalidConfig::new("realm", reason));
        }
        let realm = realm.into();
        Ok(Self { realm, ..self }.with_challenges())
    }

    /// Sets the schemes of the challenges (RFC 9110 §11.6.1); `Bearer` if there are none.
    pub(crate) fn set_schemes(&mut self, schemes: impl Iterator<Item = Arc<str>>) {
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
            // An invalid scheme name leaves the challenges unchanged.
            HeaderValue::from_str(&challenges.join(", ")).ok()
        };
        let (missing, invalid) = (challenges(""), challenges(", error=\"invalid_token\""));
        self.challenge = missing.unwrap_or(self.challenge);
        self.challenge_invalid = invalid.unwrap_or(self.challenge_invalid);
        self
    }

    /// The response to a rejected request, with the rejection in its extensions.
    pub(crate) fn response(
        &self,
        rejection: Rejection,
        parts: RequestParts<'_>,
    ) -> Box<Response<Bytes>> {
        let mut response = match self.grpc_content_type(parts) {
            Some(content_type) => self.trailers_only(&rejection, content_type, parts.headers()),
            None => self.problem(&rejection),
        };
        if let Some(customize) = &self.customize {
            response = customize(&rejection, response);
            // The body may have changed; the server sets the header.
            response.headers_mut().remove(CONTENT_LENGTH);
            if response.headers().contains_key(grpc::GRPC_STATUS) {
                // A Trailers-Only response has no body.
                *response.body_mut() = Bytes::new();
            }
        }
        response.extensions_mut().insert(rejection);
        Box::new(response)
    }

    /// The response to a request that needs a key, but was not handled by an `ApiKeyLayer`: an error of the server.
    pub(super) fn no_layer(&self, parts: RequestParts<'_>) -> Box<Response<Bytes>> {
        let mut response = Response::new(Bytes::new());
        match self.grpc_content_type(parts) {
            Some(content_type) => {
                let headers = response.headers_mut();
                headers.insert(CONTENT_TYPE, content_type);
                headers.insert(grpc::GRPC_STATUS, u16::from(grpc::INTERNAL).into());
                let message = HeaderValue::from_static("the server is misconfigured");
                headers.insert(grpc::GRPC_MESSAGE, message);
            }
            None => {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
                *response.body_mut() = Bytes::from_static(NO_LAYER);
            }
        }
        Box::new(response)
    }

    /// The content type of the response to a gRPC call. `None` for other requests.
    fn grpc_content_type(&self, parts: RequestParts<'_>) -> Option<HeaderValue> {
        let may_be_grpc = !self.without_grpc && !has_http_route(parts);
        may_be_grpc
            .then(|| grpc::claimed(parts.method(), parts.headers()))
            .flatten()
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
            headers.insert(RETRY_AFTER, number(secs));
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
        // No message contains characters that need percent-encoding.
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

    /// The `insufficient_scope` challenge of RFC 6750 §3.1, with the scope if it is valid in a quoted string.
    fn insufficient_scope(&self, rejection: &Rejection) -> Option<HeaderValue> {
        let scope = rejection.scope.as_ref()?;
        let realm = &self.realm;
        let mut text = format!("Bearer realm=\"{realm}\", error=\"insufficient_scope\"");
        let is_quotable = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if scope.bytes().all(is_quotable) {
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

/// Whether axum matched a route without a catch-all, so that the request is not for tonic's router.
#[cfg_attr(not(feature = "axum"), expect(unused_variables))]
fn has_http_route(parts: RequestParts<'_>) -> bool {
    #[cfg(feature = "axum")]
    if let Some(route) = parts.extensions().get::<axum::extract::MatchedPath>() {
        return !route.as_str().contains("/{*");
    }
    false
}

/// Formats a number. Faster than `HeaderValue::from`.
fn number(number: u64) -> HeaderValue {
    let text = HeaderValue::from_str(itoa::Buffer::new().format(number));
    text.unwrap_or_else(|_| number.into())
}

fn rate_limited(rejection: &Rejection) -> Bytes {
    let mut digits = itoa::Buffer::new();
    let detail = match rejection.retry_after_secs {
        Some(secs) if rejection.key.is_none() => [
            "The rate limit for requests without an API key is exceeded. Retry in ",
            digits.format(secs),
            " s.",
        ],
        Some(secs) => [
            "The rate limit of this API key is exceeded. Retry in ",
            digits.format(secs),
            " s.",
        ],
        None => [
            "The cost of this request exceeds a rate limit of this API key.",
            "",
            "",
        ],
    };
    // Limit names need no escaping: they consist of a-z, 0-9, `_` and `-`.
    let names = match rejection.violated_limits() {
        [one] => Cow::Borrowed(&**one),
        several => Cow::Owned(several.join("\",\"")),
    };
    let [before, secs, after] = detail;
    let quote = if names.is_empty() { "" } else { "\"" };
    // A single allocation of the exact size, so that it is not reallocated for `Bytes`.
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
    let mut body = String::with_capacity(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| body.push_str(part));
    body.into()
}

fn grpc_message(rejection: &Rejection) -> &'static str {
    match rejection.status() {
        StatusCode::UNAUTHORIZED => "a valid API key is required",
        StatusCode::FORBIDDEN if rejection.reason == RejectionReason::Scope => {
            "this API key lacks a required scope"
        }
        StatusCode::FORBIDDEN => "this API key is not allowed from this IP address",
        StatusCode::TOO_MANY_REQUESTS if rejection.reason == RejectionReason::LookupLimit => {
            "too many invalid API keys from this IP address"
        }
        StatusCode::TOO_MANY_REQUESTS if rejection.key.is_none() => {
            "the rate limit for requests without an API key is exceeded"
        }
        StatusCode::TOO_MANY_REQUESTS => "the rate limit of this API key is exceeded",
        _ => "the request could not be authorized",
    }
}

#[cfg(test)]
mod tests;

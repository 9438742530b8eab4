//! [`RequestContext`]: the parts of a request that are read once and used in several places.
//! [`RequestMetadata`]: what is kept of it while the request waits.

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::{Extensions, HeaderValue};
use uuid::Uuid;

use super::caller::AnonymousMark;
use super::caller::{Caller, OuterCaller};
use super::config::Config;
use super::credential::{Credential, CredentialSources, SourceSet};
use super::request_parts::RequestParts;
use super::response_headers::{ResponseHeaders, WireId, X_REQUEST_ID, valid_request_id};
use crate::clock::Now;
use crate::id::KeyId;
use crate::key::{CachedKey, redact_secrets};
use crate::limit::{Decision, LimitHeaders};
use crate::usage::{Attribution, EventFields, Method, PendingEvent, event_id};

pub(super) struct RequestContext<'a> {
    pub(super) parts: RequestParts<'a>,
    pub(super) began: Now,
    /// The time of the decision: when the request began, or when it has waited.
    pub(super) now: Now,
    /// The caller admitted by an outer layer.
    pub(super) outer: Option<&'a Caller>,
    /// The mark of an outer layer that admitted the request as anonymous.
    pub(super) anonymous: Option<&'a AnonymousMark>,
    /// The id of the event, if one is recorded.
    pub(super) id: Uuid,
    /// The key id in the credential, whether or not it is the secret of the key.
    pub(super) claimed: Cell<Option<KeyId>>,
    sent_id: Option<&'a str>,
    /// The `Content-Length` of the request.
    content_length: u64,
}

/// What has been read from the headers of a waiting request.
pub(super) struct RequestMetadata {
    pub(super) id: Uuid,
    /// The sources in which a credential was found.
    pub(super) sources: SourceSet,
    pub(super) began: Now,
    sent_id: Option<Box<str>>,
    content_length: u64,
}

impl Attribution for CachedKey {
    fn key(&self) -> KeyId {
        self.key.id
    }

    fn owner(&self) -> Option<Arc<str>> {
        self.key.owner.clone()
    }
}

impl<'a> RequestContext<'a> {
    /// Reads the headers of a request in one pass, including the credentials in these sources.
    #[inline]
    pub(super) fn new(
        parts: RequestParts<'a>,
        began: Now,
        sources: &CredentialSources,
        credential: &mut Credential<'a>,
    ) -> Self {
        let (mut sent_id, mut length) = (None, None);
        for (name, value) in parts.headers() {
            credential.scan(sources, name, value);
            let first: &mut Option<&'a HeaderValue> = match name {
                _ if name == CONTENT_LENGTH => &mut length,
                _ if name == X_REQUEST_ID => &mut sent_id,
                _ => continue,
            };
            first.get_or_insert(value);
        }
        Self::of(parts, began, sent_id, length)
    }

    /// The context of a request with these headers.
    #[inline]
    pub(super) fn of(
        parts: RequestParts<'a>,
        began: Now,
        sent_id: Option<&'a HeaderValue>,
        content_length: Option<&'a HeaderValue>,
    ) -> Self {
        Self {
            parts,
            began,
            now: began,
            outer: outer_caller(parts.extensions()),
            anonymous: parts.extensions().get(),
            id: event_id(began.micros()),
            claimed: Cell::default(),
            sent_id: sent_id.and_then(valid_request_id),
            content_length: content_length.map_or(0, announced_length),
        }
    }

    /// Copies what is needed after a wait.
    #[cold]
    pub(super) fn to_metadata(&self, sources: SourceSet) -> Box<RequestMetadata> {
        Box::new(RequestMetadata {
            id: self.id,
            sources,
            began: self.began,
            sent_id: self.sent_id.map(Into::into),
            content_length: self.content_length,
        })
    }

    /// The context of a request that has waited.
    #[cold]
    pub(super) fn resumed(
        parts: RequestParts<'a>,
        metadata: &'a RequestMetadata,
        now: Now,
    ) -> Self {
        Self {
            parts,
            began: metadata.began,
            now,
            outer: outer_caller(parts.extensions()),
            anonymous: parts.extensions().get(),
            id: metadata.id,
            claimed: Cell::default(),
            sent_id: metadata.sent_id.as_deref(),
            content_length: metadata.content_length,
        }
    }

    fn wire_id(&self) -> WireId<'a> {
        if let Some(sent) = self.sent_id {
            return WireId::Client(sent);
        }
        let outer = self.outer.map(Caller::event_id);
        let outer = outer.or_else(|| Some(self.anonymous?.id));
        WireId::Generated(outer.unwrap_or(self.id))
    }

    /// The path of the event: redacted and truncated. As received by axum, which removes the prefix of nested routers.
    #[inline]
    pub(super) fn path(&self) -> Cow<'a, str> {
        #[cfg(feature = "axum")]
        if let Some(original) = self.parts.extensions().get::<axum::extract::OriginalUri>() {
            return bounded(original.path());
        }
        bounded(self.parts.uri().path())
    }

    /// The headers to add to the response of a request without a key.
    pub(super) fn request_id_header(&self) -> ResponseHeaders<'a> {
        ResponseHeaders::request_id(self.wire_id())
    }

    /// The headers to add to the response of an admitted request.
    pub(super) fn admitted_headers<'b>(
        &self,
        config: &'b Config,
        limited: Option<(&'b LimitHeaders, &'b Decision)>,
    ) -> ResponseHeaders<'b>
    where
        'a: 'b,
    {
        config.admitted_headers(self.wire_id(), Method::from(self.parts.method()), limited)
    }

    /// Writes the event as far as it is known before the response. Returns whether the response may still determine
    /// the endpoint.
    #[inline]
    pub(super) fn begin_event(&self, config: &Config, event: &mut PendingEvent) -> bool {
        let parts = self.parts;
        let endpoint = config.endpoints.of(parts);
        // Field by field, because moving a struct that was just built stalls the CPU.
        let fields = &mut event.fields;
        fields.clone_from(&EventFields::EMPTY);
        fields.id = self.id;
        fields.time = self.began.micros();
        fields.request_bytes = self.content_length;
        fields.client_ip = config.client_ip.of(parts);
        fields.method = Method::from(parts.method());
        event.path.clear();
        event.path.extend_from_slice(self.path().as_bytes());
        event.request_id = match self.wire_id() {
            WireId::Client(id) => Some(id.into()),
            WireId::Generated(id) if id != self.id => Some(id.to_string().into()),
            WireId::Generated(_) => None,
        };
        event.endpoint = endpoint.name;
        event.resource_id = config
            .resource_id
            .as_ref()
            .and_then(|hook| Some((*bounded(&hook(parts)?)).into()));
        endpoint.may_be_grpc
    }
}

impl Config {
    /// The headers to add to the response of an admitted request, including cache headers.
    #[inline]
    pub(super) fn admitted_headers<'a>(
        &'a self,
        request_id: WireId<'a>,
        method: Method,
        limited: Option<(&'a LimitHeaders, &'a Decision)>,
    ) -> ResponseHeaders<'a> {
        // Responses to other methods are not cached.
        let is_cached = matches!(method, Method::Get | Method::Head);
        ResponseHeaders {
            request_id,
            style: self.header_style,
            limited,
            vary: self.vary.as_ref().filter(|_| is_cached),
            private: self.private,
        }
    }
}

/// The caller of an outer layer, even if it is hidden from the service.
#[inline]
fn outer_caller(extensions: &Extensions) -> Option<&Caller> {
    let hidden = || extensions.get().map(|OuterCaller(caller)| caller);
    extensions.get().or_else(hidden)
}

/// Truncates a text of the client to one kilobyte and redacts secrets.
#[inline]
fn bounded(text: &str) -> Cow<'_, str> {
    redact_secrets(text, 1_024)
}

/// The `Content-Length`, capped at 1 TiB: clients can claim any length, and totals must not overflow.
fn announced_length(value: &HeaderValue) -> u64 {
    const MAX: u64 = 1 << 40;
    let length: Option<u64> = value.to_str().ok().and_then(|text| text.parse().ok());
    length.unwrap_or(0).min(MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_truncated_and_secrets_redacted() {
        assert_eq!(bounded("/v1/postings"), "/v1/postings");
        assert_eq!(bounded(&"é".repeat(600)), "é".repeat(512));
        assert_eq!(bounded(&"/é".repeat(400)), format!("{}/", "/é".repeat(341)));
        let body = "0".repeat(54);
        for before in 0..1_030 {
            let path = format!("{}/a_{body}/", "x".repeat(before));
            // Redaction does not shift text beyond the first kilobyte into it.
            let (hidden, end) = (before + 7, (before + 57).min(1_024));
            let mut expected = path[..path.len().min(1_024)].to_owned();
            if hidden < 1_024 {
                expected.replace_range(hidden..end, "…");
            }
            expected.truncate(expected.floor_char_boundary(1_024));
            assert_eq!(bounded(&path), expected, "{before}");
        }
        let many = format!("/a_{body}").repeat(100);
        assert_eq!(bounded(&many), "/a_0000…".repeat(18));
        // A secret of the longest encoding, starting near the end of the kept text.
        let encoded: String = format!("a_{body}")
            .bytes()
            .map(|b| format!("%2525{b:02x}"))
            .collect();
        let path = format!("{}{encoded}", "x".repeat(1_000));
        assert_eq!(bounded(&path), path[..1_024]);
        let path = format!("{}{encoded}", "x".repeat(900));
        let hint = 900 + 6 * "%252530".len();
        assert_eq!(bounded(&path), format!("{}…", &path[..hint]));
    }

    #[test]
    fn content_length_is_parsed_and_capped() {
        for (text, length) in [
            ("0", 0),
            ("4711", 4_711),
            ("1099511627776", 1 << 40),
            ("1099511627777", 1 << 40),
            ("18446744073709551615", 1 << 40),
            // Malformed or out of range.
            ("18446744073709551616", 0),
            ("-1", 0),
            ("4 7", 0),
            ("", 0),
        ] {
            assert_eq!(announced_length(&text.parse().unwrap()), length, "{text}");
        }
    }
}

//! gRPC on the wire, as far as a layer has to know it.
//!
//! A refusal is *Trailers-Only* ([source](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)):
//! HTTP 200 with the gRPC status among the headers and no body. Clients read a bare 401 or 429 as
//! another error than it is.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};

use crate::usage::Status;

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Milliseconds after which a client may try again
/// ([A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md)).
pub(super) const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// A `google.rpc.Status` in base64, with details for clients that read them.
pub(super) const GRPC_STATUS_DETAILS: HeaderName =
    HeaderName::from_static("grpc-status-details-bin");

pub(super) const CANCELLED: u8 = 1;
pub(super) const UNKNOWN: u8 = 2;
pub(super) const DEADLINE_EXCEEDED: u8 = 4;
pub(super) const PERMISSION_DENIED: u8 = 7;
pub(super) const RESOURCE_EXHAUSTED: u8 = 8;
pub(super) const UNIMPLEMENTED: u8 = 12;
pub(super) const UNAVAILABLE: u8 = 14;
pub(super) const UNAUTHENTICATED: u8 = 16;

/// The protocol of a response, decided by the response: the client's content type is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    /// gRPC, whose status comes with the headers or the trailers.
    Grpc,
    /// gRPC-Web, whose trailers are in the body; a status among the headers counts.
    GrpcWeb,
}

impl Protocol {
    /// Read from the content type or, without one, from `grpc-status`.
    #[inline]
    pub(super) fn of_response(headers: &HeaderMap) -> Self {
        match headers.get(CONTENT_TYPE) {
            Some(value) if is_grpc(value) && has_trailers(value) => Self::Grpc,
            Some(value) if is_grpc(value) => Self::GrpcWeb,
            Some(_) => Self::Http,
            None if headers.contains_key(GRPC_STATUS) => Self::Grpc,
            None => Self::Http,
        }
    }

    /// The status that an answer of this protocol begins with: gRPC's, where it is there already.
    #[inline]
    pub(super) fn status_of<B>(self, response: &Response<B>) -> Status {
        let code = match self {
            Self::Http => None,
            Self::Grpc | Self::GrpcWeb => status(response.headers()),
        };
        code.map_or(Status::Http(response.status().as_u16()), Status::Grpc)
    }
}

/// The content type of a refusal, for a request that claims to be a gRPC call: its refusals are sent as gRPC.
pub(super) fn claimed(method: &Method, headers: &HeaderMap) -> Option<HeaderValue> {
    let content_type = headers.get(CONTENT_TYPE).filter(|value| is_grpc(value))?;
    // Nothing of the client's own goes back to it.
    let is_same = |known: &&str| content_type.as_bytes() == known.as_bytes();
    let known = CONTENT_TYPES.into_iter().find(is_same);
    let known = known.unwrap_or(CONTENT_TYPES[0]);
    (method == Method::POST).then(|| HeaderValue::from_static(known))
}

const CONTENT_TYPES: [&str; 7] = [
    "application/grpc",
    "application/grpc+proto",
    "application/grpc+json",
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];

/// Whether this is gRPC's content type. gRPC-Web's counts: it allows the status of a refusal among
/// the headers too.
#[inline]
fn is_grpc(content_type: &HeaderValue) -> bool {
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b'-')))
}

/// Whether the answers of a call end with trailers of HTTP: those of gRPC-Web are in the body.
#[inline]
fn has_trailers(content_type: &HeaderValue) -> bool {
    !content_type.as_bytes().starts_with(b"application/grpc-web")
}

/// The trailers of a call whose key was rejected while its response was under way.
pub(super) fn rejected() -> HeaderMap {
    let message = HeaderValue::from_static("The API key is no longer valid.");
    HeaderMap::from_iter([
        (GRPC_STATUS, HeaderValue::from(u16::from(UNAUTHENTICATED))),
        (GRPC_MESSAGE, message),
    ])
}

/// The status among headers or trailers.
pub(super) fn status(headers: &HeaderMap) -> Option<u8> {
    let text = headers.get(GRPC_STATUS)?.to_str().ok()?;
    // What is there but is no number is UNKNOWN, as clients take it.
    Some(text.trim().parse().unwrap_or(UNKNOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_its_protocol() {
        use Protocol::{Grpc, GrpcWeb, Http};
        for (content_type, plain, with_status) in [
            (Some("application/grpc"), Grpc, Grpc),
            (Some("application/grpc+proto"), Grpc, Grpc),
            (Some("application/grpc;x=y"), Grpc, Grpc),
            (Some("application/grpc-web"), GrpcWeb, GrpcWeb),
            (Some("application/grpc-web-text+proto"), GrpcWeb, GrpcWeb),
            (Some("application/grpcx"), Http, Http),
            (Some("application/json"), Http, Http),
            (None, Http, Grpc),
        ] {
            let content_type = content_type.map(|text| (CONTENT_TYPE, text.parse().unwrap()));
            let mut headers = HeaderMap::from_iter(content_type);
            assert_eq!(Protocol::of_response(&headers), plain, "{headers:?}");
            headers.insert(GRPC_STATUS, 0.into());
            assert_eq!(Protocol::of_response(&headers), with_status, "{headers:?}");
        }
    }

    #[test]
    fn a_call_is_claimed_by_method_and_content_type() {
        for (method, content_type, is_claimed) in [
            (Method::POST, "application/grpc", true),
            (Method::POST, "application/grpc-web+proto", true),
            (Method::POST, "application/grpcx", false),
            (Method::POST, "application/json", false),
            (Method::GET, "application/grpc", false),
            (Method::OPTIONS, "application/grpc", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type.parse().unwrap())]);
            let claimed = claimed(&method, &headers).is_some();
            assert_eq!(claimed, is_claimed, "{method} {content_type}");
        }
        for (sent, refused) in [
            ("application/grpc+proto", "application/grpc+proto"),
            ("application/grpc-web-text", "application/grpc-web-text"),
            ("application/grpc;<script>", "application/grpc"),
            ("application/grpc-anything", "application/grpc"),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, sent.parse().unwrap())]);
            assert_eq!(super::claimed(&Method::POST, &headers).unwrap(), refused);
        }
        assert!(claimed(&Method::POST, &HeaderMap::new()).is_none());
    }

    #[test]
    fn a_status_that_is_no_number_is_unknown() {
        for (text, code) in [("0", 0), (" 7", 7), ("x", 2), ("300", 2)] {
            let headers = HeaderMap::from_iter([(GRPC_STATUS, text.parse().unwrap())]);
            assert_eq!(status(&headers), Some(code), "{text}");
        }
        assert_eq!(status(&HeaderMap::new()), None);
    }
}

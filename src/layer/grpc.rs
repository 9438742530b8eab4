//! gRPC on the wire, as far as a layer has to know it.
//!
//! A refusal is *Trailers-Only* ([source](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)):
//! HTTP 200 with the gRPC status among the headers and no body. Clients read a bare 401 or 429 as
//! another error than it is.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Milliseconds after which a client may try again
/// ([A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md)).
pub(super) const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

pub(super) const CANCELLED: u8 = 1;
pub(super) const UNKNOWN: u8 = 2;
pub(super) const DEADLINE_EXCEEDED: u8 = 4;
pub(super) const PERMISSION_DENIED: u8 = 7;
pub(super) const RESOURCE_EXHAUSTED: u8 = 8;
pub(super) const UNIMPLEMENTED: u8 = 12;
pub(super) const UNAVAILABLE: u8 = 14;
pub(super) const UNAUTHENTICATED: u8 = 16;

/// The content type of a gRPC call or its answer, if it is one.
pub(super) fn content_type(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(CONTENT_TYPE).filter(|value| is_grpc(value))
}

/// Whether this is gRPC's content type. gRPC-Web's counts: it allows the status of a refusal among
/// the headers too.
#[inline]
pub(super) fn is_grpc(content_type: &HeaderValue) -> bool {
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b'-')))
}

/// Whether the answers of a call end with trailers of HTTP: those of gRPC-Web are in the body.
#[inline]
pub(super) fn has_trailers(content_type: &HeaderValue) -> bool {
    !content_type.as_bytes().starts_with(b"application/grpc-web")
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
    fn calls_are_told_by_their_content_type() {
        for (text, grpc, trailers) in [
            ("application/grpc", true, true),
            ("application/grpc+proto", true, true),
            ("application/grpc;x=y", true, true),
            ("application/grpc-web+proto", true, false),
            ("application/grpcx", false, true),
            ("application/json", false, true),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, text.parse().unwrap())]);
            assert_eq!(content_type(&headers).is_some(), grpc, "{text}");
            assert_eq!(has_trailers(&text.parse().unwrap()), trailers, "{text}");
        }
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

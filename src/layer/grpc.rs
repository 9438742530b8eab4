//! The parts of the gRPC wire protocol that the layer uses.
//!
//! Rejections are *Trailers-Only* responses ([specification][spec]): HTTP 200 with the gRPC status in the headers
//! and no body. Clients would map a plain 401 or 429 to a different status.
//!
//! [spec]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::usage::Status;

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Milliseconds until the client retries
/// ([gRFC A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md)).
pub(super) const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// A base64-encoded `google.rpc.Status` with error details.
pub(super) const GRPC_STATUS_DETAILS: HeaderName =
    HeaderName::from_static("grpc-status-details-bin");

pub(super) const CANCELLED: u8 = 1;
pub(super) const UNKNOWN: u8 = 2;
pub(super) const DEADLINE_EXCEEDED: u8 = 4;
pub(super) const PERMISSION_DENIED: u8 = 7;
pub(super) const RESOURCE_EXHAUSTED: u8 = 8;
pub(super) const UNIMPLEMENTED: u8 = 12;
pub(super) const INTERNAL: u8 = 13;
pub(super) const UNAVAILABLE: u8 = 14;
pub(super) const UNAUTHENTICATED: u8 = 16;

/// The protocol of a response. Determined from the response, because clients choose the request's content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    /// gRPC: the status is in the headers or the trailers.
    Grpc,
    /// gRPC-Web: trailers are in the body and not read. A status in the headers is.
    GrpcWeb,
}

impl Protocol {
    /// Determines the protocol from the content type or, if there is none, from `grpc-status`.
    #[inline]
    pub(super) fn of_response(headers: &HeaderMap) -> Self {
        let mut has_status = false;
        // Responses have few headers: comparing them is cheaper than hashing a name.
        for (name, value) in headers {
            if name == CONTENT_TYPE {
                return match is_grpc(value) {
                    true if has_trailers(value) => Self::Grpc,
                    true => Self::GrpcWeb,
                    false => Self::Http,
                };
            }
            has_status |= name == GRPC_STATUS;
        }
        if has_status { Self::Grpc } else { Self::Http }
    }

    /// The status in the head of a response: the gRPC status if it is already there.
    #[inline]
    pub(super) fn status_of(self, code: StatusCode, headers: &HeaderMap) -> Status {
        let grpc = match self {
            Self::Http => None,
            Self::Grpc | Self::GrpcWeb => status(headers),
        };
        grpc.map_or(Status::Http(code.as_u16()), Status::Grpc)
    }
}

/// The content type of the rejection if the request claims to be a gRPC call, whose rejections are sent as gRPC.
pub(super) fn claimed(method: &Method, headers: &HeaderMap) -> Option<HeaderValue> {
    // A comparison of each name is cheaper than hashing one, even for a dozen headers.
    let (_, content_type) = headers.iter().find(|(name, _)| *name == CONTENT_TYPE)?;
    if !is_grpc(content_type) {
        return None;
    }
    // Never reflect the client's own value.
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

/// Whether this is a gRPC or gRPC-Web content type. gRPC-Web also allows the status in the headers.
#[inline]
fn is_grpc(content_type: &HeaderValue) -> bool {
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b'-')))
}

/// Whether responses end with HTTP trailers. Those of gRPC-Web are in the body.
#[inline]
fn has_trailers(content_type: &HeaderValue) -> bool {
    !content_type.as_bytes().starts_with(b"application/grpc-web")
}

/// The trailers of a response stream whose key was rejected.
pub(super) fn rejected() -> HeaderMap {
    let message = HeaderValue::from_static("the API key is no longer valid");
    HeaderMap::from_iter([
        (GRPC_STATUS, HeaderValue::from(u16::from(UNAUTHENTICATED))),
        (GRPC_MESSAGE, message),
    ])
}

/// The status in headers or trailers.
pub(super) fn status(headers: &HeaderMap) -> Option<u8> {
    let text = headers.get(GRPC_STATUS)?.to_str().ok()?;
    // Clients treat a malformed status as UNKNOWN.
    Some(text.trim().parse().unwrap_or(UNKNOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_is_determined_from_the_response() {
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
    fn grpc_calls_are_recognized_by_method_and_content_type() {
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
        for (sent, returned) in [
            ("application/grpc+proto", "application/grpc+proto"),
            ("application/grpc-web-text", "application/grpc-web-text"),
            ("application/grpc;<script>", "application/grpc"),
            ("application/grpc-anything", "application/grpc"),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, sent.parse().unwrap())]);
            assert_eq!(super::claimed(&Method::POST, &headers).unwrap(), returned);
        }
        assert!(claimed(&Method::POST, &HeaderMap::new()).is_none());
    }

    #[test]
    fn malformed_status_is_unknown() {
        for (text, code) in [("0", 0), (" 7", 7), ("x", 2), ("300", 2)] {
            let headers = HeaderMap::from_iter([(GRPC_STATUS, text.parse().unwrap())]);
            assert_eq!(status(&headers), Some(code), "{text}");
        }
        assert_eq!(status(&HeaderMap::new()), None);
    }
}

//! Methods and statuses of events, as sets of bounded size.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::parse_error::ParseError;

/// A request method: a common HTTP method, or [`Method::Other`].
///
/// HTTP allows any token as a method (RFC 9110 §9.1). Mapping the others to one value bounds the number of
/// methods that clients can add to the statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Method {
    /// `GET`.
    Get,
    /// `HEAD`.
    Head,
    /// `POST`.
    Post,
    /// `PUT`.
    Put,
    /// `PATCH`.
    Patch,
    /// `DELETE`.
    Delete,
    /// `OPTIONS`.
    Options,
    /// `QUERY`.
    Query,
    /// `TRACE`.
    Trace,
    /// `CONNECT`.
    Connect,
    /// Any other method; displayed as `OTHER`.
    Other,
}

impl Method {
    /// All methods, in declaration order.
    pub const ALL: [Self; 11] = [
        Self::Get,
        Self::Head,
        Self::Post,
        Self::Put,
        Self::Patch,
        Self::Delete,
        Self::Options,
        Self::Query,
        Self::Trace,
        Self::Connect,
        Self::Other,
    ];

    /// The method's name on the wire; `OTHER` for [`Method::Other`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Query => "QUERY",
            Self::Trace => "TRACE",
            Self::Connect => "CONNECT",
            Self::Other => "OTHER",
        }
    }
}

impl From<&http::Method> for Method {
    fn from(method: &http::Method) -> Self {
        match *method {
            http::Method::GET => Self::Get,
            http::Method::HEAD => Self::Head,
            http::Method::POST => Self::Post,
            http::Method::PUT => Self::Put,
            http::Method::PATCH => Self::Patch,
            http::Method::DELETE => Self::Delete,
            http::Method::OPTIONS => Self::Options,
            http::Method::TRACE => Self::Trace,
            http::Method::CONNECT => Self::Connect,
            ref other if other.as_str() == Self::Query.as_str() => Self::Query,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Method {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|method| method.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| ParseError::unknown("method", text))
    }
}

/// The status of a response.
///
/// gRPC responses have HTTP status 200 even for errors, so their gRPC status code is recorded instead.
///
/// Displayed and serialized as `200`, `grpc-5` or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// No response: the client disconnected or the service failed first.
    None,
    /// An HTTP status code.
    Http(u16),
    /// A gRPC status code (`0` is OK).
    Grpc(u8),
}

impl Status {
    /// The class of the status.
    pub fn class(self) -> StatusClass {
        match self {
            Self::None => StatusClass::None,
            Self::Http(..=199) => StatusClass::Informational,
            Self::Http(200..=299) | Self::Grpc(0) => StatusClass::Success,
            Self::Http(300..=399) => StatusClass::Redirection,
            Self::Http(400..=499) => StatusClass::ClientError,
            Self::Http(_) => StatusClass::ServerError,
            Self::Grpc(code) if GRPC_SERVER_FAULTS.contains(&code) => StatusClass::ServerError,
            Self::Grpc(_) => StatusClass::ClientError,
        }
    }
}

/// UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS: the codes that the
/// OpenTelemetry semantic conventions for gRPC classify as server errors.
const GRPC_SERVER_FAULTS: [u8; 6] = [2, 4, 12, 13, 14, 15];

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::Http(code) => write!(f, "{code}"),
            Self::Grpc(code) => write!(f, "grpc-{code}"),
        }
    }
}

impl FromStr for Status {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || ParseError::unknown("status", text);
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then_some(());
        if text == "none" {
            return Ok(Self::None);
        }
        if let Some(code) = text.strip_prefix("grpc-") {
            digits(code).ok_or_else(unknown)?;
            return code.parse().map(Self::Grpc).map_err(|_| unknown());
        }
        digits(text).ok_or_else(unknown)?;
        match text.parse() {
            Ok(code @ 100..=999) => Ok(Self::Http(code)),
            _ => Err(unknown()),
        }
    }
}

/// The class of a [`Status`]. gRPC codes are classified as success, client error or server error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StatusClass {
    /// No response.
    None,
    /// 1xx.
    Informational,
    /// 2xx and gRPC OK.
    Success,
    /// 3xx.
    Redirection,
    /// 4xx and gRPC codes for client errors.
    ClientError,
    /// 5xx and above, and gRPC codes for server errors.
    ServerError,
}

impl StatusClass {
    /// All classes, in declaration order.
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::Informational,
        Self::Success,
        Self::Redirection,
        Self::ClientError,
        Self::ServerError,
    ];

    /// The name of the class: `none`, `1xx`, `2xx`, `3xx`, `4xx` or `5xx`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Informational => "1xx",
            Self::Success => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
        }
    }
}

impl fmt::Display for StatusClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for StatusClass {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|class| class.as_str() == text)
            .ok_or_else(|| ParseError::unknown("status class", text))
    }
}

/// A [`Status`] or all statuses of a [`StatusClass`], to filter by.
///
/// Displayed, parsed and serialized as `429`, `grpc-5`, `4xx` or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StatusFilter {
    /// One status.
    Status(Status),
    /// Every status of a class.
    Class(StatusClass),
}

impl StatusFilter {
    /// Returns whether a status matches.
    pub fn matches(self, status: Status) -> bool {
        match self {
            Self::Status(expected) => status == expected,
            Self::Class(class) => status.class() == class,
        }
    }
}

impl From<Status> for StatusFilter {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<StatusClass> for StatusFilter {
    fn from(class: StatusClass) -> Self {
        Self::Class(class)
    }
}

impl fmt::Display for StatusFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => status.fmt(f),
            Self::Class(class) => class.fmt(f),
        }
    }
}

impl FromStr for StatusFilter {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `none` is both a class and a status, with the same requests.
        match text.to_ascii_lowercase().parse() {
            Ok(class) => Ok(Self::Class(class)),
            Err(_) => text.parse().map(Self::Status),
        }
    }
}

/// Implements serde by `Display` and `FromStr`.
macro_rules! serde_as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(Method, Status, StatusClass, StatusFilter);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_and_parse_round_trip() {
        for method in Method::ALL {
            assert_eq!(method.as_str().parse(), Ok(method));
        }
        for class in StatusClass::ALL {
            assert_eq!(class.as_str().parse(), Ok(class));
            assert_eq!(class.to_string(), class.as_str());
        }
        for status in [Status::None, Status::Http(204), Status::Grpc(16)] {
            assert_eq!(status.to_string().parse(), Ok(status));
        }
    }

    #[test]
    fn invalid_statuses_do_not_parse() {
        for text in [
            "", "99", "1000", "+200", "grpc-", "grpc-+1", "grpc-256", "OK",
        ] {
            assert!(text.parse::<Status>().is_err(), "{text}");
        }
        let error = "x".repeat(10_000).parse::<Method>().unwrap_err();
        assert!(error.to_string().len() < 100);
    }

    #[test]
    fn status_filters_match_codes_and_classes() {
        for (text, matching, other) in [
            ("429", Status::Http(429), Status::Http(404)),
            ("4xx", Status::Http(404), Status::Http(200)),
            ("5XX", Status::Grpc(14), Status::Grpc(5)),
            ("grpc-5", Status::Grpc(5), Status::Http(404)),
            ("none", Status::None, Status::Http(200)),
        ] {
            let filter: StatusFilter = text.parse().unwrap();
            assert!(filter.matches(matching) && !filter.matches(other), "{text}");
            assert_eq!(filter.to_string(), text.to_lowercase());
        }
        for text in ["", "7xx", "99", "4xx "] {
            assert!(text.parse::<StatusFilter>().is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_methods_map_to_other() {
        for method in Method::ALL {
            let wire = http::Method::from_bytes(method.as_str().as_bytes()).unwrap();
            assert_eq!(Method::from(&wire), method);
        }
        let unknown = http::Method::from_bytes(b"BREW").unwrap();
        assert_eq!(Method::from(&unknown), Method::Other);
        assert_eq!(Method::from(&http::Method::PATCH), Method::Patch);
    }

    #[test]
    fn grpc_codes_map_to_classes() {
        assert_eq!(Status::Grpc(0).class(), StatusClass::Success);
        assert_eq!(Status::Grpc(7).class(), StatusClass::ClientError);
        assert_eq!(Status::Grpc(13).class(), StatusClass::ServerError);
        assert_eq!(Status::Http(599).class(), StatusClass::ServerError);
    }
}

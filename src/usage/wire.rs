//! Methods and statuses as events keep them: closed sets, whatever a client sends.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A request's method: the registered ones by name and one name for the rest.
///
/// HTTP allows any token as a method, so a client could otherwise make up as many as it likes.
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
    /// Any other token; shown as `OTHER`.
    Other,
}

impl Method {
    /// Every method there is, in the order of the enum.
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

    /// The method's name as it stands on the wire.
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

/// A text that names none of a closed set's members.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}")]
pub struct UnknownName {
    what: &'static str,
    text: Box<str>,
}

impl UnknownName {
    pub(crate) fn new(what: &'static str, text: &str) -> Self {
        // An error must not carry a client's megabyte along.
        let text = text.chars().take(40).collect::<String>().into();
        Self { what, text }
    }
}

impl FromStr for Method {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|method| method.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownName::new("method", text))
    }
}

/// How a request was answered on the wire.
///
/// A gRPC call is answered over HTTP with `200` whatever comes of it, so its own code counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// No answer: the client left or the service failed before there was one.
    None,
    /// An HTTP status code.
    Http(u16),
    /// A gRPC status code (`0` is OK).
    Grpc(u8),
}

impl Status {
    /// The coarse class of the status.
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

/// UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS: the codes that
/// OpenTelemetry's semantic conventions count as the server's errors.
const GRPC_SERVER_FAULTS: [u8; 6] = [2, 4, 12, 13, 14, 15];

/// `200`, `grpc-5` or `none`.
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
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownName::new("status", text);
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

/// The class of a [`Status`]; gRPC codes are sorted by whose fault they name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StatusClass {
    /// No answer.
    None,
    /// 1xx.
    Informational,
    /// 2xx, gRPC OK.
    Success,
    /// 3xx.
    Redirection,
    /// 4xx, gRPC codes that name the client's fault.
    ClientError,
    /// 5xx and above, gRPC codes that name the server's fault.
    ServerError,
}

impl StatusClass {
    /// Every class there is.
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::Informational,
        Self::Success,
        Self::Redirection,
        Self::ClientError,
        Self::ServerError,
    ];

    /// `none`, `1xx`, `2xx` and so on.
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
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|class| class.as_str() == text)
            .ok_or_else(|| UnknownName::new("status class", text))
    }
}

/// Serializes a type as the text it displays and reads it back from that.
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

serde_as_text!(Method, Status, StatusClass);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_round_trip() {
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
    fn other_texts_are_refused() {
        for text in [
            "", "99", "1000", "+200", "grpc-", "grpc-+1", "grpc-256", "OK",
        ] {
            assert!(text.parse::<Status>().is_err(), "{text}");
        }
        let error = "x".repeat(10_000).parse::<Method>().unwrap_err();
        assert!(error.to_string().len() < 100);
    }

    #[test]
    fn made_up_methods_share_a_name() {
        for method in Method::ALL {
            let wire = http::Method::from_bytes(method.as_str().as_bytes()).unwrap();
            assert_eq!(Method::from(&wire), method);
        }
        let made_up = http::Method::from_bytes(b"BREW").unwrap();
        assert_eq!(Method::from(&made_up), Method::Other);
        assert_eq!(Method::from(&http::Method::PATCH), Method::Patch);
    }

    #[test]
    fn grpc_codes_are_sorted_by_fault() {
        assert_eq!(Status::Grpc(0).class(), StatusClass::Success);
        assert_eq!(Status::Grpc(7).class(), StatusClass::ClientError);
        assert_eq!(Status::Grpc(13).class(), StatusClass::ServerError);
        assert_eq!(Status::Http(599).class(), StatusClass::ServerError);
    }
}

//! The parts of a request from which keys are read.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use http::header::AUTHORIZATION;

use super::authorization::{basic_user, one_of_equal, token_of};
use super::presented::Presented;
use crate::layer::request_parts::RequestParts;

/// The default header source.
pub(super) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

type Extract = dyn Fn(RequestParts<'_>) -> Option<String> + Send + Sync;

/// A part of the request from which keys are read; see
/// [`ApiKeyLayer::credential_sources`](crate::ApiKeyLayer::credential_sources).
#[derive(Clone)]
#[non_exhaustive]
pub enum CredentialSource {
    /// `Authorization: Bearer` (RFC 6750).
    Bearer,
    /// The user name of `Authorization: Basic` (RFC 7617), as sent by `curl -u KEY:`. The password is ignored.
    /// User names that are not keys are rejected, unless
    /// [foreign credentials](crate::ApiKeyLayer::allow_foreign_authorization) are allowed.
    Basic,
    /// Another `Authorization` scheme, case-insensitive. See [`CredentialSource::scheme`].
    Scheme(Arc<str>),
    /// The value of a header.
    Header(HeaderName),
    /// A query parameter. URLs end up in logs, browser histories and `Referer` headers: use it only for clients
    /// that support nothing else, over TLS, with short-lived keys. See
    /// [`CredentialSource::insecure_query_parameter`].
    InsecureQueryParameter(Arc<str>),
    /// A custom function. The credential is not removed from the request. See [`CredentialSource::function`].
    Function(Arc<Extract>),
}

impl CredentialSource {
    /// The default sources of a layer: `Authorization: Bearer` and `x-api-key`.
    pub const DEFAULT: [Self; 2] = [Self::Bearer, Self::Header(X_API_KEY)];

    /// An `Authorization` scheme, such as `Token` or `ApiKey`, case-insensitive. Credentials in this scheme that
    /// are not keys are rejected, unless [foreign credentials](crate::ApiKeyLayer::allow_foreign_authorization)
    /// are allowed.
    pub fn scheme(name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        if name.eq_ignore_ascii_case("Bearer") {
            return Self::Bearer;
        }
        Self::Scheme(name)
    }

    /// A query parameter, with the risks described at [`InsecureQueryParameter`](Self::InsecureQueryParameter).
    pub fn insecure_query_parameter(name: impl Into<Arc<str>>) -> Self {
        Self::InsecureQueryParameter(name.into())
    }

    /// A function that returns the credential of a request, or `None` if it has none.
    pub fn function(
        extract: impl Fn(RequestParts<'_>) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self::Function(Arc::new(extract))
    }

    /// The header of this source, if any.
    pub(super) fn header(&self) -> Option<HeaderName> {
        match self {
            Self::Bearer | Self::Scheme(_) | Self::Basic => Some(AUTHORIZATION),
            Self::Header(name) => Some(name.clone()),
            Self::InsecureQueryParameter(_) | Self::Function(_) => None,
        }
    }

    /// Reads the credential from a value of this source's header.
    #[inline]
    pub(super) fn read<'a>(&self, value: &'a [u8]) -> Presented<'a> {
        match self {
            Self::Bearer => {
                token_of("bearer", one_of_equal(value)).map_or(Presented::Missing, Presented::text)
            }
            Self::Scheme(name) => {
                token_of(name, one_of_equal(value)).map_or(Presented::Missing, Presented::text)
            }
            Self::Basic => match basic_user(one_of_equal(value)) {
                None => Presented::Missing,
                Some(user) if user.is_ascii() => Presented::Secret(user.into()),
                Some(_) => Presented::Malformed,
            },
            Self::Header(_) => match one_of_equal(value) {
                b"" => Presented::Missing,
                text => Presented::text(text),
            },
            Self::InsecureQueryParameter(_) | Self::Function(_) => Presented::Missing,
        }
    }
}

impl fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bearer => f.write_str("Bearer"),
            Self::Scheme(name) => write!(f, "Scheme({name})"),
            Self::Basic => f.write_str("Basic"),
            Self::Header(name) => write!(f, "Header({name})"),
            Self::InsecureQueryParameter(name) => write!(f, "Query({name})"),
            Self::Function(_) => f.write_str("Function"),
        }
    }
}

//! Plain requests: those whose only credential is a bearer token, as most requests have.

use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::presented::SourceSet;
use super::source::{CredentialSource, X_API_KEY};
use crate::layer::response_headers::X_REQUEST_ID;

/// How to recognize plain requests.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    /// `Authorization: Bearer` among the sources.
    pub(crate) bearer: SourceSet,
    /// The other headers that may contain a credential.
    others: Vec<HeaderName>,
}

/// The headers of a plain request.
pub(crate) struct PlainHeaders<'a> {
    /// The token, which is not validated.
    pub(crate) token: &'a [u8],
    pub(crate) request_id: Option<&'a HeaderValue>,
    pub(crate) content_length: Option<&'a HeaderValue>,
}

impl Plain {
    /// Returns `None` if a request may have a credential that its headers do not show, or without a bearer token.
    pub(super) fn of(sources: &[CredentialSource]) -> Option<Self> {
        let mut others = vec![X_API_KEY];
        let mut bearer = None;
        for (index, source) in sources.iter().enumerate() {
            match source {
                CredentialSource::Bearer => {
                    bearer.get_or_insert_with(SourceSet::default).add(index);
                }
                CredentialSource::Header(name) if name != AUTHORIZATION => {
                    others.push(name.clone());
                }
                // They do not read bearer tokens.
                CredentialSource::Scheme(_) | CredentialSource::Basic => {}
                CredentialSource::Header(_)
                | CredentialSource::InsecureQueryParameter(_)
                | CredentialSource::Function(_) => return None,
            }
        }
        let bearer = bearer?;
        Some(Self { bearer, others })
    }

    /// Reads the headers of a plain request. Returns `None` for other requests, and for some that are unusual.
    #[inline]
    pub(crate) fn read<'a>(&self, headers: &'a HeaderMap) -> Option<PlainHeaders<'a>> {
        let (mut token, mut request_id, mut content_length) = (None, None, None);
        for (name, value) in headers {
            if name == AUTHORIZATION {
                let (scheme, rest) = value.as_bytes().split_at_checked("bearer ".len())?;
                // Most clients write the name of the scheme like this.
                let is_bearer = scheme == b"Bearer " || scheme.eq_ignore_ascii_case(b"bearer ");
                if token.is_some() || !is_bearer {
                    return None;
                }
                token = Some(rest);
            } else if self.others.iter().any(|other| other == name) {
                return None;
            } else if name == CONTENT_LENGTH {
                content_length.get_or_insert(value);
            } else if name == X_REQUEST_ID {
                request_id.get_or_insert(value);
            }
        }
        Some(PlainHeaders {
            token: token?,
            request_id,
            content_length,
        })
    }
}

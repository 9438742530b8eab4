//! Credential sources: reading keys from requests and removing them.

mod authorization;
mod plain;
mod presented;
mod query;
mod source;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Request};
use smallvec::SmallVec;

use self::authorization::{basic_user, has_unread_secret, remove_authorization};
use self::plain::Plain;
pub(crate) use self::presented::{Presented, SourceSet};
use self::query::{in_query, remove_from_query};
pub use self::source::CredentialSource;
use self::source::X_API_KEY;
use super::request_parts::RequestParts;
use crate::key::credential_has_secret;

/// The value of `Vary` for the default sources.
const DEFAULT_VARY: &str = "authorization, x-api-key";

/// The configured sources, and the handling of credentials that are not keys.
#[derive(Clone, Debug)]
pub(crate) struct CredentialSources {
    list: Vec<CredentialSource>,
    /// Whether credentials in `Authorization` without the format of a secret are ignored.
    pub(crate) foreign_authorization: bool,
    /// Whether secrets outside the configured sources are forwarded.
    pub(crate) unread_secrets: bool,
    /// How to recognize plain requests, if these sources allow it.
    pub(crate) plain: Option<Plain>,
}

impl Default for CredentialSources {
    fn default() -> Self {
        let mut sources = Self {
            list: Vec::new(),
            foreign_authorization: false,
            unread_secrets: false,
            plain: None,
        };
        sources.set(CredentialSource::DEFAULT);
        sources
    }
}

impl CredentialSources {
    pub(crate) fn set(&mut self, sources: impl IntoIterator<Item = CredentialSource>) {
        self.list = sources.into_iter().collect();
        self.plain = Plain::of(&self.list);
    }

    /// The `Authorization` schemes among the sources.
    pub(crate) fn schemes(&self) -> impl Iterator<Item = Arc<str>> {
        self.list.iter().filter_map(|source| match source {
            CredentialSource::Bearer => Some("Bearer".into()),
            CredentialSource::Scheme(name) => Some(name.clone()),
            CredentialSource::Basic => Some("Basic".into()),
            _ => None,
        })
    }

    /// The value of `Vary` for responses that depend on keys in these sources.
    pub(crate) fn vary(&self) -> Option<HeaderValue> {
        let mut names: Vec<String> = Vec::new();
        for name in self.list.iter().filter_map(CredentialSource::header) {
            if !names.iter().any(|known| *known == name.as_str()) {
                names.push(name.to_string());
            }
        }
        let names = names.join(", ");
        match &*names {
            "" => None,
            // The usual values have no reference count, on which all threads would contend.
            DEFAULT_VARY => Some(HeaderValue::from_static(DEFAULT_VARY)),
            "authorization" => Some(HeaderValue::from_static("authorization")),
            _ => {
                let value = HeaderValue::from_maybe_shared(Bytes::from(names)).ok()?;
                // The first clone promotes the buffer to a shared one, so that later clones do not allocate.
                drop(value.clone());
                Some(value)
            }
        }
    }
}

/// The credentials removed from a request.
pub(crate) type StrippedCredentials = SmallVec<[Stripped; 1]>;

/// A credential removed from a request, kept for nested layers.
#[derive(Clone)]
pub(crate) enum Stripped {
    Bearer(HeaderValue),
    /// From another source.
    From(CredentialSource, Box<HeaderValue>),
}

/// The credential found so far. All sources are read and must agree, so that the order of sources never decides
/// between the credential of a client and that of a proxy.
#[derive(Default)]
pub(crate) struct Credential<'a> {
    pub(crate) presented: Presented<'a>,
    pub(crate) sources: SourceSet,
    /// Header values that contain a secret but belong to no source.
    unread: Vec<&'a HeaderValue>,
    /// Whether a function source found a credential.
    by_function: bool,
}

impl<'a> Credential<'a> {
    /// Adds the credentials removed by an outer layer, for the sources in which they were sent.
    #[inline]
    pub(crate) fn add_stripped(&mut self, sources: &CredentialSources, all: &'a [Stripped]) {
        for stripped in all {
            if sources.list.iter().any(|source| stripped.is_from(source)) {
                let presented = Presented::Secret(stripped.secret());
                self.presented = std::mem::take(&mut self.presented).and(presented);
            }
        }
    }

    /// Reads one header of the request.
    #[inline]
    pub(crate) fn scan(
        &mut self,
        sources: &CredentialSources,
        name: &HeaderName,
        value: &'a HeaderValue,
    ) {
        let mut is_read = false;
        for (index, source) in sources.list.iter().enumerate() {
            let presented = match source {
                CredentialSource::Header(wanted) if name == wanted => source.read(value.as_bytes()),
                CredentialSource::Bearer
                | CredentialSource::Scheme(_)
                | CredentialSource::Basic
                    if name == AUTHORIZATION =>
                {
                    sources.read_authorization(source, value.as_bytes())
                }
                _ => continue,
            };
            is_read |= !matches!(presented, Presented::Missing);
            self.add(index, presented);
        }
        if !is_read && (name == AUTHORIZATION || name == X_API_KEY) {
            self.add_unread(sources, name, value);
        }
    }

    /// Records a value that no source has read, if it contains a secret.
    #[cold]
    fn add_unread(
        &mut self,
        sources: &CredentialSources,
        name: &HeaderName,
        value: &'a HeaderValue,
    ) {
        self.sources.mixed |= name == AUTHORIZATION;
        if !sources.unread_secrets && has_unread_secret(value.as_bytes()) {
            self.unread.push(value);
        }
    }

    /// Reads the sources that are not headers.
    #[inline]
    pub(crate) fn scan_uri(&mut self, sources: &CredentialSources, parts: RequestParts<'a>) {
        for (index, source) in sources.list.iter().enumerate() {
            let presented = match source {
                CredentialSource::InsecureQueryParameter(name) => in_query(parts.uri(), name),
                CredentialSource::Function(extract) => {
                    extract(parts).map_or(Presented::Missing, |secret| {
                        self.by_function = true;
                        Presented::Secret(secret.into_bytes().into())
                    })
                }
                _ => continue,
            };
            self.add(index, presented);
        }
    }

    /// Whether a header contains a secret that no source has read and that must not reach the service.
    #[inline]
    pub(crate) fn has_unread(&self) -> bool {
        !self.unread.is_empty() && self.is_unread()
    }

    #[cold]
    fn is_unread(&self) -> bool {
        // A function source has read the value if it returned the same secret.
        let Presented::Secret(secret) = &self.presented else {
            return true;
        };
        let is_read = |value: &&HeaderValue| {
            let value = value.as_bytes();
            let user = basic_user(value);
            user.is_some_and(|user| user == **secret)
                || value.windows(secret.len().max(1)).any(|it| it == &**secret)
        };
        !self.by_function || !self.unread.iter().all(is_read)
    }

    #[inline]
    fn add(&mut self, index: usize, presented: Presented<'a>) {
        if matches!(presented, Presented::Missing) {
            return;
        }
        self.sources.add(index);
        self.presented = match &self.presented {
            Presented::Missing => presented,
            _ => std::mem::take(&mut self.presented).and(presented),
        };
    }
}

impl CredentialSources {
    /// Reads the credential of a source from a value of `Authorization`.
    #[inline]
    fn read_authorization<'a>(&self, source: &CredentialSource, value: &'a [u8]) -> Presented<'a> {
        match source.read(value) {
            Presented::Secret(token)
                if self.foreign_authorization && !credential_has_secret(&token) =>
            {
                Presented::Missing
            }
            Presented::Malformed if self.foreign_authorization => Presented::Missing,
            presented => presented,
        }
    }
}

/// Moves the credentials out of the request.
#[inline]
pub(crate) fn remove<B>(
    sources: &CredentialSources,
    found_in: SourceSet,
    request: &mut Request<B>,
    stripped: &mut StrippedCredentials,
) {
    for (index, source) in sources.list.iter().enumerate() {
        if !found_in.has(index) {
            continue;
        }
        let removed = match source {
            CredentialSource::Bearer if !found_in.mixed => {
                let value = request.headers_mut().remove(AUTHORIZATION);
                value.map(Stripped::Bearer)
            }
            CredentialSource::Bearer | CredentialSource::Scheme(_) | CredentialSource::Basic => {
                let is_own = |value: &HeaderValue| {
                    let presented = sources.read_authorization(source, value.as_bytes());
                    !matches!(presented, Presented::Missing)
                };
                let removed = remove_authorization(request.headers_mut(), is_own);
                match source {
                    CredentialSource::Bearer => removed.map(Stripped::Bearer),
                    source => Stripped::from(source, removed),
                }
            }
            CredentialSource::Header(name) => {
                Stripped::from(source, request.headers_mut().remove(name))
            }
            CredentialSource::InsecureQueryParameter(name) => {
                Stripped::from(source, remove_from_query(request, name))
            }
            // A function only reads the request, so its credential cannot be removed.
            CredentialSource::Function(_) => None,
        };
        if let Some(removed) = removed {
            stripped.push(removed);
        }
    }
}

impl Stripped {
    fn from(source: &CredentialSource, value: Option<HeaderValue>) -> Option<Self> {
        value.map(|value| Self::From(source.clone(), Box::new(value)))
    }

    fn secret(&self) -> Cow<'_, [u8]> {
        let (source, value) = match self {
            Self::Bearer(value) => (&CredentialSource::Bearer, value),
            // The bare value of the query parameter.
            Self::From(CredentialSource::InsecureQueryParameter(_), value) => {
                return value.as_bytes().into();
            }
            Self::From(source, value) => (source, &**value),
        };
        match source.read(value.as_bytes()) {
            Presented::Secret(secret) => secret,
            _ => Cow::default(),
        }
    }

    fn is_from(&self, source: &CredentialSource) -> bool {
        match (self, source) {
            (Self::Bearer(_), CredentialSource::Bearer) => true,
            (Self::From(CredentialSource::Basic, _), CredentialSource::Basic) => true,
            (Self::From(CredentialSource::Scheme(one), _), CredentialSource::Scheme(other)) => {
                one.eq_ignore_ascii_case(other)
            }
            (Self::From(CredentialSource::Header(one), _), CredentialSource::Header(other)) => {
                one == other
            }
            (
                Self::From(CredentialSource::InsecureQueryParameter(one), _),
                CredentialSource::InsecureQueryParameter(other),
            ) => one == other,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;

//! Where a request's key is looked for, and how it is taken away.

mod authorization;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Request, Uri};
use smallvec::SmallVec;

use self::authorization::{
    basic_user, has_unread_secret, one_of_equal, remove_authorization, token_of,
};
use super::request_parts::RequestParts;
use crate::key::holds_secret;

/// The header that is looked at after `Authorization: Bearer`.
pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

type Extract = dyn Fn(RequestParts<'_>) -> Option<String> + Send + Sync;

/// One place where a key may be.
#[derive(Clone)]
pub(crate) enum CredentialSource {
    Bearer,
    /// Another scheme of `Authorization`.
    Scheme(Arc<str>),
    /// The user name of the `Basic` scheme.
    Basic,
    Header(HeaderName),
    Query(Arc<str>),
    Function(Arc<Extract>),
}

/// Where keys are looked for, and what becomes of credentials that are none.
#[derive(Clone, Debug)]
pub(crate) struct CredentialSources {
    list: Vec<CredentialSource>,
    /// Whether credentials in `Authorization` that do not have the form of a secret are somebody else's.
    pub(crate) foreign_authorization: bool,
    /// Whether secrets in places where none is looked for pass.
    pub(crate) unread_secrets: bool,
}

impl Default for CredentialSources {
    fn default() -> Self {
        Self {
            list: vec![
                CredentialSource::Bearer,
                CredentialSource::Header(X_API_KEY),
            ],
            foreign_authorization: false,
            unread_secrets: false,
        }
    }
}

impl CredentialSources {
    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }

    pub(crate) fn push(&mut self, source: CredentialSource) {
        self.list.push(source);
    }

    /// The schemes of `Authorization` among them.
    pub(crate) fn schemes(&self) -> impl Iterator<Item = Arc<str>> {
        self.list.iter().filter_map(|source| match source {
            CredentialSource::Bearer => Some("Bearer".into()),
            CredentialSource::Scheme(name) => Some(name.clone()),
            CredentialSource::Basic => Some("Basic".into()),
            _ => None,
        })
    }

    /// The value of `Vary` for responses that depend on the keys in these sources.
    pub(crate) fn vary(&self) -> Option<HeaderValue> {
        let mut names: Vec<String> = Vec::new();
        for name in self.list.iter().filter_map(CredentialSource::header) {
            if !names.iter().any(|known| *known == name.as_str()) {
                names.push(name.to_string());
            }
        }
        let value = HeaderValue::from_maybe_shared(Bytes::from(names.join(", "))).ok()?;
        // Shared from the start, so that handing it to a response allocates nothing.
        drop(value.clone());
        (!value.is_empty()).then_some(value)
    }
}

impl CredentialSource {
    /// The header that it is in.
    fn header(&self) -> Option<HeaderName> {
        match self {
            Self::Bearer | Self::Scheme(_) | Self::Basic => Some(AUTHORIZATION),
            Self::Header(name) => Some(name.clone()),
            Self::Query(_) | Self::Function(_) => None,
        }
    }

    /// What it finds in a value of its header.
    #[inline]
    fn read<'a>(&self, value: &'a [u8]) -> Presented<'a> {
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
            Self::Query(_) | Self::Function(_) => Presented::Missing,
        }
    }
}

/// All that was taken out of a request.
pub(crate) type StrippedCredentials = SmallVec<[Stripped; 1]>;

/// What was taken out of a request, for layers further in.
#[derive(Clone)]
pub(crate) enum Stripped {
    Bearer(HeaderValue),
    /// From another place.
    From(CredentialSource, Box<HeaderValue>),
}

/// What a request presents.
#[derive(Default)]
pub(crate) enum Presented<'a> {
    #[default]
    Missing,
    Secret(Cow<'a, [u8]>),
    /// A credential that cannot be a key: characters that no key has.
    Malformed,
    /// Two different ones.
    Ambiguous,
}

/// The places in which a key was found.
#[derive(Clone, Copy, Default)]
pub(crate) struct SourceSet {
    /// A bit for each of the first eight sources.
    bits: u8,
    /// Whether `Authorization` may have other credentials too.
    mixed: bool,
}

impl SourceSet {
    /// Wherever it may have been.
    pub(crate) fn all() -> Self {
        Self {
            bits: u8::MAX,
            mixed: true,
        }
    }

    #[inline]
    fn add(&mut self, index: usize) {
        self.bits |= 1_u8.checked_shl(index as u32).unwrap_or(0);
    }

    #[inline]
    fn has(self, index: usize) -> bool {
        index >= 8 || self.bits & (1 << index) != 0
    }
}

impl<'a> Presented<'a> {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Missing, other) => other,
            (first, Self::Missing) => first,
            (Self::Secret(first), Self::Secret(second)) if first == second => Self::Secret(first),
            (Self::Malformed, Self::Malformed) => Self::Malformed,
            _ => Self::Ambiguous,
        }
    }

    #[inline]
    fn text(text: &'a [u8]) -> Self {
        if text.is_ascii() {
            Self::Secret(Cow::Borrowed(text))
        } else {
            Self::Malformed
        }
    }
}

/// What was found so far. Every place is looked at, and all that present a key must present the same
/// one: a proxy and a client who disagree must not have one of them win by order.
#[derive(Default)]
pub(crate) struct Credential<'a> {
    pub(crate) presented: Presented<'a>,
    pub(crate) places: SourceSet,
    /// Values of headers with a secret that no source has read.
    unread: Vec<&'a HeaderValue>,
    /// Whether a function has found one.
    by_function: bool,
}

impl<'a> Credential<'a> {
    /// What an outer layer took away counts where it would have been found.
    #[inline]
    pub(crate) fn add_stripped(&mut self, sources: &CredentialSources, all: &'a [Stripped]) {
        for taken in all {
            if sources.list.iter().any(|source| taken.is_from(source)) {
                let presented = Presented::Secret(taken.secret());
                self.presented = std::mem::take(&mut self.presented).and(presented);
            }
        }
    }

    /// Looks at one of the request's headers.
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

    /// Nobody has read this value.
    #[cold]
    fn add_unread(
        &mut self,
        sources: &CredentialSources,
        name: &HeaderName,
        value: &'a HeaderValue,
    ) {
        self.places.mixed |= name == AUTHORIZATION;
        if !sources.unread_secrets && has_unread_secret(value.as_bytes()) {
            self.unread.push(value);
        }
    }

    /// Looks where a key may be that is not in a header.
    #[inline]
    pub(crate) fn scan_uri(&mut self, sources: &CredentialSources, head: RequestParts<'a>) {
        for (index, source) in sources.list.iter().enumerate() {
            let presented = match source {
                CredentialSource::Query(name) => in_query(head.uri(), name),
                CredentialSource::Function(extract) => {
                    extract(head).map_or(Presented::Missing, |secret| {
                        self.by_function = true;
                        Presented::Secret(secret.into_bytes().into())
                    })
                }
                _ => continue,
            };
            self.add(index, presented);
        }
    }

    /// Whether there is a secret in a header that no source has read: the service must not get it.
    #[inline]
    pub(crate) fn has_unread(&self) -> bool {
        !self.unread.is_empty() && self.is_unread()
    }

    #[cold]
    fn is_unread(&self) -> bool {
        // A function has read it where it has found just that.
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
        if !matches!(presented, Presented::Missing) {
            self.places.add(index);
            self.presented = std::mem::take(&mut self.presented).and(presented);
        }
    }
}

impl CredentialSources {
    /// What a source finds in a value of `Authorization`.
    #[inline]
    fn read_authorization<'a>(&self, source: &CredentialSource, value: &'a [u8]) -> Presented<'a> {
        match source.read(value) {
            Presented::Secret(token) if self.foreign_authorization && !holds_secret(&token) => {
                Presented::Missing
            }
            Presented::Malformed if self.foreign_authorization => Presented::Missing,
            presented => presented,
        }
    }
}

/// Takes the key out of the request, so that it goes no further, and answers what it was.
#[inline]
pub(crate) fn remove<B>(
    sources: &CredentialSources,
    places: SourceSet,
    request: &mut Request<B>,
) -> StrippedCredentials {
    let mut taken = StrippedCredentials::new();
    for (index, source) in sources.list.iter().enumerate() {
        if !places.has(index) {
            continue;
        }
        let found = match source {
            CredentialSource::Bearer if !places.mixed => {
                let alone = request.headers_mut().remove(AUTHORIZATION);
                alone.map(Stripped::Bearer)
            }
            CredentialSource::Bearer | CredentialSource::Scheme(_) | CredentialSource::Basic => {
                let is_ours = |value: &HeaderValue| {
                    let presented = sources.read_authorization(source, value.as_bytes());
                    !matches!(presented, Presented::Missing)
                };
                let removed = remove_authorization(request.headers_mut(), is_ours);
                match source {
                    CredentialSource::Bearer => removed.map(Stripped::Bearer),
                    source => Stripped::from(source, removed),
                }
            }
            CredentialSource::Header(name) => {
                Stripped::from(source, request.headers_mut().remove(name))
            }
            CredentialSource::Query(name) => {
                Stripped::from(source, remove_from_query(request, name))
            }
            // Whoever knows how to find it elsewhere has to remove it there.
            CredentialSource::Function(_) => None,
        };
        taken.extend(found);
    }
    taken
}

impl Stripped {
    fn from(source: &CredentialSource, value: Option<HeaderValue>) -> Option<Self> {
        value.map(|value| Self::From(source.clone(), Box::new(value)))
    }

    fn secret(&self) -> Cow<'_, [u8]> {
        let (source, value) = match self {
            Self::Bearer(value) => (&CredentialSource::Bearer, value),
            // As it stood in the query.
            Self::From(CredentialSource::Query(_), value) => return value.as_bytes().into(),
            Self::From(source, value) => (source, &**value),
        };
        match source.read(value.as_bytes()) {
            Presented::Secret(secret) => secret,
            _ => Cow::default(),
        }
    }

    fn is_from(&self, place: &CredentialSource) -> bool {
        match (self, place) {
            (Self::Bearer(_), CredentialSource::Bearer) => true,
            (Self::From(CredentialSource::Basic, _), CredentialSource::Basic) => true,
            (Self::From(CredentialSource::Scheme(one), _), CredentialSource::Scheme(other)) => {
                one.eq_ignore_ascii_case(other)
            }
            (Self::From(CredentialSource::Header(one), _), CredentialSource::Header(other)) => {
                one == other
            }
            (Self::From(CredentialSource::Query(one), _), CredentialSource::Query(other)) => {
                one == other
            }
            _ => false,
        }
    }
}

fn in_query<'a>(uri: &'a Uri, name: &str) -> Presented<'a> {
    uri.query()
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        .filter(|value| !value.is_empty())
        .map(|value| Presented::text(value.as_bytes()))
        .fold(Presented::Missing, Presented::and)
}

fn remove_from_query<B>(request: &mut Request<B>, name: &str) -> Option<HeaderValue> {
    // axum keeps the address as it came, for extractors and logs.
    #[cfg(feature = "axum")]
    if let Some(axum::extract::OriginalUri(uri)) = request.extensions_mut().get_mut() {
        take_from_query(uri, name);
    }
    take_from_query(request.uri_mut(), name)
}

fn take_from_query(uri: &mut Uri, name: &str) -> Option<HeaderValue> {
    let value_of = |pair: &'_ str| -> Option<usize> {
        let value = pair.strip_prefix(name)?.strip_prefix('=')?;
        Some(pair.len() - value.len())
    };
    let query = uri.query()?;
    let pair = query.split('&').find(|pair| value_of(pair).is_some())?;
    let taken = HeaderValue::from_str(&pair[value_of(pair)?..]).ok();
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| value_of(pair).is_none())
        .collect();
    let path = uri.path();
    let rest = if kept.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", kept.join("&"))
    };
    let mut parts = uri.clone().into_parts();
    // A part of a valid query is one.
    parts.path_and_query = rest.parse().ok();
    // Should it not be, no address at all is better than one with the key.
    *uri = Uri::from_parts(parts).unwrap_or_default();
    taken
}

impl fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bearer => f.write_str("Bearer"),
            Self::Scheme(name) => write!(f, "Scheme({name})"),
            Self::Basic => f.write_str("Basic"),
            Self::Header(name) => write!(f, "Header({name})"),
            Self::Query(name) => write!(f, "Query({name})"),
            Self::Function(_) => f.write_str("Function"),
        }
    }
}

#[cfg(test)]
mod tests;

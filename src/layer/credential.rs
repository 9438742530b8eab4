//! Where a request's key is looked for, and how it is taken away.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use smallvec::SmallVec;

use super::head::RequestHead;
use crate::key::{holds_secret, searched};

/// The header that is looked at after `Authorization: Bearer`.
pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

type Extract = dyn Fn(RequestHead<'_>) -> Option<String> + Send + Sync;

/// One place where a key may be.
#[derive(Clone)]
pub(crate) enum Source {
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
pub(crate) struct Sources {
    list: Vec<Source>,
    /// Whether credentials in `Authorization` that do not have the form of a secret are somebody else's.
    pub(crate) foreign_authorization: bool,
    /// Whether secrets in places where none is looked for pass.
    pub(crate) unread_secrets: bool,
}

impl Default for Sources {
    fn default() -> Self {
        Self {
            list: vec![Source::Bearer, Source::Header(X_API_KEY)],
            foreign_authorization: false,
            unread_secrets: false,
        }
    }
}

impl Sources {
    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }

    pub(crate) fn push(&mut self, source: Source) {
        self.list.push(source);
    }

    /// The schemes of `Authorization` among them.
    pub(crate) fn schemes(&self) -> impl Iterator<Item = Arc<str>> {
        self.list.iter().filter_map(|source| match source {
            Source::Bearer => Some("Bearer".into()),
            Source::Scheme(name) => Some(name.clone()),
            Source::Basic => Some("Basic".into()),
            _ => None,
        })
    }

    /// The value of `Vary` for responses that depend on the keys in these sources.
    pub(crate) fn vary(&self) -> Option<HeaderValue> {
        let mut names: Vec<String> = Vec::new();
        for name in self.list.iter().filter_map(Source::header) {
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

impl Source {
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
                token_of("bearer", one_of_equal(value)).map_or(Presented::Nothing, Presented::text)
            }
            Self::Scheme(name) => {
                token_of(name, one_of_equal(value)).map_or(Presented::Nothing, Presented::text)
            }
            Self::Basic => match basic_user(one_of_equal(value)) {
                None => Presented::Nothing,
                Some(user) if user.is_ascii() => Presented::Secret(user.into()),
                Some(_) => Presented::Garbled,
            },
            Self::Header(_) => match one_of_equal(value) {
                b"" => Presented::Nothing,
                text => Presented::text(text),
            },
            Self::Query(_) | Self::Function(_) => Presented::Nothing,
        }
    }
}

/// All that was taken out of a request.
pub(crate) type AllTaken = SmallVec<[Taken; 1]>;

/// What was taken out of a request, for layers further in.
#[derive(Clone)]
pub(crate) enum Taken {
    Bearer(HeaderValue),
    /// From another place.
    From(Source, Box<HeaderValue>),
}

/// What a request presents.
#[derive(Default)]
pub(crate) enum Presented<'a> {
    #[default]
    Nothing,
    Secret(Cow<'a, [u8]>),
    /// A credential that cannot be a key: characters that no key has.
    Garbled,
    /// Two different ones.
    Ambiguous,
}

/// The places in which a key was found.
#[derive(Clone, Copy, Default)]
pub(crate) struct Places {
    /// A bit for each of the first eight sources.
    bits: u8,
    /// Whether `Authorization` may have other credentials too.
    mixed: bool,
}

impl Places {
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
            (Self::Nothing, other) => other,
            (first, Self::Nothing) => first,
            (Self::Secret(first), Self::Secret(second)) if first == second => Self::Secret(first),
            (Self::Garbled, Self::Garbled) => Self::Garbled,
            _ => Self::Ambiguous,
        }
    }

    #[inline]
    fn text(text: &'a [u8]) -> Self {
        if text.is_ascii() {
            Self::Secret(Cow::Borrowed(text))
        } else {
            Self::Garbled
        }
    }
}

/// What was found so far. Every place is looked at, and all that present a key must present the same
/// one: a proxy and a client who disagree must not have one of them win by order.
#[derive(Default)]
pub(crate) struct Found<'a> {
    pub(crate) presented: Presented<'a>,
    pub(crate) places: Places,
    /// Values of headers with a secret that no source has read.
    unread: Vec<&'a HeaderValue>,
    /// Whether a function has found one.
    by_function: bool,
}

impl<'a> Found<'a> {
    /// What an outer layer took away counts where it would have been found.
    #[inline]
    pub(crate) fn add_taken(&mut self, sources: &Sources, all: &'a [Taken]) {
        for taken in all {
            if sources.list.iter().any(|source| taken.is_from(source)) {
                let presented = Presented::Secret(taken.secret());
                self.presented = std::mem::take(&mut self.presented).and(presented);
            }
        }
    }

    /// Looks at one of the request's headers.
    #[inline]
    pub(crate) fn look(&mut self, sources: &Sources, name: &HeaderName, value: &'a HeaderValue) {
        let mut is_read = false;
        for (index, source) in sources.list.iter().enumerate() {
            let presented = match source {
                Source::Header(wanted) if name == wanted => source.read(value.as_bytes()),
                Source::Bearer | Source::Scheme(_) | Source::Basic if name == AUTHORIZATION => {
                    sources.read_authorization(source, value.as_bytes())
                }
                _ => continue,
            };
            is_read |= !matches!(presented, Presented::Nothing);
            self.add(index, presented);
        }
        if !is_read && (name == AUTHORIZATION || name == X_API_KEY) {
            self.add_unread(sources, name, value);
        }
    }

    /// Nobody has read this value.
    #[cold]
    fn add_unread(&mut self, sources: &Sources, name: &HeaderName, value: &'a HeaderValue) {
        self.places.mixed |= name == AUTHORIZATION;
        if !sources.unread_secrets && has_unread_secret(value.as_bytes()) {
            self.unread.push(value);
        }
    }

    /// Looks where a key may be that is not in a header.
    #[inline]
    pub(crate) fn look_elsewhere(&mut self, sources: &Sources, head: RequestHead<'a>) {
        for (index, source) in sources.list.iter().enumerate() {
            let presented = match source {
                Source::Query(name) => in_query(head.uri(), name),
                Source::Function(extract) => extract(head).map_or(Presented::Nothing, |secret| {
                    self.by_function = true;
                    Presented::Secret(secret.into_bytes().into())
                }),
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
        if !matches!(presented, Presented::Nothing) {
            self.places.add(index);
            self.presented = std::mem::take(&mut self.presented).and(presented);
        }
    }
}

impl Sources {
    /// What a source finds in a value of `Authorization`.
    #[inline]
    fn read_authorization<'a>(&self, source: &Source, value: &'a [u8]) -> Presented<'a> {
        match source.read(value) {
            Presented::Secret(token) if self.foreign_authorization && !holds_secret(&token) => {
                Presented::Nothing
            }
            Presented::Garbled if self.foreign_authorization => Presented::Nothing,
            presented => presented,
        }
    }
}

/// Whether a header's value has a secret, as it is or in a word in base64, as `Basic` and others have it.
fn has_unread_secret(value: &[u8]) -> bool {
    let value = searched(value);
    let mut words = value.split(|b| b" \t,;:\"'".contains(b));
    holds_secret(value) || words.any(|word| decoded(word).is_some_and(|text| holds_secret(&text)))
}

/// A word of base64 in either alphabet (RFC 4648), padded or not.
fn decoded(word: &[u8]) -> Option<Vec<u8>> {
    let end = word
        .iter()
        .rposition(|b| *b != b'=')
        .map_or(0, |last| last + 1);
    let standard = |b: &u8| match b {
        b'-' => b'+',
        b'_' => b'/',
        other => *other,
    };
    let word: Vec<u8> = word[..end].iter().map(standard).collect();
    BASE64.decode(word).ok()
}

const BASE64: GeneralPurpose = {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true);
    GeneralPurpose::new(&alphabet::STANDARD, config)
};

/// Takes the key out of the request, so that it goes no further, and answers what it was.
#[inline]
pub(crate) fn remove<B>(sources: &Sources, places: Places, request: &mut Request<B>) -> AllTaken {
    let mut taken = AllTaken::new();
    for (index, source) in sources.list.iter().enumerate() {
        if !places.has(index) {
            continue;
        }
        let found = match source {
            Source::Bearer if !places.mixed => {
                let alone = request.headers_mut().remove(AUTHORIZATION);
                alone.map(Taken::Bearer)
            }
            Source::Bearer | Source::Scheme(_) | Source::Basic => {
                let is_ours = |value: &HeaderValue| {
                    let presented = sources.read_authorization(source, value.as_bytes());
                    !matches!(presented, Presented::Nothing)
                };
                let removed = remove_authorization(request.headers_mut(), is_ours);
                match source {
                    Source::Bearer => removed.map(Taken::Bearer),
                    source => Taken::from(source, removed),
                }
            }
            Source::Header(name) => Taken::from(source, request.headers_mut().remove(name)),
            Source::Query(name) => Taken::from(source, remove_from_query(request, name)),
            // Whoever knows how to find it elsewhere has to remove it there.
            Source::Function(_) => None,
        };
        taken.extend(found);
    }
    taken
}

impl Taken {
    fn from(source: &Source, value: Option<HeaderValue>) -> Option<Self> {
        value.map(|value| Self::From(source.clone(), Box::new(value)))
    }

    fn secret(&self) -> Cow<'_, [u8]> {
        let (source, value) = match self {
            Self::Bearer(value) => (&Source::Bearer, value),
            // As it stood in the query.
            Self::From(Source::Query(_), value) => return value.as_bytes().into(),
            Self::From(source, value) => (source, &**value),
        };
        match source.read(value.as_bytes()) {
            Presented::Secret(secret) => secret,
            _ => Cow::default(),
        }
    }

    fn is_from(&self, place: &Source) -> bool {
        match (self, place) {
            (Self::Bearer(_), Source::Bearer) => true,
            (Self::From(Source::Basic, _), Source::Basic) => true,
            (Self::From(Source::Scheme(one), _), Source::Scheme(other)) => {
                one.eq_ignore_ascii_case(other)
            }
            (Self::From(Source::Header(one), _), Source::Header(other)) => one == other,
            (Self::From(Source::Query(one), _), Source::Query(other)) => one == other,
            _ => false,
        }
    }
}

/// The text without blanks around it; of a list of equal texts, as some clients join a header that they send
/// twice, one of them.
#[inline]
fn one_of_equal(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    if !value.contains(&b',') {
        return value;
    }
    let parts = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    // RFC 9110 §5.6.1.2: empty elements count for nothing.
    let mut parts = parts.filter(|part| !part.is_empty());
    let first = parts.next().unwrap_or_default();
    if parts.all(|part| part == first) {
        first
    } else {
        value
    }
}

fn in_query<'a>(uri: &'a Uri, name: &str) -> Presented<'a> {
    uri.query()
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        .filter(|value| !value.is_empty())
        .map(|value| Presented::text(value.as_bytes()))
        .fold(Presented::Nothing, Presented::and)
}

/// The token of a scheme of `Authorization`, whose name is written in any case (RFC 9110 §11.1).
#[inline]
fn token_of<'a>(scheme: &str, value: &'a [u8]) -> Option<&'a [u8]> {
    let (name, rest) = value.split_at_checked(scheme.len())?;
    let token = rest.trim_ascii();
    let is_its = name.eq_ignore_ascii_case(scheme.as_bytes()) && rest.first() == Some(&b' ');
    (is_its && !token.is_empty()).then_some(token)
}

/// The user name and the password of the `Basic` scheme (RFC 7617), with the colon between them.
#[cold]
fn basic(value: &[u8]) -> Option<Vec<u8>> {
    decoded(token_of("basic", value)?)
}

/// The user name of the `Basic` scheme; the password counts for nothing.
#[cold]
fn basic_user(value: &[u8]) -> Option<Vec<u8>> {
    let mut user = basic(value)?;
    let colon = user.iter().position(|b| *b == b':')?;
    user.truncate(colon);
    (!user.is_empty()).then_some(user)
}

/// Takes the values of `Authorization` away that are ours, and answers the first of them.
fn remove_authorization(
    headers: &mut HeaderMap,
    is_ours: impl Fn(&HeaderValue) -> bool,
) -> Option<HeaderValue> {
    let values: Vec<HeaderValue> = headers.get_all(AUTHORIZATION).iter().cloned().collect();
    headers.remove(AUTHORIZATION);
    let (ours, others): (Vec<_>, Vec<_>) = values.into_iter().partition(is_ours);
    for other in others {
        headers.append(AUTHORIZATION, other);
    }
    ours.into_iter().next()
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

impl fmt::Debug for Source {
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
mod tests {
    use super::*;

    fn sources() -> Sources {
        let mut sources = Sources::default();
        sources.push(Source::Query("key".into()));
        sources
    }

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        request.body(()).unwrap()
    }

    fn look(request: &Request<()>) -> Found<'_> {
        look_in(&sources(), request)
    }

    fn look_in<'a>(sources: &Sources, request: &'a Request<()>) -> Found<'a> {
        let mut found = Found::default();
        for (name, value) in request.headers() {
            found.look(sources, name, value);
        }
        found.look_elsewhere(sources, RequestHead::of(request));
        found
    }

    fn found(request: &Request<()>) -> String {
        shown(look(request).presented)
    }

    fn shown(presented: Presented<'_>) -> String {
        match presented {
            Presented::Nothing => "nothing".into(),
            Presented::Secret(secret) => String::from_utf8(secret.into_owned()).unwrap(),
            Presented::Garbled => "garbled".into(),
            Presented::Ambiguous => "ambiguous".into(),
        }
    }

    #[test]
    fn keys_are_found_where_they_may_be() {
        for (headers, what) in [
            (&[][..], "nothing"),
            (&[("authorization", "Bearer abc")], "abc"),
            (&[("authorization", "bEARER   abc ")], "abc"),
            (&[("authorization", "Basic abc")], "nothing"),
            (&[("authorization", "Bearerabc")], "nothing"),
            (&[("authorization", "Bearer")], "nothing"),
            (&[("authorization", "Bearer \u{e9}")], "garbled"),
            (&[("x-api-key", "abc")], "abc"),
            (&[("x-api-key", " abc ")], "abc"),
            (&[("x-api-key", "abc, abc,abc")], "abc"),
            (&[("x-api-key", "abc"), ("x-api-key", "abc")], "abc"),
            (&[("x-api-key", "abc, abd")], "abc, abd"),
            (&[("x-api-key", "abc, ")], "abc"),
            (&[("x-api-key", ",abc")], "abc"),
            (&[("authorization", "Bearer abc, Bearer abc")], "abc"),
            (
                &[("authorization", "Bearer abc, Bearer abd")],
                "abc, Bearer abd",
            ),
            (&[("x-api-key", "")], "nothing"),
            (&[("x-api-key", " , ")], "nothing"),
            (&[("authorization", "Bearer abc"), ("x-api-key", "")], "abc"),
            (&[("authorization", "Bearer"), ("x-api-key", "abc")], "abc"),
            (&[("x-api-key", "\u{e9}")], "garbled"),
            (&[("authorization", "Basic abc"), ("x-api-key", "k")], "k"),
            (&[("proxy-authorization", "Bearer abc")], "nothing"),
            (&[("x-other", "abc")], "nothing"),
            (&[("authorization", "Bearer a"), ("x-api-key", "a")], "a"),
            (
                &[("authorization", "Bearer a"), ("x-api-key", "b")],
                "ambiguous",
            ),
            (
                &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
                "ambiguous",
            ),
        ] {
            assert_eq!(found(&request("/", headers)), what, "{headers:?}");
        }
        assert_eq!(found(&request("/?a=1&key=abc", &[])), "abc");
        assert_eq!(found(&request("/?key=abc&key=abd", &[])), "ambiguous");
        assert_eq!(found(&request("/?monkey=abc", &[])), "nothing");
    }

    fn secret() -> String {
        let prefix = crate::key::Prefix::new("acme_live").unwrap();
        let secret = crate::key::Secret::generate(&prefix).unwrap();
        secret.expose().into()
    }

    fn basic_of(text: &str) -> String {
        use base64::Engine;
        use base64::engine::general_purpose::STANDARD;
        format!("Basic {}", STANDARD.encode(text))
    }

    fn url_safe(text: &str) -> String {
        use base64::Engine;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        URL_SAFE_NO_PAD.encode(text)
    }

    #[test]
    fn basic_and_other_schemes_are_read_and_removed() {
        let mut sources = Sources::default();
        sources.push(Source::Basic);
        sources.push(Source::Scheme("Token".into()));
        let key = secret();
        let bare = basic_of(&key);
        for (value, what) in [
            (basic_of(&format!("{key}:")), &*key),
            (basic_of(&format!("{key}:password")), &key),
            (basic_of(&format!("{key}::")), &key),
            (
                format!("basic {}", &basic_of(&format!("{key}:"))[6..]),
                &key,
            ),
            (format!("Token {key}"), &key),
            (format!("TOKEN   {key} "), &key),
            (format!("Bearer {key}"), &key),
            (bare, "nothing"),
            (basic_of(":password"), "nothing"),
            (basic_of("é:"), "garbled"),
            ("Basic %%%".into(), "nothing"),
            ("Tokens abc".into(), "nothing"),
        ] {
            let mut request = request("/", &[("authorization", &*value)]);
            let found = look_in(&sources, &request);
            let places = found.places;
            assert_eq!(shown(found.presented), what, "{value}");
            let taken = remove(&sources, places, &mut request);
            assert_eq!(taken.len(), usize::from(what != "nothing"), "{value}");
            assert_eq!(request.headers().is_empty(), what != "nothing", "{value}");
            if what == key {
                assert_eq!(*taken[0].secret(), *key.as_bytes());
                assert!(sources.list.iter().any(|source| taken[0].is_from(source)));
            }
        }
        let basic = basic_of(&format!("{key}:"));
        let both = [("authorization", &*basic), ("x-api-key", &key)];
        assert_eq!(
            shown(look_in(&sources, &request("/", &both)).presented),
            key
        );
    }

    #[test]
    fn secrets_that_no_source_reads_are_noticed() {
        let key = secret();
        let mistyped = format!("{}0", &key[..key.len() - 1]);
        let mistyped = if mistyped == key {
            format!("{}1", &key[..key.len() - 1])
        } else {
            mistyped
        };
        let jwt = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJh_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQR-S.x";
        for (value, is_unread) in [
            (format!("Token {key}"), true),
            (format!("Api-Key {key}"), true),
            (format!("ApiKey key=\"{key}\""), true),
            (key.clone(), true),
            (mistyped.clone(), true),
            (format!("Api-Key {}", &key[..key.len() - 3]), true),
            (format!("Api-Key {key}x"), true),
            (format!("Api-Key {}", &key[..40]), false),
            (format!("Token {mistyped}"), true),
            (format!("Bearer\t{key}"), true),
            (format!("Bearer{key}"), true),
            (basic_of(&format!("{key}:")), true),
            (basic_of(&format!("user:{key}")), true),
            (format!("Bearer {key}"), false),
            ("Token abc".into(), false),
            (basic_of(&format!("{key}:")).replace(' ', "\t"), true),
            (
                basic_of(&format!("{key}:")).replace("Basic", "ApiKey"),
                true,
            ),
            (format!("{0}, {0}", basic_of(&format!("{key}:"))), true),
            (format!("Token {}", url_safe(&format!("id>:{key}"))), true),
            (basic_of("user:password"), false),
            (format!("Token {jwt}"), false),
            (
                "Digest username=\"Mufasa\", realm=\"http-auth@example.org\"".into(),
                false,
            ),
        ] {
            let request = request("/", &[("authorization", &*value)]);
            let found = look(&request);
            assert_eq!(found.has_unread(), is_unread, "{value}");
            let mut passing = sources();
            passing.unread_secrets = true;
            let found = look_in(&passing, &request);
            assert!(!found.has_unread(), "{value}");
        }
        // Where it is no source, and what is read is read.
        let mut bearer = Sources::default();
        bearer.clear();
        bearer.push(Source::Bearer);
        for (value, is_unread) in [(&*key, true), ("abc", false)] {
            let request = request("/", &[("x-api-key", value)]);
            assert_eq!(look_in(&bearer, &request).has_unread(), is_unread);
            assert!(!look(&request).has_unread());
        }
        // A function that reads another scheme.
        let mut function = Sources::default();
        function.push(Source::Function(Arc::new(|head| {
            let value = head.headers().get(AUTHORIZATION)?.to_str().ok()?;
            Some(value.strip_prefix("Token ")?.into())
        })));
        for (value, is_unread) in [
            (format!("Token {key}"), false),
            (format!("Api-Key {key}"), true),
        ] {
            let request = request("/", &[("authorization", &*value)]);
            assert_eq!(look_in(&function, &request).has_unread(), is_unread);
        }
    }

    #[test]
    fn foreign_authorization_tokens_are_no_credentials_where_they_are_allowed() {
        let sources = Sources {
            foreign_authorization: true,
            ..Sources::default()
        };
        let key = secret();
        let jwt = ("authorization", "Bearer eyJhbGciOiJub25lIn0.e30.x");
        let own = ("x-api-key", &*key);
        let bearer = format!("Bearer {key}");
        let mut both = request("/", &[jwt, own]);
        let found = look_in(&sources, &both);
        assert!(!found.has_unread());
        let places = found.places;
        assert_eq!(shown(found.presented), key);
        remove(&sources, places, &mut both);
        assert_eq!(both.headers().len(), 1);
        assert_eq!(both.headers()[AUTHORIZATION], jwt.1);
        for (headers, what) in [
            (&[jwt][..], "nothing"),
            (&[("authorization", &*bearer)], &key),
            (&[("authorization", &bearer), own], &key),
            (
                &[("authorization", &bearer), ("x-api-key", "other")],
                "ambiguous",
            ),
            (&[jwt, ("authorization", &bearer)], &key),
        ] {
            let request = request("/", headers);
            let found = look_in(&sources, &request);
            assert!(!found.has_unread());
            assert_eq!(shown(found.presented), what, "{headers:?}");
        }
        assert_eq!(
            shown(look(&request("/", &[jwt, own])).presented),
            "ambiguous"
        );
        let mut several = request("/", &[jwt, ("authorization", &bearer)]);
        let places = look_in(&sources, &several).places;
        remove(&sources, places, &mut several);
        assert_eq!(several.headers().len(), 1);
        assert_eq!(several.headers()[AUTHORIZATION], jwt.1);
    }

    #[test]
    fn rule_1_keys_are_removed_and_nothing_else() {
        let mut full = request(
            "/p?a=1&key=k&b=2",
            &[
                ("authorization", "Bearer k"),
                ("authorization", "Basic other"),
                ("x-api-key", "k"),
                ("x-other", "stays"),
            ],
        );
        let places = look(&full).places;
        let taken = remove(&sources(), places, &mut full);
        assert_eq!(taken.len(), 3);
        assert!(taken.iter().all(|taken| *taken.secret() == *b"k"));
        assert_eq!(full.uri(), "/p?a=1&b=2");
        assert_eq!(full.headers().len(), 2);
        assert_eq!(full.headers()[AUTHORIZATION], "Basic other");
        let other = [("authorization", "Basic other"), ("x-api-key", "k")];
        let mut other = request("/", &other);
        let places = look(&other).places;
        remove(&sources(), places, &mut other);
        assert_eq!(other.headers().len(), 1);
        assert_eq!(other.headers()[AUTHORIZATION], "Basic other");
        let mut alone = request("http://host/p?key=k", &[("authorization", "Bearer k")]);
        remove(&sources(), Places::all(), &mut alone);
        assert_eq!(alone.uri(), "http://host/p");
        assert!(alone.headers().is_empty());
    }

    #[test]
    fn places_are_remembered_up_to_the_eighth() {
        for found in 0..12 {
            let mut places = Places::default();
            places.add(found);
            places.add(0);
            for index in 0..12 {
                let has = index == found || index == 0 || index >= 8;
                assert_eq!(places.has(index), has, "{index} of {found}");
            }
        }
        assert!((0..12).all(|index| Places::all().has(index)));
    }

    #[test]
    fn only_what_says_the_same_goes_together() {
        let make = |what| match what {
            "nothing" => Presented::Nothing,
            "garbled" => Presented::Garbled,
            "ambiguous" => Presented::Ambiguous,
            secret => Presented::text(secret.as_bytes()),
        };
        let all = ["nothing", "a", "b", "garbled", "ambiguous"];
        let expected = [
            all,
            ["a", "a", "ambiguous", "ambiguous", "ambiguous"],
            ["b", "ambiguous", "b", "ambiguous", "ambiguous"],
            ["garbled", "ambiguous", "ambiguous", "garbled", "ambiguous"],
            ["ambiguous"; 5],
        ];
        for (first, expected) in all.into_iter().zip(expected) {
            let together = all.map(|second| shown(make(first).and(make(second))));
            assert_eq!(together, expected, "{first}");
        }
    }

    /// Layers further in look only where they would have found it themselves.
    #[test]
    fn what_was_taken_counts_in_its_place_alone() {
        let header = |name: &'static str| Source::Header(HeaderName::from_static(name));
        let places = [
            Source::Bearer,
            header("x-api-key"),
            header("x-other"),
            Source::Query("key".into()),
            Source::Query("other".into()),
            Source::Function(Arc::new(|_| None)),
            Source::Scheme("Token".into()),
            Source::Scheme("Other".into()),
            Source::Basic,
        ];
        let value = HeaderValue::from_static("Bearer k");
        for (from, place) in places.iter().enumerate() {
            let taken = match place {
                Source::Bearer => Taken::Bearer(value.clone()),
                other => Taken::from(other, Some(value.clone())).unwrap(),
            };
            for (other, place) in places.iter().enumerate() {
                // A function takes nothing away.
                let own = from == other && from != 5;
                assert_eq!(taken.is_from(place), own, "{from} {other}");
            }
            let mut found = Found::default();
            found.add_taken(&Sources::default(), std::slice::from_ref(&taken));
            let expected = ["k", "Bearer k"].get(from).copied().unwrap_or("nothing");
            assert_eq!(shown(found.presented), expected);
        }
    }
}

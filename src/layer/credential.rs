//! Where a request's key is looked for, and how it is taken away.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use smallvec::SmallVec;

use super::head::RequestHead;

/// The header that is looked at after `Authorization: Bearer`.
pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

type Extract = dyn Fn(RequestHead<'_>) -> Option<String> + Send + Sync;

/// One place where a key may be.
#[derive(Clone)]
pub(crate) enum Source {
    Bearer,
    Header(HeaderName),
    Query(Arc<str>),
    Function(Arc<Extract>),
}

/// The value of `Vary` for responses that depend on the keys in these sources.
pub(crate) fn vary(sources: &[Source]) -> Option<HeaderValue> {
    let names = sources.iter().filter_map(|source| match source {
        Source::Bearer => Some(AUTHORIZATION),
        Source::Header(name) => Some(name.clone()),
        Source::Query(_) | Source::Function(_) => None,
    });
    let names: Vec<_> = names.map(|name| name.to_string()).collect();
    let value = HeaderValue::from_maybe_shared(Bytes::from(names.join(", "))).ok()?;
    // Shared from the start, so that handing it to a response allocates nothing.
    drop(value.clone());
    (!value.is_empty()).then_some(value)
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
}

impl<'a> Found<'a> {
    /// What an outer layer took away counts where it would have been found.
    #[inline]
    pub(crate) fn add_taken(&mut self, sources: &[Source], all: &'a [Taken]) {
        for taken in all {
            if sources.iter().any(|source| taken.is_from(source)) {
                let presented = Presented::Secret(taken.secret().into());
                self.presented = std::mem::take(&mut self.presented).and(presented);
            }
        }
    }

    /// Looks at one of the request's headers.
    #[inline]
    pub(crate) fn look(&mut self, sources: &[Source], name: &HeaderName, value: &'a HeaderValue) {
        for (index, source) in sources.iter().enumerate() {
            let presented = match source {
                Source::Bearer if name == AUTHORIZATION => {
                    let presented = bearer(value);
                    self.places.mixed |= matches!(presented, Presented::Nothing);
                    presented
                }
                Source::Header(wanted) if name == wanted => match one_of_equal(value.as_bytes()) {
                    b"" => Presented::Nothing,
                    text => Presented::text(text),
                },
                _ => continue,
            };
            self.add(index, presented);
        }
    }

    /// Looks where a key may be that is not in a header.
    #[inline]
    pub(crate) fn look_elsewhere(&mut self, sources: &[Source], head: RequestHead<'a>) {
        for (index, source) in sources.iter().enumerate() {
            let presented = match source {
                Source::Bearer | Source::Header(_) => continue,
                Source::Query(name) => in_query(head.uri(), name),
                Source::Function(extract) => extract(head).map_or(Presented::Nothing, |secret| {
                    Presented::Secret(secret.into_bytes().into())
                }),
            };
            self.add(index, presented);
        }
    }

    #[inline]
    fn add(&mut self, index: usize, presented: Presented<'a>) {
        if !matches!(presented, Presented::Nothing) {
            self.places.add(index);
            self.presented = std::mem::take(&mut self.presented).and(presented);
        }
    }
}

/// Takes the key out of the request, so that it goes no further, and answers what it was.
#[inline]
pub(crate) fn remove<B>(sources: &[Source], places: Places, request: &mut Request<B>) -> AllTaken {
    let mut taken = AllTaken::new();
    for (index, source) in sources.iter().enumerate() {
        if !places.has(index) {
            continue;
        }
        let found = match source {
            Source::Bearer if places.mixed => {
                remove_bearer(request.headers_mut()).map(Taken::Bearer)
            }
            Source::Bearer => {
                let alone = request.headers_mut().remove(AUTHORIZATION);
                alone.map(Taken::Bearer)
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

    fn secret(&self) -> &[u8] {
        match self {
            Self::Bearer(value) => bearer_token(value.as_bytes()).unwrap_or_default(),
            Self::From(_, value) => one_of_equal(value.as_bytes()),
        }
    }

    fn is_from(&self, place: &Source) -> bool {
        match (self, place) {
            (Self::Bearer(_), Source::Bearer) => true,
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
    let mut parts = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
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

/// The token of the `Bearer` scheme, whose name is written in any case (RFC 9110 §11.1); other
/// schemes are not ours.
#[inline]
fn bearer(value: &HeaderValue) -> Presented<'_> {
    bearer_token(value.as_bytes()).map_or(Presented::Nothing, Presented::text)
}

#[inline]
fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer";
    let (scheme, rest) = value.split_at_checked(SCHEME.len())?;
    let token = rest.trim_ascii();
    let ours = scheme.eq_ignore_ascii_case(SCHEME) && (rest.is_empty() || rest[0] == b' ');
    (ours && !token.is_empty()).then_some(token)
}

fn remove_bearer(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let is_ours = |value: &HeaderValue| bearer_token(value.as_bytes()).is_some();
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
            Self::Header(name) => write!(f, "Header({name})"),
            Self::Query(name) => write!(f, "Query({name})"),
            Self::Function(_) => f.write_str("Function"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Vec<Source> {
        vec![
            Source::Bearer,
            Source::Header(X_API_KEY),
            Source::Query("key".into()),
        ]
    }

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        request.body(()).unwrap()
    }

    fn look(request: &Request<()>) -> Found<'_> {
        let mut found = Found::default();
        for (name, value) in request.headers() {
            found.look(&sources(), name, value);
        }
        found.look_elsewhere(&sources(), RequestHead::of(request));
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
        assert!(taken.iter().all(|taken| taken.secret() == b"k"));
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
            found.add_taken(&places[..2], std::slice::from_ref(&taken));
            let expected = ["k", "Bearer k"].get(from).copied().unwrap_or("nothing");
            assert_eq!(shown(found.presented), expected);
        }
    }
}

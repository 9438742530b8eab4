//! Where a request's key is looked for, and how it is taken away.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use zeroize::Zeroizing;

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

/// What a request presents.
pub(crate) enum Presented<'a> {
    Nothing,
    Secret(Cow<'a, str>),
    /// A credential that cannot be a key: characters that no key has.
    Garbled,
    /// Two different ones.
    Ambiguous,
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

    fn of(value: &'a HeaderValue) -> Self {
        value.to_str().map_or(Self::Garbled, |text| {
            Self::Secret(Cow::Borrowed(text.trim()))
        })
    }
}

/// Every place is looked at, and all that present a key must present the same one: a proxy and a
/// client who disagree must not have one of them win by order.
#[inline]
pub(crate) fn find<'a>(sources: &[Source], head: RequestHead<'a>) -> Presented<'a> {
    sources
        .iter()
        .map(|source| source.find(head))
        .fold(Presented::Nothing, Presented::and)
}

/// Takes the key out of the request, so that it goes no further, and answers what it was.
pub(crate) fn remove<B>(sources: &[Source], request: &mut Request<B>) -> Option<HeaderValue> {
    let mut taken = None;
    for source in sources {
        let found = match source {
            Source::Bearer => remove_bearer(request.headers_mut()),
            Source::Header(name) => request.headers_mut().remove(name),
            Source::Query(name) => remove_from_query(request.uri_mut(), name),
            // Whoever knows how to find it elsewhere has to remove it there.
            Source::Function(_) => None,
        };
        taken = taken.or(found);
    }
    taken
}

/// The secret in what was taken out of a request.
pub(crate) fn text_of(taken: &HeaderValue) -> Option<&str> {
    let bytes = taken.as_bytes();
    std::str::from_utf8(bearer_token(bytes).unwrap_or(bytes)).ok()
}

impl Source {
    fn find<'a>(&self, head: RequestHead<'a>) -> Presented<'a> {
        match self {
            Self::Bearer => each(head.headers(), &AUTHORIZATION, bearer),
            Self::Header(name) => each(head.headers(), name, Presented::of),
            Self::Query(name) => head
                .uri()
                .query()
                .into_iter()
                .flat_map(|query| query.split('&'))
                .filter_map(|pair| pair.strip_prefix(&**name)?.strip_prefix('='))
                .map(|value| Presented::Secret(Cow::Borrowed(value)))
                .fold(Presented::Nothing, Presented::and),
            Self::Function(extract) => extract(head).map_or(Presented::Nothing, |secret| {
                Presented::Secret(secret.into())
            }),
        }
    }
}

#[inline]
fn each<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    present: impl Fn(&'a HeaderValue) -> Presented<'a>,
) -> Presented<'a> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else {
        return Presented::Nothing;
    };
    values.map(&present).fold(present(first), Presented::and)
}

/// The token of the `Bearer` scheme, whose name is written in any case (RFC 9110 §11.1); other
/// schemes are not ours.
fn bearer(value: &HeaderValue) -> Presented<'_> {
    match bearer_token(value.as_bytes()) {
        None => Presented::Nothing,
        Some(token) => match std::str::from_utf8(token) {
            Ok(token) if token.is_ascii() => Presented::Secret(Cow::Borrowed(token)),
            _ => Presented::Garbled,
        },
    }
}

fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer";
    let (scheme, rest) = value.split_at_checked(SCHEME.len())?;
    let token = rest.trim_ascii();
    let ours = scheme.eq_ignore_ascii_case(SCHEME) && (rest.is_empty() || rest[0] == b' ');
    (ours && !token.is_empty()).then_some(token)
}

fn remove_bearer(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let is_ours = |value: &HeaderValue| bearer_token(value.as_bytes()).is_some();
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let first = all.next()?;
    if all.next().is_none() {
        return is_ours(first).then(|| headers.remove(AUTHORIZATION))?;
    }
    let values: Vec<HeaderValue> = headers.get_all(AUTHORIZATION).iter().cloned().collect();
    headers.remove(AUTHORIZATION);
    let (ours, others): (Vec<_>, Vec<_>) = values.into_iter().partition(is_ours);
    for other in others {
        headers.append(AUTHORIZATION, other);
    }
    ours.into_iter().next()
}

fn remove_from_query(uri: &mut Uri, name: &str) -> Option<HeaderValue> {
    let value_of = |pair: &str| {
        pair.strip_prefix(name)?
            .strip_prefix('=')
            .map(str::to_owned)
    };
    let query = uri.query()?;
    let taken = Zeroizing::new(query.split('&').find_map(value_of)?);
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
    if let Ok(rest) = rest.parse() {
        parts.path_and_query = Some(rest);
    }
    if let Ok(cleaned) = Uri::from_parts(parts) {
        *uri = cleaned;
    }
    HeaderValue::from_str(&taken).ok()
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

    fn found(request: &Request<()>) -> String {
        match find(&sources(), RequestHead::of(request)) {
            Presented::Nothing => "nothing".into(),
            Presented::Secret(secret) => secret.into_owned(),
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
            (&[("x-api-key", "\u{e9}")], "garbled"),
            (&[("authorization", "Basic abc"), ("x-api-key", "k")], "k"),
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
        remove(&sources(), &mut full);
        assert_eq!(full.uri(), "/p?a=1&b=2");
        assert_eq!(full.headers().len(), 2);
        assert_eq!(full.headers()[AUTHORIZATION], "Basic other");
        let mut alone = request("http://host/p?key=k", &[("authorization", "Bearer k")]);
        remove(&sources(), &mut alone);
        assert_eq!(alone.uri(), "http://host/p");
        assert!(alone.headers().is_empty());
    }
}

//! The path at which the dashboard is mounted.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, NestedPath, OriginalUri};
use http::request::Parts;

/// The prefix of all URLs of the dashboard: empty at the root, else a path that begins with one slash and does not end
/// with one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BasePath(pub(super) Arc<str>);

impl BasePath {
    /// Parses a path. `None` unless it begins with exactly one slash and has unreserved characters only.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let plain = |b: u8| b == b'/' || is_plain(b);
        // Browsers read two leading slashes as a host name.
        let is_path = path.starts_with('/') && !path.starts_with("//") && path.bytes().all(plain);
        is_path.then(|| Self(path.trim_end_matches('/').into()))
    }

    /// The path at which axum nests the dashboard. Only captures of the pattern are taken from the request path, which
    /// clients control and layers in front may rewrite.
    pub(super) fn nested(parts: &Parts) -> Self {
        let nested = parts.extensions.get::<NestedPath>();
        let path = nested.and_then(|nested| {
            let original = parts.extensions.get::<OriginalUri>();
            resolve(nested.as_str(), original?.path())
        });
        path.and_then(|path| Self::parse(&path))
            .unwrap_or(Self("".into()))
    }
}

/// The URL of the overview.
pub(super) fn home(base: &str) -> String {
    if base.is_empty() { "/" } else { base }.into()
}

/// Fills the captures of a nested pattern (`/{tenant}/admin`) from the start of the request path. `None` if that does
/// not match.
fn resolve(pattern: &str, path: &str) -> Option<String> {
    if !pattern.contains('{') {
        return Some(pattern.into());
    }
    let mut actual = path.split('/');
    let resolved = pattern.trim_end_matches('/').split('/').map(|segment| {
        let actual = actual.next()?;
        let is_capture = segment.starts_with('{') && segment.ends_with('}');
        let is_safe =
            !actual.is_empty() && actual != "." && actual != ".." && actual.bytes().all(is_plain);
        (actual == segment || is_capture && is_safe).then_some(actual)
    });
    let resolved: Option<Vec<&str>> = resolved.collect();
    resolved.map(|segments| segments.join("/"))
}

/// A character of a path segment that cannot end a cookie attribute or the path.
fn is_plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~%".contains(&b)
}

impl<S: Sync> FromRequestParts<S> for BasePath {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // Inserted by the `locate` middleware.
        let base = parts.extensions.get().cloned();
        Ok(base.unwrap_or_else(|| Self::nested(parts)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_absolute_paths_are_accepted() {
        for (path, read) in [
            ("/", ""),
            ("/a", "/a"),
            ("/a/b-c/", "/a/b-c"),
            ("/%7Ea", "/%7Ea"),
        ] {
            let BasePath(base) = BasePath::parse(path).expect(path);
            assert_eq!(&*base, read);
        }
        for path in [
            "",
            "a",
            "//a",
            "https://a",
            "/a;Domain=b",
            "/a b",
            "/a\"b",
            "/ä",
            "/a?b",
            "/a#b",
        ] {
            assert!(BasePath::parse(path).is_none(), "{path}");
        }
    }

    #[test]
    fn only_captures_are_taken_from_the_request_path() {
        for (pattern, path, resolved) in [
            ("/admin", "//evil.example/", Some("/admin")),
            ("/admin/", "/elsewhere", Some("/admin/")),
            ("/{tenant}/admin", "/acme/admin/keys", Some("/acme/admin")),
            ("/{tenant}/admin/", "/acme/admin", Some("/acme/admin")),
            ("/a/{b}/{c}", "/a/1/%7E2/x", Some("/a/1/%7E2")),
            ("/{tenant}/admin", "/acme/other", None),
            ("/{tenant}/admin", "//admin", None),
            ("/{tenant}/admin", "//evil.example/admin", None),
            ("/{tenant}/admin", "/a;Domain=b/admin", None),
            ("/{tenant}/admin", "/../admin", None),
            ("/{tenant}/admin", "/acme", None),
            ("/{tenant}", "*", None),
            ("/{tenant}", "", None),
        ] {
            let expected = resolved.map(String::from);
            assert_eq!(resolve(pattern, path), expected, "{pattern} {path}");
        }
    }
}

//! The path at which browsers find the pages.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, NestedPath, OriginalUri};
use http::request::Parts;

/// What comes before every address of these pages: nothing at the root, else a path that begins with one slash
/// and does not end with any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BasePath(pub(super) Arc<str>);

impl BasePath {
    /// `None` if it is not a path that begins with one slash and means only itself.
    pub(super) fn read(path: &str) -> Option<Self> {
        let plain = |b: u8| b == b'/' || is_plain(b);
        // Two slashes at the start would lead to another host.
        let is_path = path.starts_with('/') && !path.starts_with("//") && path.bytes().all(plain);
        is_path.then(|| Self(path.trim_end_matches('/').into()))
    }

    /// Where axum nested these pages. Only captures in the nesting pattern are taken from the request path, which a
    /// layer in front may have rewritten.
    pub(super) fn nested(parts: &Parts) -> Self {
        let nested = parts.extensions.get::<NestedPath>();
        let path = nested.and_then(|nested| {
            let original = parts.extensions.get::<OriginalUri>();
            resolve(nested.as_str(), original?.path())
        });
        path.and_then(|path| Self::read(&path))
            .unwrap_or(Self("".into()))
    }
}

/// The path that a nesting's pattern matched, with its captures (`/{tenant}/admin`) from the beginning of the
/// path that was asked for; `None` if that does not match.
fn resolve(pattern: &str, path: &str) -> Option<String> {
    if !pattern.contains('{') {
        return Some(pattern.into());
    }
    let mut asked = path.split('/');
    let resolved = pattern.trim_end_matches('/').split('/').map(|segment| {
        let asked = asked.next()?;
        let is_capture = segment.starts_with('{') && segment.ends_with('}');
        let captured =
            !asked.is_empty() && asked != "." && asked != ".." && asked.bytes().all(is_plain);
        (asked == segment || is_capture && captured).then_some(asked)
    });
    let resolved: Option<Vec<&str>> = resolved.collect();
    resolved.map(|segments| segments.join("/"))
}

/// A character of a path's segment that ends neither a cookie's attribute nor the path.
fn is_plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~%".contains(&b)
}

impl<S: Sync> FromRequestParts<S> for BasePath {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // The guard's middleware puts it there.
        let base = parts.extensions.get().cloned();
        Ok(base.unwrap_or_else(|| Self::nested(parts)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_paths_lead_nowhere_else() {
        for (path, read) in [
            ("/", ""),
            ("/a", "/a"),
            ("/a/b-c/", "/a/b-c"),
            ("/%7Ea", "/%7Ea"),
        ] {
            let BasePath(base) = BasePath::read(path).expect(path);
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
            assert!(BasePath::read(path).is_none(), "{path}");
        }
    }

    #[test]
    fn only_captures_of_a_nesting_come_from_the_client() {
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

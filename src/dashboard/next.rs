//! The page to return to after signing in.

use http::Uri;

use super::base_path::home;

/// The name of the query parameter and form field.
pub(super) const NEXT: &str = "next";

/// The path and query of a page, relative to the dashboard. `None` for the overview, and for a path that could lead
/// elsewhere.
pub(super) fn of(uri: &Uri) -> Option<&str> {
    let next = uri.path_and_query()?.as_str();
    (next != "/" && is_within(next)).then_some(next)
}

/// The URL of a page that a client names. The overview for none, and for a path that could lead elsewhere.
pub(super) fn url(base: &str, next: Option<&str>) -> String {
    match next.filter(|next| is_within(next)) {
        // Some routers do not match the base path with a trailing slash.
        Some(next) if next == "/" || next.starts_with("/?") => {
            format!("{}{}", home(base), &next[1..])
        }
        Some(next) => format!("{base}{next}"),
        None => home(base),
    }
}

/// Whether browsers resolve the path to one below the base path that it is appended to.
pub(super) fn is_within(next: &str) -> bool {
    let path = next.split(['?', '#']).next().unwrap_or_default();
    let decoded = path.to_ascii_lowercase().replace("%2e", ".");
    let decoded = decoded.replace("%2f", "/").replace("%5c", "\\");
    // Browsers ignore line breaks and tabs, and read backslashes as slashes.
    next.bytes().all(|byte| byte.is_ascii_graphic())
        && decoded.starts_with('/')
        && !decoded.starts_with("//")
        && !decoded.contains('\\')
        && !decoded.split('/').any(|part| part == "." || part == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_the_base_are_accepted() {
        for (next, url_at_root, url_below) in [
            ("/", "/", "/admin"),
            ("/?range=7d", "/?range=7d", "/admin?range=7d"),
            ("/keys", "/keys", "/admin/keys"),
            (
                "/keys/a?x=//b&y=/../c",
                "/keys/a?x=//b&y=/../c",
                "/admin/keys/a?x=//b&y=/../c",
            ),
            ("/admin/keys", "/admin/keys", "/admin/admin/keys"),
        ] {
            assert_eq!(url("", Some(next)), url_at_root);
            assert_eq!(url("/admin", Some(next)), url_below);
        }
        for next in [
            "",
            "keys",
            "?range=7d",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "\\/evil.example",
            "/%2Fevil.example",
            "/%5cevil.example",
            "https://evil.example",
            "https:evil.example",
            "javascript:alert(1)",
            "@evil.example",
            ".evil.example",
            "/keys\r\nSet-Cookie: a=b",
            "/\t/evil.example",
            "/\n/evil.example",
            " /keys",
            "/ke ys",
            "/käys",
            "/../other",
            "/..",
            "/./..",
            "/keys/../../other",
            "/%2e%2e/other",
            "/.%2E/other",
            "/keys%2f..%2f..%2fother",
            "/..\\other",
            "/keys/\0",
        ] {
            for base in ["", "/admin"] {
                assert_eq!(url(base, Some(next)), home(base), "{next:?}");
            }
        }
        assert_eq!(url("/admin", None), "/admin");
    }

    #[test]
    fn the_overview_needs_no_next() {
        let of = |uri: &'static str| of(&Uri::from_static(uri)).map(String::from);
        assert_eq!(of("/"), None);
        assert_eq!(of("/?range=7d").unwrap(), "/?range=7d");
        assert_eq!(of("/log?method=GET").unwrap(), "/log?method=GET");
        assert_eq!(of("//evil.example"), None);
        assert_eq!(of("*"), None);
    }
}

//! The page to return to after a change, as named by the client.

use super::next;
use super::owner_path::owner_path;
use crate::id::KeyId;

/// The maximum length of a path with its query.
const MAX_LENGTH: usize = 2_000;

/// The path and query of a page, relative to the dashboard, so that it cannot lead elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReturnPath(String);

impl ReturnPath {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let is_valid = text.len() <= MAX_LENGTH && next::is_within(text);
        is_valid.then(|| Self(text.into()))
    }

    /// The page of a key.
    pub(super) fn key(id: KeyId) -> Self {
        Self(format!("/keys/{id}"))
    }

    /// The page of an owner.
    pub(super) fn owner(owner: &str) -> Self {
        Self(owner_path(owner))
    }

    /// The list of plans.
    pub(super) fn plans() -> Self {
        Self("/plans".into())
    }

    /// The list of keys.
    pub(super) fn keys() -> Self {
        Self("/keys".into())
    }

    fn path(&self) -> &str {
        self.0.split(['?', '#']).next().unwrap_or_default()
    }

    /// Whether this is the page of the key.
    pub(super) fn is_of(&self, id: KeyId) -> bool {
        self.path() == Self::key(id).0
    }

    /// The text of a link to the page.
    pub(super) fn label(&self) -> &'static str {
        match self.path() {
            "/" => "Back to overview",
            "/keys" => "Back to API keys",
            path if path.starts_with("/keys/") => "Back to API key",
            _ => "Back",
        }
    }

    /// The URL, with the base path of the dashboard.
    pub(super) fn url(&self, base: &str) -> String {
        next::url(base, Some(&self.0))
    }

    /// The value of the `back` field.
    pub(super) fn value(&self) -> &str {
        &self.0
    }

    /// The `back` field as the query of a URL.
    pub(super) fn as_query(&self) -> String {
        let query = serde_urlencoded::to_string([("back", self.value())]);
        format!("?{}", query.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_base() {
        for (text, url, label) in [
            ("/", "/admin", "Back to overview"),
            ("/?range=7d", "/admin?range=7d", "Back to overview"),
            ("/keys?owner=a", "/admin/keys?owner=a", "Back to API keys"),
            ("/log", "/admin/log", "Back"),
        ] {
            let path = ReturnPath::parse(text).expect(text);
            assert_eq!((&*path.url("/admin"), path.label()), (url, label));
        }
        let id = "3fK9aB0000zzZZ19".parse().unwrap();
        let path = ReturnPath::parse("/keys/3fK9aB0000zzZZ19?code=5xx").unwrap();
        assert!(path.is_of(id) && path.label() == "Back to API key");
        assert!(!ReturnPath::keys().is_of(id));
        let long = format!("/keys?name={}", "x".repeat(MAX_LENGTH));
        for text in [
            "//evil.example",
            "https://evil.example",
            "/keys/../..",
            &long,
        ] {
            assert_eq!(ReturnPath::parse(text), None, "{text}");
        }
    }
}

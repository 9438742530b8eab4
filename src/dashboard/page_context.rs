//! Who looks at a page, and where the pages are.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, NestedPath, OriginalUri};
use http::request::Parts;
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::Shared;
use super::guard::Admin;
use super::session::cookies;
use crate::key::KeyAdmin;

/// A request that the guard let in.
#[derive(Clone)]
pub(super) struct PageContext {
    pub(super) admin: Admin,
    /// What comes before every address of these pages.
    pub(super) base: Arc<str>,
    /// Where the person can sign out.
    pub(super) sign_out: Option<String>,
    /// What the forms on the page have to send back.
    pub(super) token: String,
    /// The time zone in the browser's cookie, UTC without one.
    pub(super) zone: TimeZone,
    /// The name of the browser's time zone if it is not in the database; times are in UTC then.
    pub(super) unknown_zone: Option<String>,
}

impl PageContext {
    pub(super) fn new(shared: &Shared, parts: &Parts, base: &Base, admin: Admin) -> Self {
        // As browsers write names of zones.
        let zone = cookies(&parts.headers, "keytally_zone").next();
        let zone = zone.map(|name| name.replace("%2F", "/").replace("%2B", "+"));
        let known = zone.as_deref().map(zone_named).transpose();
        Self {
            token: shared.signer.form_token(&admin),
            sign_out: match shared.guard.login() {
                Some(_) => Some(format!("{}/logout", base.0)),
                None => shared.guard.sign_out_url().map(String::from),
            },
            base: base.0.clone(),
            unknown_zone: known.is_err().then_some(zone).flatten(),
            zone: known.ok().flatten().unwrap_or(TimeZone::UTC),
            admin,
        }
    }

    /// An address of these pages.
    pub(super) fn at(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The first of these pages.
    pub(super) fn home(&self) -> String {
        home(&self.base)
    }

    /// The reader's zone as others can be told of it.
    pub(super) fn zone_name(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// A time as a browser's field for a date and a time has it, to the second.
    pub(super) fn field(&self, time: Timestamp) -> String {
        let time = self.zone.to_datetime(time);
        time.strftime("%Y-%m-%dT%H:%M:%S").to_string()
    }

    /// A time on the reader's clock, to the minute.
    pub(super) fn clock(&self, time: Timestamp) -> String {
        let time = self.zone.to_datetime(time);
        time.strftime("%Y-%m-%d %H:%M").to_string()
    }

    /// The store, which notes who changes something.
    pub(super) fn keys(&self, shared: &Shared) -> Arc<dyn KeyAdmin> {
        let acting = shared.backend.acting_as(self.admin.name());
        acting.unwrap_or_else(|| shared.backend.clone())
    }
}

/// A name that is in no time zone database.
#[derive(Debug, thiserror::Error)]
#[error("Unknown time zone: {0}")]
pub(super) struct UnknownZone(String);

/// The zone of this IANA name, from the machine's database or the one that is built in.
pub(super) fn zone_named(name: &str) -> Result<TimeZone, UnknownZone> {
    // Needs no database.
    if name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    // A zone's name is a path in the machine's folder of zones.
    let path = |c: char| c.is_ascii_alphanumeric() || "/_+-".contains(c);
    let is_name = !name.starts_with('/') && name.chars().all(path);
    let known = || {
        let machine = TimeZone::get(name);
        machine.or_else(|_| TimeZoneDatabase::bundled().get(name))
    };
    let zone = is_name.then(known).and_then(Result::ok);
    zone.ok_or_else(|| UnknownZone(name.chars().take(64).collect()))
}

/// The address of the first of these pages.
pub(super) fn home(base: &str) -> String {
    if base.is_empty() { "/" } else { base }.into()
}

/// What comes before every address of these pages: nothing at the root, else a path that begins with one slash
/// and does not end with any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base(pub(super) Arc<str>);

impl Base {
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

impl<S: Sync> FromRequestParts<S> for PageContext {
    type Rejection = http::StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        // The guard's middleware puts it there: without that, nobody is let in.
        let visit = parts.extensions.get::<Self>().cloned();
        visit.ok_or(http::StatusCode::UNAUTHORIZED)
    }
}

impl<S: Sync> FromRequestParts<S> for Base {
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
            let Base(base) = Base::read(path).expect(path);
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
            assert!(Base::read(path).is_none(), "{path}");
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

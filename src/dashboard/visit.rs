//! Who looks at a page, and where the pages are.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, OriginalUri};
use http::request::Parts;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Shared;
use super::guard::Admin;
use super::session::cookies;
use crate::key::KeyAdmin;

/// A request that the guard let in.
#[derive(Clone)]
pub(super) struct Visit {
    pub(super) admin: Admin,
    /// What comes before every address of these pages: where they were nested.
    pub(super) base: String,
    /// What the forms on the page have to send back.
    pub(super) token: String,
    /// The reader's time zone, as the browser tells by a cookie; else UTC.
    pub(super) zone: TimeZone,
}

impl Visit {
    pub(super) fn new(shared: &Shared, parts: &Parts, admin: Admin) -> Self {
        let zone = cookies(&parts.headers, "keytally_zone").find_map(|name| {
            // As browsers write names of zones.
            zone_named(&name.replace("%2F", "/").replace("%2B", "+"))
        });
        Self {
            token: shared.signer.form_token(&admin),
            base: base(parts),
            zone: zone.unwrap_or(TimeZone::UTC),
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

/// A zone that this machine knows.
pub(super) fn zone_named(name: &str) -> Option<TimeZone> {
    // A zone's name is a path in the machine's folder of zones.
    let path = |c: char| c.is_ascii_alphanumeric() || "/_+-".contains(c);
    if name.starts_with('/') || !name.chars().all(path) {
        return None;
    }
    TimeZone::get(name).ok()
}

/// The address of the first of these pages.
pub(super) fn home(base: &str) -> String {
    if base.is_empty() { "/" } else { base }.into()
}

/// Where browsers find the pages, if the application says so.
#[derive(Debug, Clone)]
pub(super) struct PublicPath(Arc<str>);

impl PublicPath {
    /// `None` if it is no path that begins with a slash and means only itself.
    pub(super) fn read(path: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%".contains(&b);
        // Two slashes at the start would lead to another host.
        let is_path = path.starts_with('/') && !path.starts_with("//") && path.bytes().all(plain);
        is_path.then(|| Self(path.trim_end_matches('/').into()))
    }
}

/// Where the pages are: as the application says, or nested: the address that was asked for, without
/// what is within them.
pub(super) fn base(parts: &Parts) -> String {
    if let Some(PublicPath(path)) = parts.extensions.get() {
        return path.as_ref().into();
    }
    let within = parts.uri.path();
    let asked = parts.extensions.get::<OriginalUri>();
    let asked = asked.map_or(within, |OriginalUri(uri)| uri.path());
    let base = asked.strip_suffix(within).unwrap_or(asked);
    base.trim_end_matches('/').into()
}

impl<S: Sync> FromRequestParts<S> for Visit {
    type Rejection = http::StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        // The guard's middleware puts it there: without that, nobody is let in.
        let visit = parts.extensions.get::<Self>().cloned();
        visit.ok_or(http::StatusCode::UNAUTHORIZED)
    }
}

/// The base where nobody has been let in yet.
pub(super) struct Base(pub(super) String);

impl<S: Sync> FromRequestParts<S> for Base {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(base(parts)))
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
            let PublicPath(base) = PublicPath::read(path).expect(path);
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
            assert!(PublicPath::read(path).is_none(), "{path}");
        }
    }
}

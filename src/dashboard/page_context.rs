//! The context of an authenticated request.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::base_path::BasePath;
use super::guard::Admin;
use super::session::cookies;
use super::state::Shared;

/// The context of an authenticated request.
#[derive(Clone)]
pub(super) struct PageContext {
    pub(super) admin: Admin,
    /// The prefix of all URLs of the dashboard.
    pub(super) base: Arc<str>,
    /// The path of the page, relative to the dashboard.
    pub(super) path: Arc<str>,
    /// The URL to sign out.
    pub(super) sign_out: Option<String>,
    /// The form token.
    pub(super) token: String,
    /// The time zone in the browser's cookie, UTC without one.
    pub(super) zone: TimeZone,
    /// The name of the browser's time zone if it is not in the database; times are in UTC then.
    pub(super) unknown_zone: Option<String>,
}

impl PageContext {
    pub(super) fn new(shared: &Shared, parts: &Parts, base: &BasePath, admin: Admin) -> Self {
        // `encodeURIComponent` escapes the slashes and plus signs of zone names.
        let zone = cookies(&parts.headers, "keytally_zone").next();
        let zone = zone.map(|name| name.replace("%2F", "/").replace("%2B", "+"));
        let known = zone.as_deref().map(zone_named).transpose();
        Self {
            token: shared.signer.form_token(&admin),
            sign_out: match shared.guard.sign_in_form() {
                Some(_) => Some(format!("{}/sign-out", base.0)),
                None => shared.guard.sign_out_url().map(String::from),
            },
            base: base.0.clone(),
            path: parts.uri.path().into(),
            unknown_zone: known.is_err().then_some(zone).flatten(),
            zone: known.ok().flatten().unwrap_or(TimeZone::UTC),
            admin,
        }
    }

    /// The URL of a page.
    pub(super) fn at(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The URL of the overview.
    pub(super) fn home(&self) -> String {
        home(&self.base)
    }

    /// The IANA name of the browser's time zone.
    pub(super) fn zone_name(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// A time as the value of a `datetime-local` input, to the second.
    pub(super) fn field(&self, time: Timestamp) -> String {
        let time = self.zone.to_datetime(time);
        time.strftime("%Y-%m-%dT%H:%M:%S").to_string()
    }

    /// A time in the browser's time zone, with its abbreviation, in this `strftime` format of the time of day.
    pub(super) fn clock(&self, time: Timestamp, format: &str) -> String {
        let time = time.to_zoned_datetime(self.zone.clone());
        time.strftime(&format!("%Y-%m-%d {format} %Z")).to_string()
    }
}

/// A time zone that is in no database.
#[derive(Debug, thiserror::Error)]
#[error("Unknown time zone: {0}")]
pub(super) struct UnknownZone(String);

/// The time zone with this IANA name, from the system's database or the bundled one.
pub(super) fn zone_named(name: &str) -> Result<TimeZone, UnknownZone> {
    // Does not need a database.
    if name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    // Zone names are paths in the system's zoneinfo directory: reject `..` and absolute paths.
    let path = |c: char| c.is_ascii_alphanumeric() || "/_+-".contains(c);
    let is_name = !name.starts_with('/') && name.chars().all(path);
    let known = || {
        let system = TimeZone::get(name);
        system.or_else(|_| TimeZoneDatabase::bundled().get(name))
    };
    let zone = is_name.then(known).and_then(Result::ok);
    zone.ok_or_else(|| UnknownZone(name.chars().take(64).collect()))
}

/// The URL of the overview.
pub(super) fn home(base: &str) -> String {
    if base.is_empty() { "/" } else { base }.into()
}

impl<S: Sync> FromRequestParts<S> for PageContext {
    type Rejection = http::StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        // Inserted by the `authenticate` middleware. Fail closed without it.
        let context = parts.extensions.get::<Self>().cloned();
        context.ok_or(http::StatusCode::UNAUTHORIZED)
    }
}

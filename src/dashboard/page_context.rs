//! The context of an authenticated request.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::base_path::{BasePath, home};
use super::flash::Flash;
use super::guard::Admin;
use super::return_path::ReturnPath;
use super::session::{cookies, is_this_machine};
use super::state::Shared;

/// The format of a `datetime-local` input.
pub(super) const FIELD_FORMAT: &str = "%Y-%m-%dT%H:%M:%S";

/// The header of requests that the script sends to update a page.
const POLL: &str = "keytally-poll";

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
    /// The page itself, if changes can return to it.
    pub(super) here: Option<ReturnPath>,
    /// The confirmation of the change before.
    pub(super) flash: Option<Flash>,
    /// Whether cookies need no TLS.
    pub(super) is_local: bool,
}

impl PageContext {
    pub(super) fn new(shared: &Shared, parts: &Parts, base: &BasePath, admin: Admin) -> Self {
        // `encodeURIComponent` escapes the slashes and plus signs of zone names.
        let zone = cookies(&parts.headers, "keytally_zone").next();
        let zone = zone.map(|name| name.replace("%2F", "/").replace("%2B", "+"));
        let known = zone.as_deref().map(zone_named).transpose();
        let here = parts.uri.path_and_query();
        let here = here.filter(|_| parts.method.is_safe());
        Self {
            here: here.and_then(|uri| ReturnPath::parse(uri.as_str())),
            // Polls leave the confirmation to the page after the change.
            flash: match parts.headers.contains_key(POLL) {
                true => None,
                false => Flash::read(&shared.signer, &admin, &parts.headers),
            },
            is_local: is_this_machine(&parts.headers),
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

    /// The query of a link to a form that returns to this page, unless it is where the form returns to by default.
    pub(super) fn back_here(&self, default: &ReturnPath) -> String {
        let here = self.here.as_ref().filter(|here| *here != default);
        here.map(ReturnPath::as_query).unwrap_or_default()
    }

    /// The IANA name of the browser's time zone.
    pub(super) fn zone_name(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// A time as the value of a `datetime-local` input, to the second.
    pub(super) fn field(&self, time: Timestamp) -> String {
        let time = self.zone.to_datetime(time);
        time.strftime(FIELD_FORMAT).to_string()
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

impl<S: Sync> FromRequestParts<S> for PageContext {
    type Rejection = http::StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        // Inserted by the `authenticate` middleware. Fail closed without it.
        let context = parts.extensions.get::<Self>().cloned();
        context.ok_or(http::StatusCode::UNAUTHORIZED)
    }
}

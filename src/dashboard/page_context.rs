//! Who looks at a page, and where the pages are.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::base_path::BasePath;
use super::guard::Admin;
use super::session::cookies;
use super::state::Shared;
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
    pub(super) fn new(shared: &Shared, parts: &Parts, base: &BasePath, admin: Admin) -> Self {
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

impl<S: Sync> FromRequestParts<S> for PageContext {
    type Rejection = http::StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        // The guard's middleware puts it there: without that, nobody is let in.
        let visit = parts.extensions.get::<Self>().cloned();
        visit.ok_or(http::StatusCode::UNAUTHORIZED)
    }
}

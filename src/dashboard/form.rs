//! What a query or a form says: names and texts, of which any may be missing or nonsense.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::request::Parts;
use jiff::Timestamp;
use jiff::civil::DateTime;
use sha2::{Digest, Sha256};

use super::idempotency::Fingerprint;
use super::page_context::{PageContext, zone_named};
use crate::page::FIRST;

/// Names and values, as they were sent.
#[derive(Debug, Clone, Default)]
pub(super) struct FormFields(pub(super) Vec<(String, String)>);

impl FormFields {
    fn of_query(query: &str) -> Self {
        // Whatever is there can be read as names and values.
        Self(serde_urlencoded::from_str(query).unwrap_or_default())
    }

    /// The text under a name, without blanks around it; `None` when it is empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(key, _)| key == name);
        let (_, value) = found.next()?;
        Some(value.trim()).filter(|value| !value.is_empty())
    }

    /// A time of the years 1 to 9999: one of UTC, or one on the clocks of the `zone` that stands beside it, else on the
    /// reader's. Nobody else's clocks change what an address tells.
    ///
    /// # Errors
    ///
    /// What to say beside the field.
    pub(super) fn time(
        &self,
        visit: &PageContext,
        name: &str,
    ) -> Result<Option<Timestamp>, String> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let zone = self.get("zone").map(zone_named).transpose();
        let zone = zone.map_err(|error| error.to_string())?;
        let zone = zone.as_ref().unwrap_or(&visit.zone);
        let on_clock = || zone.to_timestamp(text.parse::<DateTime>()?);
        let time = text.parse().or_else(|_| on_clock());
        let time = time.ok().filter(|time| *time >= FIRST);
        let wrong = "This is not a date and a time, such as 2026-11-01 10:00.";
        time.map(Some).ok_or_else(|| wrong.into())
    }

    /// Those of these names alone.
    pub(super) fn only(&self, names: &[&str]) -> Self {
        let kept = self.0.iter();
        let kept = kept.filter(|(key, _)| names.contains(&&**key));
        Self(kept.cloned().collect())
    }

    /// The same but for these values; one that is empty is taken away.
    pub(super) fn with<'a>(&self, values: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut fields = self.0.clone();
        for (name, value) in values {
            fields.retain(|(key, _)| key != name);
            fields.push((name.into(), value.into()));
        }
        fields.retain(|(_, value)| !value.is_empty());
        Self(fields)
    }

    /// What tells them from others.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        Sha256::digest(self.query()).into()
    }

    /// As the query of an address.
    pub(super) fn query(&self) -> String {
        serde_urlencoded::to_string(&self.0).unwrap_or_default()
    }

    /// Whether there is any of these.
    pub(super) fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.get(name).is_some())
    }

    /// Names and values, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

impl<'a> FromIterator<(&'a str, String)> for FormFields {
    fn from_iter<I: IntoIterator<Item = (&'a str, String)>>(fields: I) -> Self {
        let fields = fields.into_iter();
        Self(fields.map(|(name, value)| (name.into(), value)).collect())
    }
}

/// What is wrong with fields, by their names.
#[derive(Debug, Clone, Default)]
pub(super) struct FieldErrors(Vec<(&'static str, String)>);

impl FieldErrors {
    pub(super) fn add(&mut self, name: &'static str, why: impl Into<String>) {
        self.0.push((name, why.into()));
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(field, _)| *field == name);
        found.next().map(|(_, why)| &**why)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first field with something wrong, and what.
    pub(super) fn first(&self) -> Option<(&'static str, &str)> {
        self.0.first().map(|(name, why)| (*name, &**why))
    }

    /// What is read, or nothing, and then why.
    pub(super) fn take<T, E: Into<String>>(
        &mut self,
        name: &'static str,
        read: Result<Option<T>, E>,
    ) -> Option<T> {
        read.unwrap_or_else(|why| {
            self.add(name, why);
            None
        })
    }
}

impl<S: Sync> FromRequestParts<S> for FormFields {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of_query(parts.uri.query().unwrap_or_default()))
    }
}

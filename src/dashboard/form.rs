//! Untrusted fields of queries and forms.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::request::Parts;
use jiff::Timestamp;
use jiff::civil::DateTime;
use sha2::{Digest, Sha256};

use super::idempotency::Fingerprint;
use super::page_context::{PageContext, zone_named};
use super::return_path::ReturnPath;
use crate::page::MIN_TIME;

/// Names and values as submitted.
#[derive(Debug, Clone, Default)]
pub(super) struct FormFields(pub(super) Vec<(String, String)>);

impl FormFields {
    pub(super) fn of_query(query: &str) -> Self {
        // Any text parses as names and values.
        Self(serde_urlencoded::from_str(query).unwrap_or_default())
    }

    /// The first value of a field, trimmed. `None` if it is empty or missing.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut fields = self.0.iter().filter(|(key, _)| key == name);
        let (_, value) = fields.next()?;
        Some(value.trim()).filter(|value| !value.is_empty())
    }

    /// All values of a field.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let fields = self.0.iter().filter(move |(key, _)| key == name);
        fields.map(|(_, value)| value.trim())
    }

    /// A time in the years 1 to 9999: an RFC 3339 time, or a local time in the zone of the `zone` field, or else in the
    /// browser's. URLs carry `zone`, so that they mean the same time to everyone.
    ///
    /// # Errors
    ///
    /// The error to show at the field.
    pub(super) fn time(
        &self,
        context: &PageContext,
        name: &str,
    ) -> Result<Option<Timestamp>, String> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let zone = self.get("zone").map(zone_named).transpose();
        let zone = zone.map_err(|error| error.to_string())?;
        let zone = zone.as_ref().unwrap_or(&context.zone);
        let local = || zone.to_timestamp(text.parse::<DateTime>()?);
        let time = text.parse().or_else(|_| local());
        let time = time.ok().filter(|time| *time >= MIN_TIME);
        let error = "Enter a date and time, such as 2026-11-01 10:00.";
        time.map(Some).ok_or_else(|| error.into())
    }

    /// The page to return to, in the `back` field.
    pub(super) fn back(&self) -> Option<ReturnPath> {
        self.get("back").and_then(ReturnPath::parse)
    }

    /// Only the fields with these names.
    pub(super) fn only(&self, names: &[&str]) -> Self {
        let kept = self.0.iter();
        let kept = kept.filter(|(key, _)| names.contains(&&**key));
        Self(kept.cloned().collect())
    }

    /// Replaces or adds these values. Empty fields are removed.
    pub(super) fn with<'a>(&self, values: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut fields = self.0.clone();
        for (name, value) in values {
            fields.retain(|(key, _)| key != name);
            fields.push((name.into(), value.into()));
        }
        fields.retain(|(_, value)| !value.is_empty());
        Self(fields)
    }

    /// A digest of all fields.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        Sha256::digest(self.query()).into()
    }

    /// Encodes the fields as the query of a URL.
    pub(super) fn query(&self) -> String {
        serde_urlencoded::to_string(&self.0).unwrap_or_default()
    }

    /// Whether any of these fields has a value.
    pub(super) fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.get(name).is_some())
    }

    /// Names and values in order.
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

/// Error messages by field name.
#[derive(Debug, Clone, Default)]
pub(super) struct FieldErrors(Vec<(&'static str, String)>);

impl FieldErrors {
    pub(super) fn add(&mut self, name: &'static str, why: impl Into<String>) {
        self.0.push((name, why.into()));
    }

    /// Sets the only error of a field.
    pub(super) fn replace(&mut self, name: &'static str, why: impl Into<String>) {
        self.0.retain(|(field, _)| *field != name);
        self.add(name, why);
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut errors = self.0.iter().filter(|(field, _)| *field == name);
        errors.next().map(|(_, why)| &**why)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first field with an error, and the error.
    pub(super) fn first(&self) -> Option<(&'static str, &str)> {
        self.0.first().map(|(name, why)| (*name, &**why))
    }

    /// Unwraps a result, and records its error.
    pub(super) fn take<T, E: Into<String>>(
        &mut self,
        name: &'static str,
        parsed: Result<Option<T>, E>,
    ) -> Option<T> {
        parsed.unwrap_or_else(|why| {
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

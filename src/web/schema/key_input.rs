//! Keys, as callers describe them.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::super::integer::Integer;
use super::super::object::Object;
use super::super::problem::Problem;
use super::names;
use crate::key::{self, AddressList};
use crate::limit::RateLimit;

/// What a key is to be; everything but the name may be left out.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKey {
    /// What people call it: 1 to 100 characters without control characters, not only blanks.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// Whoever it belongs to, in the application's own terms: 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    owner: Option<String>,
    /// A tag such as `live` or `test`.
    #[schema(pattern = "^[a-z0-9_-]{1,32}$")]
    environment: Option<String>,
    /// What it may do, in the application's own terms.
    #[serde(default)]
    #[schema(value_type = HashSet<names::Scope>, max_items = 64)]
    scopes: Vec<String>,
    /// Its own rate limits; without any, the service's defaults hold.
    #[serde(default)]
    #[schema(value_type = Vec<NewLimit>, required = false, max_items = 8)]
    limits: Vec<Object<NewLimit>>,
    /// The networks from which it may be used, such as `203.0.113.0/24`; everywhere if empty.
    #[serde(default)]
    #[schema(max_items = 100)]
    addresses: Vec<String>,
    /// Whatever else is to be kept with it: at most 8 KiB as JSON.
    #[serde(default)]
    metadata: Map<String, Value>,
    /// From when on it no longer works: a time to come.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires: Option<Timestamp>,
    /// Whether its secret is to be kept, encrypted, so that it can be revealed. Only where the service
    /// has an encryption key.
    #[serde(default)]
    recoverable: bool,
}

impl NewKey {
    pub(crate) fn into_new(self, now: Timestamp) -> Result<key::NewKey, Problem> {
        let mut new = key::NewKey::new(self.name)
            .scopes(self.scopes)
            .addresses(networks(&self.addresses)?);
        for limit in limits(self.limits)? {
            new = new.limit(limit);
        }
        for (name, value) in self.metadata {
            new = new.metadata(name, value);
        }
        if let Some(owner) = self.owner {
            new = new.owner(owner);
        }
        if let Some(environment) = self.environment {
            new = new.environment(environment);
        }
        if let Some(end) = self.expires {
            if end <= now {
                return Err(Problem::field("/expires", "This time is over."));
            }
            new = new.expires_at(end);
        }
        if self.recoverable {
            new = new.recoverable();
        }
        Ok(new)
    }
}

/// Other values for the fields of a key; what is absent stays, and `null` takes away.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyUpdate {
    /// Another name: 1 to 100 characters without control characters, not only blanks.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 100)]
    name: Option<String>,
    /// Another owner: 1 to 200 characters; `null` for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    owner: Option<Option<String>>,
    /// Another environment; `null` for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, pattern = "^[a-z0-9_-]{1,32}$")]
    environment: Option<Option<String>>,
    /// These scopes instead of those it has.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = HashSet<names::Scope>, required = false, max_items = 64)]
    scopes: Option<Vec<String>>,
    /// These limits instead of those it has; what is spent is kept, by the limits' names.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Vec<NewLimit>, required = false, max_items = 8)]
    limits: Option<Vec<Object<NewLimit>>>,
    /// These networks instead of those it has.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Vec<String>, required = false, max_items = 100)]
    addresses: Option<Vec<String>>,
    /// This metadata instead of what it has.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Object, required = false)]
    metadata: Option<Map<String, Value>>,
    /// Another end; `null` for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires: Option<Option<Timestamp>>,
}

/// Tells a field that is there from one that is absent: `null` is for those alone that know it.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl TryFrom<KeyUpdate> for key::KeyUpdate {
    type Error = Problem;

    fn try_from(body: KeyUpdate) -> Result<Self, Problem> {
        let mut update = Self::new();
        update.name = body.name;
        update.owner = body.owner.map(|owner| owner.map(Into::into));
        update.environment = body.environment;
        update.scopes = body.scopes;
        update.limits = body.limits.map(limits).transpose()?;
        update.addresses = body.addresses.as_deref().map(networks).transpose()?;
        update.metadata = body.metadata;
        update.expires_at = body.expires;
        Ok(update)
    }
}

/// A rate limit that a key is to have.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewLimit {
    /// Its name among the key's limits; else `second`, `minute` or `hour` where that is the period,
    /// and `rate` for others.
    #[schema(pattern = "^[a-z0-9_-]{1,32}$")]
    name: Option<String>,
    /// How many requests come back in a period.
    #[schema(value_type = u32, minimum = 1)]
    requests: Integer<u32>,
    /// The period in seconds.
    #[schema(exclusive_minimum = 0)]
    period_seconds: f64,
    /// How many requests may come at once; as many as in a period unless told.
    #[schema(value_type = Option<u32>, minimum = 1)]
    burst: Option<Integer<u32>>,
}

impl NewLimit {
    fn into_limit(self) -> Result<RateLimit, String> {
        let period = Duration::try_from_secs_f64(self.period_seconds);
        let period = period.map_err(|error| error.to_string())?;
        let Integer(requests) = self.requests;
        let mut limit = RateLimit::per(requests, period);
        let usual = [
            RateLimit::per_second,
            RateLimit::per_minute,
            RateLimit::per_hour,
        ];
        let usual = usual.map(|of| of(requests)).into_iter();
        if let Some(usual) = usual.into_iter().find(|usual| usual.period() == period) {
            limit = usual;
        }
        if let Some(name) = self.name {
            limit = limit.with_name(name);
        }
        if let Some(Integer(burst)) = self.burst {
            limit = limit.with_burst(burst);
        }
        limit.validate().map_err(|error| error.to_string())?;
        Ok(limit)
    }
}

fn limits(limits: Vec<Object<NewLimit>>) -> Result<Vec<RateLimit>, Problem> {
    let limits = limits.into_iter().map(|Object(limit)| limit.into_limit());
    let limits = limits.enumerate();
    limits
        .map(|(n, limit)| limit.map_err(|why| Problem::field(&format!("/limits/{n}"), why)))
        .collect()
}

fn networks(texts: &[String]) -> Result<AddressList, Problem> {
    for (n, text) in texts.iter().enumerate() {
        AddressList::parse([text])
            .map_err(|error| Problem::field(&format!("/addresses/{n}"), error.to_string()))?;
    }
    AddressList::parse(texts).map_err(|error| Problem::field("/addresses", error.to_string()))
}

/// How a key is to be rotated.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    /// For how many seconds the old secret goes on working.
    #[schema(value_type = u64)]
    grace_seconds: Integer<u64>,
}

impl Rotation {
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds.0)
    }
}

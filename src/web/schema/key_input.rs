//! Keys in request bodies.

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

/// A key to create. Only the name is required.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKey {
    /// The display name: 1 to 100 characters without control characters, not only whitespace.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// The owner, such as a customer or account: 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    owner: Option<String>,
    /// The plan, which must exist. By default, the plan of the owner applies.
    #[schema(min_length = 1, max_length = 100)]
    plan: Option<String>,
    /// A tag such as `live` or `test`.
    #[schema(pattern = "^[a-z0-9_-]{1,32}$")]
    environment: Option<String>,
    /// The scopes to grant.
    #[serde(default)]
    #[schema(value_type = HashSet<names::Scope>, max_items = 64)]
    scopes: Vec<String>,
    /// Rate limits of the key. If empty, those of its plan, else of its owner's plan, else the service defaults apply.
    #[serde(default)]
    #[schema(value_type = Vec<NewLimit>, required = false, max_items = 8)]
    limits: Vec<Object<NewLimit>>,
    /// The client IPs and networks allowed to use the key, such as `203.0.113.0/24`. If empty, any.
    #[serde(default)]
    #[schema(max_items = 100)]
    addresses: Vec<String>,
    /// Metadata of the application: at most 8 KiB as JSON.
    #[serde(default)]
    metadata: Map<String, Value>,
    /// When the key expires: a time in the future.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// Whether to store the encrypted secret, so that it can be revealed later. Requires an encryption key to be
    /// configured.
    #[serde(default)]
    recoverable: bool,
}

impl NewKey {
    pub(crate) fn into_new(self, now: Timestamp) -> Result<key::NewKey, Problem> {
        let mut new = key::NewKey::new(self.name)
            .scopes(self.scopes)
            .addresses(networks(&self.addresses)?);
        for limit in limits("/limits", self.limits)? {
            new = new.limit(limit);
        }
        for (name, value) in self.metadata {
            new = new.metadata(name, value);
        }
        if let Some(owner) = self.owner {
            new = new.owner(owner);
        }
        if let Some(plan) = self.plan {
            new = new.plan(plan);
        }
        if let Some(environment) = self.environment {
            new = new.environment(environment);
        }
        if let Some(end) = self.expires_at {
            if end <= now {
                return Err(Problem::field("/expires_at", "Must be in the future."));
            }
            new = new.expires_at(end);
        }
        if self.recoverable {
            new = new.recoverable();
        }
        Ok(new)
    }
}

/// Fields of a key to update. Absent fields are unchanged; `null` clears a field.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyUpdate {
    /// The new name: 1 to 100 characters without control characters, not only whitespace.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 100)]
    name: Option<String>,
    /// The new owner: 1 to 200 characters; `null` for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    owner: Option<Option<String>>,
    /// The new plan, which must exist; `null` for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 100)]
    plan: Option<Option<String>>,
    /// The new environment; `null` for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, pattern = "^[a-z0-9_-]{1,32}$")]
    environment: Option<Option<String>>,
    /// The new scopes, which replace all current ones.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = HashSet<names::Scope>, required = false, max_items = 64)]
    scopes: Option<Vec<String>>,
    /// The new rate limits, which replace all current ones. Limits with the same name keep their consumption.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Vec<NewLimit>, required = false, max_items = 8)]
    limits: Option<Vec<Object<NewLimit>>>,
    /// The new client IPs and networks, which replace all current ones.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Vec<String>, required = false, max_items = 100)]
    addresses: Option<Vec<String>>,
    /// The new metadata, which replaces all current metadata.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Object, required = false)]
    metadata: Option<Map<String, Value>>,
    /// The new expiry; `null` for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Option<Timestamp>>,
}

/// Distinguishes a present field from an absent one. `null` is an error unless `T` accepts it.
pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
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
        update.plan = body.plan.map(|plan| plan.map(Into::into));
        update.environment = body.environment;
        update.scopes = body.scopes;
        let new = body.limits.map(|new| limits("/limits", new));
        update.limits = new.transpose()?;
        update.addresses = body.addresses.as_deref().map(networks).transpose()?;
        update.metadata = body.metadata;
        update.expires_at = body.expires_at;
        Ok(update)
    }
}

/// A rate limit of a key, an owner or a plan.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewLimit {
    /// The name, unique among the limits of the key or the owner. By default `second`, `minute` or `hour` for such
    /// periods, else `rate`.
    #[schema(pattern = "^[a-z0-9_-]{1,32}$")]
    name: Option<String>,
    /// The number of requests per period.
    #[schema(value_type = u32, minimum = 1)]
    requests: Integer<u32>,
    /// The period in seconds.
    #[schema(exclusive_minimum = 0)]
    period_seconds: f64,
    /// The maximum burst in requests. Equal to `requests` by default.
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

/// The rate limits in a field of the body. `pointer` has no leading `#`.
pub(super) fn limits(
    pointer: &str,
    limits: Vec<Object<NewLimit>>,
) -> Result<Vec<RateLimit>, Problem> {
    let limits = limits.into_iter().map(|Object(limit)| limit.into_limit());
    let limits = limits.enumerate();
    limits
        .map(|(n, limit)| limit.map_err(|why| Problem::field(&format!("{pointer}/{n}"), why)))
        .collect()
}

fn networks(texts: &[String]) -> Result<AddressList, Problem> {
    for (n, text) in texts.iter().enumerate() {
        AddressList::parse([text])
            .map_err(|error| Problem::field(&format!("/addresses/{n}"), error.to_string()))?;
    }
    AddressList::parse(texts).map_err(|error| Problem::field("/addresses", error.to_string()))
}

/// Options of a rotation.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    /// How long the old key keeps working, in seconds.
    #[schema(value_type = u64)]
    grace_seconds: Integer<u64>,
}

impl Rotation {
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds.0)
    }
}

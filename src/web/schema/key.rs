//! Keys, as they are shown.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::names;
use crate::id::KeyId;
use crate::key::{self, KeyStatus};
use crate::limit::RateLimit;

/// A key, without its secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct Key {
    /// The public part of its secret.
    #[schema(value_type = names::KeyId)]
    id: KeyId,
    /// What people call it.
    name: String,
    /// Whoever it belongs to, in the application's own terms.
    owner: Option<String>,
    /// A tag such as `live` or `test`.
    environment: Option<String>,
    /// What people recognize its secret by.
    hint: String,
    /// Whether it works; what is worse wins where several things hold.
    #[schema(value_type = names::KeyStatus)]
    status: KeyStatus,
    /// Whether it is switched off for now.
    disabled: bool,
    /// What it may do, in the application's own terms.
    scopes: Vec<String>,
    /// Its own rate limits; without any, the service's defaults hold.
    limits: Vec<Limit>,
    /// The networks from which it may be used; everywhere if empty.
    addresses: Vec<String>,
    /// Whatever else the application keeps with it.
    metadata: Map<String, Value>,
    /// When it was issued.
    #[schema(value_type = String, format = DateTime)]
    created: Timestamp,
    /// From when on it no longer works.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires: Option<Timestamp>,
    /// When it was revoked, for good.
    #[schema(value_type = Option<String>, format = DateTime)]
    revoked: Option<Timestamp>,
    /// When it was last used, as far as the usage written so far tells.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used: Option<Timestamp>,
    /// Whether its secret is kept, encrypted, and can be revealed.
    recoverable: bool,
    /// The key that it took over from.
    #[schema(value_type = Option<names::KeyId>)]
    rotated_from: Option<KeyId>,
    /// The first key of its line: itself, or where its rotations began.
    #[schema(value_type = names::KeyId)]
    line: KeyId,
}

impl From<key::Key> for Key {
    fn from(key: key::Key) -> Self {
        Self::at(Timestamp::now(), key)
    }
}

impl Key {
    /// As it is, or was, at this time.
    pub(crate) fn at(time: Timestamp, key: key::Key) -> Self {
        Self {
            status: key.status(time),
            addresses: key.addresses.iter().map(|it| it.to_string()).collect(),
            limits: key.limits.iter().map(Limit::from).collect(),
            id: key.id,
            name: key.name,
            owner: key.owner.as_deref().map(String::from),
            environment: key.environment,
            hint: key.hint,
            disabled: key.disabled,
            scopes: key.scopes,
            metadata: key.metadata,
            created: key.created_at,
            expires: key.expires_at,
            revoked: key.revoked_at,
            last_used: key.last_used_at,
            recoverable: key.recoverable,
            rotated_from: key.rotated_from,
            line: key.lineage,
        }
    }
}

/// A rate limit.
#[derive(Serialize, ToSchema)]
pub(crate) struct Limit {
    /// Its name among the key's limits.
    name: String,
    /// How many requests come back in a period.
    requests: u32,
    /// The period in seconds.
    period_seconds: f64,
    /// How many requests may come at once.
    burst: u32,
}

impl From<&RateLimit> for Limit {
    fn from(limit: &RateLimit) -> Self {
        Self {
            name: limit.name().into(),
            requests: limit.requests(),
            period_seconds: limit.period().as_secs_f64(),
            burst: limit.burst(),
        }
    }
}

/// A key that was just made, with its secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct Issued<'a> {
    /// The plain text; there is no second chance to read it, unless the key is recoverable.
    secret: &'a str,
    /// The key.
    key: Key,
}

impl<'a> From<&'a key::Issued> for Issued<'a> {
    fn from(issued: &'a key::Issued) -> Self {
        Self {
            secret: issued.secret.expose(),
            key: issued.key.clone().into(),
        }
    }
}

/// A secret that was kept.
#[derive(Serialize, ToSchema)]
pub(crate) struct Revealed<'a> {
    /// The plain text.
    secret: &'a str,
}

impl<'a> From<&'a key::Secret> for Revealed<'a> {
    fn from(secret: &'a key::Secret) -> Self {
        Self {
            secret: secret.expose(),
        }
    }
}

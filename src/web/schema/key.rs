//! Keys in responses.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::names;
use crate::id::KeyId;
use crate::key::{self, KeyStatus};
use crate::limit::{LimitStatus, RateLimit};

/// A key, without its secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct Key {
    /// The key id, which is also part of the secret.
    #[schema(value_type = names::KeyId)]
    id: KeyId,
    /// The display name.
    name: String,
    /// The owner, such as a customer or account.
    owner: Option<String>,
    /// The plan of the key. `null` if it has none of its own: the plan of the owner applies.
    plan: Option<String>,
    /// A tag such as `live` or `test`.
    environment: Option<String>,
    /// The visible part of the secret, to recognize it by.
    hint: String,
    /// The current status. If several apply, the most severe one.
    #[schema(value_type = names::KeyStatus)]
    status: KeyStatus,
    /// Whether the key is disabled.
    disabled: bool,
    /// The scopes granted to the key.
    scopes: Vec<String>,
    /// Rate limits of the key. If empty, those of its plan, else of its owner's plan, else the service defaults apply.
    limits: Vec<Limit>,
    /// The client networks allowed to use the key. If empty, any.
    addresses: Vec<String>,
    /// Metadata of the application.
    metadata: Map<String, Value>,
    /// When the key was created.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When the key expires.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// When the key was revoked.
    #[schema(value_type = Option<String>, format = DateTime)]
    revoked_at: Option<Timestamp>,
    /// When the first accepted request arrived. `null` if there was none or if it is unknown.
    #[schema(value_type = Option<String>, format = DateTime)]
    first_accepted_at: Option<Timestamp>,
    /// When the last accepted request arrived, according to the usage written so far.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_accepted_at: Option<Timestamp>,
    /// The number of requests that arrived later than `last_accepted_at` and were rejected.
    rejected_since: u64,
    /// Whether the encrypted secret is stored and can be revealed.
    recoverable: bool,
    /// Whether another system issued the secret.
    imported: bool,
    /// The key that this key was rotated from.
    #[schema(value_type = Option<names::KeyId>)]
    rotated_from: Option<KeyId>,
    /// The key that replaced this key in a rotation. It may have been deleted since.
    #[schema(value_type = Option<names::KeyId>)]
    replaced_by: Option<KeyId>,
    /// The lineage: the first key in the chain of rotated keys, or the key itself.
    #[schema(value_type = names::KeyId)]
    lineage: KeyId,
}

impl From<key::Key> for Key {
    fn from(key: key::Key) -> Self {
        Self::at(Timestamp::now(), key)
    }
}

impl Key {
    /// The key with its status at this time.
    pub(crate) fn at(time: Timestamp, key: key::Key) -> Self {
        Self {
            status: key.status(time),
            addresses: key.addresses.iter().map(|it| it.to_string()).collect(),
            limits: key.limits.iter().map(Limit::from).collect(),
            id: key.id,
            name: key.name,
            owner: key.owner.as_deref().map(String::from),
            plan: key.plan.as_deref().map(String::from),
            environment: key.environment,
            hint: key.hint,
            disabled: key.disabled,
            scopes: key.scopes,
            metadata: key.metadata,
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            first_accepted_at: key.first_accepted_at,
            last_accepted_at: key.last_accepted_at,
            rejected_since: key.rejected_since,
            recoverable: key.recoverable,
            imported: key.imported,
            rotated_from: key.rotated_from,
            replaced_by: key.replaced_by,
            lineage: key.lineage,
        }
    }
}

/// A rate limit.
#[derive(Serialize, ToSchema)]
pub(crate) struct Limit {
    /// The name, unique among the limits of the key or the owner.
    name: String,
    /// The number of requests per period.
    requests: u32,
    /// The period in seconds.
    period_seconds: f64,
    /// The maximum burst in requests.
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

/// A rate limit and its current status.
#[derive(Serialize, ToSchema)]
pub(crate) struct LimitNow {
    #[serde(flatten)]
    limit: Limit,
    /// The number of requests that are admitted now.
    remaining: u32,
    /// Seconds until the full burst is available again.
    reset_seconds: u32,
}

/// The current status of rate limits.
#[derive(Serialize, ToSchema)]
pub(crate) struct LimitsNow {
    /// The limits. The names of those of an owner begin with `owner-`.
    limits: Vec<LimitNow>,
}

impl From<Vec<(RateLimit, LimitStatus)>> for LimitsNow {
    fn from(statuses: Vec<(RateLimit, LimitStatus)>) -> Self {
        let limits = statuses.iter().map(|(limit, status)| LimitNow {
            limit: limit.into(),
            remaining: status.remaining,
            reset_seconds: status.reset_secs,
        });
        Self {
            limits: limits.collect(),
        }
    }
}

/// A new key with its secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct Issued<'a> {
    /// The secret in plain text. It cannot be retrieved later unless the key is recoverable.
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

/// A revealed secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct Revealed<'a> {
    /// The secret in plain text.
    secret: &'a str,
}

impl<'a> From<&'a key::Secret> for Revealed<'a> {
    fn from(secret: &'a key::Secret) -> Self {
        Self {
            secret: secret.expose(),
        }
    }
}

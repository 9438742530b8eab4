//! Owners and plans.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::key::Limit;
use super::names;
use crate::key::{self, OwnerStatus};
use crate::limit::RateLimit;

/// An owner of API keys.
#[derive(Serialize, ToSchema)]
pub(crate) struct Owner {
    /// The id, as in the keys of the owner.
    id: String,
    /// The name.
    name: Option<String>,
    /// The plan.
    plan: Option<String>,
    /// The rate limits that all keys of the owner share. If empty, those of the plan apply.
    limits: Vec<Limit>,
    /// The status. Keys of a suspended owner are rejected.
    #[schema(value_type = names::OwnerStatus)]
    status: OwnerStatus,
    /// Metadata of the application.
    metadata: Map<String, Value>,
    /// When the record was created.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<key::Owner> for Owner {
    fn from(owner: key::Owner) -> Self {
        Self {
            id: owner.id.to_string(),
            name: owner.name,
            plan: owner.plan.as_deref().map(String::from),
            limits: limits(&owner.limits),
            status: owner.status,
            metadata: owner.metadata,
            created_at: owner.created_at,
        }
    }
}

/// A plan.
#[derive(Serialize, ToSchema)]
pub(crate) struct Plan {
    /// The name, unique among plans.
    name: String,
    /// The rate limits of each key without limits of its own.
    key_limits: Vec<Limit>,
    /// The rate limits that all keys of an owner share, for owners without limits of their own.
    owner_limits: Vec<Limit>,
    /// Metadata of the application.
    metadata: Map<String, Value>,
    /// When the plan was created.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<key::Plan> for Plan {
    fn from(plan: key::Plan) -> Self {
        Self {
            name: plan.name.to_string(),
            key_limits: limits(&plan.key_limits),
            owner_limits: limits(&plan.owner_limits),
            metadata: plan.metadata,
            created_at: plan.created_at,
        }
    }
}

fn limits(limits: &[RateLimit]) -> Vec<Limit> {
    limits.iter().map(Limit::from).collect()
}

//! Owners and plans in request bodies.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::super::object::Object;
use super::super::problem::Problem;
use super::key_input::{NewLimit, limits, present};
use crate::key;

/// Fields of an owner to update. Absent fields are unchanged; `null` clears a field.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OwnerUpdate {
    /// The new name: 1 to 100 characters without control characters, not only whitespace; `null` for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 100)]
    name: Option<Option<String>>,
    /// The new plan, which must exist; `null` for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 100)]
    plan: Option<Option<String>>,
    /// The new rate limits that all keys of the owner share, which replace all current ones. Limits with the same name
    /// keep their consumption.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Vec<NewLimit>, required = false, max_items = 4)]
    limits: Option<Vec<Object<NewLimit>>>,
    /// The new metadata, which replaces all current metadata: at most 8 KiB as JSON.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Object, required = false)]
    metadata: Option<Map<String, Value>>,
}

impl TryFrom<OwnerUpdate> for key::OwnerUpdate {
    type Error = Problem;

    fn try_from(body: OwnerUpdate) -> Result<Self, Problem> {
        let mut update = Self::new();
        update.name = body.name;
        update.plan = body.plan.map(|plan| plan.map(Into::into));
        let new = body.limits.map(|new| limits("/limits", new));
        update.limits = new.transpose()?;
        update.metadata = body.metadata;
        Ok(update)
    }
}

/// The settings of a plan to create or replace.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPlan {
    /// The rate limits of each key without limits of its own. If empty, those of the owner's plan or the service
    /// defaults apply.
    #[serde(default)]
    #[schema(value_type = Vec<NewLimit>, required = false, max_items = 8)]
    key_limits: Vec<Object<NewLimit>>,
    /// The rate limits that all keys of an owner share, for owners without limits of their own.
    #[serde(default)]
    #[schema(value_type = Vec<NewLimit>, required = false, max_items = 4)]
    owner_limits: Vec<Object<NewLimit>>,
    /// Metadata of the application: at most 8 KiB as JSON.
    #[serde(default)]
    metadata: Map<String, Value>,
}

impl NewPlan {
    pub(crate) fn into_plan(self, name: String, now: Timestamp) -> Result<key::Plan, Problem> {
        let mut plan = key::Plan::new(name, now);
        plan.key_limits = limits("/key_limits", self.key_limits)?;
        plan.owner_limits = limits("/owner_limits", self.owner_limits)?;
        plan.metadata = self.metadata;
        Ok(plan)
    }
}

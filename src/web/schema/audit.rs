//! Audit log entries.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::openapi::schema::AnyOfBuilder;
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use super::{Key, Owner, Plan, names};
use crate::id::KeyId;
use crate::key::{self, AuditAction, AuditSubject};

/// An entry of the audit log.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditEntry {
    /// The id of the entry.
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// When the action was performed.
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    /// Who performed the action; `null` if the application did not provide an actor.
    actor: Option<String>,
    /// The action.
    #[schema(value_type = names::AuditAction)]
    action: AuditAction,
    /// The id of the key. `null` if the action applies to an owner or a plan.
    #[schema(value_type = Option<names::KeyId>)]
    key: Option<KeyId>,
    /// The id of the owner. `null` if the action applies to a key or a plan.
    owner: Option<String>,
    /// The name of the plan. `null` if the action applies to a key or an owner.
    plan: Option<String>,
    /// The key, owner or plan before the action, with its status at that time.
    before: Option<AuditState>,
    /// The key, owner or plan after the action, with its status at that time.
    after: Option<AuditState>,
}

/// A key, an owner or a plan.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum AuditState {
    Key(Box<Key>),
    Owner(Box<Owner>),
    Plan(Box<Plan>),
}

/// Not `oneOf`, since a key has all properties of an owner.
impl PartialSchema for AuditState {
    fn schema() -> RefOr<Schema> {
        let states = [Key::name(), Owner::name(), Plan::name()];
        let any_of = AnyOfBuilder::new().description(Some("A key, an owner or a plan."));
        let add = |any_of: AnyOfBuilder, name| any_of.item(Ref::from_schema_name(name));
        states.into_iter().fold(any_of, add).into()
    }
}

impl ToSchema for AuditState {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.extend([
            (Key::name().into(), Key::schema()),
            (Owner::name().into(), Owner::schema()),
            (Plan::name().into(), Plan::schema()),
        ]);
        Key::schemas(schemas);
        Owner::schemas(schemas);
        Plan::schemas(schemas);
    }
}

impl AuditState {
    fn at(time: Timestamp, state: key::AuditState) -> Self {
        match state {
            key::AuditState::Key(key) => Self::Key(Box::new(Key::at(time, *key))),
            key::AuditState::Owner(owner) => Self::Owner(Box::new((*owner).into())),
            key::AuditState::Plan(plan) => Self::Plan(Box::new((*plan).into())),
        }
    }
}

impl From<key::AuditEntry> for AuditEntry {
    fn from(entry: key::AuditEntry) -> Self {
        let (mut key, mut owner, mut plan) = (None, None, None);
        match entry.subject {
            AuditSubject::Key(id) => key = Some(id),
            AuditSubject::Owner(id) => owner = Some(id.to_string()),
            AuditSubject::Plan(name) => plan = Some(name.to_string()),
        }
        let at = |state| AuditState::at(entry.time, state);
        Self {
            id: entry.id,
            time: entry.time,
            actor: entry.actor,
            action: entry.action,
            key,
            owner,
            plan,
            before: entry.before.map(at),
            after: entry.after.map(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_status_at_the_time_of_the_entry() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let id = "3fK9aB0000zzZZ19".parse().unwrap();
        let mut key = key::Key::new(id, "a", time("2020-01-01T00:00:00Z"));
        key.expires_at = Some(time("2020-03-01T00:00:00Z"));
        let at = time("2020-02-01T00:00:00Z");
        let mut entry = key::AuditEntry::new(AuditAction::Disabled, id, at);
        entry.before = Some(key.clone().into());
        key.disabled = true;
        entry.after = Some(key.into());
        let shown = serde_json::to_value(AuditEntry::from(entry)).unwrap();
        assert_eq!(shown["before"]["status"], "active");
        assert_eq!(shown["after"]["status"], "disabled");
    }
}

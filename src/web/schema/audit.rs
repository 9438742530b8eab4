//! Audit log entries.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Key, names};
use crate::id::KeyId;
use crate::key::{self, AuditAction};

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
    /// The id of the key.
    #[schema(value_type = names::KeyId)]
    key: KeyId,
    /// The key before the action, with its status at that time.
    before: Option<Key>,
    /// The key after the action, with its status at that time.
    after: Option<Key>,
}

impl From<key::AuditEntry> for AuditEntry {
    fn from(entry: key::AuditEntry) -> Self {
        Self {
            id: entry.id,
            time: entry.time,
            actor: entry.actor,
            action: entry.action,
            key: entry.key,
            before: entry.before.map(|key| Key::at(entry.time, key)),
            after: entry.after.map(|key| Key::at(entry.time, key)),
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
        entry.before = Some(key.clone());
        key.disabled = true;
        entry.after = Some(key);
        let shown = serde_json::to_value(AuditEntry::from(entry)).unwrap();
        assert_eq!(shown["before"]["status"], "active");
        assert_eq!(shown["after"]["status"], "disabled");
    }
}

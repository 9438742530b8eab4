//! What was done to keys.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Key, names};
use crate::id::KeyId;
use crate::key::{self, AuditAction};

/// Who did what to which key, and when.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditEntry {
    /// The entry's own id.
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    /// Who; `null` where the application did not say.
    actor: Option<String>,
    /// What.
    #[schema(value_type = names::AuditAction)]
    action: AuditAction,
    /// The key.
    #[schema(value_type = names::KeyId)]
    key: KeyId,
    /// The key as it was, with its status then.
    before: Option<Key>,
    /// The key as it became, with its status then.
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
    fn keys_have_the_status_that_they_had() {
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

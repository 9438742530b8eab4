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
pub(in crate::dashboard) struct AuditEntry {
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
    /// The key as it was.
    before: Option<Key>,
    /// The key as it became.
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
            before: entry.before.map(Key::from),
            after: entry.after.map(Key::from),
        }
    }
}

//! Actions in the audit log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::key::{KeyChange, OwnerChange};
use crate::parse_error::ParseError;

/// An action on a key, an owner or a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuditAction {
    /// The key was created: issued, imported or the successor in a rotation; or the plan or owner was created. An owner that
    /// is created with a key has no entry.
    Created,
    /// Fields of the key, owner or plan were updated.
    Updated,
    /// The key was disabled.
    Disabled,
    /// The key was enabled.
    Enabled,
    /// The key was revoked.
    Revoked,
    /// The key was replaced by a new one, which has an entry of its own, [`AuditAction::Created`].
    Rotated,
    /// The secret was [revealed](crate::key::KeyAdmin::reveal).
    Revealed,
    /// The digest of the secret was replaced by another digest of the same secret.
    Rehashed,
    /// The key or plan was deleted.
    Deleted,
    /// The owner was suspended.
    Suspended,
    /// The owner was resumed.
    Resumed,
}

impl AuditAction {
    /// All actions, in declaration order.
    pub const ALL: [Self; 11] = [
        Self::Created,
        Self::Updated,
        Self::Disabled,
        Self::Enabled,
        Self::Revoked,
        Self::Rotated,
        Self::Revealed,
        Self::Rehashed,
        Self::Deleted,
        Self::Suspended,
        Self::Resumed,
    ];

    /// The name in `snake_case`, as serialized.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Disabled => "disabled",
            Self::Enabled => "enabled",
            Self::Revoked => "revoked",
            Self::Rotated => "rotated",
            Self::Revealed => "revealed",
            Self::Rehashed => "rehashed",
            Self::Deleted => "deleted",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
        }
    }

    /// The action of a change to an owner.
    pub fn of_owner(change: &OwnerChange) -> Self {
        match change {
            OwnerChange::Update(_) => Self::Updated,
            OwnerChange::Suspend => Self::Suspended,
            OwnerChange::Resume => Self::Resumed,
        }
    }

    /// The action of a change to a key.
    pub fn of(change: &KeyChange) -> Self {
        match change {
            KeyChange::Update(_) => Self::Updated,
            KeyChange::Disable => Self::Disabled,
            KeyChange::Enable => Self::Enabled,
            KeyChange::Revoke { .. } => Self::Revoked,
            KeyChange::Rehash { .. } => Self::Rehashed,
        }
    }
}

impl fmt::Display for AuditAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for AuditAction {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|action| action.as_str() == text)
            .ok_or_else(|| ParseError::unknown("audit action", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn action_names_match_serde() {
        for (index, action) in AuditAction::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(action).unwrap(), action.as_str());
            assert_eq!(action.to_string().parse(), Ok(action));
            assert_eq!(action as usize, index);
        }
        for text in ["", "Created", "created "] {
            assert!(text.parse::<AuditAction>().is_err());
        }
    }
}

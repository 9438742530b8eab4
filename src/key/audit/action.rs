//! Actions in the audit log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::key::KeyChange;
use crate::parse_error::ParseError;

/// An action on a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuditAction {
    /// The key was created: issued, imported or the successor in a rotation.
    Created,
    /// Fields of the key were updated.
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
    /// The key was deleted.
    Deleted,
}

impl AuditAction {
    /// All actions, in declaration order.
    pub const ALL: [Self; 9] = [
        Self::Created,
        Self::Updated,
        Self::Disabled,
        Self::Enabled,
        Self::Revoked,
        Self::Rotated,
        Self::Revealed,
        Self::Rehashed,
        Self::Deleted,
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
        }
    }

    /// The action of a change.
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

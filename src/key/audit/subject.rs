//! The subjects of audit entries.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::KeyId;
use crate::key::{Key, Owner, Plan};

/// The subject of an action.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuditSubject {
    /// A key, by its id.
    Key(KeyId),
    /// An owner, by its id.
    Owner(Arc<str>),
    /// A plan, by its name.
    Plan(Arc<str>),
}

impl AuditSubject {
    /// The key id, if the subject is a key.
    pub fn key(&self) -> Option<KeyId> {
        match *self {
            Self::Key(id) => Some(id),
            Self::Owner(_) | Self::Plan(_) => None,
        }
    }
}

impl From<KeyId> for AuditSubject {
    fn from(id: KeyId) -> Self {
        Self::Key(id)
    }
}

/// The state of the subject before or after an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum AuditState {
    /// A key.
    Key(Box<Key>),
    /// An owner.
    Owner(Box<Owner>),
    /// A plan.
    Plan(Box<Plan>),
}

impl AuditState {
    /// The key, if the state is that of a key.
    pub fn as_key(&self) -> Option<&Key> {
        match self {
            Self::Key(key) => Some(key),
            Self::Owner(_) | Self::Plan(_) => None,
        }
    }
}

impl From<Key> for AuditState {
    fn from(key: Key) -> Self {
        Self::Key(Box::new(key))
    }
}

impl From<Owner> for AuditState {
    fn from(owner: Owner) -> Self {
        Self::Owner(Box::new(owner))
    }
}

impl From<Plan> for AuditState {
    fn from(plan: Plan) -> Self {
        Self::Plan(Box::new(plan))
    }
}

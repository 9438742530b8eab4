//! Queries for the audit log.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::action::AuditAction;
use super::actor::Actor;
use super::entry::AuditEntry;
use super::subject::AuditSubject;
use crate::id::KeyId;
use crate::page::{PageRequest, PageToken};

/// A query for audit entries. Matches the entries that pass every filter that is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AuditQuery {
    /// Only entries of this key.
    pub key: Option<KeyId>,
    /// Only entries of this owner, not of its keys.
    pub owner: Option<String>,
    /// Only entries of this plan.
    pub plan: Option<String>,
    /// Only entries of this actor.
    pub actor: Option<String>,
    /// Only entries of this action.
    pub action: Option<AuditAction>,
    /// Only entries at or after this time.
    pub from: Option<Timestamp>,
    /// Only entries before this time.
    pub to: Option<Timestamp>,
    /// The page to read.
    #[serde(flatten)]
    pub page: PageRequest,
}

impl AuditQuery {
    /// A query for all entries, with 50 entries per page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lists only entries of this key.
    #[must_use]
    pub fn key(mut self, key: KeyId) -> Self {
        self.key = Some(key);
        self
    }

    /// Lists only entries of this owner, not of its keys.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Lists only entries of this plan.
    #[must_use]
    pub fn plan(mut self, plan: impl Into<String>) -> Self {
        self.plan = Some(plan.into());
        self
    }

    /// Lists only entries of this actor, [normalized](Actor::to_name) as in entries. An empty actor matches
    /// nothing.
    #[must_use]
    pub fn actor(mut self, actor: impl AsRef<str>) -> Self {
        self.actor = Some(Actor::new(actor.as_ref()).to_name().unwrap_or_default());
        self
    }

    /// Lists only entries of this action.
    #[must_use]
    pub fn action(mut self, action: AuditAction) -> Self {
        self.action = Some(action);
        self
    }

    /// Lists only entries at or after this time.
    #[must_use]
    pub fn from(mut self, time: Timestamp) -> Self {
        self.from = Some(time);
        self
    }

    /// Lists only entries before this time.
    #[must_use]
    pub fn to(mut self, time: Timestamp) -> Self {
        self.to = Some(time);
        self
    }

    /// Sets the page size.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.page.limit = limit;
        self
    }

    /// Continues after this page token.
    #[must_use]
    pub fn after(mut self, token: PageToken) -> Self {
        self.page.after = Some(token);
        self
    }

    /// Whether an entry passes every filter. The page token is not considered.
    pub fn matches(&self, entry: &AuditEntry) -> bool {
        let subject = &entry.subject;
        self.key.is_none_or(|key| subject.key() == Some(key))
            && self
                .owner
                .as_deref()
                .is_none_or(|owner| matches!(subject, AuditSubject::Owner(id) if &**id == owner))
            && self
                .plan
                .as_deref()
                .is_none_or(|plan| matches!(subject, AuditSubject::Plan(name) if &**name == plan))
            && self
                .actor
                .as_deref()
                .is_none_or(|actor| entry.actor.as_deref() == Some(actor))
            && self.action.is_none_or(|action| entry.action == action)
            && self.from.is_none_or(|from| entry.time >= from)
            && self.to.is_none_or(|to| entry.time < to)
    }

    /// The page token of an entry. The audit log is sorted by time, newest first, then by id in descending order.
    pub fn page_token(entry: &AuditEntry) -> PageToken {
        PageToken::new(entry.time, entry.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Key, Owner, OwnerChange, Plan};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn entry_matches_only_if_every_filter_matches() {
        let time = at("2026-11-01T10:00:00Z");
        let key = Key::new("3fK9aB0000zzZZ19".parse().unwrap(), "a", time);
        let entry = AuditEntry::created(Actor::new("anna"), key, time);
        let all = AuditQuery::new()
            .key(entry.subject.key().unwrap())
            .actor("anna")
            .action(AuditAction::Created)
            .from(time)
            .to(at("2026-11-01T10:00:00.000001Z"));
        assert!(all.matches(&entry));
        for other in [
            all.clone().key("3fK9aB0000zzZZ20".parse().unwrap()),
            all.clone().owner("anna"),
            all.clone().plan("a"),
            all.clone().actor("Anna"),
            all.clone().action(AuditAction::Updated),
            all.clone().from(at("2026-11-01T10:00:00.000001Z")),
            all.clone().to(time),
        ] {
            assert!(!other.matches(&entry), "{other:?}");
        }
        let plan = AuditEntry::plan_deleted(Actor::SYSTEM, Plan::new("a", time), time);
        let owner = Owner::new("a", time);
        let owner =
            AuditEntry::owner_changed(Actor::SYSTEM, &OwnerChange::Suspend, None, owner, time);
        for (query, entry, other) in [
            (AuditQuery::new().plan("a"), &plan, &owner),
            (AuditQuery::new().owner("a"), &owner, &plan),
        ] {
            assert!(query.matches(entry) && !query.matches(other), "{query:?}");
        }
        let json = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<AuditQuery>(&json).unwrap(), all);
        let none: AuditQuery = serde_json::from_str("{}").unwrap();
        assert_eq!(none, AuditQuery::new());
        assert_eq!(none.limit(0).page.size(), 1);
        let place = PageToken::new(time, entry.id);
        assert_eq!(all.clone().after(place.clone()).page.after, Some(place));
        assert_eq!(all.limit(2_000).page.size(), PageRequest::MAX_LIMIT);
    }
}

//! Owners of keys.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::{InvalidOwner, check_time};
use super::field_bounds::{check_metadata, is_line, is_name};
use super::update::nullable;
use crate::limit::{RateLimit, Subject, SubjectLimits};
use crate::page::{InvalidPageToken, PageRequest, PageToken, whole_micros};
use crate::parse_error::ParseError;
use crate::text::contains_ignoring_case;

/// An owner of keys, such as a customer or a team. The record is created when a key first names the owner, or by
/// [`change_owner`](super::OwnerAdmin::change_owner).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Owner {
    /// The id, as in [`Key::owner`](super::Key::owner).
    pub id: Arc<str>,
    /// A human-readable name.
    pub name: Option<String>,
    /// The name of the plan.
    pub plan: Option<Arc<str>>,
    /// Rate limits that all keys of the owner share. If empty, those of the plan apply.
    pub limits: Vec<RateLimit>,
    /// Whether the keys of the owner are accepted.
    pub status: OwnerStatus,
    /// Additional data of the application.
    pub metadata: Map<String, Value>,
    /// When the record was created.
    pub created_at: Timestamp,
}

/// The status of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerStatus {
    /// Keys are accepted. The default.
    #[default]
    Active,
    /// All keys are rejected, as if they did not exist. A suspended owner can be resumed.
    Suspended,
}

impl OwnerStatus {
    /// All statuses, in declaration order.
    pub const ALL: [Self; 2] = [Self::Active, Self::Suspended];

    /// The name in `snake_case`, as serialized.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }
}

impl fmt::Display for OwnerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for OwnerStatus {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut statuses = Self::ALL.into_iter();
        let found = statuses.find(|status| status.as_str() == text);
        found.ok_or_else(|| ParseError::unknown("owner status", text))
    }
}

impl Owner {
    /// Creates an active owner without plan and limits.
    pub fn new(id: impl Into<Arc<str>>, created_at: Timestamp) -> Self {
        Self {
            id: id.into(),
            name: None,
            plan: None,
            limits: Vec::new(),
            status: OwnerStatus::Active,
            metadata: Map::new(),
            created_at: whole_micros(created_at),
        }
    }

    /// Whether the owner is suspended.
    pub fn is_suspended(&self) -> bool {
        self.status == OwnerStatus::Suspended
    }

    /// Checks that every field is within its bounds; [`InvalidOwner`] lists them.
    ///
    /// # Errors
    ///
    /// The first violation found.
    pub fn validate(&self) -> Result<(), InvalidOwner> {
        if !is_line(&self.id, 200) {
            return Err(InvalidOwner::Id);
        }
        if self.name.as_deref().is_some_and(|name| !is_name(name)) {
            return Err(InvalidOwner::Name);
        }
        if self.plan.as_deref().is_some_and(|plan| !is_name(plan)) {
            return Err(InvalidOwner::Plan);
        }
        check_metadata(&self.metadata)?;
        check_time(self.created_at).map_err(|_| InvalidOwner::Time)?;
        let limits = SubjectLimits::new(Subject::Owner(&self.id), &self.limits);
        limits.validate().map_err(InvalidOwner::Limits)
    }

    /// Applies a change. A store calls this between reading a record and writing it back.
    ///
    /// # Errors
    ///
    /// Returns an error if a field would be out of bounds. The owner is unchanged then.
    pub fn apply(&mut self, change: &OwnerChange) -> Result<(), InvalidOwner> {
        let mut owner = self.clone();
        match change {
            OwnerChange::Update(update) => {
                let update = (**update).clone();
                owner.name = update.name.unwrap_or(owner.name);
                owner.plan = update.plan.unwrap_or(owner.plan);
                owner.limits = update.limits.unwrap_or(owner.limits);
                owner.metadata = update.metadata.unwrap_or(owner.metadata);
                owner.validate()?;
            }
            OwnerChange::Suspend => owner.status = OwnerStatus::Suspended,
            OwnerChange::Resume => owner.status = OwnerStatus::Active,
        }
        *self = owner;
        Ok(())
    }
}

/// A change to an owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OwnerChange {
    /// Sets fields to new values.
    Update(Box<OwnerUpdate>),
    /// Suspends the owner: all keys of the owner are rejected.
    Suspend,
    /// Resumes the owner: keys of the owner are accepted again, unless they are revoked, expired or disabled themselves.
    Resume,
}

/// New values for the fields of an owner. Fields that are not set keep their values.
///
/// ```
/// use keytally::key::OwnerUpdate;
/// use keytally::limit::RateLimit;
///
/// let update = OwnerUpdate::new().plan(Some("pro")).limits([RateLimit::per_minute(6_000)]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct OwnerUpdate {
    /// The new name; `Some(None)` removes it.
    #[serde(with = "nullable", skip_serializing_if = "Option::is_none")]
    pub name: Option<Option<String>>,
    /// The new plan; `Some(None)` removes it.
    #[serde(with = "nullable", skip_serializing_if = "Option::is_none")]
    pub plan: Option<Option<Arc<str>>>,
    /// The new rate limits, replacing all limits of the owner.
    pub limits: Option<Vec<RateLimit>>,
    /// The new metadata, replacing all metadata of the owner.
    pub metadata: Option<Map<String, Value>>,
}

impl OwnerUpdate {
    /// An update without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets or removes the name.
    #[must_use]
    pub fn name<T: Into<String>>(mut self, name: Option<T>) -> Self {
        self.name = Some(name.map(Into::into));
        self
    }

    /// Sets or removes the plan.
    #[must_use]
    pub fn plan<T: Into<Arc<str>>>(mut self, plan: Option<T>) -> Self {
        self.plan = Some(plan.map(Into::into));
        self
    }

    /// Replaces all rate limits. Usage is kept by name: a limit with the name of an earlier one inherits its
    /// usage.
    #[must_use]
    pub fn limits(mut self, limits: impl IntoIterator<Item = RateLimit>) -> Self {
        self.limits = Some(limits.into_iter().collect());
        self
    }

    /// Replaces all metadata.
    #[must_use]
    pub fn metadata(mut self, metadata: Map<String, Value>) -> Self {
        self.metadata = Some(metadata);
        self
    }
}

/// A query for owners. Matches the owners that pass every filter that is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct OwnerQuery {
    /// Only owners whose id or name contains this text, ignoring case.
    pub contains: Option<String>,
    /// Only owners with this plan.
    pub plan: Option<String>,
    /// Only owners with this status.
    pub status: Option<OwnerStatus>,
    /// Only owners with one of these ids. Ids after the first [`PageRequest::MAX_LIMIT`] are ignored.
    pub ids: Option<Vec<Arc<str>>>,
    /// The page to read.
    #[serde(flatten)]
    pub page: PageRequest,
}

impl OwnerQuery {
    /// A query for all owners, with 50 owners per page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lists only owners whose id or name contains this text, ignoring case.
    #[must_use]
    pub fn contains(mut self, part: impl Into<String>) -> Self {
        self.contains = Some(part.into());
        self
    }

    /// Lists only owners with this plan.
    #[must_use]
    pub fn plan(mut self, plan: impl Into<String>) -> Self {
        self.plan = Some(plan.into());
        self
    }

    /// Lists only owners with this status.
    #[must_use]
    pub fn status(mut self, status: OwnerStatus) -> Self {
        self.status = Some(status);
        self
    }

    /// Lists only owners with one of these ids.
    #[must_use]
    pub fn ids(mut self, ids: impl IntoIterator<Item = Arc<str>>) -> Self {
        self.ids = Some(ids.into_iter().collect());
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

    /// Whether an owner passes every filter. The page token is not considered.
    pub fn matches(&self, owner: &Owner) -> bool {
        self.contains.as_deref().is_none_or(|part| {
            let name = owner.name.as_deref();
            contains_ignoring_case(&owner.id, part)
                || name.is_some_and(|name| contains_ignoring_case(name, part))
        }) && self
            .plan
            .as_deref()
            .is_none_or(|plan| owner.plan.as_deref() == Some(plan))
            && self.status.is_none_or(|status| owner.status == status)
            && self.wanted_ids().is_none_or(|ids| ids.contains(&owner.id))
    }

    /// The ids, at most [`PageRequest::MAX_LIMIT`] of them.
    pub(crate) fn wanted_ids(&self) -> Option<&[Arc<str>]> {
        let ids = self.ids.as_deref();
        ids.map(|ids| &ids[..ids.len().min(PageRequest::MAX_LIMIT)])
    }

    /// The creation time and the id of the last owner of the previous page.
    pub(crate) fn last_seen(&self) -> Result<Option<(Timestamp, String)>, InvalidPageToken> {
        let Some(token) = &self.page.after else {
            return Ok(None);
        };
        let id: String = token.id()?;
        match is_line(&id, 200) {
            true => Ok(Some((token.time(), id))),
            false => Err(InvalidPageToken),
        }
    }

    /// The page token of an owner. Lists are sorted by creation time, newest first, then by id in descending order.
    pub fn page_token(owner: &Owner) -> PageToken {
        PageToken::new(owner.created_at, &owner.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::InvalidMetadata;
    use crate::limit::InvalidLimit;

    fn owner() -> Owner {
        Owner::new("acme", Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn status_names_match_serde() {
        for status in OwnerStatus::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
            assert_eq!(status.to_string().parse(), Ok(status));
        }
        assert!("Active".parse::<OwnerStatus>().is_err());
    }

    #[test]
    fn updates_set_and_remove_fields() {
        let metadata: Map<_, _> = [("tier".into(), 1.into())].into_iter().collect();
        let limits = vec![RateLimit::per_second(5)];
        let update = OwnerUpdate::new()
            .name(Some("Acme Inc."))
            .plan(Some("pro"))
            .limits(limits.clone())
            .metadata(metadata.clone());
        let json = serde_json::to_string(&update).unwrap();
        assert_eq!(serde_json::from_str::<OwnerUpdate>(&json).unwrap(), update);
        let mut changed = owner();
        changed.apply(&OwnerChange::Update(update.into())).unwrap();
        let expected = Owner {
            name: Some("Acme Inc.".into()),
            plan: Some("pro".into()),
            limits,
            metadata,
            ..owner()
        };
        assert_eq!(changed, expected);
        changed.apply(&OwnerChange::Suspend).unwrap();
        assert!(changed.is_suspended());
        changed.apply(&OwnerChange::Resume).unwrap();
        assert_eq!(changed, expected);
        let removal: OwnerUpdate = serde_json::from_str(r#"{"name":null,"plan":null}"#).unwrap();
        let none = OwnerUpdate::new().name(None::<String>).plan(None::<String>);
        assert_eq!(removal, none);
        changed.apply(&OwnerChange::Update(none.into())).unwrap();
        assert_eq!((changed.name, changed.plan), (None, None));
    }

    #[test]
    fn fields_of_owners_are_bounded() {
        type Mutate = fn(&mut Owner);
        let mutations: [(Mutate, InvalidOwner); 7] = [
            (|it| it.id = "".into(), InvalidOwner::Id),
            (|it| it.id = "a\n".into(), InvalidOwner::Id),
            (|it| it.name = Some(" ".into()), InvalidOwner::Name),
            (|it| it.plan = Some("".into()), InvalidOwner::Plan),
            (
                |it| it.limits = vec![RateLimit::per_second(0)],
                InvalidOwner::Limits(InvalidLimit::Zero),
            ),
            (
                |it| drop(it.metadata.insert("\0".into(), 1.into())),
                InvalidOwner::Metadata(InvalidMetadata::Nul),
            ),
            (|it| it.created_at = Timestamp::MIN, InvalidOwner::Time),
        ];
        for (mutate, error) in mutations {
            let mut owner = owner();
            assert_eq!(owner.validate(), Ok(()));
            mutate(&mut owner);
            assert_eq!(owner.validate(), Err(error));
        }
        let (mut changed, update) = (owner(), OwnerUpdate::new().plan(Some("")));
        let result = changed.apply(&OwnerChange::Update(update.into()));
        assert_eq!((result, changed), (Err(InvalidOwner::Plan), owner()));
    }

    #[test]
    fn owner_matches_only_if_every_filter_matches() {
        let owner = Owner {
            name: Some("Ärger Inc.".into()),
            plan: Some("pro".into()),
            ..owner()
        };
        let all = OwnerQuery::new()
            .contains("ärger")
            .plan("pro")
            .status(OwnerStatus::Active);
        assert!(all.matches(&owner) && OwnerQuery::new().matches(&owner));
        assert!(all.clone().contains("CME").matches(&owner));
        for other in [
            all.clone().contains("acme inc"),
            all.clone().plan("Pro"),
            all.clone().status(OwnerStatus::Suspended),
        ] {
            assert!(!other.matches(&owner), "{other:?}");
        }
        let place = OwnerQuery::page_token(&owner);
        assert_eq!(place.id::<String>().unwrap(), "acme");
        let query = all.limit(7).after(place.clone()).page;
        assert_eq!((query.size(), query.after), (7, Some(place)));
    }
}

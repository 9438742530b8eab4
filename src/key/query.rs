//! Queries for listing keys.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::Key;
use super::status::KeyStatus;
use crate::id::KeyId;
use crate::page::{PageRequest, PageToken};
use crate::text::contains_ignoring_case;

/// A query for keys. Matches the keys that pass every filter that is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct KeyQuery {
    /// Only keys of this owner.
    pub owner: Option<String>,
    /// Only keys whose owner contains this text, ignoring case.
    pub owner_contains: Option<String>,
    /// Only keys with this plan of their own.
    pub plan: Option<String>,
    /// Only keys with this status at this time.
    pub status: Option<(KeyStatus, Timestamp)>,
    /// Only keys whose name contains this text, ignoring case.
    pub name: Option<String>,
    /// Only keys whose name contains this text, ignoring case, or whose hint or id contains it.
    pub search: Option<String>,
    /// Only keys with one of these ids. Ids after the first [`PageRequest::MAX_LIMIT`] are ignored.
    pub ids: Option<Vec<KeyId>>,
    /// Only keys created before this time and not used since.
    pub unused_since: Option<Timestamp>,
    /// Only keys that expire before this time.
    pub expires_before: Option<Timestamp>,
    /// Only keys that were imported, or only keys that were not.
    pub imported: Option<bool>,
    /// The page to read.
    #[serde(flatten)]
    pub page: PageRequest,
}

impl KeyQuery {
    /// A query for all keys, with 50 keys per page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lists only keys of this owner.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Lists only keys whose owner contains this text, ignoring case.
    #[must_use]
    pub fn owner_contains(mut self, part: impl Into<String>) -> Self {
        self.owner_contains = Some(part.into());
        self
    }

    /// Lists only keys with this plan of their own.
    #[must_use]
    pub fn plan(mut self, plan: impl Into<String>) -> Self {
        self.plan = Some(plan.into());
        self
    }

    /// Lists only keys with this status at this time.
    #[must_use]
    pub fn status(mut self, status: KeyStatus, at: Timestamp) -> Self {
        self.status = Some((status, at));
        self
    }

    /// Lists only keys whose name contains this text, ignoring case.
    #[must_use]
    pub fn name(mut self, part: impl Into<String>) -> Self {
        self.name = Some(part.into());
        self
    }

    /// Lists only keys whose name contains this text, ignoring case, or whose hint or id contains it.
    #[must_use]
    pub fn search(mut self, text: impl Into<String>) -> Self {
        self.search = Some(text.into());
        self
    }

    /// Lists only keys with one of these ids.
    #[must_use]
    pub fn ids(mut self, ids: impl IntoIterator<Item = KeyId>) -> Self {
        self.ids = Some(ids.into_iter().collect());
        self
    }

    /// Lists only keys created before this time and without an accepted request since, as of the usage written so far.
    #[must_use]
    pub fn unused_since(mut self, time: Timestamp) -> Self {
        self.unused_since = Some(time);
        self
    }

    /// Lists only keys that expire before this time, including expired keys.
    #[must_use]
    pub fn expires_before(mut self, time: Timestamp) -> Self {
        self.expires_before = Some(time);
        self
    }

    /// Lists only keys that were imported, or only keys that were not.
    #[must_use]
    pub fn imported(mut self, imported: bool) -> Self {
        self.imported = Some(imported);
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

    /// Whether a key passes every filter. The page token is not considered.
    pub fn matches(&self, key: &Key) -> bool {
        let named = |part: &str| contains_ignoring_case(&key.name, part);
        self.owner
            .as_deref()
            .is_none_or(|owner| key.owner.as_deref() == Some(owner))
            && self.owner_contains.as_deref().is_none_or(|part| {
                let owner = key.owner.as_deref();
                owner.is_some_and(|owner| contains_ignoring_case(owner, part))
            })
            && self
                .plan
                .as_deref()
                .is_none_or(|plan| key.plan.as_deref() == Some(plan))
            && self
                .status
                .is_none_or(|(status, at)| key.status(at) == status)
            && self.name.as_deref().is_none_or(named)
            && self.search.as_deref().is_none_or(|text| {
                named(text) || key.hint.contains(text) || key.id.as_str().contains(text)
            })
            && self.wanted_ids().is_none_or(|ids| ids.contains(&key.id))
            && self
                .unused_since
                .is_none_or(|time| key.created_at < time && key.last_accepted_at < Some(time))
            && self
                .imported
                .is_none_or(|imported| key.imported == imported)
            && self
                .expires_before
                .is_none_or(|time| key.expires_at.is_some_and(|expires_at| expires_at < time))
    }

    /// The ids, at most [`PageRequest::MAX_LIMIT`] of them.
    pub(crate) fn wanted_ids(&self) -> Option<&[KeyId]> {
        let ids = self.ids.as_deref();
        ids.map(|ids| &ids[..ids.len().min(PageRequest::MAX_LIMIT)])
    }

    /// The page token of a key. Lists are sorted by creation time, newest first, then by id in descending order.
    pub fn page_token(key: &Key) -> PageToken {
        PageToken::new(key.created_at, key.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_matches_only_if_every_filter_matches() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let (day, next) = (at("2026-11-01T00:00:00Z"), at("2026-11-02T00:00:00Z"));
        let micro = jiff::SignedDuration::from_micros(1);
        let key = Key {
            owner: Some("acme".into()),
            plan: Some("pro".into()),
            last_accepted_at: Some(day),
            expires_at: Some(next),
            ..Key::new("3fK9aB0000zzZZ19".parse().unwrap(), "Zapier", day)
        };
        let other = "3fK9aB0000zzZZ20".parse().unwrap();
        let all = KeyQuery::new()
            .owner("acme")
            .owner_contains("CM")
            .plan("pro")
            .status(KeyStatus::Active, day)
            .name("zAP")
            .search("PIER")
            .ids([other, key.id])
            .unused_since(day + micro)
            .expires_before(next + micro)
            .imported(false);
        assert!(all.matches(&key) && KeyQuery::new().matches(&key));
        for text in ["", "3fK9aB0000zzZZ19", "0zzZ", "3fK9…", &key.hint] {
            assert!(all.clone().search(text).matches(&key), "{text}");
        }
        for other in [
            all.clone().owner("Acme"),
            all.clone().owner_contains("acmes"),
            all.clone().plan("Pro"),
            all.clone().status(KeyStatus::Active, next),
            all.clone().status(KeyStatus::Disabled, day),
            all.clone().name("zip"),
            all.clone().search("3FK9"),
            all.clone().ids([other]),
            all.clone().unused_since(day),
            all.clone().expires_before(next),
            all.clone().imported(true),
        ] {
            assert!(!other.matches(&key), "{other:?}");
        }
        let mutations: [fn(&mut Key, Timestamp); 5] = [
            |key, _| key.owner = None,
            |key, _| key.plan = None,
            |key, later| key.last_accepted_at = Some(later),
            |key, later| (key.created_at, key.last_accepted_at) = (later, None),
            |key, _| key.expires_at = None,
        ];
        for mutate in mutations {
            let mut mismatch = key.clone();
            mutate(&mut mismatch, day + micro);
            assert!(!all.matches(&mismatch), "{mismatch:?}");
        }
        let anonymous = Key {
            owner: None,
            ..key.clone()
        };
        assert!(!KeyQuery::new().owner_contains("").matches(&anonymous));
        let never_used = Key {
            last_accepted_at: None,
            ..key.clone()
        };
        assert!(all.matches(&never_used));
    }

    #[test]
    fn page_size_and_ids_are_bounded() {
        let place = PageToken::new(Timestamp::UNIX_EPOCH, "a");
        let query = KeyQuery::new().limit(7).after(place.clone());
        assert_eq!((query.page.size(), query.page.after), (7, Some(place)));
        assert_eq!(KeyQuery::new().page.size(), 50);
        assert_eq!(KeyQuery::new().limit(0).page.size(), 1);
        assert_eq!(
            KeyQuery::new().limit(2_000).page.size(),
            PageRequest::MAX_LIMIT
        );
        let ids = |count: usize| (0..count as u128).map(KeyId::from_number);
        assert_eq!(KeyQuery::new().wanted_ids(), None);
        let wanted = KeyQuery::new().ids(ids(1_001));
        assert!(wanted.wanted_ids().unwrap().iter().copied().eq(ids(1_000)));
    }
}

//! Which keys to list.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::Key;
use super::status::KeyStatus;
use crate::id::KeyId;
use crate::page::PageToken;

/// Which keys to list: all that match every filter that is set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct KeyQuery {
    /// Of this owner.
    pub owner: Option<String>,
    /// With this status at the time given with it.
    pub status: Option<(KeyStatus, Timestamp)>,
    /// Whose name holds this text, in any case.
    pub name: Option<String>,
    /// With one of these ids, of which the first [`KeyQuery::MAX_LIMIT`] count; none has any other.
    pub ids: Option<Vec<KeyId>>,
    /// Made before this time, and not used from it on.
    pub unused_since: Option<Timestamp>,
    /// With an end before this time.
    pub expires_before: Option<Timestamp>,
    /// At most this many; `0` and more than [`KeyQuery::MAX_LIMIT`] are brought into bounds.
    pub limit: usize,
    /// After this place.
    pub after: Option<PageToken>,
}

impl Default for KeyQuery {
    fn default() -> Self {
        Self {
            owner: None,
            status: None,
            name: None,
            ids: None,
            unused_since: None,
            expires_before: None,
            limit: 50,
            after: None,
        }
    }
}

impl KeyQuery {
    /// Keys on one page at most.
    pub const MAX_LIMIT: usize = 1_000;

    /// All keys, fifty a page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keys of this owner.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Keys with this status at this time.
    #[must_use]
    pub fn status(mut self, status: KeyStatus, at: Timestamp) -> Self {
        self.status = Some((status, at));
        self
    }

    /// Keys whose name holds this text, in any case.
    #[must_use]
    pub fn name(mut self, part: impl Into<String>) -> Self {
        self.name = Some(part.into());
        self
    }

    /// Keys with one of these ids.
    #[must_use]
    pub fn ids(mut self, ids: impl IntoIterator<Item = KeyId>) -> Self {
        self.ids = Some(ids.into_iter().collect());
        self
    }

    /// Keys that were made before this time and not used from it on, as far as the usage written so
    /// far tells.
    #[must_use]
    pub fn unused_since(mut self, time: Timestamp) -> Self {
        self.unused_since = Some(time);
        self
    }

    /// Keys with an end before this time, those whose time is over among them.
    #[must_use]
    pub fn expires_before(mut self, time: Timestamp) -> Self {
        self.expires_before = Some(time);
        self
    }

    /// So many keys a page.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// The page behind this place.
    #[must_use]
    pub fn after(mut self, token: PageToken) -> Self {
        self.after = Some(token);
        self
    }

    /// The number of keys to put on a page.
    pub fn page_size(&self) -> usize {
        self.limit.clamp(1, Self::MAX_LIMIT)
    }

    /// Whether a key passes every filter.
    pub fn matches(&self, key: &Key) -> bool {
        self.owner
            .as_deref()
            .is_none_or(|owner| key.owner.as_deref() == Some(owner))
            && self
                .status
                .is_none_or(|(status, at)| key.status(at) == status)
            && self
                .name
                .as_deref()
                .is_none_or(|part| key.name.to_lowercase().contains(&part.to_lowercase()))
            && self.wanted_ids().is_none_or(|ids| ids.contains(&key.id))
            && self
                .unused_since
                .is_none_or(|time| key.created_at < time && key.last_used_at < Some(time))
            && self
                .expires_before
                .is_none_or(|time| key.expires_at.is_some_and(|end| end < time))
    }

    /// The ids that count.
    pub(crate) fn wanted_ids(&self) -> Option<&[KeyId]> {
        let ids = self.ids.as_deref();
        ids.map(|ids| &ids[..ids.len().min(Self::MAX_LIMIT)])
    }

    /// A key's place in the list: newest first, then by id from high to low.
    pub fn place(key: &Key) -> PageToken {
        PageToken::new(key.created_at, key.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_has_to_match() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let (day, next) = (at("2026-11-01T00:00:00Z"), at("2026-11-02T00:00:00Z"));
        let micro = jiff::SignedDuration::from_micros(1);
        let key = Key {
            owner: Some("acme".into()),
            last_used_at: Some(day),
            expires_at: Some(next),
            ..Key::new("3fK9aB0000zzZZ19".parse().unwrap(), "Zapier", day)
        };
        let other = "3fK9aB0000zzZZ20".parse().unwrap();
        let all = KeyQuery::new()
            .owner("acme")
            .status(KeyStatus::Active, day)
            .name("zAP")
            .ids([other, key.id])
            .unused_since(day + micro)
            .expires_before(next + micro);
        assert!(all.matches(&key) && KeyQuery::new().matches(&key));
        for other in [
            all.clone().owner("Acme"),
            all.clone().status(KeyStatus::Active, next),
            all.clone().status(KeyStatus::Disabled, day),
            all.clone().name("zip"),
            all.clone().ids([other]),
            all.clone().unused_since(day),
            all.clone().expires_before(next),
        ] {
            assert!(!other.matches(&key), "{other:?}");
        }
        let spoil: [fn(&mut Key, Timestamp); 4] = [
            |key, _| key.owner = None,
            |key, later| key.last_used_at = Some(later),
            |key, later| (key.created_at, key.last_used_at) = (later, None),
            |key, _| key.expires_at = None,
        ];
        for spoil in spoil {
            let mut spoiled = key.clone();
            spoil(&mut spoiled, day + micro);
            assert!(!all.matches(&spoiled), "{spoiled:?}");
        }
        let never_used = Key {
            last_used_at: None,
            ..key.clone()
        };
        assert!(all.matches(&never_used));
    }

    #[test]
    fn pages_and_lists_of_ids_are_bounded() {
        let place = PageToken::new(Timestamp::UNIX_EPOCH, "a");
        let query = KeyQuery::new().limit(7).after(place.clone());
        assert_eq!((query.page_size(), query.after), (7, Some(place)));
        assert_eq!(KeyQuery::new().page_size(), 50);
        assert_eq!(KeyQuery::new().limit(0).page_size(), 1);
        assert_eq!(
            KeyQuery::new().limit(2_000).page_size(),
            KeyQuery::MAX_LIMIT
        );
        let ids = |count: usize| (0..count as u128).map(KeyId::from_number);
        assert_eq!(KeyQuery::new().wanted_ids(), None);
        let wanted = KeyQuery::new().ids(ids(1_001));
        assert!(wanted.wanted_ids().unwrap().iter().copied().eq(ids(1_000)));
    }
}

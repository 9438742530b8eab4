//! What the request path and what administration need of a store.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::audit::{AuditEntry, AuditQuery};
use super::bounds::InvalidKey;
use super::cached::KeyCache;
use super::changes::ChangeFeed;
use super::record::{Key, KeyChange, KeyRecord, KeyStatus, Rotation};
use super::update::KeyUpdate;
use crate::id::KeyId;
use crate::page::{InvalidPageToken, Page, PageToken};

/// Where keys are looked up: all that the request path needs. One method makes a store.
///
/// ```
/// use keytally::async_trait;
/// use keytally::key::{KeyRecord, KeyStore, StoreError};
/// use keytally::KeyId;
///
/// struct Fixed(KeyRecord);
///
/// #[async_trait]
/// impl KeyStore for Fixed {
///     async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
///         Ok((self.0.key.id == id).then(|| self.0.clone()))
///     }
/// }
/// ```
#[async_trait]
pub trait KeyStore: Send + Sync + 'static {
    /// The record with this id, whatever its status, [without](KeyRecord::without_sealed) its sealed secret;
    /// `None` if there is none.
    ///
    /// # Errors
    ///
    /// When the store cannot tell. "Not there" is an answer, not an error.
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError>;

    /// Where the store tells of keys that were changed through it, so that caches in this process
    /// drop them at once. Without it, a change is seen within a cache's time to live.
    fn changes(&self) -> Option<&ChangeFeed> {
        None
    }

    /// The cache that this store already has, which others then use instead of putting one in
    /// front of it.
    fn cache(&self) -> Option<&KeyCache> {
        None
    }
}

/// A store that keys can be administered in. What it promises is checked by
/// `keytally::conformance`.
#[async_trait]
pub trait KeyAdmin: KeyStore {
    /// Adds a key, [in whole microseconds](KeyRecord::in_whole_micros). Never overwrites one.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] when the id is taken, [`StoreError::Invalid`] when a field is
    /// [out of bounds](KeyRecord::validate), [`StoreError::KeepsNoSecrets`] when there is a sealed secret that
    /// the store does not keep.
    async fn create(&self, record: KeyRecord) -> Result<(), StoreError>;

    /// Lists keys, newest first.
    ///
    /// # Errors
    ///
    /// [`StoreError::Page`] when the page token is not one of this list.
    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError>;

    /// Changes a key in one step, by [`KeyRecord::apply`], and answers what it is then.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], or [`StoreError::Invalid`] with nothing changed.
    async fn change(&self, id: KeyId, change: KeyChange) -> Result<Key, StoreError>;

    /// Puts a new key in a key's place in one step, by [`KeyRecord::rotate`], and answers the new
    /// one.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], [`StoreError::Unusable`] when the old key does not work any more,
    /// [`StoreError::Conflict`] when the new id is taken, [`StoreError::Invalid`] when the new hint or a
    /// time is out of bounds.
    async fn rotate(&self, id: KeyId, rotation: Rotation) -> Result<Key, StoreError>;

    /// Removes a key's record; its usage stays.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`].
    async fn delete(&self, id: KeyId) -> Result<(), StoreError>;

    /// The key as the store has it now, past every cache.
    ///
    /// # Errors
    ///
    /// When the store cannot tell.
    async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        Ok(self.find(id).await?.map(|record| record.key))
    }

    /// Gives a key's fields other values.
    ///
    /// # Errors
    ///
    /// As [`change`](Self::change).
    async fn update(&self, id: KeyId, update: KeyUpdate) -> Result<Key, StoreError> {
        self.change(id, KeyChange::Update(Box::new(update))).await
    }

    /// Switches a key off.
    ///
    /// # Errors
    ///
    /// As [`change`](Self::change).
    async fn disable(&self, id: KeyId) -> Result<Key, StoreError> {
        self.change(id, KeyChange::Disable).await
    }

    /// Switches a key on again.
    ///
    /// # Errors
    ///
    /// As [`change`](Self::change).
    async fn enable(&self, id: KeyId) -> Result<Key, StoreError> {
        self.change(id, KeyChange::Enable).await
    }

    /// Ends a key for good, from now on, and keeps its record. Now is what the machine's clock says,
    /// unless the store has a [`Clock`](crate::Clock) of its own.
    ///
    /// # Errors
    ///
    /// As [`change`](Self::change).
    async fn revoke(&self, id: KeyId) -> Result<Key, StoreError> {
        let at = Timestamp::now();
        self.change(id, KeyChange::Revoke { at }).await
    }

    /// The record of a [recoverable](Key::recoverable) key with its [sealed secret](KeyRecord::sealed), which
    /// only an [`Issuer`](super::Issuer) with the application's vault can open: ask that one. `None` where the
    /// key is not recoverable. A key that is disabled or has expired can be, since it can be made to work
    /// again.
    ///
    /// In one step with an entry of the [audit](Self::audit): nothing is revealed that is not noted. So a
    /// store that keeps no audit keeps no sealed secrets either, and takes no key that has one. What is left
    /// is this method as it is.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], where the store keeps sealed secrets.
    async fn reveal(&self, _id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Ok(None)
    }

    /// One page of what was done to keys, newest first; `None` where the store does not keep that.
    /// What was done to a key that was deleted is there as long as any other entry.
    ///
    /// # Errors
    ///
    /// [`StoreError::Page`] when the page token is not one of this list.
    async fn audit(&self, _query: &AuditQuery) -> Result<Option<Page<AuditEntry>>, StoreError> {
        Ok(None)
    }

    /// This store for what somebody in particular does: the [entries](Self::audit) of changes that are
    /// made through it name the actor, [within bounds](AuditEntry::actor_of). An empty one names
    /// nobody. All else is shared with this one, caches and the change feed included.
    ///
    /// `None` where the store does not keep who did what.
    fn acting_as(&self, _actor: &str) -> Option<Arc<dyn KeyAdmin>> {
        None
    }
}

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
                .is_none_or(|time| key.created < time && key.last_used < Some(time))
            && self
                .expires_before
                .is_none_or(|time| key.expires.is_some_and(|end| end < time))
    }

    /// The ids that count.
    pub(crate) fn wanted_ids(&self) -> Option<&[KeyId]> {
        let ids = self.ids.as_deref();
        ids.map(|ids| &ids[..ids.len().min(Self::MAX_LIMIT)])
    }

    /// A key's place in the list: newest first, then by id from high to low.
    pub fn place(key: &Key) -> PageToken {
        PageToken::new(key.created, key.id)
    }
}

/// What a store could not do. The text of a backend's own error is in its `source`, for logs only.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no key with this id.
    #[error("no key {0}")]
    NotFound(KeyId),
    /// There already is a key with this id.
    #[error("key {0} exists already")]
    Conflict(KeyId),
    /// The key does not work any more, so that it cannot be rotated.
    #[error("key {id} is {status:?}")]
    Unusable {
        /// The key.
        id: KeyId,
        /// Why it does not work.
        status: KeyStatus,
    },
    /// The key is to be recoverable, and the store keeps no sealed secrets.
    #[error("the store keeps no secrets that could be read again")]
    KeepsNoSecrets,
    /// A field is out of bounds.
    #[error(transparent)]
    Invalid(#[from] InvalidKey),
    /// The page token is not one of this list.
    #[error(transparent)]
    Page(#[from] InvalidPageToken),
    /// The store answered too late.
    #[error("the key store did not answer in time")]
    Timeout,
    /// The store was not asked: too many others were being looked up.
    #[error("too many keys that are not known are being looked up")]
    Busy,
    /// The store cannot answer, or answered nonsense.
    #[error("the key store is unavailable")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
}

impl StoreError {
    /// Wraps a backend's own error.
    pub fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Arc::from(error.into()))
    }
}

macro_rules! forward_to_pointee {
    ($($pointer:ident),*) => {$(
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: KeyStore + ?Sized> KeyStore for $pointer<S> {
            async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
                (**self).find(id).await
            }

            fn changes(&self) -> Option<&ChangeFeed> {
                (**self).changes()
            }

            fn cache(&self) -> Option<&KeyCache> {
                (**self).cache()
            }
        }

        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: KeyAdmin + ?Sized> KeyAdmin for $pointer<S> {
            async fn create(&self, record: KeyRecord) -> Result<(), StoreError> {
                (**self).create(record).await
            }

            async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
                (**self).list(query).await
            }

            async fn change(&self, id: KeyId, change: KeyChange) -> Result<Key, StoreError> {
                (**self).change(id, change).await
            }

            async fn rotate(&self, id: KeyId, rotation: Rotation) -> Result<Key, StoreError> {
                (**self).rotate(id, rotation).await
            }

            async fn delete(&self, id: KeyId) -> Result<(), StoreError> {
                (**self).delete(id).await
            }

            async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
                (**self).get(id).await
            }

            async fn update(&self, id: KeyId, update: KeyUpdate) -> Result<Key, StoreError> {
                (**self).update(id, update).await
            }

            async fn disable(&self, id: KeyId) -> Result<Key, StoreError> {
                (**self).disable(id).await
            }

            async fn enable(&self, id: KeyId) -> Result<Key, StoreError> {
                (**self).enable(id).await
            }

            async fn revoke(&self, id: KeyId) -> Result<Key, StoreError> {
                (**self).revoke(id).await
            }

            async fn reveal(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
                (**self).reveal(id).await
            }

            async fn audit(
                &self,
                query: &AuditQuery,
            ) -> Result<Option<Page<AuditEntry>>, StoreError> {
                (**self).audit(query).await
            }

            fn acting_as(&self, actor: &str) -> Option<Arc<dyn KeyAdmin>> {
                (**self).acting_as(actor)
            }
        }
    )*};
}

forward_to_pointee!(Arc, Box);

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
            last_used: Some(day),
            expires: Some(next),
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
            |key, later| key.last_used = Some(later),
            |key, later| (key.created, key.last_used) = (later, None),
            |key, _| key.expires = None,
        ];
        for spoil in spoil {
            let mut spoiled = key.clone();
            spoil(&mut spoiled, day + micro);
            assert!(!all.matches(&spoiled), "{spoiled:?}");
        }
        let never_used = Key {
            last_used: None,
            ..key.clone()
        };
        assert!(all.matches(&never_used));
    }

    #[test]
    fn a_store_announces_nothing_unless_it_says_so() {
        struct Plain;
        #[async_trait]
        impl KeyStore for Plain {
            async fn find(&self, _: KeyId) -> Result<Option<KeyRecord>, StoreError> {
                Ok(None)
            }
        }
        assert!(Plain.changes().is_none());
        assert!(Arc::new(Plain).changes().is_none());
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

//! What the request path and what administration need of a store.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::audit::{AuditEntry, AuditQuery};
use super::cache::KeyCache;
use super::error::StoreError;
use super::invalidation::InvalidationFeed;
use super::query::KeyQuery;
use super::record::{Key, KeyChange, KeyRecord, Rotation};
use super::update::KeyUpdate;
use crate::id::KeyId;
use crate::page::Page;

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
    /// The record with this id, whatever its status, [without](KeyRecord::redacted) its sealed secret;
    /// `None` if there is none.
    ///
    /// # Errors
    ///
    /// When the store cannot tell. "Not there" is an answer, not an error.
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError>;

    /// Where the store tells of keys that were changed through it, so that caches in this process
    /// drop them at once. Without it, a change is seen within a cache's time to live.
    fn invalidations(&self) -> Option<&InvalidationFeed> {
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
        self.change(id, KeyChange::Revoke { revoked_at: at }).await
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

macro_rules! forward_to_pointee {
    ($($pointer:ident),*) => {$(
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: KeyStore + ?Sized> KeyStore for $pointer<S> {
            async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
                (**self).find(id).await
            }

            fn invalidations(&self) -> Option<&InvalidationFeed> {
                (**self).invalidations()
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
    fn a_store_announces_nothing_unless_it_says_so() {
        struct Plain;
        #[async_trait]
        impl KeyStore for Plain {
            async fn find(&self, _: KeyId) -> Result<Option<KeyRecord>, StoreError> {
                Ok(None)
            }
        }
        assert!(Plain.invalidations().is_none());
        assert!(Arc::new(Plain).invalidations().is_none());
    }
}

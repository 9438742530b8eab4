//! Store traits: [`KeyStore`] for lookups on the request path and [`KeyAdmin`] for administration.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::audit::{Actor, AuditLog};
use super::cache::KeyCache;
use super::error::StoreError;
use super::invalidation::InvalidationFeed;
use super::owner_admin::OwnerAdmin;
use super::query::KeyQuery;
use super::record::{Key, KeyChange, KeyRecord, Rotation};
use super::update::KeyUpdate;
use crate::id::KeyId;
use crate::page::{Page, PageRequest};
use crate::text::contains_ignoring_case;

/// A store of keys that the request path looks up.
///
/// Implement with `#[async_trait]` (re-exported as `keytally::async_trait`). Only [`find`](Self::find) is
/// required.
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
    /// The record with this id, whatever its status, and [without](KeyRecord::redacted) its encrypted secret.
    /// `None` if there is no such key.
    ///
    /// # Errors
    ///
    /// Returns an error if the lookup fails. A missing key is `Ok(None)`, not an error.
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError>;

    /// The feed on which the store announces changed keys, so that caches in this process evict them immediately.
    /// `None` by default: caches then notice changes within their TTL.
    fn invalidations(&self) -> Option<&InvalidationFeed> {
        None
    }

    /// The cache in front of this store, if it has one. A layer shares it instead of creating another. `None` by
    /// default.
    fn cache(&self) -> Option<&KeyCache> {
        None
    }
}

/// A store in which keys can be administered.
///
/// Every change has an [`Actor`], which a store with an [audit log](Self::audit_log) records.
///
/// Implement with `#[async_trait]` (re-exported as `keytally::async_trait`). `create`, `list`, `change`, `rotate`
/// and `delete` are required; a store with an audit log also implements `audit_log` and, for encrypted secrets,
/// `reveal`; one with owners and plans `owner_admin`. The test suite in `keytally::conformance` verifies an implementation.
#[async_trait]
pub trait KeyAdmin: KeyStore {
    /// Creates a key, with times [in whole microseconds](KeyRecord::in_whole_micros). Never overwrites an existing
    /// key.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] if the id exists; [`StoreError::Invalid`] if a field is [out of
    /// bounds](KeyRecord::validate); [`StoreError::PlanNotFound`] if the key has a plan that does not exist;
    /// [`StoreError::SecretsNotSupported`] if the record has an encrypted secret and the store does not support them.
    async fn create(&self, record: KeyRecord, actor: Actor<'_>) -> Result<(), StoreError>;

    /// Creates several keys. Returns the ids that already existed, or occur again in `records`; their keys are
    /// left unchanged. By default, keys are
    /// created one by one, so that an error may leave some of them created; the backends use one transaction.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create), except for [`StoreError::Conflict`].
    async fn create_all(
        &self,
        records: Vec<KeyRecord>,
        actor: Actor<'_>,
    ) -> Result<Vec<KeyId>, StoreError> {
        let mut existing = Vec::new();
        for record in records {
            let id = record.key.id;
            match self.create(record, actor).await {
                Err(StoreError::Conflict(_)) => existing.push(id),
                created => created?,
            }
        }
        Ok(existing)
    }

    /// Lists keys, newest first.
    ///
    /// # Errors
    ///
    /// [`StoreError::Page`] if the page token is invalid.
    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError>;

    /// The owners of keys whose name contains this text, ignoring case; all of them if it is empty. Sorted by name,
    /// at most `limit`.
    ///
    /// By default, this [lists](Self::list) the newest 10,000 keys.
    ///
    /// # Errors
    ///
    /// Returns an error if the query fails.
    async fn owners(&self, contains: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        let mut owners = Vec::new();
        let mut query = KeyQuery::new().limit(PageRequest::MAX_LIMIT);
        for _ in 0..10 {
            let page = self.list(&query).await?;
            owners.extend(page.items.into_iter().filter_map(|key| key.owner));
            owners.sort_unstable();
            owners.dedup();
            match page.next {
                Some(next) => query = query.after(next),
                None => break,
            }
        }
        owners.retain(|owner| contains_ignoring_case(owner, contains));
        owners.truncate(limit);
        Ok(owners.into_iter().map(|owner| (*owner).into()).collect())
    }

    /// Changes a key atomically, by [`KeyRecord::apply`], and returns the changed key.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`]; [`StoreError::Invalid`] if a field would be out of bounds, and
    /// [`StoreError::PlanNotFound`] if the update names a plan that does not exist, with nothing changed.
    async fn change(
        &self,
        id: KeyId,
        change: KeyChange,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError>;

    /// Rotates a key atomically, by [`KeyRecord::rotate`], and returns the new key.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`]; [`StoreError::NotActive`] if the old key is not active; [`StoreError::Replaced`]
    /// if it has been replaced by a key that exists; [`StoreError::Conflict`] if the new id exists;
    /// [`StoreError::Invalid`] if the new hint or a time is out of bounds.
    async fn rotate(
        &self,
        id: KeyId,
        rotation: Rotation,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError>;

    /// Deletes the record of a key. Its usage and audit entries stay.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`].
    async fn delete(&self, id: KeyId, actor: Actor<'_>) -> Result<(), StoreError>;

    /// The key as currently stored, bypassing caches. `None` if there is no such key.
    ///
    /// # Errors
    ///
    /// Returns an error if the lookup fails.
    async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        Ok(self.find(id).await?.map(|record| record.key))
    }

    /// Updates the fields of a key.
    ///
    /// # Errors
    ///
    /// As [`change`](Self::change).
    async fn update(
        &self,
        id: KeyId,
        update: KeyUpdate,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        self.change(id, KeyChange::Update(Box::new(update)), actor)
            .await
    }

    /// Disables a key.
    ///
    /// # Errors
    ///
    /// As [`change`](Self::change).
    async fn disable(&self, id: KeyId, actor: Actor<'_>) -> Result<Key, StoreError> {
        self.change(id, KeyChange::Disable, actor).await
    }

    /// Enables a disabled key.
    ///
    /// # Errors
    ///
    /// As [`change`](Self::change).
    async fn enable(&self, id: KeyId, actor: Actor<'_>) -> Result<Key, StoreError> {
        self.change(id, KeyChange::Enable, actor).await
    }

    /// Revokes a key permanently and keeps its record. The time of revocation is that of the system clock, unless
    /// the store has its own [`Clock`](crate::Clock).
    ///
    /// # Errors
    ///
    /// As [`change`](Self::change).
    async fn revoke(&self, id: KeyId, actor: Actor<'_>) -> Result<Key, StoreError> {
        let at = Timestamp::now();
        self.change(id, KeyChange::Revoke { revoked_at: at }, actor)
            .await
    }

    /// The record of a [recoverable](Key::recoverable) key with its [encrypted
    /// secret](KeyRecord::encrypted_secret); `None` if the key is not recoverable. To decrypt it, call
    /// `Issuer::reveal` instead, which needs the vault of the application. Disabled and expired keys can be
    /// revealed, since they can be made active again.
    ///
    /// The record is returned only if an [audit log](Self::audit_log) entry is written in the same transaction. A store
    /// without an audit log therefore does not support encrypted secrets: it rejects them in
    /// [`create`](Self::create) and keeps this default implementation.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], if the store supports encrypted secrets.
    async fn reveal(&self, _id: KeyId, _actor: Actor<'_>) -> Result<Option<KeyRecord>, StoreError> {
        Ok(None)
    }

    /// The audit log of this store. `None` by default: changes are not recorded, and their actors are ignored.
    fn audit_log(&self) -> Option<&dyn AuditLog> {
        None
    }

    /// The owners and plans of this store. `None` by default: owners are names only, and plans have no effect unless lookups
    /// set the [policy](KeyRecord::policy).
    fn owner_admin(&self) -> Option<&dyn OwnerAdmin> {
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
            async fn create(&self, record: KeyRecord, actor: Actor<'_>) -> Result<(), StoreError> {
                (**self).create(record, actor).await
            }

            async fn create_all(&self, records: Vec<KeyRecord>, actor: Actor<'_>) -> Result<Vec<KeyId>, StoreError> {
                (**self).create_all(records, actor).await
            }

            async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
                (**self).list(query).await
            }

            async fn owners(&self, contains: &str, limit: usize) -> Result<Vec<String>, StoreError> {
                (**self).owners(contains, limit).await
            }

            async fn change(&self, id: KeyId, change: KeyChange, actor: Actor<'_>) -> Result<Key, StoreError> {
                (**self).change(id, change, actor).await
            }

            async fn rotate(&self, id: KeyId, rotation: Rotation, actor: Actor<'_>) -> Result<Key, StoreError> {
                (**self).rotate(id, rotation, actor).await
            }

            async fn delete(&self, id: KeyId, actor: Actor<'_>) -> Result<(), StoreError> {
                (**self).delete(id, actor).await
            }

            async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
                (**self).get(id).await
            }

            async fn update(&self, id: KeyId, update: KeyUpdate, actor: Actor<'_>) -> Result<Key, StoreError> {
                (**self).update(id, update, actor).await
            }

            async fn disable(&self, id: KeyId, actor: Actor<'_>) -> Result<Key, StoreError> {
                (**self).disable(id, actor).await
            }

            async fn enable(&self, id: KeyId, actor: Actor<'_>) -> Result<Key, StoreError> {
                (**self).enable(id, actor).await
            }

            async fn revoke(&self, id: KeyId, actor: Actor<'_>) -> Result<Key, StoreError> {
                (**self).revoke(id, actor).await
            }

            async fn reveal(&self, id: KeyId, actor: Actor<'_>) -> Result<Option<KeyRecord>, StoreError> {
                (**self).reveal(id, actor).await
            }

            fn audit_log(&self) -> Option<&dyn AuditLog> {
                (**self).audit_log()
            }

            fn owner_admin(&self) -> Option<&dyn OwnerAdmin> {
                (**self).owner_admin()
            }
        }
    )*};
}

forward_to_pointee!(Arc, Box);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_has_no_invalidation_feed_by_default() {
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

//! Key records and the operations on them.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::address::AddressList;
use super::digest::Digest;
use super::encrypted_secret::EncryptedSecret;
use super::error::{InvalidKey, StoreError, check_time};
use super::plan::Policy;
use super::status::KeyStatus;
use super::update::KeyUpdate;
use crate::id::KeyId;
use crate::limit::RateLimit;
use crate::page::whole_micros;

/// A key, without its secret and the digest of the secret.
///
/// Keys are created by an [`Issuer`](super::Issuer). A store with a schema of its own reconstructs them with
/// [`Key::new`] and sets the remaining fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Key {
    /// The key id: the public part of the secret.
    pub id: KeyId,
    /// A human-readable name, such as "Zapier integration".
    pub name: String,
    /// The owner, as an identifier of the application.
    pub owner: Option<Arc<str>>,
    /// A tag such as `live` or `test`.
    pub environment: Option<String>,
    /// The scopes granted to the key, as defined by the application.
    pub scopes: Vec<String>,
    /// The plan of this key, by its name. `None` by default: the plan of the owner applies.
    #[serde(default)]
    pub plan: Option<Arc<str>>,
    /// Rate limits of this key. If empty, those of the plan apply, or else those of the owner's plan, or else the defaults of
    /// the layer.
    pub limits: Vec<RateLimit>,
    /// Networks from which the key is accepted. If empty, it is accepted from everywhere.
    pub addresses: AddressList,
    /// Additional data of the application.
    pub metadata: Map<String, Value>,
    /// When the key was created.
    #[serde(alias = "created")]
    pub created_at: Timestamp,
    /// When the key expires. `None` if it does not expire.
    #[serde(alias = "expires")]
    pub expires_at: Option<Timestamp>,
    /// Whether the key is disabled. A disabled key can be enabled again.
    pub disabled: bool,
    /// When the key was revoked. Revocation is permanent.
    #[serde(alias = "revoked")]
    pub revoked_at: Option<Timestamp>,
    /// The key that this key replaced in a rotation.
    pub rotated_from: Option<KeyId>,
    /// The key that replaced this one in a rotation. It may have been deleted since.
    #[serde(default)]
    pub replaced_by: Option<KeyId>,
    /// The first key of the chain of rotations; the id of the key itself if it was not rotated. Rate limit usage
    /// is kept under this id, so that rotated keys share it.
    #[serde(alias = "line")]
    pub lineage: KeyId,
    /// The time of the first accepted request: one that was not
    /// [rejected](crate::usage::UsageEvent::rejection_reason) by the layer. `None` if there was none, or if it is
    /// unknown: if the key was imported with a last one, or comes from a version of this crate that did not record it.
    #[serde(default)]
    pub first_accepted_at: Option<Timestamp>,
    /// The time of the last request that was accepted, as of the usage written so far. Never later than the time of
    /// the write.
    #[serde(alias = "last_used", alias = "last_used_at")]
    pub last_accepted_at: Option<Timestamp>,
    /// The number of rejected requests that arrived later than [`last_accepted_at`](Self::last_accepted_at), or of all
    /// rejected requests if none was accepted. Only requests that
    /// are recorded for the key count, not those with a wrong secret.
    ///
    /// The number is exact in whatever order requests are written, as long as they were rejected at up to 32 different
    /// times since. Of more, older times are grouped, and an accepted request that is written after requests that
    /// arrived later divides a group in proportion.
    #[serde(default)]
    pub rejected_since: u64,
    /// The recognizable beginning of the secret: `acme_live_3fK9…`.
    pub hint: String,
    /// Whether the encrypted secret is stored, so that it can be [revealed](super::KeyAdmin::reveal). Revocation
    /// resets it; expiry does not, because the expiry can be extended.
    #[serde(default)]
    pub recoverable: bool,
    /// Whether the secret was issued by another system and [imported](super::Issuer::import). The key that replaces
    /// it in a rotation is not imported.
    #[serde(default)]
    pub imported: bool,
}

impl Key {
    /// Creates an active key without scopes, limits or expiry. Its lineage starts with itself.
    ///
    /// ```
    /// use keytally::key::Key;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let created = "2026-11-01T10:00:00Z".parse()?;
    /// let mut key = Key::new("3fK9aB0000zzZZ19".parse()?, "Zapier integration", created);
    /// key.owner = Some("customer-17".into());
    /// assert_eq!(key.hint, "3fK9…");
    /// # Ok(()) }
    /// ```
    pub fn new(id: KeyId, name: impl Into<String>, created: Timestamp) -> Self {
        Self {
            id,
            name: name.into(),
            owner: None,
            environment: None,
            scopes: Vec::new(),
            plan: None,
            limits: Vec::new(),
            addresses: AddressList::default(),
            metadata: Map::new(),
            created_at: whole_micros(created),
            expires_at: None,
            disabled: false,
            revoked_at: None,
            rotated_from: None,
            lineage: id,
            replaced_by: None,
            first_accepted_at: None,
            last_accepted_at: None,
            rejected_since: 0,
            hint: format!("{}…", &id.as_str()[..4]),
            recoverable: false,
            imported: false,
        }
    }

    /// The status at a point in time. Revoked takes precedence over expired, and expired over disabled.
    pub fn status(&self, at: Timestamp) -> KeyStatus {
        if self.revoked_at.is_some() {
            KeyStatus::Revoked
        } else if self.expires_at.is_some_and(|end| end <= at) {
            KeyStatus::Expired
        } else if self.disabled {
            KeyStatus::Disabled
        } else {
            KeyStatus::Active
        }
    }

    /// Whether the key has a scope. A scope of the key that ends with `:*` includes all scopes that begin with the text
    /// before the `*`, and `*` includes all scopes. Other comparisons are exact.
    ///
    /// ```
    /// use keytally::key::Key;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let created = "2026-11-01T10:00:00Z".parse()?;
    /// let mut key = Key::new("3fK9aB0000zzZZ19".parse()?, "Zapier integration", created);
    /// key.scopes = vec!["postings:*".into(), "report".into()];
    /// assert!(key.has_scope("postings:write") && key.has_scope("postings:drafts:read"));
    /// assert!(!key.has_scope("postings") && !key.has_scope("reports"));
    /// # Ok(()) }
    /// ```
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|own| match own.strip_suffix('*') {
            Some(prefix) if prefix.is_empty() || prefix.ends_with(':') => scope.starts_with(prefix),
            _ => own == scope,
        })
    }
}

/// A key and the digest of its secret, as held by a store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The key.
    pub key: Key,
    /// The digest of its secret.
    pub digest: Digest,
    /// The limits and the status that the key has from its plan and its owner. Lookups resolve it; stores ignore it in
    /// records that are created. The default in stores without plans and owners.
    #[serde(default, skip_serializing_if = "Policy::is_empty")]
    pub policy: Policy,
    /// The encrypted secret of a [recoverable](Key::recoverable) key. Present only in records passed to
    /// [`create`](super::KeyAdmin::create) or returned by [`reveal`](super::KeyAdmin::reveal); lookups do not load
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_secret: Option<EncryptedSecret>,
}

/// A change to a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KeyChange {
    /// Sets fields to new values.
    Update(Box<KeyUpdate>),
    /// Disables the key.
    Disable,
    /// Enables the key. Has no effect on a revoked or expired key.
    Enable,
    /// Revokes the key permanently. If it is already revoked, the first time is kept.
    Revoke {
        /// When the key was revoked.
        revoked_at: Timestamp,
    },
    /// Replaces the digest of the secret by another digest of the same secret. Has no effect if the key has another
    /// digest than `from`.
    Rehash {
        /// The previous digest.
        from: Digest,
        /// The new digest.
        to: Digest,
    },
}

/// The replacement for a key in a rotation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rotation {
    /// The id of the new key.
    pub id: KeyId,
    /// The digest of the new secret.
    pub digest: Digest,
    /// The hint of the new secret.
    pub hint: String,
    /// The encrypted new secret. Ignored unless the old key is recoverable. If `None`, the new key is not
    /// recoverable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_secret: Option<EncryptedSecret>,
    /// When the rotation takes place.
    pub rotated_at: Timestamp,
    /// When the old key expires, unless it expires earlier on its own.
    pub old_expires_at: Timestamp,
}

impl KeyRecord {
    /// A record without policy and encrypted secret.
    pub fn new(key: Key, digest: Digest) -> Self {
        Self {
            key,
            digest,
            policy: Policy::default(),
            encrypted_secret: None,
        }
    }

    /// Checks that every field is within its bounds and that `recoverable` matches the encrypted secret. A store
    /// calls this before it creates a record.
    ///
    /// # Errors
    ///
    /// The first violation found.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        let Key {
            recoverable,
            revoked_at: revoked,
            ..
        } = self.key;
        if recoverable != self.encrypted_secret.is_some() || (recoverable && revoked.is_some()) {
            return Err(InvalidKey::Recoverable);
        }
        self.key.validate()
    }

    /// The record without the encrypted secret, as returned by lookups.
    #[must_use]
    pub fn redacted(&self) -> Self {
        Self {
            policy: self.policy.clone(),
            ..Self::new(self.key.clone(), self.digest.clone())
        }
    }

    /// The record with every time truncated to whole microseconds, as stores hold it.
    #[must_use]
    pub fn in_whole_micros(mut self) -> Self {
        let key = &mut self.key;
        key.created_at = whole_micros(key.created_at);
        key.expires_at = key.expires_at.map(whole_micros);
        key.revoked_at = key.revoked_at.map(whole_micros);
        key.first_accepted_at = key.first_accepted_at.map(whole_micros);
        key.last_accepted_at = key.last_accepted_at.map(whole_micros);
        self
    }

    /// Applies a change. A store calls this between reading a record and writing it back. Revocation removes the
    /// encrypted secret, which the store has to delete as well.
    ///
    /// # Errors
    ///
    /// Returns an error if a field would be out of bounds. The record is unchanged then.
    pub fn apply(&mut self, change: &KeyChange) -> Result<(), InvalidKey> {
        match change {
            KeyChange::Update(update) => {
                let mut key = self.key.clone();
                let update = (**update).clone();
                set(&mut key.name, update.name);
                set(&mut key.owner, update.owner);
                set(&mut key.plan, update.plan);
                set(&mut key.environment, update.environment);
                set(&mut key.scopes, update.scopes);
                set(&mut key.limits, update.limits);
                set(&mut key.addresses, update.addresses);
                set(&mut key.metadata, update.metadata);
                set(&mut key.expires_at, update.expires_at);
                key.validate()?;
                key.expires_at = key.expires_at.map(whole_micros);
                self.key = key;
            }
            KeyChange::Disable => self.key.disabled = true,
            KeyChange::Enable => self.key.disabled = false,
            KeyChange::Revoke { revoked_at: at } => {
                // Checks nothing else: a key must be revocable even if another field is out of bounds.
                check_time(*at)?;
                self.key.revoked_at.get_or_insert(whole_micros(*at));
                self.key.recoverable = false;
                self.encrypted_secret = None;
            }
            KeyChange::Rehash { from, to } => {
                if self.digest == *from {
                    self.digest = to.clone();
                }
            }
        }
        Ok(())
    }

    /// Applies a rotation: sets the expiry of this key and returns the record of its successor, which copies every
    /// field except id, hint, times and secret. The successor is recoverable if this key is and the rotation has
    /// an encrypted secret. The encrypted secret of this key stays until the key is revoked or deleted.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotActive`] if the key is not active; [`StoreError::Replaced`] if it has been replaced: stores first
    /// reset `replaced_by` if that key has been deleted; [`StoreError::Invalid`] if the new hint or a time is out of bounds.
    /// The record is unchanged then.
    pub fn rotate(&mut self, rotation: &Rotation) -> Result<Self, StoreError> {
        let status = self.key.status(rotation.rotated_at);
        if status != KeyStatus::Active {
            let id = self.key.id;
            return Err(StoreError::NotActive { id, status });
        }
        if let Some(replaced_by) = self.key.replaced_by {
            let id = self.key.id;
            return Err(StoreError::Replaced { id, replaced_by });
        }
        let encrypted_secret = rotation
            .encrypted_secret
            .clone()
            .filter(|_| self.key.recoverable);
        let mut key = Key {
            id: rotation.id,
            hint: rotation.hint.clone(),
            created_at: rotation.rotated_at,
            rotated_from: Some(self.key.id),
            replaced_by: None,
            first_accepted_at: None,
            last_accepted_at: None,
            rejected_since: 0,
            recoverable: encrypted_secret.is_some(),
            imported: false,
            ..self.key.clone()
        };
        key.validate()?;
        key.created_at = whole_micros(key.created_at);
        let old_expires = rotation.old_expires_at;
        check_time(old_expires).map_err(StoreError::Invalid)?;
        let old_expires = whole_micros(old_expires);
        let expires_at = self
            .key
            .expires_at
            .map_or(old_expires, |expires_at| expires_at.min(old_expires));
        self.key.expires_at = Some(expires_at);
        self.key.replaced_by = Some(rotation.id);
        Ok(Self {
            encrypted_secret,
            ..Self::new(key, rotation.digest.clone())
        })
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revoked_precedes_expired_and_expired_precedes_disabled() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut key = Key::new("3fK9aB0000zzZZ19".parse().unwrap(), "test", at(0));
        key.scopes = vec!["read".into()];
        assert!(key.has_scope("read") && !key.has_scope("rea") && !key.has_scope("write"));
        key.scopes = vec!["a:*".into(), "b*".into(), "c:*:d".into()];
        for scope in ["a:", "a:b", "a:*", "a:b:c", "b*", "c:*:d"] {
            assert!(key.has_scope(scope), "{scope}");
        }
        for scope in ["a", "ab:c", "A:b", "", "b", "bc", "c:x:d", "*"] {
            assert!(!key.has_scope(scope), "{scope}");
        }
        key.scopes = vec!["*".into()];
        assert!(key.has_scope("a:b") && key.has_scope("*"));
        assert_eq!(key.status(at(7)), KeyStatus::Active);
        key.disabled = true;
        assert_eq!(key.status(at(7)), KeyStatus::Disabled);
        key.expires_at = Some(at(7));
        assert_eq!(key.status(at(6)), KeyStatus::Disabled);
        assert_eq!(key.status(at(7)), KeyStatus::Expired);
        key.revoked_at = Some(at(5));
        assert_eq!(key.status(at(7)), KeyStatus::Revoked);
        for status in KeyStatus::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
            assert_eq!(format!("{status:>9}"), format!("{:>9}", status.as_str()));
        }
    }

    #[test]
    fn rotation_copies_all_fields_except_id_hint_secret_and_times() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let key = Key {
            owner: Some("acme".into()),
            plan: Some("pro".into()),
            scopes: vec!["read".into()],
            last_accepted_at: Some(at(3)),
            expires_at: Some(at(100)),
            ..Key::new("3fK9aB0000zzZZ19".parse().unwrap(), "test", at(0))
        };
        let mut old = KeyRecord::new(key, Digest::sha256(b"old"));
        let before = old.clone();
        let rotation = Rotation {
            id: "3fK9aB0000zzZZ20".parse().unwrap(),
            digest: Digest::sha256(b"new"),
            hint: "acme_3fK9…".into(),
            encrypted_secret: None,
            rotated_at: at(7),
            old_expires_at: at(9),
        };
        let new = old.rotate(&rotation).unwrap();
        let expected = Key {
            id: rotation.id,
            hint: rotation.hint.clone(),
            created_at: at(7),
            rotated_from: Some(before.key.id),
            last_accepted_at: None,
            ..before.key.clone()
        };
        assert_eq!((new.key, new.digest), (expected, rotation.digest));
        let expiring = Key {
            expires_at: Some(at(9)),
            replaced_by: Some(rotation.id),
            ..before.key
        };
        assert_eq!((old.key, old.digest), (expiring, before.digest));
    }

    #[test]
    fn out_of_bounds_times_are_rejected_without_changes() {
        let before = Timestamp::MIN;
        let (now, id) = (Timestamp::UNIX_EPOCH, "3fK9aB0000zzZZ19".parse().unwrap());
        let digest = Digest::sha256(b"");
        let record = KeyRecord::new(Key::new(id, "test", now), digest.clone());
        let mut changed = record.clone();
        let update = KeyUpdate::new().expires_at(Some(before));
        for change in [
            KeyChange::Update(Box::new(update)),
            KeyChange::Revoke { revoked_at: before },
        ] {
            assert_eq!(changed.apply(&change), Err(InvalidKey::Time), "{change:?}");
        }
        for (at, old_expires) in [(before, now), (now, before)] {
            let rotation = Rotation {
                id: "3fK9aB0000zzZZ20".parse().unwrap(),
                digest: digest.clone(),
                hint: String::new(),
                encrypted_secret: None,
                rotated_at: at,
                old_expires_at: old_expires,
            };
            let error = changed.rotate(&rotation).unwrap_err();
            assert!(matches!(error, StoreError::Invalid(InvalidKey::Time)));
        }
        assert_eq!(changed, record);
        // Revocation does not check the other fields.
        changed.key.last_accepted_at = Some(before);
        changed
            .apply(&KeyChange::Revoke { revoked_at: now })
            .unwrap();
        assert_eq!(changed.key.revoked_at, Some(now));
    }

    #[test]
    fn rotation_round_trips_through_json() {
        let now = Timestamp::UNIX_EPOCH;
        let rotation = Rotation {
            id: "3fK9aB0000zzZZ19".parse().unwrap(),
            digest: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
            hint: "acme_3fK9…".into(),
            encrypted_secret: Some(EncryptedSecret::from_bytes([1, 2])),
            rotated_at: now,
            old_expires_at: now,
        };
        let json = serde_json::to_string(&rotation).unwrap();
        assert_eq!(serde_json::from_str::<Rotation>(&json).unwrap(), rotation);
    }

    /// The record of a recoverable key, and a rotation of it.
    fn recoverable() -> (KeyRecord, Rotation) {
        let now = Timestamp::UNIX_EPOCH;
        let digest = Digest::sha256(b"");
        let record = KeyRecord {
            key: Key {
                recoverable: true,
                ..Key::new("3fK9aB0000zzZZ19".parse().unwrap(), "test", now)
            },
            digest: digest.clone(),
            policy: Policy::default(),
            encrypted_secret: Some(EncryptedSecret::from_bytes([1])),
        };
        let rotation = Rotation {
            id: "3fK9aB0000zzZZ20".parse().unwrap(),
            digest,
            hint: String::new(),
            encrypted_secret: Some(EncryptedSecret::from_bytes([2])),
            rotated_at: now,
            old_expires_at: now,
        };
        (record, rotation)
    }

    #[test]
    fn recoverable_requires_an_encrypted_secret_and_no_revocation() {
        let (record, _) = recoverable();
        assert_eq!(record.validate(), Ok(()));
        let without = record.redacted();
        assert_eq!(
            (&without.key, &without.encrypted_secret),
            (&record.key, &None)
        );
        let mut undeclared = record.clone();
        undeclared.key.recoverable = false;
        let mut revoked = record;
        revoked.key.revoked_at = Some(Timestamp::UNIX_EPOCH);
        for wrong in [without, undeclared, revoked] {
            assert_eq!(wrong.validate(), Err(InvalidKey::Recoverable), "{wrong:?}");
        }
    }

    #[test]
    fn revocation_removes_the_encrypted_secret() {
        let (mut record, _) = recoverable();
        let at = Timestamp::UNIX_EPOCH;
        record.apply(&KeyChange::Disable).unwrap();
        assert!(record.key.recoverable && record.encrypted_secret.is_some());
        record.apply(&KeyChange::Revoke { revoked_at: at }).unwrap();
        assert_eq!(record.validate(), Ok(()));
        assert!(!record.key.recoverable && record.encrypted_secret.is_none());
    }

    #[test]
    fn successor_is_recoverable_if_the_old_key_is_and_its_secret_is_encrypted() {
        let (record, rotation) = recoverable();
        // As returned by a lookup, without the encrypted secret.
        let mut old = record.redacted();
        let new = old.rotate(&rotation).unwrap();
        assert_eq!(new.validate(), Ok(()));
        assert_eq!(new.encrypted_secret, rotation.encrypted_secret);
        assert!(old.key.recoverable);

        let unencrypted = Rotation {
            encrypted_secret: None,
            ..rotation.clone()
        };
        let new = record.clone().rotate(&unencrypted).unwrap();
        assert!(!new.key.recoverable && new.encrypted_secret.is_none());

        let mut plain = record.redacted();
        plain.key.recoverable = false;
        let new = plain.rotate(&rotation).unwrap();
        assert!(!new.key.recoverable && new.encrypted_secret.is_none());
    }
}

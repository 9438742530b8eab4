//! The record of a key, and what can be changed about it.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::address::AddressList;
use super::digest::Digest;
use super::encrypted_secret::EncryptedSecret;
use super::error::{InvalidKey, StoreError, within_bounds};
use super::status::KeyStatus;
use super::update::KeyUpdate;
use crate::id::KeyId;
use crate::limit::RateLimit;
use crate::page::whole_micros;

/// A key: all there is to know about it but its secret and the secret's digest.
///
/// An [`Issuer`](super::Issuer) makes keys. A store that keeps them in columns of its own builds them
/// again from [`Key::new`], and sets the other fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Key {
    /// The public part of its secret.
    pub id: KeyId,
    /// What people call it: "Zapier integration".
    pub name: String,
    /// Whoever it belongs to, in the application's own terms.
    pub owner: Option<Arc<str>>,
    /// A tag such as `live` or `test`.
    pub environment: Option<String>,
    /// What it may do, in the application's own terms.
    pub scopes: Vec<String>,
    /// Its own rate limits; without any, the layer's defaults hold.
    pub limits: Vec<RateLimit>,
    /// From where it may be used; everywhere if empty.
    pub addresses: AddressList,
    /// Whatever else the application keeps with it.
    pub metadata: Map<String, Value>,
    /// When it was issued.
    #[serde(alias = "created")]
    pub created_at: Timestamp,
    /// From when on it no longer works.
    #[serde(alias = "expires")]
    pub expires_at: Option<Timestamp>,
    /// Whether it is switched off for now.
    pub disabled: bool,
    /// When it was revoked, for good.
    #[serde(alias = "revoked")]
    pub revoked_at: Option<Timestamp>,
    /// The key that it took over from.
    pub rotated_from: Option<KeyId>,
    /// The first key of its line: itself, or where its rotations began. What is spent of rate
    /// limits is kept under this id.
    #[serde(alias = "line")]
    pub lineage: KeyId,
    /// When it was last used, as far as the usage written so far tells. Databases let no use be later than
    /// the time at which it was written.
    #[serde(alias = "last_used")]
    pub last_used_at: Option<Timestamp>,
    /// What people recognize its secret by: `acme_live_3fK9…`.
    pub hint: String,
    /// Whether its secret is kept, encrypted, and can be [read again](super::KeyAdmin::reveal). Ends with
    /// its revocation; an end of its time, which can be put off, does not change it.
    #[serde(default)]
    pub recoverable: bool,
}

impl Key {
    /// A key without limits, scopes or an end, the first of its line.
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
            limits: Vec::new(),
            addresses: AddressList::default(),
            metadata: Map::new(),
            created_at: whole_micros(created),
            expires_at: None,
            disabled: false,
            revoked_at: None,
            rotated_from: None,
            lineage: id,
            last_used_at: None,
            hint: format!("{}…", &id.as_str()[..4]),
            recoverable: false,
        }
    }

    /// Whether it works at this time; what is worse wins where several things hold.
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

    /// Whether it has a scope.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|own| own == scope)
    }
}

/// A key with the digest of its secret: what a store keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The key.
    pub key: Key,
    /// The digest of its secret.
    pub digest: Digest,
    /// Its secret, encrypted, where the key is [recoverable](Key::recoverable) and the record was given to
    /// [`create`](super::KeyAdmin::create) or comes from [`reveal`](super::KeyAdmin::reveal). Not there in
    /// any other record: who looks a key up has no need of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_secret: Option<EncryptedSecret>,
}

/// A change to one key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KeyChange {
    /// Other values for its fields.
    Update(Box<KeyUpdate>),
    /// Switches it off.
    Disable,
    /// Switches it on again; does not bring back a revoked or expired key.
    Enable,
    /// Ends it for good; the first time counts.
    Revoke {
        /// When it was revoked.
        revoked_at: Timestamp,
    },
}

/// What a rotation puts in a key's place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rotation {
    /// The new key's id.
    pub id: KeyId,
    /// The new secret's digest.
    pub digest: Digest,
    /// The new secret's hint.
    pub hint: String,
    /// The new secret, encrypted; for a successor to be recoverable where the old key is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<EncryptedSecret>,
    /// When it happens.
    pub rotated_at: Timestamp,
    /// Until when the old key goes on working; an earlier end of its own stays.
    pub old_expires_at: Timestamp,
}

impl KeyRecord {
    /// Whether every field is within its bounds, as those of a record that is to be created are.
    ///
    /// # Errors
    ///
    /// The first bound that is broken.
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

    /// The record without the sealed secret: what looking a key up answers.
    #[must_use]
    pub fn redacted(&self) -> Self {
        Self {
            key: self.key.clone(),
            digest: self.digest.clone(),
            encrypted_secret: None,
        }
    }

    /// The record as a store keeps it: every time cut to whole microseconds.
    #[must_use]
    pub fn in_whole_micros(mut self) -> Self {
        let key = &mut self.key;
        key.created_at = whole_micros(key.created_at);
        key.expires_at = key.expires_at.map(whole_micros);
        key.revoked_at = key.revoked_at.map(whole_micros);
        key.last_used_at = key.last_used_at.map(whole_micros);
        self
    }

    /// Carries out a change: what every store does between reading a record and writing it back. A key
    /// that is revoked is not recoverable any more: its sealed secret goes, from the store too.
    ///
    /// # Errors
    ///
    /// When a field would be out of bounds; the record is then as it was.
    pub fn apply(&mut self, change: &KeyChange) -> Result<(), InvalidKey> {
        match change {
            KeyChange::Update(update) => {
                let mut key = self.key.clone();
                let update = (**update).clone();
                set(&mut key.name, update.name);
                set(&mut key.owner, update.owner);
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
                // That alone: nothing else about a key may stand in the way of its revocation.
                within_bounds(*at)?;
                self.key.revoked_at.get_or_insert(whole_micros(*at));
                self.key.recoverable = false;
                self.encrypted_secret = None;
            }
        }
        Ok(())
    }

    /// Carries out a rotation: ends this key after its grace and answers the record that takes
    /// over, with everything the old one had but its secret. That one is kept, too, only where the old
    /// one is, and the rotation has it sealed. The old one's stays until its key is revoked or deleted.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unusable`] when the key does not work any more, [`StoreError::Invalid`] when the
    /// new one's hint or a time is out of bounds; the record is then as it was.
    pub fn rotate(&mut self, rotation: &Rotation) -> Result<Self, StoreError> {
        let status = self.key.status(rotation.rotated_at);
        if status != KeyStatus::Active {
            let id = self.key.id;
            return Err(StoreError::Unusable { id, status });
        }
        let sealed = rotation.sealed.clone().filter(|_| self.key.recoverable);
        let mut key = Key {
            id: rotation.id,
            hint: rotation.hint.clone(),
            created_at: rotation.rotated_at,
            rotated_from: Some(self.key.id),
            last_used_at: None,
            recoverable: sealed.is_some(),
            ..self.key.clone()
        };
        key.validate()?;
        key.created_at = whole_micros(key.created_at);
        let old_expires = rotation.old_expires_at;
        within_bounds(old_expires).map_err(StoreError::Invalid)?;
        let old_expires = whole_micros(old_expires);
        let end = self
            .key
            .expires_at
            .map_or(old_expires, |end| end.min(old_expires));
        self.key.expires_at = Some(end);
        Ok(Self {
            key,
            digest: rotation.digest.clone(),
            encrypted_secret: sealed,
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
    fn what_is_worse_wins() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut key = Key::new("3fK9aB0000zzZZ19".parse().unwrap(), "test", at(0));
        key.scopes = vec!["read".into()];
        assert!(key.has_scope("read") && !key.has_scope("rea") && !key.has_scope("write"));
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
    fn a_successor_has_all_but_what_is_its_own() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut old = KeyRecord {
            key: Key {
                owner: Some("acme".into()),
                scopes: vec!["read".into()],
                last_used_at: Some(at(3)),
                expires_at: Some(at(100)),
                ..Key::new("3fK9aB0000zzZZ19".parse().unwrap(), "test", at(0))
            },
            digest: Digest::sha256(b"old"),
            encrypted_secret: None,
        };
        let before = old.clone();
        let rotation = Rotation {
            id: "3fK9aB0000zzZZ20".parse().unwrap(),
            digest: Digest::sha256(b"new"),
            hint: "acme_3fK9…".into(),
            sealed: None,
            rotated_at: at(7),
            old_expires_at: at(9),
        };
        let new = old.rotate(&rotation).unwrap();
        let expected = Key {
            id: rotation.id,
            hint: rotation.hint.clone(),
            created_at: at(7),
            rotated_from: Some(before.key.id),
            last_used_at: None,
            ..before.key.clone()
        };
        assert_eq!((new.key, new.digest), (expected, rotation.digest));
        let ending = Key {
            expires_at: Some(at(9)),
            ..before.key
        };
        assert_eq!((old.key, old.digest), (ending, before.digest));
    }

    #[test]
    fn no_change_brings_in_a_time_out_of_bounds() {
        let before = Timestamp::MIN;
        let (now, id) = (Timestamp::UNIX_EPOCH, "3fK9aB0000zzZZ19".parse().unwrap());
        let digest = Digest::sha256(b"");
        let record = KeyRecord {
            key: Key::new(id, "test", now),
            digest: digest.clone(),
            encrypted_secret: None,
        };
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
                sealed: None,
                rotated_at: at,
                old_expires_at: old_expires,
            };
            let error = changed.rotate(&rotation).unwrap_err();
            assert!(matches!(error, StoreError::Invalid(InvalidKey::Time)));
        }
        assert_eq!(changed, record);
        // A key that a bound of today would not let in can be revoked.
        changed.key.last_used_at = Some(before);
        changed
            .apply(&KeyChange::Revoke { revoked_at: now })
            .unwrap();
        assert_eq!(changed.key.revoked_at, Some(now));
    }

    #[test]
    fn a_rotation_round_trips_through_json() {
        let now = Timestamp::UNIX_EPOCH;
        let rotation = Rotation {
            id: "3fK9aB0000zzZZ19".parse().unwrap(),
            digest: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
            hint: "acme_3fK9…".into(),
            sealed: Some(EncryptedSecret::from_bytes([1, 2])),
            rotated_at: now,
            old_expires_at: now,
        };
        let json = serde_json::to_string(&rotation).unwrap();
        assert_eq!(serde_json::from_str::<Rotation>(&json).unwrap(), rotation);
    }

    /// A record of a key that is recoverable, and a rotation of it.
    fn recoverable() -> (KeyRecord, Rotation) {
        let now = Timestamp::UNIX_EPOCH;
        let digest = Digest::sha256(b"");
        let record = KeyRecord {
            key: Key {
                recoverable: true,
                ..Key::new("3fK9aB0000zzZZ19".parse().unwrap(), "test", now)
            },
            digest: digest.clone(),
            encrypted_secret: Some(EncryptedSecret::from_bytes([1])),
        };
        let rotation = Rotation {
            id: "3fK9aB0000zzZZ20".parse().unwrap(),
            digest,
            hint: String::new(),
            sealed: Some(EncryptedSecret::from_bytes([2])),
            rotated_at: now,
            old_expires_at: now,
        };
        (record, rotation)
    }

    #[test]
    fn a_key_is_recoverable_exactly_where_its_sealed_secret_is_kept() {
        let (record, _) = recoverable();
        assert_eq!(record.validate(), Ok(()));
        let without = record.redacted();
        assert_eq!(
            (&without.key, &without.encrypted_secret),
            (&record.key, &None)
        );
        let mut secretly = record.clone();
        secretly.key.recoverable = false;
        let mut revoked = record;
        revoked.key.revoked_at = Some(Timestamp::UNIX_EPOCH);
        for wrong in [without, secretly, revoked] {
            assert_eq!(wrong.validate(), Err(InvalidKey::Recoverable), "{wrong:?}");
        }
    }

    #[test]
    fn a_revoked_key_is_not_recoverable() {
        let (mut record, _) = recoverable();
        let at = Timestamp::UNIX_EPOCH;
        record.apply(&KeyChange::Disable).unwrap();
        assert!(record.key.recoverable && record.encrypted_secret.is_some());
        record.apply(&KeyChange::Revoke { revoked_at: at }).unwrap();
        assert_eq!(record.validate(), Ok(()));
        assert!(!record.key.recoverable && record.encrypted_secret.is_none());
    }

    #[test]
    fn a_successor_is_recoverable_where_the_old_key_is_and_its_secret_was_sealed() {
        let (record, rotation) = recoverable();
        // As looked up, without the old key's sealed secret.
        let mut old = record.redacted();
        let new = old.rotate(&rotation).unwrap();
        assert_eq!(new.validate(), Ok(()));
        assert_eq!(new.encrypted_secret, rotation.sealed);
        assert!(old.key.recoverable);

        let unsealed = Rotation {
            sealed: None,
            ..rotation.clone()
        };
        let new = record.clone().rotate(&unsealed).unwrap();
        assert!(!new.key.recoverable && new.encrypted_secret.is_none());

        let mut plain = record.redacted();
        plain.key.recoverable = false;
        let new = plain.rotate(&rotation).unwrap();
        assert!(!new.key.recoverable && new.encrypted_secret.is_none());
    }
}

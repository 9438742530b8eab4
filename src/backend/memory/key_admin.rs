//! Key administration in the in-memory backend.

use std::sync::PoisonError;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use super::backend::MemoryBackend;
use crate::id::KeyId;
use crate::key::{
    Actor, AuditEntry, AuditLog, AuditQuery, InvalidationFeed, Key, KeyAdmin, KeyChange, KeyQuery,
    KeyRecord, KeyStore, OwnerAdmin, Rotation, StoreError,
};
use crate::page::Page;

impl MemoryBackend {
    /// The time of a change, not before that of the change before.
    pub(super) fn time(&self) -> Timestamp {
        let now = self.shared.clock.now().timestamp();
        let last = self.shared.audited_at.lock();
        let mut last = last.unwrap_or_else(PoisonError::into_inner);
        *last = in_order(*last, now);
        *last
    }
}

/// The time of a change after that of another one. Each calibration of the clock may set it back by microseconds, which
/// must not reorder the audit log. Later times than that are of a clock that was ahead.
fn in_order(last: Timestamp, now: Timestamp) -> Timestamp {
    match now < last && last.duration_since(now) < SignedDuration::from_secs(1) {
        true => last,
        false => now,
    }
}

#[async_trait]
impl KeyStore for MemoryBackend {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let keys = self.keys();
        Ok(keys.records.get(&id).map(|record| KeyRecord {
            policy: keys.owners.policy(&record.key),
            ..record.redacted()
        }))
    }

    fn invalidations(&self) -> Option<&InvalidationFeed> {
        Some(&self.shared.changes)
    }
}

#[async_trait]
impl KeyAdmin for MemoryBackend {
    async fn create(&self, record: KeyRecord, actor: Actor<'_>) -> Result<(), StoreError> {
        let id = record.key.id;
        let existing = self.create_all(vec![record], actor).await?;
        match existing.is_empty() {
            true => Ok(()),
            false => Err(StoreError::Conflict(id)),
        }
    }

    async fn create_all(
        &self,
        records: Vec<KeyRecord>,
        actor: Actor<'_>,
    ) -> Result<Vec<KeyId>, StoreError> {
        let (mut created, mut existing) = (Vec::new(), Vec::new());
        {
            let mut keys = self.keys();
            records.iter().try_for_each(|record| keys.check(record))?;
            for record in records {
                let id = record.key.id;
                match keys.insert(record, self.time()) {
                    Ok(key) => {
                        let entry = AuditEntry::created(actor, key, self.time());
                        keys.audit.add(entry);
                        created.push(id);
                    }
                    Err(StoreError::Conflict(_)) => existing.push(id),
                    Err(error) => return Err(error),
                }
            }
        }
        for id in created {
            self.shared.changes.publish(id);
        }
        Ok(existing)
    }

    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        self.keys().list(query)
    }

    async fn owners(&self, contains: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        Ok(self.keys().owners(contains, limit))
    }

    async fn change(
        &self,
        id: KeyId,
        change: KeyChange,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        let key = {
            let mut keys = self.keys();
            let record = keys.find(id)?;
            let before = record.key.clone();
            let mut changed = record.clone();
            changed.apply(&change)?;
            let key = changed.key.clone();
            keys.owners.check_plan(key.plan.as_ref())?;
            *keys.find(id)? = changed;
            keys.owners.add(key.owner.as_ref(), self.time());
            let entry = AuditEntry::changed(actor, &change, before, key.clone(), self.time());
            keys.audit.add(entry);
            key
        };
        self.shared.changes.publish(id);
        Ok(key)
    }

    async fn rotate(
        &self,
        id: KeyId,
        rotation: Rotation,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        let key = {
            let mut keys = self.keys();
            let mut old = keys.find(id)?.clone();
            if let Some(new) = old.key.replaced_by
                && !keys.records.contains_key(&new)
            {
                old.key.replaced_by = None;
            }
            let before = old.key.clone();
            let new = old.rotate(&rotation)?;
            let key = keys.insert(new, self.time())?;
            let after = old.key.clone();
            *keys.find(id)? = old;
            let entries = AuditEntry::rotated(actor, before, after, key.clone(), self.time());
            entries.into_iter().for_each(|entry| keys.audit.add(entry));
            key
        };
        self.shared.changes.publish(id);
        self.shared.changes.publish(key.id);
        Ok(key)
    }

    async fn delete(&self, id: KeyId, actor: Actor<'_>) -> Result<(), StoreError> {
        {
            let mut keys = self.keys();
            let removed = keys.records.remove(&id).ok_or(StoreError::NotFound(id))?;
            keys.order.remove(&(removed.key.created_at, id));
            keys.activity.remove(&id);
            let entry = AuditEntry::deleted(actor, removed.key, self.time());
            keys.audit.add(entry);
        }
        self.shared.changes.publish(id);
        Ok(())
    }

    async fn revoke(&self, id: KeyId, actor: Actor<'_>) -> Result<Key, StoreError> {
        let change = KeyChange::Revoke {
            revoked_at: self.time(),
        };
        self.change(id, change, actor).await
    }

    async fn reveal(&self, id: KeyId, actor: Actor<'_>) -> Result<Option<KeyRecord>, StoreError> {
        let mut keys = self.keys();
        let record = keys.find(id)?.clone();
        if record.encrypted_secret.is_none() {
            return Ok(None);
        }
        let entry = AuditEntry::revealed(actor, record.key.clone(), self.time());
        keys.audit.add(entry);
        Ok(Some(record))
    }

    fn audit_log(&self) -> Option<&dyn AuditLog> {
        let is_kept = self.keys().audit.is_kept();
        is_kept.then_some(self)
    }

    fn owner_admin(&self) -> Option<&dyn OwnerAdmin> {
        Some(self)
    }
}

#[async_trait]
impl AuditLog for MemoryBackend {
    async fn audit_entries(&self, query: &AuditQuery) -> Result<Page<AuditEntry>, StoreError> {
        self.keys().audit.page(query)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::MemoryConfig;
    use crate::clock::Clock;
    use crate::key::{AuditAction, EncryptedSecret, Issuer, NewKey};

    fn record() -> KeyRecord {
        let issuer = Issuer::new("t").unwrap();
        issuer.prepare(NewKey::new("test")).unwrap().1
    }

    #[tokio::test]
    async fn audit_log_keeps_the_newest_entries_by_the_backends_clock() {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let config = MemoryConfig::new().audit_capacity(3);
        let backend = MemoryBackend::with_clock(config, clock.clone());
        let record = record();
        let id = record.key.id;
        backend.create(record, Actor::SYSTEM).await.unwrap();
        for _ in 0..2 {
            backend.disable(id, Actor::SYSTEM).await.unwrap();
        }
        clock.advance(Duration::from_micros(1));
        backend.enable(id, Actor::SYSTEM).await.unwrap();
        let audit = backend.audit_entries(&AuditQuery::new()).await.unwrap();
        let entries: Vec<_> = audit
            .items
            .iter()
            .map(|entry| (entry.action, entry.time.as_microsecond()))
            .collect();
        let (on, off) = (AuditAction::Enabled, AuditAction::Disabled);
        assert_eq!(entries, [(on, 1), (off, 0), (off, 0)]);
    }

    #[test]
    fn calibration_of_the_clock_does_not_reorder_changes() {
        let [earlier, now] =
            [999_983, 1_000_000].map(|it| Timestamp::from_microsecond(it).unwrap());
        assert_eq!(in_order(now, earlier), now);
        assert_eq!(in_order(earlier, now), now);
        // An administrator has set the clock back.
        let later = now + SignedDuration::from_secs(1);
        assert_eq!(in_order(later, now), now);
    }

    #[tokio::test]
    async fn zero_audit_capacity_disables_audit_log_and_encrypted_secrets() {
        let backend = MemoryBackend::with_config(MemoryConfig::new().audit_capacity(0));
        backend.create(record(), Actor::SYSTEM).await.unwrap();
        assert!(backend.audit_log().is_none());
        let entries = backend.audit_entries(&AuditQuery::new()).await.unwrap();
        assert_eq!(entries.items, []);
        // Encrypted secrets are rejected, since revealing them could not be audited.
        let mut record = record();
        record.key.recoverable = true;
        record.encrypted_secret = Some(EncryptedSecret::from_bytes([1]));
        let result = backend.create(record.clone(), Actor::SYSTEM).await;
        assert!(matches!(result, Err(StoreError::SecretsNotSupported)));
        assert_eq!(backend.find(record.key.id).await.unwrap(), None);
    }
}

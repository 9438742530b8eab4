//! Key administration in the in-memory backend.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::backend::MemoryBackend;
use crate::id::KeyId;
use crate::key::{
    AuditEntry, AuditQuery, InvalidationFeed, Key, KeyAdmin, KeyChange, KeyQuery, KeyRecord,
    KeyStore, Rotation, StoreError,
};
use crate::page::Page;

impl MemoryBackend {
    fn actor(&self) -> Option<&str> {
        self.actor.as_deref()
    }

    fn time(&self) -> Timestamp {
        self.shared.clock.now().timestamp()
    }
}

#[async_trait]
impl KeyStore for MemoryBackend {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let keys = self.keys();
        Ok(keys.records.get(&id).map(KeyRecord::redacted))
    }

    fn invalidations(&self) -> Option<&InvalidationFeed> {
        Some(&self.shared.changes)
    }
}

#[async_trait]
impl KeyAdmin for MemoryBackend {
    async fn create(&self, record: KeyRecord) -> Result<(), StoreError> {
        let id = record.key.id;
        {
            let mut keys = self.keys();
            let key = keys.insert(record)?;
            let entry = AuditEntry::created(self.actor(), key, self.time());
            keys.audit.add(entry);
        }
        self.shared.changes.publish(id);
        Ok(())
    }

    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        self.keys().list(query)
    }

    async fn change(&self, id: KeyId, change: KeyChange) -> Result<Key, StoreError> {
        let key = {
            let mut keys = self.keys();
            let record = keys.find(id)?;
            let before = record.key.clone();
            record.apply(&change)?;
            let key = record.key.clone();
            let (actor, time) = (self.actor(), self.time());
            let entry = AuditEntry::changed(actor, &change, before, key.clone(), time);
            keys.audit.add(entry);
            key
        };
        self.shared.changes.publish(id);
        Ok(key)
    }

    async fn rotate(&self, id: KeyId, rotation: Rotation) -> Result<Key, StoreError> {
        let key = {
            let mut keys = self.keys();
            let mut old = keys.find(id)?.clone();
            let before = old.key.clone();
            let new = old.rotate(&rotation)?;
            let key = keys.insert(new)?;
            let after = old.key.clone();
            *keys.find(id)? = old;
            let (actor, time) = (self.actor(), self.time());
            let entries = AuditEntry::rotated(actor, before, after, key.clone(), time);
            entries.into_iter().for_each(|entry| keys.audit.add(entry));
            key
        };
        self.shared.changes.publish(id);
        self.shared.changes.publish(key.id);
        Ok(key)
    }

    async fn delete(&self, id: KeyId) -> Result<(), StoreError> {
        {
            let mut keys = self.keys();
            let removed = keys.records.remove(&id).ok_or(StoreError::NotFound(id))?;
            keys.order.remove(&(removed.key.created_at, id));
            let entry = AuditEntry::deleted(self.actor(), removed.key, self.time());
            keys.audit.add(entry);
        }
        self.shared.changes.publish(id);
        Ok(())
    }

    async fn revoke(&self, id: KeyId) -> Result<Key, StoreError> {
        let at = self.time();
        self.change(id, KeyChange::Revoke { revoked_at: at }).await
    }

    async fn reveal(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let mut keys = self.keys();
        let record = keys.find(id)?.clone();
        if record.encrypted_secret.is_none() {
            return Ok(None);
        }
        let (actor, time) = (self.actor(), self.time());
        let entry = AuditEntry::revealed(actor, record.key.clone(), time);
        keys.audit.add(entry);
        Ok(Some(record))
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Option<Page<AuditEntry>>, StoreError> {
        let keys = self.keys();
        let kept = keys.audit.is_kept().then_some(&keys.audit);
        kept.map(|audit| audit.page(query)).transpose()
    }

    fn acting_as(&self, actor: &str) -> Option<Arc<dyn KeyAdmin>> {
        self.keys().audit.is_kept().then(|| {
            let actor = AuditEntry::actor_of(actor).map(Arc::from);
            let shared = self.shared.clone();
            Arc::new(Self { shared, actor }) as Arc<dyn KeyAdmin>
        })
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
        backend.create(record).await.unwrap();
        for _ in 0..2 {
            backend.disable(id).await.unwrap();
        }
        clock.advance(Duration::from_micros(1));
        backend.enable(id).await.unwrap();
        let audit = backend.audit(&AuditQuery::new()).await.unwrap().unwrap();
        let entries: Vec<_> = audit
            .items
            .iter()
            .map(|entry| (entry.action, entry.time.as_microsecond()))
            .collect();
        let (on, off) = (AuditAction::Enabled, AuditAction::Disabled);
        assert_eq!(entries, [(on, 1), (off, 0), (off, 0)]);
    }

    #[tokio::test]
    async fn zero_audit_capacity_disables_audit_log_and_encrypted_secrets() {
        let backend = MemoryBackend::with_config(MemoryConfig::new().audit_capacity(0));
        backend.create(record()).await.unwrap();
        assert_eq!(backend.audit(&AuditQuery::new()).await.unwrap(), None);
        assert!(backend.acting_as("anna").is_none());
        // Encrypted secrets are rejected, since revealing them could not be audited.
        let mut record = record();
        record.key.recoverable = true;
        record.encrypted_secret = Some(EncryptedSecret::from_bytes([1]));
        let result = backend.create(record.clone()).await;
        assert!(matches!(result, Err(StoreError::SecretsNotSupported)));
        assert_eq!(backend.find(record.key.id).await.unwrap(), None);
    }
}

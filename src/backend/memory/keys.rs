//! Keys in memory.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use jiff::Timestamp;

use super::MemoryBackend;
use crate::id::KeyId;
use crate::key::{
    ChangeFeed, Key, KeyAdmin, KeyChange, KeyQuery, KeyRecord, KeyStore, Rotation, StoreError,
    within_bounds,
};
use crate::page::Page;

#[derive(Default)]
pub(super) struct Keys {
    records: HashMap<KeyId, KeyRecord>,
    /// The order of the list, from the oldest.
    order: BTreeSet<(Timestamp, KeyId)>,
}

impl Keys {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// A key was used at this time; one that no key may have does not count.
    pub(super) fn touch(&mut self, id: KeyId, time: Timestamp) {
        if let Some(record) = self.records.get_mut(&id)
            && within_bounds(time).is_ok()
        {
            record.key.last_used = record.key.last_used.max(Some(time));
        }
    }

    fn find(&mut self, id: KeyId) -> Result<&mut KeyRecord, StoreError> {
        self.records.get_mut(&id).ok_or(StoreError::NotFound(id))
    }

    fn insert(&mut self, record: KeyRecord) -> Result<(), StoreError> {
        let id = record.key.id;
        record.key.validate()?;
        let record = record.in_whole_micros();
        if self.records.contains_key(&id) {
            return Err(StoreError::Conflict(id));
        }
        self.order.insert((record.key.created, id));
        self.records.insert(id, record);
        Ok(())
    }

    fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        let older_than = match &query.after {
            Some(token) => (token.time(), token.id()?),
            None => (Timestamp::MAX, KeyId::from_number(u128::MAX)),
        };
        let limit = query.page_size();
        let matching = self
            .order
            .range(..older_than)
            .rev()
            .filter_map(|(_, id)| self.records.get(id))
            .map(|record| &record.key)
            .filter(|key| query.matches(key))
            .take(limit + 1)
            .cloned()
            .collect();
        Ok(Page::from_surplus(matching, limit, KeyQuery::place))
    }
}

#[async_trait]
impl KeyStore for MemoryBackend {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Ok(self.keys().records.get(&id).cloned())
    }

    fn changes(&self) -> Option<&ChangeFeed> {
        Some(&self.0.changes)
    }
}

#[async_trait]
impl KeyAdmin for MemoryBackend {
    async fn create(&self, record: KeyRecord) -> Result<(), StoreError> {
        let id = record.key.id;
        self.keys().insert(record)?;
        self.0.changes.announce(id);
        Ok(())
    }

    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        self.keys().list(query)
    }

    async fn change(&self, id: KeyId, change: KeyChange) -> Result<Key, StoreError> {
        let key = {
            let mut keys = self.keys();
            let record = keys.find(id)?;
            record.apply(&change)?;
            record.key.clone()
        };
        self.0.changes.announce(id);
        Ok(key)
    }

    async fn rotate(&self, id: KeyId, rotation: Rotation) -> Result<Key, StoreError> {
        let key = {
            let mut keys = self.keys();
            let mut old = keys.find(id)?.clone();
            let new = old.rotate(&rotation)?;
            let key = new.key.clone();
            keys.insert(new)?;
            *keys.find(id)? = old;
            key
        };
        self.0.changes.announce(id);
        self.0.changes.announce(key.id);
        Ok(key)
    }

    async fn delete(&self, id: KeyId) -> Result<(), StoreError> {
        {
            let mut keys = self.keys();
            let removed = keys.records.remove(&id).ok_or(StoreError::NotFound(id))?;
            keys.order.remove(&(removed.key.created, id));
        }
        self.0.changes.announce(id);
        Ok(())
    }

    async fn revoke(&self, id: KeyId) -> Result<Key, StoreError> {
        let at = self.0.clock.now().timestamp();
        self.change(id, KeyChange::Revoke { at }).await
    }
}

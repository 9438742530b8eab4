//! The keys of the in-memory backend.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

use super::audit::Audit;
use super::owners::Owners;
use crate::backend::key_activity::KeyActivity;
use crate::id::KeyId;
use crate::key::{Key, KeyQuery, KeyRecord, Policy, StoreError};
use crate::page::Page;
use crate::text::contains_ignoring_case;

pub(super) struct Keys {
    pub(super) records: HashMap<KeyId, KeyRecord>,
    /// That of the records, in detail.
    pub(super) activity: HashMap<KeyId, KeyActivity>,
    /// The listing order, oldest first.
    pub(super) order: BTreeSet<(Timestamp, KeyId)>,
    pub(super) owners: Owners,
    /// Under the same lock as the keys, so that a change and its entry are written together.
    pub(super) audit: Audit,
}

impl Keys {
    pub(super) fn new(audit_capacity: usize) -> Self {
        Self {
            records: HashMap::new(),
            activity: HashMap::new(),
            order: BTreeSet::new(),
            owners: Owners::default(),
            audit: Audit::new(audit_capacity),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Adds to the activity of a key.
    pub(super) fn add_activity(&mut self, id: KeyId, batch: &KeyActivity) {
        let Some(Key {
            first_accepted_at: first,
            last_accepted_at: last,
            rejected_since,
            ..
        }) = self.records.get_mut(&id).map(|record| &mut record.key)
        else {
            return;
        };
        let activity = self.activity.entry(id).or_insert_with(|| {
            let times = [*first, *last].map(|time| time.map(Timestamp::as_microsecond));
            let rejected = i64::try_from(*rejected_since).unwrap_or(i64::MAX);
            KeyActivity::stored(times, rejected, &[])
        });
        activity.add(batch);
        // Events cannot be out of range for a key.
        let time = |time: Option<i64>| time.and_then(|it| Timestamp::from_microsecond(it).ok());
        *first = time(activity.first_accepted);
        *last = time(activity.last_accepted);
        *rejected_since = activity.rejected_since().unsigned_abs();
    }

    pub(super) fn find(&mut self, id: KeyId) -> Result<&mut KeyRecord, StoreError> {
        self.records.get_mut(&id).ok_or(StoreError::NotFound(id))
    }

    /// Checks that a record can be inserted, unless its id exists.
    pub(super) fn check(&self, record: &KeyRecord) -> Result<(), StoreError> {
        record.validate()?;
        // No secret is revealed unless its audit entry is written.
        if record.encrypted_secret.is_some() && !self.audit.is_kept() {
            return Err(StoreError::SecretsNotSupported);
        }
        self.owners.check_plan(record.key.plan.as_ref())
    }

    /// Inserts a key, with its owner, and returns it as stored.
    pub(super) fn insert(&mut self, record: KeyRecord, now: Timestamp) -> Result<Key, StoreError> {
        self.check(&record)?;
        let id = record.key.id;
        let record = KeyRecord {
            policy: Policy::default(),
            ..record.in_whole_micros()
        };
        if self.records.contains_key(&id) {
            return Err(StoreError::Conflict(id));
        }
        let key = record.key.clone();
        self.owners.add(key.owner.as_ref(), now);
        self.order.insert((key.created_at, id));
        self.records.insert(id, record);
        Ok(key)
    }

    pub(super) fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        let older_than = match &query.page.after {
            Some(token) => (token.time(), token.id()?),
            None => (Timestamp::MAX, KeyId::from_number(u128::MAX)),
        };
        let limit = query.page.size();
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
        Ok(Page::from_surplus(matching, limit, KeyQuery::page_token))
    }

    pub(super) fn has_key_with(&self, plan: &str) -> bool {
        let mut keys = self.records.values().map(|record| &record.key);
        keys.any(|key| key.plan.as_deref() == Some(plan))
    }

    pub(super) fn owners(&self, contains: &str, limit: usize) -> Vec<String> {
        let keys = self.records.values().map(|record| &record.key);
        let owners: BTreeSet<_> = keys.filter_map(|key| key.owner.as_deref()).collect();
        let matching = owners
            .into_iter()
            .filter(|owner| contains_ignoring_case(owner, contains));
        matching.take(limit).map(String::from).collect()
    }
}

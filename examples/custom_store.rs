//! A custom key store over an existing table, with one row per key and its own columns.
//!
//! ```text
//! cargo run --example custom_store --features conformance
//! ```
//!
//! A store has six required methods. `KeyRecord::apply` and `KeyRecord::rotate` implement the changes; the
//! store only has to write each one atomically, here under a lock, in a database in a transaction.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use keytally::key::{
    Actor, AddressList, InvalidationFeed, Issuer, Key, KeyAdmin, KeyChange, KeyQuery, KeyRecord,
    KeyStore, NewKey, Rotation, StoreError,
};
use keytally::{ApiKeyLayer, KeyId, Page, async_trait, conformance};

/// The columns. Times are microseconds since the Unix epoch; nested values are JSON.
#[derive(Clone)]
struct Row {
    id: String,
    digest: String,
    name: String,
    customer: Option<String>,
    environment: Option<String>,
    scopes: Vec<String>,
    limits: String,
    networks: Vec<String>,
    metadata: String,
    created: i64,
    expires: Option<i64>,
    disabled: bool,
    imported: bool,
    revoked: Option<i64>,
    rotated_from: Option<String>,
    replaced_by: Option<String>,
    lineage: String,
    first_accepted: Option<i64>,
    last_accepted: Option<i64>,
    rejected_since: u64,
    hint: String,
}

impl Row {
    fn of(record: &KeyRecord) -> Result<Self, StoreError> {
        let KeyRecord { key, digest, .. } = record;
        let micros = |time: Option<Timestamp>| time.map(Timestamp::as_microsecond);
        Ok(Self {
            id: key.id.to_string(),
            digest: digest.to_string(),
            name: key.name.clone(),
            customer: key.owner.as_deref().map(Into::into),
            environment: key.environment.clone(),
            scopes: key.scopes.clone(),
            limits: serde_json::to_string(&key.limits).map_err(StoreError::unavailable)?,
            networks: key
                .addresses
                .iter()
                .map(|network| network.to_string())
                .collect(),
            metadata: serde_json::to_string(&key.metadata).map_err(StoreError::unavailable)?,
            created: key.created_at.as_microsecond(),
            expires: micros(key.expires_at),
            disabled: key.disabled,
            imported: key.imported,
            revoked: micros(key.revoked_at),
            rotated_from: key.rotated_from.map(|id| id.to_string()),
            replaced_by: key.replaced_by.map(|id| id.to_string()),
            lineage: key.lineage.to_string(),
            first_accepted: micros(key.first_accepted_at),
            last_accepted: micros(key.last_accepted_at),
            rejected_since: key.rejected_since,
            hint: key.hint.clone(),
        })
    }

    /// Reports an unreadable row as a store failure: the client receives a 503, and the error's source has the
    /// cause.
    fn record(self) -> Result<KeyRecord, StoreError> {
        self.read().map_err(StoreError::unavailable)
    }

    fn read(self) -> Result<KeyRecord, Box<dyn Error + Send + Sync>> {
        let time = |micros: Option<i64>| micros.map(Timestamp::from_microsecond).transpose();
        let created = Timestamp::from_microsecond(self.created)?;
        let mut key = Key::new(self.id.parse()?, self.name, created);
        key.owner = self.customer.map(Into::into);
        key.environment = self.environment;
        key.scopes = self.scopes;
        key.limits = serde_json::from_str(&self.limits)?;
        key.addresses = AddressList::parse(self.networks)?;
        key.metadata = serde_json::from_str(&self.metadata)?;
        key.expires_at = time(self.expires)?;
        key.disabled = self.disabled;
        key.imported = self.imported;
        key.revoked_at = time(self.revoked)?;
        key.rotated_from = self.rotated_from.map(|id| id.parse()).transpose()?;
        key.replaced_by = self.replaced_by.map(|id| id.parse()).transpose()?;
        key.lineage = self.lineage.parse()?;
        key.first_accepted_at = time(self.first_accepted)?;
        key.last_accepted_at = time(self.last_accepted)?;
        key.rejected_since = self.rejected_since;
        key.hint = self.hint;
        let digest = self.digest.parse()?;
        Ok(KeyRecord::new(key, digest))
    }
}

/// The table.
#[derive(Default)]
struct MyStore {
    rows: Mutex<BTreeMap<KeyId, Row>>,
    changes: InvalidationFeed,
}

type Rows<'a> = MutexGuard<'a, BTreeMap<KeyId, Row>>;

impl MyStore {
    /// Stands in for a transaction.
    fn begin(&self) -> Rows<'_> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn existing(rows: &Rows<'_>, id: KeyId) -> Result<KeyRecord, StoreError> {
    rows.get(&id)
        .cloned()
        .ok_or(StoreError::NotFound(id))?
        .record()
}

#[async_trait]
impl KeyStore for MyStore {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let row = self.begin().get(&id).cloned();
        row.map(Row::record).transpose()
    }

    /// Optional: with a feed, a revoked key stops working immediately in this process.
    fn invalidations(&self) -> Option<&InvalidationFeed> {
        Some(&self.changes)
    }
}

#[async_trait]
impl KeyAdmin for MyStore {
    async fn create(&self, record: KeyRecord, _: Actor<'_>) -> Result<(), StoreError> {
        let id = record.key.id;
        record.validate()?;
        // Revealing a secret requires an audit entry, and this store has no audit log.
        if record.encrypted_secret.is_some() {
            return Err(StoreError::SecretsNotSupported);
        }
        let row = Row::of(&record)?;
        {
            let mut rows = self.begin();
            if rows.contains_key(&id) {
                return Err(StoreError::Conflict(id));
            }
            rows.insert(id, row);
        }
        self.changes.publish(id);
        Ok(())
    }

    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        let before = match &query.page.after {
            Some(token) => Some((token.time(), token.id::<KeyId>()?)),
            None => None,
        };
        let mut keys = Vec::new();
        for row in self.begin().values() {
            let key = row.clone().record()?.key;
            let follows = before.is_none_or(|position| (key.created_at, key.id) < position);
            if follows && query.matches(&key) {
                keys.push(key);
            }
        }
        keys.sort_by_key(|key| std::cmp::Reverse((key.created_at, key.id)));
        // A surplus key only signals that another page follows.
        Ok(Page::from_surplus(
            keys,
            query.page.size(),
            KeyQuery::page_token,
        ))
    }

    async fn change(&self, id: KeyId, change: KeyChange, _: Actor<'_>) -> Result<Key, StoreError> {
        let key = {
            let mut rows = self.begin();
            let mut record = existing(&rows, id)?;
            record.apply(&change)?;
            rows.insert(id, Row::of(&record)?);
            record.key
        };
        self.changes.publish(id);
        Ok(key)
    }

    async fn rotate(&self, id: KeyId, rotation: Rotation, _: Actor<'_>) -> Result<Key, StoreError> {
        let key = {
            let mut rows = self.begin();
            let mut old = existing(&rows, id)?;
            if old
                .key
                .replaced_by
                .is_some_and(|new| !rows.contains_key(&new))
            {
                old.key.replaced_by = None;
            }
            let new = old.rotate(&rotation)?;
            if rows.contains_key(&new.key.id) {
                return Err(StoreError::Conflict(new.key.id));
            }
            // Build both rows before writing either, so that nothing can fail in between.
            let (old_row, new_row) = (Row::of(&old)?, Row::of(&new)?);
            rows.insert(id, old_row);
            rows.insert(new.key.id, new_row);
            new.key
        };
        self.changes.publish(id);
        self.changes.publish(key.id);
        Ok(key)
    }

    async fn delete(&self, id: KeyId, _: Actor<'_>) -> Result<(), StoreError> {
        let removed = self.begin().remove(&id);
        removed.ok_or(StoreError::NotFound(id))?;
        self.changes.publish(id);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = MyStore::default();
    conformance::key_admin(&store).await;
    println!("the store passes the conformance suite");

    let issued = Issuer::new("acme_live")?
        .issue(&store, NewKey::new("Zapier integration"), Actor::SYSTEM)
        .await?;
    println!("issued {}", issued.key.hint);
    let _layer = ApiKeyLayer::new(store);
    Ok(())
}

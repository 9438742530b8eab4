//! A store over one's own type: keys as lines of JSON in a map, as in a table of one's own.
//!
//! ```text
//! cargo run --example custom_store --features conformance
//! ```
//!
//! Five methods make a store. `KeyRecord::apply` and `KeyRecord::rotate` know what a change means; what
//! is left is to carry each out in one step, here under a lock and in a database in a transaction.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};

use keytally::key::{
    ChangeFeed, Issuer, Key, KeyAdmin, KeyChange, KeyQuery, KeyRecord, KeyStore, NewKey, Rotation,
    StoreError,
};
use keytally::{ApiKeyLayer, KeyId, Page, async_trait, conformance};

/// The table: a row is a key's record as JSON.
#[derive(Default)]
struct MyStore {
    rows: Mutex<BTreeMap<KeyId, String>>,
    changes: ChangeFeed,
}

type Rows<'a> = MutexGuard<'a, BTreeMap<KeyId, String>>;

impl MyStore {
    /// The transaction.
    fn begin(&self) -> Rows<'_> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Text that cannot be read is the store's fault: 503 for the client, the cause in the error's source.
fn decode(row: &str) -> Result<KeyRecord, StoreError> {
    serde_json::from_str(row).map_err(StoreError::unavailable)
}

fn encode(record: &KeyRecord) -> Result<String, StoreError> {
    serde_json::to_string(record).map_err(StoreError::unavailable)
}

fn existing(rows: &Rows<'_>, id: KeyId) -> Result<KeyRecord, StoreError> {
    decode(rows.get(&id).ok_or(StoreError::NotFound(id))?)
}

#[async_trait]
impl KeyStore for MyStore {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.begin().get(&id).map(|row| decode(row)).transpose()
    }

    /// Optional: with it, a revoked key stops working at once in this process.
    fn changes(&self) -> Option<&ChangeFeed> {
        Some(&self.changes)
    }
}

#[async_trait]
impl KeyAdmin for MyStore {
    async fn create(&self, record: KeyRecord) -> Result<(), StoreError> {
        let id = record.key.id;
        record.key.validate()?;
        let row = encode(&record)?;
        {
            let mut rows = self.begin();
            if rows.contains_key(&id) {
                return Err(StoreError::Conflict(id));
            }
            rows.insert(id, row);
        }
        self.changes.announce(id);
        Ok(())
    }

    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        let before = match &query.after {
            Some(place) => Some((place.time(), place.id::<KeyId>()?)),
            None => None,
        };
        let mut keys = Vec::new();
        for row in self.begin().values() {
            let key = decode(row)?.key;
            let behind = before.is_none_or(|place| (key.created, key.id) < place);
            if behind && query.matches(&key) {
                keys.push(key);
            }
        }
        keys.sort_by_key(|key| std::cmp::Reverse((key.created, key.id)));
        // Takes up to one key too many, which only tells that there is another page.
        Ok(Page::from_surplus(keys, query.page_size(), KeyQuery::place))
    }

    async fn change(&self, id: KeyId, change: KeyChange) -> Result<Key, StoreError> {
        let key = {
            let mut rows = self.begin();
            let mut record = existing(&rows, id)?;
            record.apply(&change)?;
            rows.insert(id, encode(&record)?);
            record.key
        };
        self.changes.announce(id);
        Ok(key)
    }

    async fn rotate(&self, id: KeyId, rotation: Rotation) -> Result<Key, StoreError> {
        let key = {
            let mut rows = self.begin();
            let mut old = existing(&rows, id)?;
            let new = old.rotate(&rotation)?;
            if rows.contains_key(&new.key.id) {
                return Err(StoreError::Conflict(new.key.id));
            }
            // Both rows are made before one is written: nothing can fail in between.
            let (old_row, new_row) = (encode(&old)?, encode(&new)?);
            rows.insert(id, old_row);
            rows.insert(new.key.id, new_row);
            new.key
        };
        self.changes.announce(id);
        self.changes.announce(key.id);
        Ok(key)
    }

    async fn delete(&self, id: KeyId) -> Result<(), StoreError> {
        let removed = self.begin().remove(&id);
        removed.ok_or(StoreError::NotFound(id))?;
        self.changes.announce(id);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = MyStore::default();
    conformance::key_admin(&store).await;
    println!("the store keeps every rule");

    let issued = Issuer::new("acme_live")?
        .issue(&store, NewKey::named("Zapier integration"))
        .await?;
    println!("and holds {}", issued.key.hint);
    let _layer = ApiKeyLayer::new(store);
    Ok(())
}

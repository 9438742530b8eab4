//! Steps that several suites have in common.

use crate::conformance::assert::{done, same};
use crate::id::KeyId;
use crate::key::{Key, KeyAdmin, KeyRecord, KeyStore};

/// Adds a record and gives it back.
pub(super) async fn create<S: KeyAdmin + ?Sized>(store: &S, record: KeyRecord) -> KeyRecord {
    let created = store.create(record.clone()).await;
    done(
        created,
        format_args!("a valid key is created: {:?}", record.key),
    );
    record
}

/// The store has exactly this record.
pub(super) async fn expect<S: KeyStore + ?Sized>(store: &S, record: &KeyRecord, rule: &str) {
    let found = found(store, record.key.id).await;
    same(&found, &Some(record.clone()), rule);
}

pub(super) async fn found<S: KeyStore + ?Sized>(store: &S, id: KeyId) -> Option<KeyRecord> {
    done(store.find(id).await, "looking up answers")
}

/// A key's record is as it was, and the key as `get` has it too.
pub(super) async fn unchanged<S: KeyAdmin + ?Sized>(store: &S, record: &KeyRecord, rule: &str) {
    expect(store, record, rule).await;
    same(
        &got(store, record.key.id).await,
        &Some(record.key.clone()),
        rule,
    );
}

pub(super) async fn got<S: KeyAdmin + ?Sized>(store: &S, id: KeyId) -> Option<Key> {
    done(store.get(id).await, "getting a key answers")
}

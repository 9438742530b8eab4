//! Steps shared by several suites.

use crate::conformance::assert::{equal, succeeds};
use crate::id::KeyId;
use crate::key::{Actor, AuditLog, Key, KeyAdmin, KeyRecord, KeyStore};

/// Creates a key and returns its record.
pub(super) async fn create<S: KeyAdmin + ?Sized>(store: &S, record: KeyRecord) -> KeyRecord {
    create_as(store, record, Actor::SYSTEM).await
}

/// Creates a key as this actor and returns its record.
pub(super) async fn create_as<S>(store: &S, record: KeyRecord, actor: Actor<'_>) -> KeyRecord
where
    S: KeyAdmin + ?Sized,
{
    let created = store.create(record.clone(), actor).await;
    succeeds(
        created,
        format_args!("creating a valid key succeeds: {:?}", record.key),
    );
    record
}

/// Checks that the store holds exactly this record.
pub(super) async fn expect<S: KeyStore + ?Sized>(store: &S, record: &KeyRecord, rule: &str) {
    let found = find_key(store, record.key.id).await;
    equal(&found, &Some(record.clone()), rule);
}

pub(super) async fn find_key<S: KeyStore + ?Sized>(store: &S, id: KeyId) -> Option<KeyRecord> {
    succeeds(store.find(id).await, "a key lookup succeeds")
}

/// Checks that a key is unchanged, both as returned by `find` and by `get`.
pub(super) async fn expect_unchanged<S: KeyAdmin + ?Sized>(
    store: &S,
    record: &KeyRecord,
    rule: &str,
) {
    expect(store, record, rule).await;
    equal(
        &get_key(store, record.key.id).await,
        &Some(record.key.clone()),
        rule,
    );
}

pub(super) async fn get_key<S: KeyAdmin + ?Sized>(store: &S, id: KeyId) -> Option<Key> {
    succeeds(store.get(id).await, "getting a key succeeds")
}

/// The audit log of a store that must have one.
pub(super) fn audit_log<S: KeyAdmin + ?Sized>(store: &S) -> &dyn AuditLog {
    match store.audit_log() {
        Some(log) => log,
        None => panic!("broken rule: a store that keeps encrypted secrets has an audit log"),
    }
}

//! Deleting keys.

use super::list::ids;
use super::steps::{create, expect_unchanged, find_key, get_key};
use crate::conformance::assert::{equal, fails_with, succeeds};
use crate::conformance::fixture::{Fixture, id};
use crate::id::KeyId;
use crate::key::{Actor, KeyAdmin, KeyQuery, StoreError};

pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let fixture = Fixture::new();
    let removed = create(store, fixture.record("Removed")).await;
    let kept = create(store, fixture.record("Kept")).await;
    not_found(store, id()).await;
    // Looked up first, so that a caching store has an entry to invalidate.
    expect_unchanged(store, &removed, "a created key is found").await;
    succeeds(
        store.delete(removed.key.id, Actor::SYSTEM).await,
        "deleting a key succeeds",
    );
    let rule = "a deleted key is not found";
    equal(&find_key(store, removed.key.id).await, &None, rule);
    equal(&get_key(store, removed.key.id).await, &None, rule);
    let listed = ids(store, KeyQuery::new().owner(fixture.owner.as_str())).await;
    equal(
        &listed,
        &vec![kept.key.id],
        "deleting a key removes only that key from the list",
    );
    not_found(store, removed.key.id).await;
    let again = create(store, removed).await;
    expect_unchanged(store, &again, "the id of a deleted key can be reused").await;
    expect_unchanged(store, &kept, "deleting a key leaves other keys unchanged").await;
}

async fn not_found<S: KeyAdmin + ?Sized>(store: &S, id: KeyId) {
    fails_with(
        store.delete(id, Actor::SYSTEM).await,
        "StoreError::NotFound",
        |error| matches!(error, StoreError::NotFound(of) if *of == id),
        "deleting an unknown id fails with StoreError::NotFound",
    );
}

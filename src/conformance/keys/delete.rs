//! Removing keys.

use super::list::ids;
use super::steps::{create, found, got, unchanged};
use crate::conformance::assert::{done, refused, same};
use crate::conformance::fixture::{Fixture, id};
use crate::id::KeyId;
use crate::key::{KeyAdmin, KeyQuery, StoreError};

pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let fresh = Fixture::new();
    let removed = create(store, fresh.record("Removed")).await;
    let kept = create(store, fresh.record("Kept")).await;
    not_found(store, id()).await;
    // Looked up before, so that a store that remembers has something to forget.
    unchanged(store, &removed, "a key that was created is there").await;
    done(store.delete(removed.key.id).await, "a key is deleted");
    let rule = "a deleted key is gone";
    same(&found(store, removed.key.id).await, &None, rule);
    same(&got(store, removed.key.id).await, &None, rule);
    let left = ids(store, KeyQuery::new().owner(fresh.owner.as_str())).await;
    same(
        &left,
        &vec![kept.key.id],
        "deleting takes one key off the list",
    );
    not_found(store, removed.key.id).await;
    let again = create(store, removed).await;
    unchanged(store, &again, "the id of a deleted key is free again").await;
    unchanged(store, &kept, "deleting a key leaves the others").await;
}

async fn not_found<S: KeyAdmin + ?Sized>(store: &S, id: KeyId) {
    refused(
        store.delete(id).await,
        "StoreError::NotFound",
        |error| matches!(error, StoreError::NotFound(of) if *of == id),
        "deleting an unknown id is StoreError::NotFound",
    );
}

//! Invalidation of caches in the same process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::steps::create;
use crate::conformance::assert::{holds, succeeds};
use crate::conformance::fixture::Fixture;
use crate::id::KeyId;
use crate::key::{Actor, Invalidate, KeyAdmin};

/// Checks the invalidation feed of a store that has one.
pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let Some(feed) = store.invalidations() else {
        return;
    };
    let invalidated = Arc::new(Invalidated::default());
    let weak = Arc::downgrade(&invalidated);
    feed.subscribe(weak);
    every_change_is_published(store, &invalidated).await;
}

async fn every_change_is_published<S: KeyAdmin + ?Sized>(store: &S, invalidated: &Invalidated) {
    let fixture = Fixture::new();
    let id = create(store, fixture.record("Published")).await.key.id;
    invalidated.expect(
        id,
        "creating a key publishes an invalidation, since the id may be cached as unknown",
    );
    let records = [fixture.record("Published"), fixture.record("Published")];
    let ids = records.each_ref().map(|record| record.key.id);
    let created = store.create_all(records.into(), Actor::SYSTEM).await;
    succeeds(created, "creating several keys succeeds");
    invalidated.expect_all(
        &ids,
        "creating several keys publishes an invalidation of each",
    );
    succeeds(
        store.disable(id, Actor::SYSTEM).await,
        "disabling a key succeeds",
    );
    invalidated.expect(id, "disabling a key publishes an invalidation");
    succeeds(
        store.enable(id, Actor::SYSTEM).await,
        "enabling a key succeeds",
    );
    invalidated.expect(id, "enabling a key publishes an invalidation");
    let new = fixture
        .issuer()
        .rotate(store, id, Duration::from_secs(60), Actor::SYSTEM)
        .await;
    let new = succeeds(new, "rotating a key succeeds").key.id;
    invalidated.expect(
        id,
        "rotating a key publishes an invalidation of the old key",
    );
    succeeds(
        store.revoke(new, Actor::SYSTEM).await,
        "revoking a key succeeds",
    );
    invalidated.expect(new, "revoking a key publishes an invalidation");
    succeeds(
        store.delete(id, Actor::SYSTEM).await,
        "deleting a key succeeds",
    );
    invalidated.expect(id, "deleting a key publishes an invalidation");
}

#[derive(Default)]
struct Invalidated(Mutex<Vec<Option<KeyId>>>);

impl Invalidated {
    /// Checks that this key, or all keys, were invalidated since the last check.
    fn expect(&self, id: KeyId, rule: &str) {
        self.expect_all(&[id], rule);
    }

    fn expect_all(&self, ids: &[KeyId], rule: &str) {
        let invalidated =
            std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for &id in ids {
            let is_published = invalidated.contains(&Some(id)) || invalidated.contains(&None);
            holds(is_published, rule);
        }
    }

    fn push(&self, id: Option<KeyId>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(id);
    }
}

impl Invalidate for Invalidated {
    fn remove(&self, id: KeyId) {
        self.push(Some(id));
    }

    fn remove_owner(&self, _: &str) {}

    fn clear(&self) {
        self.push(None);
    }
}

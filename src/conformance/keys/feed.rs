//! Telling caches in this process of changes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::steps::create;
use crate::conformance::assert::{done, holds};
use crate::conformance::fixture::Fixture;
use crate::id::KeyId;
use crate::key::{Invalidate, KeyAdmin};

/// Checks the feed of a store that has one.
pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let Some(feed) = store.invalidations() else {
        return;
    };
    let heard = Arc::new(Heard::default());
    let weak = Arc::downgrade(&heard);
    feed.subscribe(weak);
    every_change_rings(store, &heard).await;
    if let Some(acting) = store.acting_as("conformance") {
        every_change_rings(&acting, &heard).await;
    }
}

async fn every_change_rings<S: KeyAdmin + ?Sized>(store: &S, heard: &Heard) {
    let fresh = Fixture::new();
    let id = create(store, fresh.record("Announced")).await.key.id;
    heard.expect(
        id,
        "creating rings the feed: the id may be remembered as unknown",
    );
    done(store.disable(id).await, "a key is switched off");
    heard.expect(id, "switching off rings the feed");
    done(store.enable(id).await, "a key is switched on");
    heard.expect(id, "switching on rings the feed");
    let new = fresh
        .issuer()
        .rotate(store, id, Duration::from_secs(60))
        .await;
    let new = done(new, "a key is rotated").key.id;
    heard.expect(id, "rotating rings the feed for the old key");
    done(store.revoke(new).await, "a key is revoked");
    heard.expect(new, "revoking rings the feed");
    done(store.delete(id).await, "a key is deleted");
    heard.expect(id, "deleting rings the feed");
}

#[derive(Default)]
struct Heard(Mutex<Vec<Option<KeyId>>>);

impl Heard {
    /// The bell was rung for this key, or for all, since this was asked last.
    fn expect(&self, id: KeyId, rule: &str) {
        let heard = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        holds(heard.contains(&Some(id)) || heard.contains(&None), rule);
    }

    fn note(&self, id: Option<KeyId>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(id);
    }
}

impl Invalidate for Heard {
    fn remove(&self, id: KeyId) {
        self.note(Some(id));
    }

    fn clear(&self) {
        self.note(None);
    }
}

//! Keeping sealed secrets and giving them back.

use std::time::Duration;

use super::steps::{create, expect, found, got, unchanged};
use crate::conformance::assert::{done, holds, refused, same, together};
use crate::conformance::fixture::{Fixture, id};
use crate::id::KeyId;
use crate::key::{
    AuditAction, AuditEntry, AuditQuery, EncryptedSecret, InvalidKey, KeyAdmin, KeyQuery,
    KeyRecord, KeyUpdate, Rotation, StoreError,
};

pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let fresh = Fixture::new();
    bounds_are_kept(store, &fresh).await;
    let record = recoverable(&fresh);
    match store.create(record.clone()).await {
        Err(StoreError::KeepsNoSecrets) => return nothing_is_kept(store, &fresh, &record).await,
        created => done(created, "a key with a sealed secret is created or refused"),
    }
    is_given_back(store, &fresh, record).await;
    goes_with_its_key(store, &fresh).await;
    rotates(store, &fresh).await;
    unknown_ids_are_not_found(store).await;
    every_reading_is_told(store, &fresh).await;
    no_reading_slips_through(store, &fresh).await;
    if let Some(acting) = store.acting_as("conformance") {
        every_reading_is_told(&acting, &fresh).await;
    }
}

/// A key with a sealed secret, which to a store can be any bytes.
fn recoverable(fresh: &Fixture) -> KeyRecord {
    let mut record = fresh.record("Recoverable");
    record.key.recoverable = true;
    let bytes = (0..=u8::MAX).chain(record.key.id.as_str().bytes());
    record.encrypted_secret = Some(EncryptedSecret::from_bytes(bytes.collect::<Vec<_>>()));
    record
}

fn rotation_to(new: &KeyRecord, fresh: &Fixture) -> Rotation {
    Rotation {
        id: new.key.id,
        digest: new.digest.clone(),
        hint: new.key.hint.clone(),
        sealed: new.encrypted_secret.clone(),
        rotated_at: fresh.now,
        old_expires_at: fresh.after(Duration::from_secs(3_600)),
    }
}

async fn revealed<S: KeyAdmin + ?Sized>(store: &S, id: KeyId) -> Option<KeyRecord> {
    done(store.reveal(id).await, "revealing answers")
}

async fn bounds_are_kept<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let mut without = recoverable(fresh);
    without.encrypted_secret = None;
    let mut secretly = recoverable(fresh);
    secretly.key.recoverable = false;
    let mut revoked = recoverable(fresh);
    revoked.key.revoked_at = Some(fresh.now);
    for record in [without, secretly, revoked] {
        let id = record.key.id;
        refused(
            store.create(record).await,
            "StoreError::Invalid",
            |error| matches!(error, StoreError::Invalid(InvalidKey::Recoverable)),
            "a key is recoverable exactly where its sealed secret is kept, and never once it is revoked",
        );
        let rule = "what is not created is not there";
        same(&found(store, id).await, &None, rule);
    }
}

async fn nothing_is_kept<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture, refused: &KeyRecord) {
    let rule = "a key whose sealed secret is not kept is not created";
    same(&found(store, refused.key.id).await, &None, rule);
    let plain = create(store, fresh.record("Plain")).await;
    let rule = "what keeps no sealed secrets reveals none";
    same(&revealed(store, plain.key.id).await, &None, rule);
    let new = recoverable(fresh);
    let rotated = store.rotate(plain.key.id, rotation_to(&new, fresh)).await;
    let key = done(rotated, "a key that works is rotated");
    holds(!key.recoverable, rule);
    same(&revealed(store, key.id).await, &None, rule);
}

async fn is_given_back<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture, mut record: KeyRecord) {
    let id = record.key.id;
    let rule = "a sealed secret is kept byte for byte and given back, or its key is refused";
    for _ in 0..2 {
        same(&revealed(store, id).await, &Some(record.clone()), rule);
    }
    let rule = "a key that is recoverable is looked up without its sealed secret";
    unchanged(store, &record.redacted(), rule).await;
    let query = KeyQuery::new().owner(fresh.owner.as_str());
    let listed = done(store.list(&query).await, "keys are listed").items;
    holds(
        listed.contains(&record.key),
        "a list tells which keys are recoverable",
    );
    let plain = create(store, fresh.record("Plain")).await;
    let rule = "a key that is not recoverable has nothing to reveal";
    same(&revealed(store, plain.key.id).await, &None, rule);

    let ended = KeyUpdate::new().name("Ended").expires_at(Some(fresh.now));
    done(store.update(id, ended).await, "a key is updated");
    done(store.disable(id).await, "a key is switched off");
    (record.key.name, record.key.expires_at) = ("Ended".into(), Some(fresh.now));
    record.key.disabled = true;
    let rule = "a key that can be made to work again keeps its sealed secret";
    same(&revealed(store, id).await, &Some(record.clone()), rule);
    unchanged(store, &record.redacted(), rule).await;
}

async fn goes_with_its_key<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let record = create(store, recoverable(fresh)).await;
    let id = record.key.id;
    for _ in 0..2 {
        let rule = "a revoked key's sealed secret is gone";
        let key = done(store.revoke(id).await, "a key is revoked");
        holds(!key.recoverable, rule);
        same(&revealed(store, id).await, &None, rule);
        same(&got(store, id).await, &Some(key), rule);
    }
    done(store.enable(id).await, "a revoked key can be switched on");
    let rule = "switching on brings no sealed secret back";
    same(&revealed(store, id).await, &None, rule);

    let record = create(store, recoverable(fresh)).await;
    let id = record.key.id;
    done(store.delete(id).await, "a key is deleted");
    let mut again = record.redacted();
    again.key.recoverable = false;
    create(store, again).await;
    let rule = "a deleted key's sealed secret is gone, also when its id is taken again";
    same(&revealed(store, id).await, &None, rule);
}

async fn rotates<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let mut old = create(store, recoverable(fresh)).await;
    let new = recoverable(fresh);
    let rotation = rotation_to(&new, fresh);
    let expected = done(old.rotate(&rotation), "the suite's keys can be rotated");
    let key = store.rotate(old.key.id, rotation).await;
    let key = done(key, "a key that works is rotated");
    let rule = "the successor of a recoverable key is recoverable";
    same(&key, &expected.key, rule);
    same(
        &revealed(store, key.id).await,
        &Some(expected.clone()),
        rule,
    );
    expect(store, &expected.redacted(), rule).await;
    let rule = "a key that is rotated keeps its sealed secret until it is revoked or deleted";
    same(&revealed(store, old.key.id).await, &Some(old), rule);

    let mut unsealed = rotation_to(&recoverable(fresh), fresh);
    unsealed.sealed = None;
    let key = store.rotate(key.id, unsealed).await;
    let key = done(key, "a recoverable key is rotated without a sealed secret");
    let rule = "a successor without a sealed secret is not recoverable";
    holds(!key.recoverable, rule);
    same(&revealed(store, key.id).await, &None, rule);

    let sealed = rotation_to(&recoverable(fresh), fresh);
    let key = store.rotate(key.id, sealed).await;
    let key = done(key, "a key is rotated with a sealed secret");
    let rule = "a successor is recoverable only where the old key is";
    holds(!key.recoverable, rule);
    same(&revealed(store, key.id).await, &None, rule);
    same(&got(store, key.id).await, &Some(key), rule);
}

async fn unknown_ids_are_not_found<S: KeyAdmin + ?Sized>(store: &S) {
    let id = id();
    refused(
        store.reveal(id).await,
        "StoreError::NotFound",
        |error| matches!(error, StoreError::NotFound(of) if *of == id),
        "revealing an unknown id is StoreError::NotFound",
    );
}

async fn every_reading_is_told<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let record = create(store, recoverable(fresh)).await;
    let id = record.key.id;
    for read in 1..=2 {
        revealed(store, id).await;
        let rule = "every reading of a sealed secret has one entry in the audit";
        let told = readings(store, id).await;
        same(&told.len(), &read, rule);
        for entry in told {
            let rule = "an entry of a reading has the key as it is, before and after";
            let key = Some(record.key.clone());
            same(&(entry.before, entry.after), &(key.clone(), key), rule);
        }
    }
    let plain = create(store, fresh.record("Plain")).await.key.id;
    revealed(store, plain).await;
    done(store.revoke(id).await, "a key is revoked");
    revealed(store, id).await;
    let rule = "where nothing is revealed, nothing is told";
    same(&readings(store, plain).await.len(), &0, rule);
    same(&readings(store, id).await.len(), &2, rule);
}

/// Somebody reads it while another revokes its key.
async fn no_reading_slips_through<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let record = create(store, recoverable(fresh)).await;
    let id = record.key.id;
    let steps = (0..8).map(async |step| match step {
        4 => {
            done(store.revoke(id).await, "a key is revoked");
            None
        }
        _ => revealed(store, id).await,
    });
    let read = together(steps).await.into_iter().flatten();
    let rule = "what is read while others change the key is told, and nothing else is";
    same(&read.count(), &readings(store, id).await.len(), rule);
    let rule = "a revoked key's sealed secret is gone";
    same(&revealed(store, id).await, &None, rule);
}

async fn readings<S: KeyAdmin + ?Sized>(store: &S, id: KeyId) -> Vec<AuditEntry> {
    let query = AuditQuery::new().key(id).action(AuditAction::Revealed);
    match done(store.audit(&query).await, "an audit answers") {
        Some(page) => page.items,
        None => panic!("broken rule: a store that keeps sealed secrets keeps an audit"),
    }
}

//! Storing and revealing encrypted secrets.

use std::time::Duration;

use super::steps::{audit_log, create, expect, expect_unchanged, find_key, get_key};
use crate::conformance::assert::{equal, fails_with, holds, join_all, succeeds};
use crate::conformance::fixture::{Fixture, id};
use crate::id::KeyId;
use crate::key::{
    Actor, AuditAction, AuditEntry, AuditQuery, EncryptedSecret, InvalidKey, KeyAdmin, KeyQuery,
    KeyRecord, KeyUpdate, Rotation, StoreError,
};

pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let fixture = Fixture::new();
    inconsistent_records_are_rejected(store, &fixture).await;
    let record = recoverable(&fixture);
    match store.create(record.clone(), Actor::SYSTEM).await {
        Err(StoreError::SecretsNotSupported) => {
            return no_secret_is_kept(store, &fixture, &record).await;
        }
        created => succeeds(
            created,
            "a key with an encrypted secret is created, or fails with StoreError::SecretsNotSupported",
        ),
    }
    secret_is_revealed(store, &fixture, record).await;
    secret_is_removed_with_its_key(store, &fixture).await;
    rotation_keeps_recoverability(store, &fixture).await;
    unknown_ids_are_not_found(store).await;
    every_reveal_is_audited(store, &fixture).await;
    concurrent_reveals_are_audited(store, &fixture).await;
}

/// A key with an encrypted secret. To the store, it can be any bytes.
fn recoverable(fixture: &Fixture) -> KeyRecord {
    let mut record = fixture.record("Recoverable");
    record.key.recoverable = true;
    let bytes = (0..=u8::MAX).chain(record.key.id.as_str().bytes());
    record.encrypted_secret = Some(EncryptedSecret::from_bytes(bytes.collect::<Vec<_>>()));
    record
}

fn rotation_to(new: &KeyRecord, fixture: &Fixture) -> Rotation {
    Rotation {
        id: new.key.id,
        digest: new.digest.clone(),
        hint: new.key.hint.clone(),
        encrypted_secret: new.encrypted_secret.clone(),
        rotated_at: fixture.now,
        old_expires_at: fixture.after(Duration::from_secs(3_600)),
    }
}

async fn reveal<S: KeyAdmin + ?Sized>(store: &S, id: KeyId) -> Option<KeyRecord> {
    succeeds(
        store.reveal(id, Actor::SYSTEM).await,
        "revealing a secret succeeds",
    )
}

async fn inconsistent_records_are_rejected<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let mut without = recoverable(fixture);
    without.encrypted_secret = None;
    let mut not_recoverable = recoverable(fixture);
    not_recoverable.key.recoverable = false;
    let mut revoked = recoverable(fixture);
    revoked.key.revoked_at = Some(fixture.now);
    for record in [without, not_recoverable, revoked] {
        let id = record.key.id;
        fails_with(
            store.create(record, Actor::SYSTEM).await,
            "StoreError::Invalid",
            |error| matches!(error, StoreError::Invalid(InvalidKey::Recoverable)),
            "a key is recoverable if and only if it has an encrypted secret, and a revoked key never is",
        );
        let rule = "a key that was not created is not found";
        equal(&find_key(store, id).await, &None, rule);
    }
}

async fn no_secret_is_kept<S: KeyAdmin + ?Sized>(
    store: &S,
    fixture: &Fixture,
    rejected: &KeyRecord,
) {
    let rule = "a key whose encrypted secret cannot be kept is not created";
    equal(&find_key(store, rejected.key.id).await, &None, rule);
    let plain = create(store, fixture.record("Plain")).await;
    let rule = "a store that keeps no encrypted secrets reveals none";
    equal(&reveal(store, plain.key.id).await, &None, rule);
    let new = recoverable(fixture);
    let rotated = store
        .rotate(plain.key.id, rotation_to(&new, fixture), Actor::SYSTEM)
        .await;
    let key = succeeds(rotated, "rotating an active key succeeds");
    holds(!key.recoverable, rule);
    equal(&reveal(store, key.id).await, &None, rule);
}

async fn secret_is_revealed<S: KeyAdmin + ?Sized>(
    store: &S,
    fixture: &Fixture,
    mut record: KeyRecord,
) {
    let id = record.key.id;
    let rule = "an encrypted secret is kept byte for byte and revealed, or its key is rejected";
    for _ in 0..2 {
        equal(&reveal(store, id).await, &Some(record.clone()), rule);
    }
    let rule = "a recoverable key is looked up without its encrypted secret";
    expect_unchanged(store, &record.redacted(), rule).await;
    let query = KeyQuery::new().owner(fixture.owner.as_str());
    let listed = succeeds(store.list(&query).await, "listing keys succeeds").items;
    holds(
        listed.contains(&record.key),
        "a list shows which keys are recoverable",
    );
    let plain = create(store, fixture.record("Plain")).await;
    let rule = "revealing a key that is not recoverable returns None";
    equal(&reveal(store, plain.key.id).await, &None, rule);

    let expired = KeyUpdate::new()
        .name("Expired")
        .expires_at(Some(fixture.now));
    succeeds(
        store.update(id, expired, Actor::SYSTEM).await,
        "updating a key succeeds",
    );
    succeeds(
        store.disable(id, Actor::SYSTEM).await,
        "disabling a key succeeds",
    );
    (record.key.name, record.key.expires_at) = ("Expired".into(), Some(fixture.now));
    record.key.disabled = true;
    let rule = "an expired or disabled key keeps its encrypted secret";
    equal(&reveal(store, id).await, &Some(record.clone()), rule);
    expect_unchanged(store, &record.redacted(), rule).await;
}

async fn secret_is_removed_with_its_key<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let record = create(store, recoverable(fixture)).await;
    let id = record.key.id;
    for _ in 0..2 {
        let rule = "revoking a key removes its encrypted secret";
        let key = succeeds(
            store.revoke(id, Actor::SYSTEM).await,
            "revoking a key succeeds",
        );
        holds(!key.recoverable, rule);
        equal(&reveal(store, id).await, &None, rule);
        equal(&get_key(store, id).await, &Some(key), rule);
    }
    succeeds(
        store.enable(id, Actor::SYSTEM).await,
        "enabling a revoked key succeeds",
    );
    let rule = "enabling a revoked key does not restore its encrypted secret";
    equal(&reveal(store, id).await, &None, rule);

    let record = create(store, recoverable(fixture)).await;
    let id = record.key.id;
    succeeds(
        store.delete(id, Actor::SYSTEM).await,
        "deleting a key succeeds",
    );
    let mut again = record.redacted();
    again.key.recoverable = false;
    create(store, again).await;
    let rule = "deleting a key removes its encrypted secret, even if the id is reused";
    equal(&reveal(store, id).await, &None, rule);
}

async fn rotation_keeps_recoverability<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let mut old = create(store, recoverable(fixture)).await;
    let new = recoverable(fixture);
    let rotation = rotation_to(&new, fixture);
    let expected = succeeds(old.rotate(&rotation), "the suite's keys can be rotated");
    let key = store.rotate(old.key.id, rotation, Actor::SYSTEM).await;
    let key = succeeds(key, "rotating an active key succeeds");
    let rule = "the successor of a recoverable key is recoverable";
    equal(&key, &expected.key, rule);
    equal(&reveal(store, key.id).await, &Some(expected.clone()), rule);
    expect(store, &expected.redacted(), rule).await;
    let rule = "a rotated key keeps its encrypted secret until it is revoked or deleted";
    equal(&reveal(store, old.key.id).await, &Some(old), rule);

    let mut without_secret = rotation_to(&recoverable(fixture), fixture);
    without_secret.encrypted_secret = None;
    let key = store.rotate(key.id, without_secret, Actor::SYSTEM).await;
    let key = succeeds(
        key,
        "rotating a recoverable key without an encrypted secret succeeds",
    );
    let rule = "a successor without an encrypted secret is not recoverable";
    holds(!key.recoverable, rule);
    equal(&reveal(store, key.id).await, &None, rule);

    let with_secret = rotation_to(&recoverable(fixture), fixture);
    let key = store.rotate(key.id, with_secret, Actor::SYSTEM).await;
    let key = succeeds(key, "rotating a key with an encrypted secret succeeds");
    let rule = "a successor is recoverable only if its predecessor is";
    holds(!key.recoverable, rule);
    equal(&reveal(store, key.id).await, &None, rule);
    equal(&get_key(store, key.id).await, &Some(key), rule);
}

async fn unknown_ids_are_not_found<S: KeyAdmin + ?Sized>(store: &S) {
    let id = id();
    fails_with(
        store.reveal(id, Actor::SYSTEM).await,
        "StoreError::NotFound",
        |error| matches!(error, StoreError::NotFound(of) if *of == id),
        "revealing an unknown id fails with StoreError::NotFound",
    );
}

async fn every_reveal_is_audited<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let record = create(store, recoverable(fixture)).await;
    let id = record.key.id;
    let actors = [Actor::SYSTEM, Actor::new("conformance")];
    for (index, actor) in actors.into_iter().enumerate() {
        let revealed = store.reveal(id, actor).await;
        succeeds(revealed, "revealing a secret succeeds");
        let rule = "every reveal of a secret has exactly one audit entry";
        let entries = reveal_entries(store, id).await;
        equal(&entries.len(), &(index + 1), rule);
        let rule = "the entry of a reveal names the actor";
        equal(&entries[0].actor, &actor.to_name(), rule);
        for entry in entries {
            let rule = "the entry of a reveal holds the unchanged key as before and after";
            let key = Some(record.key.clone().into());
            equal(&(entry.before, entry.after), &(key.clone(), key), rule);
        }
    }
    let plain = create(store, fixture.record("Plain")).await.key.id;
    reveal(store, plain).await;
    succeeds(
        store.revoke(id, Actor::SYSTEM).await,
        "revoking a key succeeds",
    );
    reveal(store, id).await;
    let rule = "a reveal that returns nothing has no audit entry";
    equal(&reveal_entries(store, plain).await.len(), &0, rule);
    equal(&reveal_entries(store, id).await.len(), &2, rule);
}

/// A secret is revealed several times while its key is revoked.
async fn concurrent_reveals_are_audited<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let record = create(store, recoverable(fixture)).await;
    let id = record.key.id;
    let steps = (0..8).map(async |step| match step {
        4 => {
            succeeds(
                store.revoke(id, Actor::SYSTEM).await,
                "revoking a key succeeds",
            );
            None
        }
        _ => reveal(store, id).await,
    });
    let secrets = join_all(steps).await.into_iter().flatten();
    let rule = "concurrent reveals have exactly one audit entry for each secret returned";
    equal(
        &secrets.count(),
        &reveal_entries(store, id).await.len(),
        rule,
    );
    let rule = "revoking a key removes its encrypted secret";
    equal(&reveal(store, id).await, &None, rule);
}

async fn reveal_entries<S: KeyAdmin + ?Sized>(store: &S, id: KeyId) -> Vec<AuditEntry> {
    let query = AuditQuery::new().key(id).action(AuditAction::Revealed);
    let page = audit_log(store).audit_entries(&query).await;
    succeeds(page, "an audit query succeeds").items
}

//! Rotating keys.

use std::time::Duration;

use jiff::Timestamp;

use super::steps::{create, expect, expect_unchanged, find_key, get_key};
use crate::conformance::assert::{equal, fails_with, join_all, succeeds};
use crate::conformance::fixture::{Fixture, id, too_early};
use crate::id::KeyId;
use crate::key::{
    Actor, AddressList, InvalidKey, KeyAdmin, KeyRecord, KeyStatus, NewKey, Rotation, StoreError,
};
use crate::limit::RateLimit;

const GRACE: Duration = Duration::from_micros(3_600_000_001);

pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let fixture = Fixture::new();
    settings_are_inherited(store, &fixture).await;
    earlier_expiry_is_kept(store, &fixture).await;
    inactive_keys_are_rejected(store, &fixture).await;
    replaced_keys_are_rejected(store, &fixture).await;
    existing_ids_change_nothing(store, &fixture).await;
    invalid_times_change_nothing(store, &fixture).await;
    unknown_ids_are_not_found(store, &fixture).await;
    concurrent_rotations_without_grace(store, &fixture).await;
}

fn rotation(fixture: &Fixture, at: Timestamp, grace: Duration) -> Rotation {
    let KeyRecord { key, digest, .. } = fixture.record("Source of a secret");
    Rotation {
        id: key.id,
        digest,
        hint: key.hint,
        encrypted_secret: None,
        rotated_at: at,
        old_expires_at: at + grace,
    }
}

async fn settings_are_inherited<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let networks = AddressList::parse(["10.0.0.0/8"]).unwrap_or_default();
    let new = NewKey::new("Rotated")
        .owner(fixture.owner.as_str())
        .environment("live")
        .scopes(["read", "write"])
        .limit(RateLimit::per_minute(60).with_burst(10).with_name("burst"))
        .addresses(networks)
        .metadata("plan", "pro");
    let mut record = fixture.record_of(new);
    record.key.last_accepted_at = Some(fixture.now);
    let first = create(store, record).await;
    let mut old = first.clone();
    for step in 1..=3 {
        let at = fixture.after(Duration::from_secs(step));
        let rotation = rotation(fixture, at, GRACE);
        let expected = succeeds(old.rotate(&rotation), "the suite's keys can be rotated");
        let rule =
            "the new key inherits owner, scopes, limits and all other settings of the old one";
        let key = succeeds(
            store.rotate(old.key.id, rotation, Actor::SYSTEM).await,
            "rotating an active key succeeds",
        );
        equal(
            &key.rotated_from,
            &Some(old.key.id),
            "the new key names the old one",
        );
        equal(
            &key.lineage,
            &first.key.id,
            "rotations keep the lineage of the first key",
        );
        equal(&key, &expected.key, rule);
        expect_unchanged(store, &expected, "the new key has the new secret's digest").await;
        expect_unchanged(
            store,
            &old,
            "the old key expires at the end of the grace period",
        )
        .await;
        old = expected;
    }
    let issued = fixture
        .issuer()
        .rotate(store, old.key.id, GRACE, Actor::SYSTEM)
        .await;
    let issued = succeeds(issued, "rotating a key with an issuer succeeds");
    equal(
        &issued.key.id,
        &issued.secret.id(),
        "the new key has the id of the new secret",
    );
    let stored = get_key(store, issued.key.id).await;
    equal(
        &stored,
        &Some(issued.key),
        "the store holds the key that the issuer returned",
    );
}

async fn earlier_expiry_is_kept<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let end = fixture.after(Duration::from_secs(1));
    let new = NewKey::new("Expires soon")
        .owner(fixture.owner.as_str())
        .expires_at(end);
    let mut record = create(store, fixture.record_of(new)).await;
    let rotation = rotation(fixture, fixture.now, GRACE);
    record.key.replaced_by = Some(rotation.id);
    let key = store.rotate(record.key.id, rotation, Actor::SYSTEM).await;
    let key = succeeds(key, "rotating a key that expires later succeeds");
    expect_unchanged(
        store,
        &record,
        "the grace period does not extend an earlier expiry",
    )
    .await;
    equal(
        &key.expires_at,
        &Some(end),
        "the new key inherits the expiry of the old one",
    );
}

async fn inactive_keys_are_rejected<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let template = || fixture.record("Unusable");
    let mut disabled = template();
    disabled.key.disabled = true;
    let mut revoked = template();
    revoked.key.revoked_at = Some(fixture.now);
    let mut expired = template();
    expired.key.expires_at = Some(fixture.now);
    for (record, expected) in [
        (disabled, KeyStatus::Disabled),
        (revoked, KeyStatus::Revoked),
        (expired, KeyStatus::Expired),
    ] {
        let record = create(store, record).await;
        let rotation = rotation(fixture, fixture.now, GRACE);
        let new = rotation.id;
        let rule = format!("a key with the status {expected:?} cannot be rotated");
        fails_with(
            store.rotate(record.key.id, rotation, Actor::SYSTEM).await,
            "StoreError::NotActive",
            |error| {
                matches!(error, StoreError::NotActive { id, status }
                    if *id == record.key.id && *status == expected)
            },
            &rule,
        );
        expect_not_rotated(store, &record, new).await;
    }
}

async fn replaced_keys_are_rejected<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let mut old = create(store, fixture.record("Rotated twice")).await;
    let first = rotation(fixture, fixture.now, GRACE);
    let new = succeeds(old.rotate(&first), "the suite's keys can be rotated");
    let key = store.rotate(old.key.id, first, Actor::SYSTEM).await;
    succeeds(key, "rotating an active key succeeds");
    let again = rotation(fixture, fixture.now, GRACE);
    let rule = "a key that has been replaced cannot be rotated";
    fails_with(
        store.rotate(old.key.id, again.clone(), Actor::SYSTEM).await,
        "StoreError::Replaced",
        |error| {
            matches!(error, StoreError::Replaced { id, replaced_by }
                if *id == old.key.id && *replaced_by == new.key.id)
        },
        rule,
    );
    expect_not_rotated(store, &old, again.id).await;
    succeeds(
        store.delete(new.key.id, Actor::SYSTEM).await,
        "deleting a key succeeds",
    );
    let found = find_key(store, new.key.id).await;
    equal(&found, &None, "a deleted key is not found");
    old.key.replaced_by = None;
    let expected = succeeds(old.rotate(&again), "the suite's keys can be rotated");
    let key = store.rotate(old.key.id, again, Actor::SYSTEM).await;
    equal(
        &succeeds(
            key,
            "a key can be rotated if its replacement has been deleted",
        ),
        &expected.key,
        rule,
    );
    expect_unchanged(store, &old, rule).await;
}

async fn existing_ids_change_nothing<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let record = create(store, fixture.record("Rotated")).await;
    let existing = create(store, fixture.record("Existing")).await;
    let mut rotation = rotation(fixture, fixture.now, GRACE);
    rotation.id = existing.key.id;
    fails_with(
        store.rotate(record.key.id, rotation, Actor::SYSTEM).await,
        "StoreError::Conflict",
        |error| matches!(error, StoreError::Conflict(of) if *of == existing.key.id),
        "rotating to an existing id fails with StoreError::Conflict",
    );
    let rule = "a rotation is atomic: if it is rejected, both keys stay unchanged";
    expect_unchanged(store, &record, rule).await;
    expect_unchanged(store, &existing, rule).await;
}

async fn invalid_times_change_nothing<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let record = create(store, fixture.record("Rotated")).await;
    let mut early_rotation = rotation(fixture, fixture.now, GRACE);
    early_rotation.rotated_at = too_early();
    let mut early_expiry = rotation(fixture, fixture.now, GRACE);
    early_expiry.old_expires_at = too_early();
    for rotation in [early_rotation, early_expiry] {
        let new = rotation.id;
        fails_with(
            store.rotate(record.key.id, rotation, Actor::SYSTEM).await,
            "StoreError::Invalid",
            |error| matches!(error, StoreError::Invalid(InvalidKey::Time)),
            "a rotation at an out-of-range time is rejected",
        );
        expect_not_rotated(store, &record, new).await;
    }
}

async fn unknown_ids_are_not_found<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let unknown = id();
    let rotation = rotation(fixture, fixture.now, GRACE);
    let new = rotation.id;
    fails_with(
        store.rotate(unknown, rotation, Actor::SYSTEM).await,
        "StoreError::NotFound",
        |error| matches!(error, StoreError::NotFound(of) if *of == unknown),
        "rotating an unknown id fails with StoreError::NotFound",
    );
    equal(
        &find_key(store, new).await,
        &None,
        "a failed rotation creates no key",
    );
}

/// Several rotations of one key run concurrently.
async fn concurrent_rotations_without_grace<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let record = create(store, fixture.record("Leaked")).await;
    let rotations: Vec<_> = (0..4)
        .map(|_| rotation(fixture, fixture.now, Duration::ZERO))
        .collect();
    let results = rotations
        .iter()
        .map(|rotation| store.rotate(record.key.id, rotation.clone(), Actor::SYSTEM));
    let results = join_all(results).await;
    let rule = "of several concurrent rotations without a grace period, exactly one succeeds";
    equal(
        &results.iter().filter(|result| result.is_ok()).count(),
        &1,
        rule,
    );
    for (rotation, result) in rotations.iter().zip(results) {
        let new = find_key(store, rotation.id).await.map(|record| record.key);
        equal(
            &new,
            &result.ok(),
            "a new key exists if and only if its rotation succeeded",
        );
    }
}

async fn expect_not_rotated<S: KeyAdmin + ?Sized>(store: &S, old: &KeyRecord, new: KeyId) {
    let rule = "a rejected rotation changes nothing";
    expect(store, old, rule).await;
    equal(&find_key(store, new).await, &None, rule);
}

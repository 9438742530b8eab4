//! Putting a new key in a key's place.

use std::time::Duration;

use jiff::Timestamp;

use super::steps::{create, expect, found, got, unchanged};
use crate::conformance::assert::{done, refused, same, together};
use crate::conformance::fixture::{Fixture, id, too_early};
use crate::id::KeyId;
use crate::key::{
    AddressList, InvalidKey, KeyAdmin, KeyRecord, KeyStatus, NewKey, Rotation, StoreError,
};
use crate::limit::RateLimit;

const GRACE: Duration = Duration::from_micros(3_600_000_001);

pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let fresh = Fixture::new();
    everything_carries_over(store, &fresh).await;
    an_earlier_end_stays(store, &fresh).await;
    unusable_keys_are_refused(store, &fresh).await;
    taken_ids_change_nothing(store, &fresh).await;
    bounds_change_nothing(store, &fresh).await;
    unknown_ids_are_not_found(store, &fresh).await;
    once_without_grace(store, &fresh).await;
}

fn rotation(fresh: &Fixture, at: Timestamp, grace: Duration) -> Rotation {
    let KeyRecord { key, digest, .. } = fresh.record("Only for its secret");
    Rotation {
        id: key.id,
        digest,
        hint: key.hint,
        sealed: None,
        rotated_at: at,
        old_expires_at: at + grace,
    }
}

async fn everything_carries_over<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let networks = AddressList::parse(["10.0.0.0/8"]).unwrap_or_default();
    let new = NewKey::new("Rotated")
        .owner(fresh.owner.as_str())
        .environment("live")
        .scopes(["read", "write"])
        .limit(RateLimit::per_minute(60).with_burst(10).with_name("burst"))
        .addresses(networks)
        .metadata("plan", "pro");
    let mut record = fresh.record_of(new);
    record.key.last_used_at = Some(fresh.now);
    let first = create(store, record).await;
    let mut old = first.clone();
    for step in 1..=3 {
        let at = fresh.after(Duration::from_secs(step));
        let rotation = rotation(fresh, at, GRACE);
        let expected = done(old.rotate(&rotation), "the suite's keys can be rotated");
        let rule = "the new key has all that the old one had: owner, scopes, limits and the rest";
        let key = done(
            store.rotate(old.key.id, rotation).await,
            "a key that works is rotated",
        );
        same(
            &key.rotated_from,
            &Some(old.key.id),
            "the new key names the old one",
        );
        same(
            &key.lineage,
            &first.key.id,
            "rotations keep the line of the first key",
        );
        same(&key, &expected.key, rule);
        unchanged(store, &expected, "the new key has the new secret's digest").await;
        unchanged(
            store,
            &old,
            "the old key works until its grace is over, and no longer",
        )
        .await;
        old = expected;
    }
    let issued = fresh.issuer().rotate(store, old.key.id, GRACE).await;
    let issued = done(issued, "an issuer rotates a key");
    same(
        &issued.key.id,
        &issued.secret.id(),
        "the new key is the new secret's",
    );
    let now = got(store, issued.key.id).await;
    same(
        &now,
        &Some(issued.key),
        "the store has the key that the issuer answered",
    );
}

async fn an_earlier_end_stays<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let end = fresh.after(Duration::from_secs(1));
    let new = NewKey::new("Ends soon")
        .owner(fresh.owner.as_str())
        .expires_at(end);
    let record = create(store, fresh.record_of(new)).await;
    let rotation = rotation(fresh, fresh.now, GRACE);
    let key = store.rotate(record.key.id, rotation).await;
    let key = done(key, "a key that ends later is rotated");
    unchanged(
        store,
        &record,
        "grace does not prolong a key that ends earlier",
    )
    .await;
    same(
        &key.expires_at,
        &Some(end),
        "the new key ends when the old one was to end",
    );
}

async fn unusable_keys_are_refused<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let model = || fresh.record("Unusable");
    let mut disabled = model();
    disabled.key.disabled = true;
    let mut revoked = model();
    revoked.key.revoked_at = Some(fresh.now);
    let mut expired = model();
    expired.key.expires_at = Some(fresh.now);
    for (record, expected) in [
        (disabled, KeyStatus::Disabled),
        (revoked, KeyStatus::Revoked),
        (expired, KeyStatus::Expired),
    ] {
        let record = create(store, record).await;
        let rotation = rotation(fresh, fresh.now, GRACE);
        let new = rotation.id;
        let rule = format!("a key that is {expected:?} cannot be rotated");
        refused(
            store.rotate(record.key.id, rotation).await,
            "StoreError::Unusable",
            |error| {
                matches!(error, StoreError::Unusable { id, status }
                    if *id == record.key.id && *status == expected)
            },
            &rule,
        );
        nothing_happened(store, &record, new).await;
    }
}

async fn taken_ids_change_nothing<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let record = create(store, fresh.record("Rotated")).await;
    let taken = create(store, fresh.record("There before")).await;
    let mut rotation = rotation(fresh, fresh.now, GRACE);
    rotation.id = taken.key.id;
    refused(
        store.rotate(record.key.id, rotation).await,
        "StoreError::Conflict",
        |error| matches!(error, StoreError::Conflict(of) if *of == taken.key.id),
        "rotating to a taken id is a conflict",
    );
    let rule = "a rotation is one step: where it is refused, both keys stay as they were";
    unchanged(store, &record, rule).await;
    unchanged(store, &taken, rule).await;
}

async fn bounds_change_nothing<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let record = create(store, fresh.record("Rotated")).await;
    let mut before_time = rotation(fresh, fresh.now, GRACE);
    before_time.rotated_at = too_early();
    let mut ended_before_time = rotation(fresh, fresh.now, GRACE);
    ended_before_time.old_expires_at = too_early();
    for rotation in [before_time, ended_before_time] {
        let new = rotation.id;
        refused(
            store.rotate(record.key.id, rotation).await,
            "StoreError::Invalid",
            |error| matches!(error, StoreError::Invalid(InvalidKey::Time)),
            "a rotation at a time out of bounds is refused",
        );
        nothing_happened(store, &record, new).await;
    }
}

async fn unknown_ids_are_not_found<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let unknown = id();
    let rotation = rotation(fresh, fresh.now, GRACE);
    let new = rotation.id;
    refused(
        store.rotate(unknown, rotation).await,
        "StoreError::NotFound",
        |error| matches!(error, StoreError::NotFound(of) if *of == unknown),
        "rotating an unknown id is StoreError::NotFound",
    );
    same(
        &found(store, new).await,
        &None,
        "what cannot be rotated has no new key",
    );
}

/// Two people press the button at once.
async fn once_without_grace<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let record = create(store, fresh.record("Leaked")).await;
    let rotations: Vec<_> = (0..4)
        .map(|_| rotation(fresh, fresh.now, Duration::ZERO))
        .collect();
    let answers = rotations
        .iter()
        .map(|rotation| store.rotate(record.key.id, rotation.clone()));
    let answers = together(answers).await;
    let rule = "of rotations without grace at the same time exactly one succeeds";
    same(
        &answers.iter().filter(|answer| answer.is_ok()).count(),
        &1,
        rule,
    );
    for (rotation, answer) in rotations.iter().zip(answers) {
        let there = found(store, rotation.id).await.map(|record| record.key);
        same(
            &there,
            &answer.ok(),
            "a new key is there exactly when its rotation succeeded",
        );
    }
}

async fn nothing_happened<S: KeyAdmin + ?Sized>(store: &S, old: &KeyRecord, new: KeyId) {
    let rule = "a rotation that is refused changes nothing";
    expect(store, old, rule).await;
    same(&found(store, new).await, &None, rule);
}

//! Changing keys.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, json};

use super::steps::{create, expect_unchanged, find_key, get_key};
use crate::conformance::assert::{equal, fails_with, join_all, succeeds};
use crate::conformance::fixture::{Fixture, id, micros, too_early, tricky_strings};
use crate::key::{
    Actor, AddressList, Digest, InvalidKey, KeyAdmin, KeyChange, KeyRecord, KeyStatus, KeyUpdate,
    NewKey, StoreError,
};
use crate::limit::RateLimit;

pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let fixture = Fixture::new();
    updates_agree_with_apply(store, &fixture).await;
    invalid_changes_change_nothing(store, &fixture).await;
    disabling_and_enabling(store, &fixture).await;
    first_revocation_time_is_kept(store, &fixture).await;
    digest_is_replaced_only_if_it_is_the_expected_one(store, &fixture).await;
    concurrent_changes_are_all_applied(store, &fixture).await;
    unknown_ids_are_not_found(store).await;
}

async fn updates_agree_with_apply<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let new = NewKey::new("Before")
        .owner(fixture.owner.as_str())
        .scope("old");
    let mut record = create(store, fixture.record_of(new)).await;
    for update in updates(fixture) {
        let rule = format!("an update agrees with KeyRecord::apply: {update:?}");
        let result = succeeds(
            store
                .update(record.key.id, update.clone(), Actor::SYSTEM)
                .await,
            &rule,
        );
        let applied = record.apply(&KeyChange::Update(Box::new(update)));
        succeeds(applied, "the suite's updates are valid");
        equal(&result, &record.key, &rule);
        expect_unchanged(store, &record, &rule).await;
    }
}

/// Sets and clears each field on its own, then sets all at once.
fn updates(fixture: &Fixture) -> Vec<KeyUpdate> {
    let networks = ["192.0.2.0/24", "2001:db8::1"];
    let addresses = AddressList::parse(networks).unwrap_or_else(|_| unreachable!("valid networks"));
    let metadata: Map<_, _> = [("plan".into(), json!({ "tier": 2 }))]
        .into_iter()
        .collect();
    // Precision below a microsecond is truncated.
    let end = fixture.after(Duration::from_nanos(86_400_000_001_999));
    let limits = [RateLimit::per_minute(9).with_burst(3).with_name("small")];
    let new = KeyUpdate::new;
    let mut updates = vec![
        new(),
        new().environment(Some("test")),
        new().environment(None::<String>),
        new().scopes(["a", "b"]),
        new().scopes(Vec::<String>::new()),
        new().limits(limits.clone()),
        new().limits([]),
        new().addresses(addresses.clone()),
        new().addresses(AddressList::default()),
        new().metadata(metadata.clone()),
        new().metadata(Map::new()),
        new().expires_at(Some(end)),
        new().expires_at(None),
        new().owner(None::<Arc<str>>),
        new().owner(Some(fixture.owner.as_str())),
    ];
    updates.extend(tricky_strings().into_iter().map(|text| new().name(text)));
    updates.push(
        new()
            .name("After")
            .owner(Some(format!("{}-2", fixture.owner)))
            .environment(Some("all"))
            .scopes(["c"])
            .limits(limits)
            .addresses(addresses)
            .metadata(metadata)
            .expires_at(Some(end)),
    );
    updates
}

async fn invalid_changes_change_nothing<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let record = create(store, fixture.record("Within bounds")).await;
    let valid = KeyUpdate::new().name("Half written").scopes(["half"]);
    let nul = [("nul".to_owned(), json!("\0"))].into_iter().collect();
    for update in [
        valid.clone().name(""),
        valid.clone().environment(Some("No!")),
        valid.clone().scopes(["twice", "twice"]),
        valid
            .clone()
            .limits([RateLimit::per_second(1).with_burst(0)]),
        valid.clone().metadata(nul),
        valid.clone().expires_at(Some(too_early())),
    ] {
        fails_with(
            store
                .update(record.key.id, update.clone(), Actor::SYSTEM)
                .await,
            "StoreError::Invalid",
            |error| matches!(error, StoreError::Invalid(_)),
            format_args!("an invalid update is rejected: {update:?}"),
        );
        expect_unchanged(store, &record, "a rejected update changes nothing").await;
    }
    let revoke = KeyChange::Revoke {
        revoked_at: too_early(),
    };
    fails_with(
        store.change(record.key.id, revoke, Actor::SYSTEM).await,
        "StoreError::Invalid",
        |error| matches!(error, StoreError::Invalid(InvalidKey::Time)),
        "a revocation at an out-of-range time is rejected",
    );
    expect_unchanged(store, &record, "a rejected revocation changes nothing").await;
}

async fn disabling_and_enabling<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let mut record = create(store, fixture.record("Toggled")).await;
    let id = record.key.id;
    for _ in 0..2 {
        record.key.disabled = true;
        let result = succeeds(
            store.disable(id, Actor::SYSTEM).await,
            "disabling a key succeeds",
        );
        equal(&result, &record.key, "disabling a key changes nothing else");
        expect_unchanged(store, &record, "a disabled key stays disabled").await;
    }
    for _ in 0..2 {
        record.key.disabled = false;
        let result = succeeds(
            store.enable(id, Actor::SYSTEM).await,
            "enabling a key succeeds",
        );
        equal(&result, &record.key, "enabling a key changes nothing else");
        expect_unchanged(store, &record, "an enabled key stays enabled").await;
    }
}

async fn first_revocation_time_is_kept<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let rule = "the first revocation time is kept, and so is the record";
    let mut record = create(store, fixture.record("Revoked")).await;
    let id = record.key.id;
    let first = fixture.before(Duration::from_micros(10));
    for at in [first, fixture.now, fixture.before(Duration::from_secs(60))] {
        let result = store
            .change(id, KeyChange::Revoke { revoked_at: at }, Actor::SYSTEM)
            .await;
        record.key.revoked_at = Some(first);
        equal(&succeeds(result, rule), &record.key, rule);
        expect_unchanged(store, &record, rule).await;
    }
    equal(
        &succeeds(store.revoke(id, Actor::SYSTEM).await, rule),
        &record.key,
        rule,
    );
    let enabled = succeeds(
        store.enable(id, Actor::SYSTEM).await,
        "enabling a revoked key succeeds",
    );
    equal(
        &enabled.status(fixture.now),
        &KeyStatus::Revoked,
        "enabling a revoked key does not reactivate it",
    );
    let now = create(store, fixture.record("Revoked now")).await;
    let revoked = succeeds(
        store.revoke(now.key.id, Actor::SYSTEM).await,
        "revoking a key succeeds",
    );
    equal(
        &revoked.status(fixture.now),
        &KeyStatus::Revoked,
        "a revoked key has the status Revoked",
    );
    let expected = KeyRecord {
        key: revoked,
        ..now
    };
    expect_unchanged(store, &expected, "the record of a revoked key is kept").await;
}

/// A new digest.
fn digest() -> Digest {
    Digest::sha256(id().as_str().as_bytes())
}

async fn digest_is_replaced_only_if_it_is_the_expected_one<S: KeyAdmin + ?Sized>(
    store: &S,
    fixture: &Fixture,
) {
    let mut record = create(store, fixture.record("Rehashed")).await;
    let [from, other, to] = [record.digest.clone(), digest(), digest()];
    for (from, rule) in [
        (
            other,
            "another digest than the expected one is not replaced",
        ),
        (from, "the expected digest is replaced, and nothing else"),
    ] {
        let change = KeyChange::Rehash {
            from,
            to: to.clone(),
        };
        succeeds(record.apply(&change), "the suite's changes are valid");
        let result = store.change(record.key.id, change, Actor::SYSTEM).await;
        equal(&succeeds(result, rule), &record.key, rule);
        expect_unchanged(store, &record, rule).await;
    }
    equal(&record.digest, &to, "the expected digest is replaced");
}

async fn concurrent_changes_are_all_applied<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let record = create(store, fixture.record("Contended")).await;
    let id = record.key.id;
    let at = micros(fixture.now.as_microsecond());
    let changes = [
        KeyChange::Update(Box::new(KeyUpdate::new().name("Renamed"))),
        KeyChange::Update(Box::new(KeyUpdate::new().scopes(["granted"]))),
        KeyChange::Update(Box::new(KeyUpdate::new().environment(Some("moved")))),
        KeyChange::Disable,
        KeyChange::Revoke { revoked_at: at },
        KeyChange::Rehash {
            from: record.digest.clone(),
            to: digest(),
        },
    ];
    let mut expected = record;
    let results = join_all(
        changes
            .iter()
            .map(|change| store.change(id, change.clone(), Actor::SYSTEM)),
    )
    .await;
    let rule = "concurrent changes do not overwrite each other";
    for (change, result) in changes.iter().zip(results) {
        succeeds(result, rule);
        succeeds(expected.apply(change), "the suite's changes are valid");
    }
    expect_unchanged(store, &expected, rule).await;
}

async fn unknown_ids_are_not_found<S: KeyAdmin + ?Sized>(store: &S) {
    let id = id();
    let at = micros(0);
    let changes = [
        KeyChange::Update(Box::new(KeyUpdate::new().name("Unknown"))),
        KeyChange::Disable,
        KeyChange::Enable,
        KeyChange::Revoke { revoked_at: at },
        KeyChange::Rehash {
            from: digest(),
            to: digest(),
        },
    ];
    let rule = "changing an unknown id fails with StoreError::NotFound";
    let is_not_found = |error: &StoreError| matches!(error, StoreError::NotFound(of) if *of == id);
    for change in changes {
        let result = store.change(id, change, Actor::SYSTEM).await;
        fails_with(result, "StoreError::NotFound", is_not_found, rule);
    }
    let shortcuts = [
        store.update(id, KeyUpdate::new(), Actor::SYSTEM).await,
        store.disable(id, Actor::SYSTEM).await,
        store.enable(id, Actor::SYSTEM).await,
        store.revoke(id, Actor::SYSTEM).await,
    ];
    for result in shortcuts {
        fails_with(result, "StoreError::NotFound", is_not_found, rule);
    }
    let rule = "changing an unknown id creates no key";
    equal(&find_key(store, id).await, &None, rule);
    equal(&get_key(store, id).await, &None, rule);
}

//! Changing keys.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, json};

use super::steps::{create, found, got, unchanged};
use crate::conformance::assert::{done, refused, same, together};
use crate::conformance::fixture::{Fixture, hostile_texts, id, micros, too_early};
use crate::key::{
    AddressList, InvalidKey, KeyAdmin, KeyChange, KeyRecord, KeyStatus, KeyUpdate, NewKey,
    StoreError,
};
use crate::limit::RateLimit;

pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let fresh = Fixture::new();
    updates_agree_with_apply(store, &fresh).await;
    bounds_change_nothing(store, &fresh).await;
    switches(store, &fresh).await;
    the_first_revocation_counts(store, &fresh).await;
    nothing_is_undone(store, &fresh).await;
    unknown_ids_are_not_found(store).await;
}

async fn updates_agree_with_apply<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let new = NewKey::new("Before")
        .owner(fresh.owner.as_str())
        .scope("old");
    let mut record = create(store, fresh.record_of(new)).await;
    for update in updates(fresh) {
        let rule = format!("an update agrees with KeyRecord::apply: {update:?}");
        let answer = done(store.update(record.key.id, update.clone()).await, &rule);
        let applied = record.apply(&KeyChange::Update(Box::new(update)));
        done(applied, "the suite's updates are valid");
        same(&answer, &record.key, &rule);
        unchanged(store, &record, &rule).await;
    }
}

/// Each field alone, given and taken away; then all at once.
fn updates(fresh: &Fixture) -> Vec<KeyUpdate> {
    let networks = ["192.0.2.0/24", "2001:db8::1"];
    let addresses = AddressList::parse(networks).unwrap_or_else(|_| unreachable!("valid networks"));
    let metadata: Map<_, _> = [("plan".into(), json!({ "tier": 2 }))]
        .into_iter()
        .collect();
    // What is finer than a microsecond is cut off.
    let end = fresh.after(Duration::from_nanos(86_400_000_001_999));
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
        new().owner(Some(fresh.owner.as_str())),
    ];
    updates.extend(hostile_texts().into_iter().map(|text| new().name(text)));
    updates.push(
        new()
            .name("After")
            .owner(Some(format!("{}-2", fresh.owner)))
            .environment(Some("all"))
            .scopes(["c"])
            .limits(limits)
            .addresses(addresses)
            .metadata(metadata)
            .expires_at(Some(end)),
    );
    updates
}

async fn bounds_change_nothing<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let record = create(store, fresh.record("Within bounds")).await;
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
        refused(
            store.update(record.key.id, update.clone()).await,
            "StoreError::Invalid",
            |error| matches!(error, StoreError::Invalid(_)),
            format_args!("an update out of bounds is refused: {update:?}"),
        );
        unchanged(store, &record, "a refused update changes nothing").await;
    }
    let revoke = KeyChange::Revoke {
        revoked_at: too_early(),
    };
    refused(
        store.change(record.key.id, revoke).await,
        "StoreError::Invalid",
        |error| matches!(error, StoreError::Invalid(InvalidKey::Time)),
        "a revocation at a time out of bounds is refused",
    );
    unchanged(store, &record, "a refused revocation changes nothing").await;
}

async fn switches<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let mut record = create(store, fresh.record("Switched")).await;
    let id = record.key.id;
    for _ in 0..2 {
        record.key.disabled = true;
        let answer = done(store.disable(id).await, "a key is switched off");
        same(&answer, &record.key, "switching off changes only that");
        unchanged(store, &record, "a key that was switched off stays so").await;
    }
    for _ in 0..2 {
        record.key.disabled = false;
        let answer = done(store.enable(id).await, "a key is switched on");
        same(&answer, &record.key, "switching on changes only that");
        unchanged(store, &record, "a key that was switched on stays so").await;
    }
}

async fn the_first_revocation_counts<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let rule = "the first revocation counts, and the record is kept";
    let mut record = create(store, fresh.record("Revoked")).await;
    let id = record.key.id;
    let first = fresh.before(Duration::from_micros(10));
    for at in [first, fresh.now, fresh.before(Duration::from_secs(60))] {
        let answer = store.change(id, KeyChange::Revoke { revoked_at: at }).await;
        record.key.revoked_at = Some(first);
        same(&done(answer, rule), &record.key, rule);
        unchanged(store, &record, rule).await;
    }
    same(&done(store.revoke(id).await, rule), &record.key, rule);
    let enabled = done(store.enable(id).await, "a revoked key can be switched on");
    same(
        &enabled.status(fresh.now),
        &KeyStatus::Revoked,
        "switching on does not bring back a revoked key",
    );
    let now = create(store, fresh.record("Revoked now")).await;
    let revoked = done(store.revoke(now.key.id).await, "a key is revoked");
    same(
        &revoked.status(fresh.now),
        &KeyStatus::Revoked,
        "a revoked key is revoked",
    );
    let expected = KeyRecord {
        key: revoked,
        ..now
    };
    unchanged(store, &expected, "the record of a revoked key is kept").await;
}

async fn nothing_is_undone<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let record = create(store, fresh.record("Contended")).await;
    let id = record.key.id;
    let at = micros(fresh.now.as_microsecond());
    let changes = [
        KeyChange::Update(Box::new(KeyUpdate::new().name("Renamed"))),
        KeyChange::Update(Box::new(KeyUpdate::new().scopes(["granted"]))),
        KeyChange::Update(Box::new(KeyUpdate::new().environment(Some("moved")))),
        KeyChange::Disable,
        KeyChange::Revoke { revoked_at: at },
    ];
    let mut expected = record;
    let answers = together(
        changes
            .iter()
            .map(|change| store.change(id, change.clone())),
    )
    .await;
    let rule = "changes at the same time do not undo each other";
    for (change, answer) in changes.iter().zip(answers) {
        done(answer, rule);
        done(expected.apply(change), "the suite's changes are valid");
    }
    unchanged(store, &expected, rule).await;
}

async fn unknown_ids_are_not_found<S: KeyAdmin + ?Sized>(store: &S) {
    let id = id();
    let at = micros(0);
    let changes = [
        KeyChange::Update(Box::new(KeyUpdate::new().name("Nobody"))),
        KeyChange::Disable,
        KeyChange::Enable,
        KeyChange::Revoke { revoked_at: at },
    ];
    let rule = "changing an unknown id is StoreError::NotFound";
    let is_not_found = |error: &StoreError| matches!(error, StoreError::NotFound(of) if *of == id);
    for change in changes {
        let answer = store.change(id, change).await;
        refused(answer, "StoreError::NotFound", is_not_found, rule);
    }
    let shortcuts = [
        store.update(id, KeyUpdate::new()).await,
        store.disable(id).await,
        store.enable(id).await,
        store.revoke(id).await,
    ];
    for answer in shortcuts {
        refused(answer, "StoreError::NotFound", is_not_found, rule);
    }
    let rule = "changing an unknown id creates nothing";
    same(&found(store, id).await, &None, rule);
    same(&got(store, id).await, &None, rule);
}

//! Creating and importing keys.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::key_store;
use super::steps::{create, expect_unchanged, find_key};
use crate::conformance::assert::{equal, fails_with, join_all};
use crate::conformance::fixture::{Fixture, first, id, micros, too_early, tricky_strings};
use crate::key::{Actor, AddressList, InvalidKey, Key, KeyAdmin, KeyRecord, NewKey, StoreError};
use crate::limit::RateLimit;

pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let fixture = Fixture::new();
    keeps_every_field(store, &fixture).await;
    times_are_truncated(store, &fixture).await;
    never_overwrites(store, &fixture).await;
    invalid_keys_are_rejected(store, &fixture).await;
}

async fn keeps_every_field<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let plain = create(store, fixture.record_of(NewKey::new("x"))).await;
    key_store(store, &plain).await;
    let mut records = vec![full(fixture), migrated(fixture)];
    records.extend([micros(-1), first()].map(|time| extreme_times(fixture, time)));
    for record in records {
        let record = create(store, record).await;
        key_store(store, &record).await;
    }
    for text in tricky_strings() {
        let new = NewKey::new(&*text).owner(&*text).metadata(&*text, &*text);
        let record = create(store, fixture.record_of(new)).await;
        expect_unchanged(store, &record, "every string is kept unchanged").await;
    }
}

/// A key with every field set.
fn full(fixture: &Fixture) -> KeyRecord {
    let networks = ["203.0.113.7", "10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0"];
    let addresses = AddressList::parse(networks).unwrap_or_else(|_| unreachable!("valid networks"));
    let new = NewKey::new("Everything")
        .owner(fixture.owner.as_str())
        .environment("live-2_eu")
        .scopes(["postings:read", "postings:write", "a,b;c{d}'e"])
        .limit(RateLimit::per_second(20).with_burst(40).with_name("burst"))
        .limit(RateLimit::per(7, Duration::from_nanos(1_234_567_891)).with_name("odd"))
        .limit(RateLimit::per_hour(u32::MAX).with_name("large"))
        .addresses(addresses)
        .metadata("nested", json!({ "a": [1, -2, 0.5, null, true], "": {} }))
        .metadata("deep", nested(31))
        .metadata("large", u64::MAX)
        .metadata("small", i64::MIN)
        .expires_at(fixture.after(Duration::from_micros(3_600_000_001)));
    fixture.record_of(new)
}

/// Alternating arrays and objects, nested this deep.
fn nested(levels: u32) -> Value {
    (0..levels).fold(Value::Null, |inner, level| match level % 2 {
        0 => json!([inner]),
        _ => json!({ "in": inner }),
    })
}

/// A key with a history, as if migrated from another store.
fn migrated(fixture: &Fixture) -> KeyRecord {
    let mut record = fixture.record("Migrated");
    record.key = Key {
        disabled: true,
        revoked_at: Some(fixture.before(Duration::from_micros(1))),
        rotated_from: Some(id()),
        replaced_by: Some(id()),
        lineage: id(),
        first_accepted_at: Some(fixture.before(Duration::from_micros(3))),
        last_accepted_at: Some(fixture.before(Duration::from_micros(2))),
        rejected_since: 7,
        ..record.key
    };
    record
}

/// Times before 1970, and an expiry at the end of time, as an alternative to no expiry.
fn extreme_times(fixture: &Fixture, early: Timestamp) -> KeyRecord {
    let mut record = fixture.record("Ends of time");
    record.key.created_at = early;
    record.key.last_accepted_at = Some(early);
    record.key.expires_at = Some(micros(Timestamp::MAX.as_second() * 1_000_000));
    record
}

async fn times_are_truncated<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let mut record = fixture.record("Nanoseconds");
    let odd = |micros| fixture.after(Duration::from_micros(micros) + Duration::from_nanos(999));
    record.key.created_at = odd(0);
    record.key.expires_at = Some(odd(3));
    record.key.revoked_at = Some(odd(2));
    record.key.first_accepted_at = Some(odd(0));
    record.key.last_accepted_at = Some(odd(1));
    let record = create(store, record).await.in_whole_micros();
    expect_unchanged(store, &record, "times are truncated to whole microseconds").await;
}

async fn never_overwrites<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let first = create(store, fixture.record("First")).await;
    let id = first.key.id;
    let mut second = fixture.record("Second");
    second.key.id = id;
    let rule = "creating never overwrites a key: an existing id fails with StoreError::Conflict";
    let is_conflict = |error: &StoreError| matches!(error, StoreError::Conflict(of) if *of == id);
    fails_with(
        store.create(second, Actor::SYSTEM).await,
        "StoreError::Conflict",
        is_conflict,
        rule,
    );
    fails_with(
        store.create(first.clone(), Actor::SYSTEM).await,
        "StoreError::Conflict",
        is_conflict,
        rule,
    );
    expect_unchanged(store, &first, rule).await;

    let template = fixture.record("Candidates");
    let candidates: Vec<_> = (0..8)
        .map(|n| {
            let mut candidate = template.clone();
            candidate.key.name = format!("Candidate {n}");
            candidate
        })
        .collect();
    let results = join_all(
        candidates
            .iter()
            .map(|candidate| store.create(candidate.clone(), Actor::SYSTEM)),
    )
    .await;
    let created: Vec<_> = candidates
        .iter()
        .zip(&results)
        .filter(|(_, result)| result.is_ok())
        .map(|(candidate, _)| candidate)
        .collect();
    equal(
        &created.len(),
        &1,
        "of several concurrent creations of one id, exactly one succeeds",
    );
    expect_unchanged(
        store,
        created[0],
        "the stored key is the one whose creation succeeded",
    )
    .await;
}

async fn invalid_keys_are_rejected<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    for (make_invalid, error) in invalidations() {
        let mut record = fixture.record("x");
        make_invalid(&mut record.key);
        let id = record.key.id;
        fails_with(
            store.create(record, Actor::SYSTEM).await,
            "StoreError::Invalid",
            |got| matches!(got, StoreError::Invalid(got) if *got == error),
            format_args!("an invalid key is not created: {error}"),
        );
        equal(
            &find_key(store, id).await,
            &None,
            "a key that was not created is not found",
        );
    }
}

type MakeInvalid = fn(&mut Key);

/// Changes that make a key invalid, with the resulting errors.
fn invalidations() -> [(MakeInvalid, InvalidKey); 13] {
    let zero = crate::limit::InvalidLimit::Zero;
    [
        (|key| add(key, nested(32)), InvalidKey::MetadataDepth),
        (|key| add(key, json!("\0")), InvalidKey::MetadataNul),
        (
            |key| add(key, json!([{ "a": "b\0" }])),
            InvalidKey::MetadataNul,
        ),
        (|key| add(key, json!({ "\0": 1 })), InvalidKey::MetadataNul),
        (|key| key.hint = "ä".repeat(65), InvalidKey::Hint),
        (|key| key.name = String::new(), InvalidKey::Name),
        (|key| key.name = " \u{a0}".into(), InvalidKey::Name),
        (|key| key.name = "ä".repeat(101), InvalidKey::Name),
        (
            |key| key.limits = vec![RateLimit::per_second(0)],
            zero.into(),
        ),
        (|key| key.created_at = too_early(), InvalidKey::Time),
        (|key| key.expires_at = Some(too_early()), InvalidKey::Time),
        (|key| key.revoked_at = Some(too_early()), InvalidKey::Time),
        (
            |key| key.last_accepted_at = Some(too_early()),
            InvalidKey::Time,
        ),
    ]
}

fn add(key: &mut Key, metadata: Value) {
    key.metadata.insert("added".into(), metadata);
}

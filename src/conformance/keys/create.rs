//! Adding and importing keys.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::key_store;
use super::steps::{create, found, unchanged};
use crate::conformance::assert::{done, refused, same, together};
use crate::conformance::fixture::{Fixture, first, hostile_texts, id, micros, too_early};
use crate::key::{
    AddressList, Digest, InvalidKey, IssueError, Key, KeyAdmin, KeyRecord, NewKey, StoreError,
};
use crate::limit::RateLimit;

pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let fresh = Fixture::new();
    keeps_every_field(store, &fresh).await;
    times_are_cut(store, &fresh).await;
    never_overwrites(store, &fresh).await;
    keeps_bounds(store, &fresh).await;
    imports(store, &fresh).await;
}

async fn keeps_every_field<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let plain = create(store, fresh.record_of(NewKey::new("x"))).await;
    key_store(store, &plain).await;
    let mut records = vec![full(fresh), used_up(fresh)];
    records.extend([micros(-1), first()].map(|time| extreme_times(fresh, time)));
    for record in records {
        let record = create(store, record).await;
        key_store(store, &record).await;
    }
    for text in hostile_texts() {
        let new = NewKey::new(&*text).owner(&*text).metadata(&*text, &*text);
        let record = create(store, fresh.record_of(new)).await;
        unchanged(store, &record, "every text is kept as it is").await;
    }
}

/// A key with everything.
fn full(fresh: &Fixture) -> KeyRecord {
    let networks = ["203.0.113.7", "10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0"];
    let addresses = AddressList::parse(networks).unwrap_or_else(|_| unreachable!("valid networks"));
    let new = NewKey::new("Everything")
        .owner(fresh.owner.as_str())
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
        .expires_at(fresh.after(Duration::from_micros(3_600_000_001)));
    fresh.record_of(new)
}

/// So many levels of lists and objects in turn.
fn nested(levels: u32) -> Value {
    (0..levels).fold(Value::Null, |inner, level| match level % 2 {
        0 => json!([inner]),
        _ => json!({ "in": inner }),
    })
}

/// A key that is not new, as one that is moved from another store.
fn used_up(fresh: &Fixture) -> KeyRecord {
    let mut record = fresh.record("Not new");
    record.key = Key {
        disabled: true,
        revoked_at: Some(fresh.before(Duration::from_micros(1))),
        rotated_from: Some(id()),
        lineage: id(),
        last_used_at: Some(fresh.before(Duration::from_micros(2))),
        ..record.key
    };
    record
}

/// Before 1970, and at the end of time, where a key without an end in sight may be told to end.
fn extreme_times(fresh: &Fixture, early: Timestamp) -> KeyRecord {
    let mut record = fresh.record("Ends of time");
    record.key.created_at = early;
    record.key.last_used_at = Some(early);
    record.key.expires_at = Some(micros(Timestamp::MAX.as_second() * 1_000_000));
    record
}

async fn times_are_cut<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let mut record = fresh.record("Nanoseconds");
    let odd = |micros| fresh.after(Duration::from_micros(micros) + Duration::from_nanos(999));
    record.key.created_at = odd(0);
    record.key.expires_at = Some(odd(3));
    record.key.revoked_at = Some(odd(2));
    record.key.last_used_at = Some(odd(1));
    let record = create(store, record).await.in_whole_micros();
    unchanged(store, &record, "times are cut to whole microseconds").await;
}

async fn never_overwrites<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let first = create(store, fresh.record("First")).await;
    let id = first.key.id;
    let mut second = fresh.record("Second");
    second.key.id = id;
    let rule = "creating never overwrites a key: a taken id is a conflict";
    let is_conflict = |error: &StoreError| matches!(error, StoreError::Conflict(of) if *of == id);
    refused(
        store.create(second).await,
        "StoreError::Conflict",
        is_conflict,
        rule,
    );
    refused(
        store.create(first.clone()).await,
        "StoreError::Conflict",
        is_conflict,
        rule,
    );
    unchanged(store, &first, rule).await;

    let model = fresh.record("Rivals");
    let rivals: Vec<_> = (0..8)
        .map(|n| {
            let mut rival = model.clone();
            rival.key.name = format!("Rival {n}");
            rival
        })
        .collect();
    let answers = together(rivals.iter().map(|rival| store.create(rival.clone()))).await;
    let winners: Vec<_> = rivals
        .iter()
        .zip(&answers)
        .filter(|(_, answer)| answer.is_ok())
        .map(|(rival, _)| rival)
        .collect();
    same(
        &winners.len(),
        &1,
        "of creations of one id at the same time exactly one succeeds",
    );
    unchanged(
        store,
        winners[0],
        "the key is the one whose creation succeeded",
    )
    .await;
}

async fn keeps_bounds<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    for (spoil, error) in out_of_bounds() {
        let mut record = fresh.record("x");
        spoil(&mut record.key);
        let id = record.key.id;
        refused(
            store.create(record).await,
            "StoreError::Invalid",
            |got| matches!(got, StoreError::Invalid(got) if *got == error),
            format_args!("a key out of bounds is not created: {error}"),
        );
        same(
            &found(store, id).await,
            &None,
            "what is not created is not there",
        );
    }
}

type Spoil = fn(&mut Key);

/// What brings a key out of bounds, and out of which.
fn out_of_bounds() -> [(Spoil, InvalidKey); 13] {
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
        (|key| key.last_used_at = Some(too_early()), InvalidKey::Time),
    ]
}

fn add(key: &mut Key, metadata: Value) {
    key.metadata.insert("added".into(), metadata);
}

async fn imports<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let secret = format!("legacy-{}", fresh.tag);
    let new = || NewKey::new("Imported").owner(fresh.owner.as_str());
    let issuer = fresh.issuer();
    let key = issuer.import_secret(store, new(), &secret).await;
    let key = done(key, "a key of another system is imported");
    let digest = Digest::sha256(secret.as_bytes()).to_string();
    let hex = digest.trim_start_matches("sha256:");
    let record = found(store, key.id).await;
    same(
        &record.as_ref().map(|record| &record.key),
        &Some(&key),
        "an imported key is found by the id made from its secret",
    );
    refused(
        issuer.import_sha256(store, new(), hex).await,
        "StoreError::Conflict",
        |error| matches!(error, IssueError::Store(StoreError::Conflict(of)) if *of == key.id),
        "a secret is imported once, whether by its text or by its hash",
    );
    if let Some(record) = record {
        unchanged(store, &record, "importing never overwrites a key").await;
    }

    let (secret, _) = done(issuer.prepare(new()), "the suite's keys are valid");
    let key = issuer.import_secret(store, new(), secret.expose()).await;
    same(
        &done(key, "a key of another store is imported").id,
        &secret.id(),
        "a secret of this crate's form is imported under its own id",
    );
}

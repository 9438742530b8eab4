//! Import of keys of another system.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::steps::{expect_unchanged, find_key};
use crate::conformance::assert::{equal, fails_with, succeeds};
use crate::conformance::fixture::{Fixture, micros};
use crate::key::{
    Actor, AuditAction, AuditQuery, Digest, ImportReport, ImportedKey, IssueError, Key, KeyAdmin,
    KeyQuery, KeyUpdate, NewKey, StoreError,
};

pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let fixture = Fixture::new();
    single_keys(store, &fixture).await;
    many_keys(store, &fixture).await;
}

async fn single_keys<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let secret = format!("legacy-{}", fixture.tag);
    let new = || NewKey::new("Imported").owner(fixture.owner.as_str());
    let issuer = fixture.issuer();
    let key = issuer
        .import(
            store,
            ImportedKey::from_secret(new(), secret.as_str()),
            Actor::SYSTEM,
        )
        .await;
    let key = succeeds(key, "importing a secret of another system succeeds");
    let digest = Digest::sha256(secret.as_bytes()).to_string();
    let hex = digest.trim_start_matches("sha256:");
    let record = find_key(store, key.id).await;
    equal(
        &record.as_ref().map(|record| &record.key),
        &Some(&key),
        "an imported key is found by the id derived from its secret",
    );
    fails_with(
        issuer
            .import(
                store,
                ImportedKey::from_digest(new(), Digest::from_sha256(hex)),
                Actor::SYSTEM,
            )
            .await,
        "StoreError::Conflict",
        |error| matches!(error, IssueError::Store(StoreError::Conflict(of)) if *of == key.id),
        "a secret can be imported only once, as text or as hash",
    );
    if let Some(record) = record {
        expect_unchanged(store, &record, "importing never overwrites a key").await;
    }

    let (secret, _) = succeeds(issuer.prepare(new()), "the suite's keys are valid");
    let key = issuer
        .import(
            store,
            ImportedKey::from_secret(new(), secret.expose()),
            Actor::SYSTEM,
        )
        .await;
    equal(
        &succeeds(key, "importing a secret in this crate's format succeeds").id,
        &secret.id(),
        "a secret in this crate's format is imported under its own id",
    );
}

async fn many_keys<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let issuer = fixture.issuer();
    let owner = format!("imported-{}", fixture.tag);
    let imported = |n: usize| {
        let new = NewKey::new(format!("Imported {n}")).owner(owner.as_str());
        let new = new.expires_at(micros(2_000_000_000_000_000 + n as i64));
        ImportedKey::from_secret(new, &format!("legacy-{n:08}-{}", fixture.tag))
            .created_at(micros(1_500_000_000_000_000 + n as i64))
            .last_accepted_at(n.is_multiple_of(2).then(|| micros(1_700_000_000_000_000)))
            .disabled(n.is_multiple_of(3))
            .hint(format!("sk-…{n}"))
    };
    // More than a page of keys and a statement of the SQL backends, and one key twice.
    let keys = || (0..620).map(imported).chain([imported(0)]);
    let malformed = ImportedKey::from_secret(NewKey::new("Malformed"), "too short");
    let all = || Iter(keys().chain([malformed.clone()]));
    let numbers = |report: &ImportReport| {
        let different = report.different.len();
        [
            report.imported,
            report.existing,
            different as u64,
            report.rejected.len() as u64,
        ]
    };
    let checked = issuer.check_import(store, all()).await;
    equal(
        &numbers(&succeeds(checked, "a dry run of an import succeeds")),
        &[620, 1, 0, 1],
        "a dry run reports what would be imported",
    );
    let of_owner = KeyQuery::new().owner(owner.as_str()).limit(1_000);
    let listed = succeeds(store.list(&of_owner).await, "keys can be listed");
    equal(&listed.items.len(), &0, "a dry run imports nothing");
    let report = issuer.import_all(store, all(), Actor::SYSTEM).await;
    let report = succeeds(report, "importing many keys succeeds");
    equal(
        &numbers(&report),
        &[620, 1, 0, 1],
        "an import reports imported, existing, different and rejected keys",
    );
    let rejected = report.rejected.first().map(|it| (it.position, &*it.name));
    equal(
        &rejected,
        &Some((621, "Malformed")),
        "rejected keys are reported with position and name",
    );
    if let Some(log) = store.audit_log() {
        let first = succeeds(store.list(&of_owner).await, "keys can be listed");
        for key in first.items.iter().take(3) {
            let query = AuditQuery::new().key(key.id);
            let entries = succeeds(log.audit_entries(&query).await, "the audit log can be read");
            let actions: Vec<_> = entries.items.iter().map(|entry| entry.action).collect();
            equal(
                &actions,
                &vec![AuditAction::Created],
                "each imported key has exactly one audit entry",
            );
        }
    }
    let listed = succeeds(store.list(&of_owner).await, "keys can be listed");
    let mut listed = listed.items;
    listed.sort_by_key(|key| key.created_at);
    equal(&listed.len(), &620, "all keys are imported");
    for (n, key) in listed.iter().enumerate() {
        let expected = Key {
            owner: Some(owner.as_str().into()),
            expires_at: Some(micros(2_000_000_000_000_000 + n as i64)),
            last_accepted_at: n.is_multiple_of(2).then(|| micros(1_700_000_000_000_000)),
            disabled: n.is_multiple_of(3),
            hint: format!("sk-…{n}"),
            imported: true,
            ..Key::new(
                key.id,
                format!("Imported {n}"),
                micros(1_500_000_000_000_000 + n as i64),
            )
        };
        equal(key, &expected, "imported keys keep what was set");
    }
    // Imported again, after a use and two changes.
    let [Some(enabled), Some(renamed)] =
        [listed.first(), listed.get(1)].map(|key| key.map(|key| key.id))
    else {
        return;
    };
    succeeds(
        store.enable(enabled, Actor::SYSTEM).await,
        "imported keys can be enabled",
    );
    let update = KeyUpdate::new().name("Renamed");
    succeeds(
        store.update(renamed, update, Actor::SYSTEM).await,
        "imported keys can be updated",
    );
    for report in [
        issuer.check_import(store, all()).await,
        issuer.import_all(store, all(), Actor::SYSTEM).await,
    ] {
        let report = succeeds(report, "an import can be repeated");
        equal(
            &numbers(&report),
            &[0, 618, 3, 1],
            "a repeated import changes nothing",
        );
        equal(
            &report.different,
            &vec![enabled, renamed, enabled],
            "changed keys are reported",
        );
    }
    let query = of_owner.clone().imported(false);
    let listed = succeeds(store.list(&query).await, "keys can be listed");
    equal(&listed.items.len(), &0, "imported keys can be left out");
    let query = of_owner.imported(true).limit(10);
    let listed = succeeds(store.list(&query).await, "keys can be listed");
    equal(&listed.items.len(), &10, "imported keys can be listed");
}

/// A stream of the items of an iterator.
struct Iter<I>(I);

impl<I: Iterator + Unpin> Stream for Iter<I> {
    type Item = I::Item;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<I::Item>> {
        Poll::Ready(self.0.next())
    }
}

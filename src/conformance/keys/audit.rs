//! The audit log.

use std::time::Duration;

use jiff::Timestamp;

use super::steps::{audit_log, create, create_as, get_key};
use crate::conformance::assert::{equal, fails_with, holds, succeeds};
use crate::conformance::fixture::{Fixture, id, too_early, tricky_strings};
use crate::id::KeyId;
use crate::key::{
    Actor, AuditAction, AuditEntry, AuditQuery, AuditState, Key, KeyAdmin, KeyChange, KeyRecord,
    KeyUpdate, Rotation, StoreError,
};
use crate::page::{PageRequest, PageToken};

/// Checks the audit log of a store that has one.
pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    if store.audit_log().is_none() {
        return;
    }
    let fixture = Fixture::new();
    let mut entries = every_change_has_an_entry(store, &fixture, Actor::SYSTEM).await;
    for name in ["anna", "Anna"] {
        let actor = format!("{name}-{}", fixture.tag);
        entries.extend(every_change_has_an_entry(store, &fixture, Actor::new(&actor)).await);
    }
    filters_agree_with_matches(store, &entries).await;
    filters_work_alone(store, &entries).await;
    page_sizes_are_clamped(store, &entries).await;
    actors_are_normalized(store, &fixture).await;
    failed_changes_have_no_entry(store, &fixture).await;
    foreign_page_tokens_are_rejected(store, &fixture).await;
    paging_is_stable(store, &fixture).await;
}

/// Makes every possible change to a key, and returns the audit entries of the key and of its successor.
async fn every_change_has_an_entry<S: KeyAdmin + ?Sized>(
    store: &S,
    fixture: &Fixture,
    actor: Actor<'_>,
) -> Vec<AuditEntry> {
    let first = create_as(store, fixture.record("Audited"), actor).await.key;
    let id = first.id;
    let mut steps = vec![(AuditAction::Created, Some(first))];
    let mut step = |action, key| steps.push((action, Some(key)));
    let update = KeyUpdate::new().name("Renamed").scopes(["read"]);
    let key = succeeds(
        store.update(id, update, actor).await,
        "updating a key succeeds",
    );
    step(AuditAction::Updated, key);
    // The second call changes nothing, but has an entry of its own.
    for _ in 0..2 {
        let key = succeeds(store.disable(id, actor).await, "disabling a key succeeds");
        step(AuditAction::Disabled, key);
    }
    for _ in 0..2 {
        let key = succeeds(store.enable(id, actor).await, "enabling a key succeeds");
        step(AuditAction::Enabled, key);
    }
    let new = store.rotate(id, rotation(fixture), actor).await;
    let new = succeeds(new, "rotating an active key succeeds");
    steps.push((AuditAction::Rotated, get_key(store, id).await));
    for _ in 0..2 {
        let key = succeeds(store.revoke(id, actor).await, "revoking a key succeeds");
        steps.push((AuditAction::Revoked, Some(key)));
    }
    succeeds(store.delete(id, actor).await, "deleting a key succeeds");
    steps.push((AuditAction::Deleted, None));

    let mut entries = expect_entries(store, id, actor, &steps).await;
    let begin = [(AuditAction::Created, Some(new.clone()))];
    entries.extend(expect_entries(store, new.id, actor, &begin).await);
    entries
}

fn rotation(fixture: &Fixture) -> Rotation {
    let KeyRecord { key, digest, .. } = fixture.record("Source of a secret");
    Rotation {
        id: key.id,
        digest,
        hint: key.hint,
        encrypted_secret: None,
        rotated_at: fixture.now,
        old_expires_at: fixture.after(Duration::from_secs(3_600)),
    }
}

/// Checks that the audit log has exactly these entries of a key: the actions and the key after each, in order.
async fn expect_entries<S: KeyAdmin + ?Sized>(
    store: &S,
    id: KeyId,
    actor: Actor<'_>,
    steps: &[(AuditAction, Option<Key>)],
) -> Vec<AuditEntry> {
    let entries = read_all(store, AuditQuery::new().key(id), None).await;
    let actions: Vec<_> = entries.iter().rev().map(|entry| entry.action).collect();
    let expected: Vec<_> = steps.iter().map(|(action, _)| *action).collect();
    let rule = "every change has exactly one entry, in the order of the changes, and entries outlive their key";
    equal(&actions, &expected, rule);
    let mut before = None;
    for (entry, (_, after)) in entries.iter().rev().zip(steps) {
        let rule = format!("an entry names the actor of the change: {entry:?}");
        equal(&entry.actor, &actor.to_name(), rule);
        let rule = "an entry holds the key as it was before the change";
        equal(&entry.before, &before, rule);
        let after = after.clone().map(AuditState::from);
        equal(
            &entry.after,
            &after,
            "an entry holds the key as it was after the change",
        );
        let position = AuditQuery::page_token(entry);
        let rule = "an entry's time is in whole microseconds";
        equal(&entry.time, &position.time(), rule);
        before = after;
    }
    entries
}

/// The entries of the same key.
fn of_key(entry: &AuditEntry) -> AuditQuery {
    let mut query = AuditQuery::new();
    query.key = entry.subject.key();
    query
}

async fn filters_agree_with_matches<S: KeyAdmin + ?Sized>(store: &S, entries: &[AuditEntry]) {
    let mut queries = Vec::new();
    for entry in entries.iter().step_by(5) {
        let of_key = of_key(entry);
        let mut of = vec![of_key.clone()];
        for actor in entries
            .iter()
            .step_by(11)
            .filter_map(|entry| entry.actor.as_ref())
        {
            of.extend([AuditQuery::new().actor(actor), of_key.clone().actor(actor)]);
        }
        for of in of {
            queries.push(of.clone());
            queries.extend(AuditAction::ALL.map(|action| of.clone().action(action)));
            queries.push(of.clone().from(entry.time));
            queries.push(of.clone().to(entry.time));
            let after = entry.time + Duration::from_micros(1);
            queries.push(of.clone().from(entry.time).to(after).action(entry.action));
            queries.push(of.from(after));
        }
    }
    for query in queries {
        let rule =
            format!("the audit log agrees with AuditQuery::matches, newest first: {query:?}");
        let listed = read_all(store, query.clone(), None).await;
        equal(&ids(&listed), &ids(&expected(entries, &query)), rule);
    }
    let Some(actor) = entries.iter().find_map(|entry| entry.actor.as_ref()) else {
        return;
    };
    for page in [1, 2, 3, 7] {
        let query = AuditQuery::new().actor(actor).limit(page);
        let rule = format!("pages of {page} neither skip nor repeat entries");
        let listed = read_all(store, query.clone(), None).await;
        equal(&listed, &expected(entries, &query), rule);
    }
}

/// Filters without a key or an actor, where the audit log may have unrelated entries.
async fn filters_work_alone<S: KeyAdmin + ?Sized>(store: &S, entries: &[AuditEntry]) {
    let times = || entries.iter().map(|entry| entry.time);
    let mut queries = vec![AuditQuery::new()];
    queries.extend(AuditAction::ALL.map(|action| AuditQuery::new().action(action)));
    queries.extend(times().max().map(|time| AuditQuery::new().from(time)));
    queries.extend(times().max().map(|time| AuditQuery::new().to(time)));
    for query in queries {
        let query = query.limit(PageRequest::MAX_LIMIT);
        let mut listed = read_all(store, query.clone(), times().min()).await;
        listed.retain(|entry| entries.iter().any(|own| own.id == entry.id));
        let rule = format!("every filter works on its own: {query:?}");
        equal(&ids(&listed), &ids(&expected(entries, &query)), rule);
    }
}

async fn page_sizes_are_clamped<S: KeyAdmin + ?Sized>(store: &S, entries: &[AuditEntry]) {
    let query = of_key(&entries[0]);
    let all = expected(entries, &query).len();
    for (limit, rule) in [
        (0, "a page size of 0 is raised to 1"),
        (all, "a page can be exactly full"),
        (
            usize::MAX,
            "a page size above the maximum is reduced to the maximum",
        ),
    ] {
        let query = query.clone().limit(limit);
        let page = succeeds(audit_log(store).audit_entries(&query).await, rule);
        let listed = page.items.len();
        equal(&listed, &limit.clamp(1, all), rule);
        let rule = "there is a next page token if and only if more items follow";
        equal(&page.next.is_some(), &(listed < all), rule);
    }
}

async fn actors_are_normalized<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let id = create(store, fixture.record("Many actors")).await.key.id;
    let mut actors = tricky_strings();
    actors.extend(["ä".repeat(200), "ö".repeat(201), "nul \0, line\r\n".into()]);
    for text in &actors {
        let disabled = store.disable(id, Actor::new(text)).await;
        succeeds(disabled, "any actor can disable a key");
        let listed = read_all(store, AuditQuery::new().key(id).actor(text), None).await;
        let named: Vec<_> = listed.iter().map(|entry| entry.actor.clone()).collect();
        let rule = "an actor is stored as normalized by Actor::to_name";
        equal(&named, &vec![Actor::new(text).to_name()], rule);
    }
    succeeds(
        store.enable(id, Actor::SYSTEM).await,
        "enabling a key succeeds",
    );
    let listed = read_all(store, AuditQuery::new().key(id), None).await;
    let last = listed.first().map(|entry| (entry.action, &entry.actor));
    let rule = "the system actor is stored as None";
    equal(&last, &Some((AuditAction::Enabled, &None)), rule);
}

async fn failed_changes_have_no_entry<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let unknown = id();
    let rotation = rotation(fixture);
    let mut unnamed = fixture.record("x");
    unnamed.key.name.clear();
    let existing = create(store, fixture.record("Existing")).await;
    let disabled_id = create(store, fixture.record("Disabled")).await.key.id;
    succeeds(
        store.disable(disabled_id, Actor::SYSTEM).await,
        "disabling a key succeeds",
    );
    let to_existing = Rotation {
        id: existing.key.id,
        ..rotation.clone()
    };
    let out_of_bounds = KeyUpdate::new().name("");
    let too_early = KeyChange::Revoke {
        revoked_at: too_early(),
    };
    let results = [
        store.create(unnamed.clone(), Actor::SYSTEM).await,
        store.create(existing.clone(), Actor::SYSTEM).await,
        store
            .update(existing.key.id, out_of_bounds, Actor::SYSTEM)
            .await
            .map(drop),
        store
            .change(existing.key.id, too_early, Actor::SYSTEM)
            .await
            .map(drop),
        store
            .rotate(existing.key.id, to_existing, Actor::SYSTEM)
            .await
            .map(drop),
        store
            .rotate(disabled_id, rotation.clone(), Actor::SYSTEM)
            .await
            .map(drop),
        store
            .rotate(unknown, rotation.clone(), Actor::SYSTEM)
            .await
            .map(drop),
        store
            .update(unknown, KeyUpdate::new(), Actor::SYSTEM)
            .await
            .map(drop),
        store.disable(unknown, Actor::SYSTEM).await.map(drop),
        store.revoke(unknown, Actor::SYSTEM).await.map(drop),
        store.delete(unknown, Actor::SYSTEM).await,
    ];
    let (created, disabled) = (AuditAction::Created, AuditAction::Disabled);
    let rule = "a failed change has no audit entry";
    for result in results {
        holds(result.is_err(), "an invalid change fails");
    }
    for (id, actions) in [
        (unnamed.key.id, vec![]),
        (existing.key.id, vec![created]),
        (disabled_id, vec![disabled, created]),
        (rotation.id, vec![]),
        (unknown, vec![]),
    ] {
        let entries = read_all(store, AuditQuery::new().key(id), None).await;
        let recorded: Vec<_> = entries.iter().map(|entry| entry.action).collect();
        equal(&recorded, &actions, rule);
    }
}

async fn foreign_page_tokens_are_rejected<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    for item_id in ["1", fixture.tag.as_str()] {
        let query = AuditQuery::new().after(PageToken::new(fixture.now, item_id));
        fails_with(
            audit_log(store).audit_entries(&query).await,
            "StoreError::Page",
            |error| matches!(error, StoreError::Page(_)),
            "a page token of another list fails with StoreError::Page, in the audit log too",
        );
    }
}

/// Entries are added while a client pages through the audit log.
async fn paging_is_stable<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    let id = create(store, fixture.record("Busy")).await.key.id;
    for _ in 0..5 {
        succeeds(
            store.disable(id, Actor::SYSTEM).await,
            "disabling a key succeeds",
        );
        succeeds(
            store.enable(id, Actor::SYSTEM).await,
            "enabling a key succeeds",
        );
    }
    let mut query = AuditQuery::new().key(id);
    let existing = read_all(store, query.clone(), None).await;
    query.page.limit = 2;
    let mut listed = Vec::new();
    for _ in 0..=existing.len() {
        let page = succeeds(
            audit_log(store).audit_entries(&query).await,
            "paging through the audit log succeeds while entries are added",
        );
        listed.extend(page.items);
        succeeds(
            store.disable(id, Actor::SYSTEM).await,
            "disabling a key succeeds",
        );
        query.page.after = page.next;
        if query.page.after.is_none() {
            break;
        }
    }
    let rule = "pages neither skip nor repeat entries while others are added";
    equal(&ids(&listed), &ids(&existing), rule);
}

/// The entries that match according to [`AuditQuery::matches`], in the order of the audit log.
fn expected(entries: &[AuditEntry], query: &AuditQuery) -> Vec<AuditEntry> {
    let mut entries: Vec<_> = entries
        .iter()
        .filter(|entry| query.matches(entry))
        .cloned()
        .collect();
    entries.sort_by_key(|entry| std::cmp::Reverse((entry.time, entry.id)));
    entries
}

fn ids(entries: &[AuditEntry]) -> Vec<uuid::Uuid> {
    entries.iter().map(|entry| entry.id).collect()
}

/// Reads all pages, or those down to the oldest entry of interest.
async fn read_all<S>(store: &S, mut query: AuditQuery, oldest: Option<Timestamp>) -> Vec<AuditEntry>
where
    S: KeyAdmin + ?Sized,
{
    let mut listed = Vec::new();
    loop {
        let page = succeeds(
            audit_log(store).audit_entries(&query).await,
            format_args!("an audit query succeeds: {query:?}"),
        );
        holds(
            page.items.len() <= query.page.size(),
            "a page has at most the requested number of entries",
        );
        holds(
            page.next.is_none() || !page.items.is_empty(),
            "only the last page can be empty",
        );
        holds(
            page.items.iter().all(|entry| query.matches(entry)),
            format_args!("an audit query returns only matching entries: {query:?}"),
        );
        let before = listed.len().saturating_sub(1);
        listed.extend(page.items);
        check_order(&listed[before..]);
        let Some(next) = page.next else { break };
        if oldest.is_some_and(|oldest| next.time() < oldest) {
            break;
        }
        query.page.after = next.to_string().parse().ok();
        equal(
            &query.page.after,
            &Some(next),
            "a page token round-trips through its text form",
        );
    }
    listed
}

/// Checks that entries are ordered newest first, without duplicates.
fn check_order(listed: &[AuditEntry]) {
    let position = |entry: &AuditEntry| (entry.time, entry.id);
    for pair in listed.windows(2) {
        holds(
            position(&pair[0]) > position(&pair[1]),
            format_args!(
                "the audit log is ordered by time and then by id, newest first, without duplicates\n  \
                 {:?} came before\n  {:?}",
                position(&pair[0]),
                position(&pair[1])
            ),
        );
    }
}

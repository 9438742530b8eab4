//! Telling who did what to which key.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::steps::{create, found, got};
use crate::conformance::assert::{done, holds, refused, same};
use crate::conformance::fixture::{Fixture, hostile_texts, id, too_early};
use crate::id::KeyId;
use crate::key::{
    AuditAction, AuditEntry, AuditQuery, Key, KeyAdmin, KeyChange, KeyRecord, KeyUpdate, Rotation,
    StoreError,
};
use crate::page::PageToken;

/// Checks the audit of a store that keeps one.
pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let query = AuditQuery::new().limit(1);
    if done(store.audit(&query).await, "an audit answers").is_none() {
        return;
    }
    let fresh = Fixture::new();
    let mut entries = every_change_is_told(store, &fresh, None).await;
    for name in ["anna", "Anna"] {
        let actor = format!("{name}-{}", fresh.tag);
        let acting = acting_as(store, &actor);
        entries.extend(every_change_is_told(&acting, &fresh, Some(&actor)).await);
    }
    filters_agree_with_matches(store, &entries).await;
    filters_hold_alone(store, &entries).await;
    limits_are_kept(store, &entries).await;
    actors_are_brought_into_bounds(store, &fresh).await;
    the_store_is_shared(store, &fresh).await;
    what_fails_is_not_told(store, &fresh).await;
    foreign_tokens_are_refused(store, &fresh).await;
    pages_stay_whole(store, &fresh).await;
}

fn acting_as<S: KeyAdmin + ?Sized>(store: &S, actor: &str) -> Arc<dyn KeyAdmin> {
    match store.acting_as(actor) {
        Some(acting) => acting,
        None => {
            panic!("broken rule: a store that keeps an audit acts as whom it is told to: {actor}")
        }
    }
}

/// Does to a key all that can be done, and answers the entries of the two keys that this takes.
async fn every_change_is_told<S: KeyAdmin + ?Sized>(
    store: &S,
    fresh: &Fixture,
    actor: Option<&str>,
) -> Vec<AuditEntry> {
    let first = create(store, fresh.record("Audited")).await.key;
    let id = first.id;
    let mut steps = vec![(AuditAction::Created, Some(first))];
    let mut step = |action, key| steps.push((action, Some(key)));
    let update = KeyUpdate::new().name("Renamed").scopes(["read"]);
    let answer = done(store.update(id, update).await, "a key is updated");
    step(AuditAction::Updated, answer);
    // The second time nothing changes, but somebody did it.
    for _ in 0..2 {
        let answer = done(store.disable(id).await, "a key is switched off");
        step(AuditAction::Disabled, answer);
    }
    for _ in 0..2 {
        let answer = done(store.enable(id).await, "a key is switched on");
        step(AuditAction::Enabled, answer);
    }
    let new = store.rotate(id, rotation(fresh)).await;
    let new = done(new, "a key that works is rotated");
    steps.push((AuditAction::Rotated, got(store, id).await));
    for _ in 0..2 {
        let answer = done(store.revoke(id).await, "a key is revoked");
        steps.push((AuditAction::Revoked, Some(answer)));
    }
    done(store.delete(id).await, "a key is deleted");
    steps.push((AuditAction::Deleted, None));

    let mut entries = tells(store, id, actor, &steps).await;
    let begin = [(AuditAction::Created, Some(new.clone()))];
    entries.extend(tells(store, new.id, actor, &begin).await);
    entries
}

fn rotation(fresh: &Fixture) -> Rotation {
    let KeyRecord { key, digest, .. } = fresh.record("Only for its secret");
    Rotation {
        id: key.id,
        digest,
        hint: key.hint,
        sealed: None,
        rotated_at: fresh.now,
        old_expires_at: fresh.after(Duration::from_secs(3_600)),
    }
}

/// The audit tells exactly this of a key: what was done and what the key was then, in turn.
async fn tells<S: KeyAdmin + ?Sized>(
    store: &S,
    id: KeyId,
    actor: Option<&str>,
    steps: &[(AuditAction, Option<Key>)],
) -> Vec<AuditEntry> {
    let entries = walk(store, AuditQuery::new().key(id), None).await;
    let told: Vec<_> = entries.iter().rev().map(|entry| entry.action).collect();
    let done: Vec<_> = steps.iter().map(|(action, _)| *action).collect();
    let rule = "every change has one entry, in the order of the changes, also when the key is gone";
    same(&told, &done, rule);
    let mut before = &None;
    for (entry, (_, after)) in entries.iter().rev().zip(steps) {
        let rule = format!("an entry names who made the change: {entry:?}");
        same(&entry.actor.as_deref(), &actor, rule);
        let rule = "an entry has the key as it was before";
        same(&entry.before, before, rule);
        same(&entry.after, after, "an entry has the key as it was after");
        let place = AuditQuery::place(entry);
        let rule = "an entry's time is in whole microseconds";
        same(&entry.time, &place.time(), rule);
        before = after;
    }
    entries
}

async fn filters_agree_with_matches<S: KeyAdmin + ?Sized>(store: &S, entries: &[AuditEntry]) {
    let mut queries = Vec::new();
    for entry in entries.iter().step_by(5) {
        let of_key = AuditQuery::new().key(entry.key);
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
        let rule = format!("an audit agrees with AuditQuery::matches, newest first: {query:?}");
        let told = walk(store, query.clone(), None).await;
        same(&ids(&told), &ids(&expected(entries, &query)), rule);
    }
    let Some(actor) = entries.iter().find_map(|entry| entry.actor.as_ref()) else {
        return;
    };
    for page in [1, 2, 3, 7] {
        let query = AuditQuery::new().actor(actor).limit(page);
        let rule = format!("pages of {page} neither skip nor repeat entries");
        let told = walk(store, query.clone(), None).await;
        same(&told, &expected(entries, &query), rule);
    }
}

/// Without a key or an actor, where the audit may have other people's entries too.
async fn filters_hold_alone<S: KeyAdmin + ?Sized>(store: &S, entries: &[AuditEntry]) {
    let times = || entries.iter().map(|entry| entry.time);
    let mut queries = vec![AuditQuery::new()];
    queries.extend(AuditAction::ALL.map(|action| AuditQuery::new().action(action)));
    queries.extend(times().max().map(|time| AuditQuery::new().from(time)));
    queries.extend(times().max().map(|time| AuditQuery::new().to(time)));
    for query in queries {
        let query = query.limit(AuditQuery::MAX_LIMIT);
        let mut told = walk(store, query.clone(), times().min()).await;
        told.retain(|entry| entries.iter().any(|own| own.id == entry.id));
        let rule = format!("every filter holds alone too: {query:?}");
        same(&ids(&told), &ids(&expected(entries, &query)), rule);
    }
}

async fn limits_are_kept<S: KeyAdmin + ?Sized>(store: &S, entries: &[AuditEntry]) {
    let query = AuditQuery::new().key(entries[0].key);
    let all = expected(entries, &query).len();
    for (limit, rule) in [
        (0, "a limit of zero is one"),
        (all, "a page may be exactly full"),
        (usize::MAX, "a limit beyond the largest is the largest"),
    ] {
        let page = done(store.audit(&query.clone().limit(limit)).await, rule);
        let (told, next) = page.map_or((0, None), |page| (page.items.len(), page.next));
        same(&told, &limit.clamp(1, all), rule);
        let rule = "there is a next page exactly when there is more";
        same(&next.is_some(), &(told < all), rule);
    }
}

async fn actors_are_brought_into_bounds<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let id = create(store, fresh.record("Handed round")).await.key.id;
    let mut actors = hostile_texts();
    actors.extend(["ä".repeat(200), "ö".repeat(201), "nul \0, line\r\n".into()]);
    for text in &actors {
        let answer = acting_as(store, text).disable(id).await;
        done(answer, "anybody can switch off a key");
        let told = walk(store, AuditQuery::new().key(id).actor(text), None).await;
        let named: Vec<_> = told.iter().map(|entry| entry.actor.clone()).collect();
        let rule = "an actor is kept as AuditEntry::actor_of brings it into bounds";
        same(&named, &vec![AuditEntry::actor_of(text)], rule);
    }
    done(
        acting_as(store, "").enable(id).await,
        "a key is switched on",
    );
    let told = walk(store, AuditQuery::new().key(id), None).await;
    let last = told.first().map(|entry| (entry.action, &entry.actor));
    let rule = "an empty actor names nobody";
    same(&last, &Some((AuditAction::Enabled, &None)), rule);
}

async fn the_store_is_shared<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let rule = "who acts as somebody shares the store";
    let (anna, ben) = (format!("a-{}", fresh.tag), format!("b-{}", fresh.tag));
    let acting = acting_as(store, &anna);
    let mut record = create(&acting, fresh.record("Shared")).await;
    let id = record.key.id;
    same(&found(store, id).await, &Some(record.clone()), rule);
    let again = acting_as(&acting, &ben);
    done(again.disable(id).await, "a key is switched off");
    record.key.disabled = true;
    for seen in [found(store, id).await, found(&acting, id).await] {
        same(&seen, &Some(record.clone()), rule);
    }
    let query = AuditQuery::new().key(id);
    let told = walk(store, query.clone(), None).await;
    same(&walk(&again, query, None).await, &told, rule);
    let actors: Vec<_> = told.iter().map(|entry| entry.actor.clone()).collect();
    let rule = "who was told last to act as somebody acts as that";
    same(&actors, &vec![Some(ben), Some(anna)], rule);
}

async fn what_fails_is_not_told<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let unknown = id();
    let rotation = rotation(fresh);
    let mut nameless = fresh.record("x");
    nameless.key.name.clear();
    let taken = create(store, fresh.record("Taken")).await;
    let off = create(store, fresh.record("Switched off")).await.key.id;
    done(store.disable(off).await, "a key is switched off");
    let to_taken = Rotation {
        id: taken.key.id,
        ..rotation.clone()
    };
    let out_of_bounds = KeyUpdate::new().name("");
    let too_early = KeyChange::Revoke {
        revoked_at: too_early(),
    };
    let failed = [
        store.create(nameless.clone()).await,
        store.create(taken.clone()).await,
        store.update(taken.key.id, out_of_bounds).await.map(drop),
        store.change(taken.key.id, too_early).await.map(drop),
        store.rotate(taken.key.id, to_taken).await.map(drop),
        store.rotate(off, rotation.clone()).await.map(drop),
        store.rotate(unknown, rotation.clone()).await.map(drop),
        store.update(unknown, KeyUpdate::new()).await.map(drop),
        store.disable(unknown).await.map(drop),
        store.revoke(unknown).await.map(drop),
        store.delete(unknown).await,
    ];
    let (created, disabled) = (AuditAction::Created, AuditAction::Disabled);
    let rule = "a change that fails leaves no entry";
    for answer in failed {
        holds(answer.is_err(), "what cannot be done fails");
    }
    for (id, done) in [
        (nameless.key.id, vec![]),
        (taken.key.id, vec![created]),
        (off, vec![disabled, created]),
        (rotation.id, vec![]),
        (unknown, vec![]),
    ] {
        let told = walk(store, AuditQuery::new().key(id), None).await;
        let told: Vec<_> = told.iter().map(|entry| entry.action).collect();
        same(&told, &done, rule);
    }
}

async fn foreign_tokens_are_refused<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    for place in ["1", fresh.tag.as_str()] {
        let query = AuditQuery::new().after(PageToken::new(fresh.now, place));
        refused(
            store.audit(&query).await,
            "StoreError::Page",
            |error| matches!(error, StoreError::Page(_)),
            "a page token of another list is StoreError::Page, in the audit too",
        );
    }
}

/// Entries come while somebody turns the pages.
async fn pages_stay_whole<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    let id = create(store, fresh.record("Busy")).await.key.id;
    for _ in 0..5 {
        done(store.disable(id).await, "a key is switched off");
        done(store.enable(id).await, "a key is switched on");
    }
    let mut query = AuditQuery::new().key(id);
    let there = walk(store, query.clone(), None).await;
    query.limit = 2;
    let mut told = Vec::new();
    for _ in 0..=there.len() {
        let page = done(
            store.audit(&query).await,
            "an audit goes on while entries come",
        );
        let Some(page) = page else { break };
        told.extend(page.items);
        done(store.disable(id).await, "a key is switched off");
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    let rule = "pages neither skip nor repeat entries while others come";
    same(&ids(&told), &ids(&there), rule);
}

/// What the pure filter leaves, in the order of the audit.
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

/// Turns all pages, or those down to the oldest entry of interest.
async fn walk<S>(store: &S, mut query: AuditQuery, oldest: Option<Timestamp>) -> Vec<AuditEntry>
where
    S: KeyAdmin + ?Sized,
{
    let mut told = Vec::new();
    loop {
        let page = store.audit(&query).await;
        let Some(page) = done(page, format_args!("an audit answers: {query:?}")) else {
            panic!("broken rule: a store that keeps an audit always has one: {query:?}");
        };
        holds(
            page.items.len() <= query.page_size(),
            "a page has at most as many entries as asked for",
        );
        holds(
            page.next.is_none() || !page.items.is_empty(),
            "no page but the last is empty",
        );
        holds(
            page.items.iter().all(|entry| query.matches(entry)),
            format_args!("an audit has only entries that match: {query:?}"),
        );
        let before = told.len().saturating_sub(1);
        told.extend(page.items);
        in_order(&told[before..]);
        let Some(next) = page.next else { break };
        if oldest.is_some_and(|oldest| next.time() < oldest) {
            break;
        }
        query.after = next.to_string().parse().ok();
        same(
            &query.after,
            &Some(next),
            "a page token can be sent as text",
        );
    }
    told
}

/// Nothing comes twice, and newer entries come first.
fn in_order(told: &[AuditEntry]) {
    let place = |entry: &AuditEntry| (entry.time, entry.id);
    for pair in told.windows(2) {
        holds(
            place(&pair[0]) > place(&pair[1]),
            format_args!(
                "an audit is ordered by time and then by id from high to low, and repeats nothing\n  \
                 {:?} came before\n  {:?}",
                place(&pair[0]),
                place(&pair[1])
            ),
        );
    }
}

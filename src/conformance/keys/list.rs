//! Listing keys.

use std::time::Duration;

use jiff::Timestamp;

use super::steps::create;
use crate::conformance::assert::{done, holds, refused, same};
use crate::conformance::fixture::{Fixture, hostile_texts, id};
use crate::id::KeyId;
use crate::key::{Key, KeyAdmin, KeyQuery, KeyRecord, KeyStatus, StoreError};
use crate::page::PageToken;

pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let fresh = Fixture::new();
    let keys = fill(store, &fresh).await;
    filters_agree_with_matches(store, &fresh, &keys).await;
    filters_hold_alone(store, &fresh, &keys).await;
    limits_are_kept(store, &fresh, &keys).await;
    foreign_tokens_are_refused(store, &fresh).await;
    nanoseconds_are_no_places(store).await;
    pages_stay_whole(store).await;
}

/// Keys of two owners, some of the same microsecond, with every status and many names.
async fn fill<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) -> Vec<Key> {
    let mut names = hostile_texts();
    names.truncate(10);
    let names: Vec<_> = names
        .into_iter()
        .map(|name| format!("{name} {}", fresh.tag))
        .collect();
    let mut keys = Vec::new();
    for n in 0..40_u32 {
        let mut record = fresh.record(names[n as usize % names.len()].as_str());
        let key = &mut record.key;
        // Three in a row are of the same time, so that only their ids tell them apart.
        key.created_at = fresh.before(Duration::from_millis((n / 3).into()));
        if n % 5 == 0 {
            key.owner = Some(other_owner(fresh).into());
        }
        key.disabled = n % 4 == 1;
        key.expires_at = match n % 7 {
            1 => Some(fresh.now),
            2 => Some(fresh.after(Duration::from_micros(1))),
            3 => Some(fresh.before(Duration::from_micros(1))),
            _ => None,
        };
        key.revoked_at = (n % 9 == 2).then_some(fresh.now);
        key.last_used_at = match n % 6 {
            1 => Some(fresh.now),
            2 | 3 => Some(fresh.before(Duration::from_micros(1))),
            _ => None,
        };
        keys.push(create(store, record).await.key);
    }
    keys
}

/// An owner whom comparing without case, or by the beginning, takes for the run's.
fn other_owner(fresh: &Fixture) -> String {
    fresh.owner.replace("conformance", "Conformance")
}

async fn filters_agree_with_matches<S: KeyAdmin + ?Sized>(
    store: &S,
    fresh: &Fixture,
    keys: &[Key],
) {
    let owners = [fresh.owner.clone(), other_owner(fresh)];
    let prefix = fresh.owner[..fresh.owner.len() - 1].to_owned();
    let statuses = [
        KeyStatus::Active,
        KeyStatus::Disabled,
        KeyStatus::Expired,
        KeyStatus::Revoked,
    ];
    let parts = [
        "",
        "%",
        "_",
        "\\",
        "\\%",
        "'",
        "\"",
        "IT'S",
        "ärger",
        "ÄRGER",
        "жУК",
        "*",
        "[a-z]",
        "مفتاح",
        "no such name",
        " before ",
    ];
    let mut queries = Vec::new();
    for owner in owners.iter().chain([&prefix]) {
        let query = KeyQuery::new().owner(owner.as_str());
        queries.push(query.clone());
        for status in statuses {
            for at in [fresh.now, fresh.after(Duration::from_micros(1))] {
                queries.push(query.clone().status(status, at));
            }
        }
        queries.extend(parts.map(|part| query.clone().name(part)));
        for (status, part) in statuses.into_iter().zip(["", "%", "ÄRGER", "'"]) {
            queries.push(query.clone().status(status, fresh.now).name(part));
        }
        for time in around(fresh.now).into_iter().chain([keys[20].created_at]) {
            queries.push(query.clone().unused_since(time));
            queries.push(query.clone().expires_before(time));
            let soon = query.clone().status(KeyStatus::Active, fresh.now);
            queries.push(soon.clone().expires_before(time));
            queries.push(soon.unused_since(time).expires_before(time));
        }
        let ids: Vec<_> = keys.iter().step_by(3).map(|key| key.id).collect();
        queries.push(query.clone().ids([]));
        queries.push(query.clone().ids(ids[..1].iter().copied()));
        // Twice the same, and one that there is not.
        let more = ids.iter().chain(&ids).copied().chain([id()]);
        queries.push(query.clone().ids(more).unused_since(fresh.now));
    }
    for query in queries {
        let rule = format!("a list agrees with KeyQuery::matches, newest first: {query:?}");
        same(
            &walk(store, query.clone(), None).await,
            &expected(keys, &query),
            rule,
        );
    }
    for page in [1, 2, 3, 7] {
        let query = KeyQuery::new().owner(fresh.owner.as_str()).limit(page);
        let rule = format!("pages of {page} neither skip nor repeat keys");
        same(
            &walk(store, query.clone(), None).await,
            &expected(keys, &query),
            rule,
        );
    }
}

/// A time that is kept, and times a nanosecond to both sides of it.
fn around(time: Timestamp) -> [Timestamp; 3] {
    let nanosecond = jiff::SignedDuration::from_nanos(1);
    [time - nanosecond, time, time + nanosecond]
}

/// Without an owner, where the list may have other people's keys too.
async fn filters_hold_alone<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture, keys: &[Key]) {
    let query = KeyQuery::new().name(fresh.tag.as_str().to_lowercase());
    same(
        &walk(store, query.clone(), None).await,
        &expected(keys, &query),
        "a name filters without an owner too, in any case",
    );
    let ids = keys.iter().map(|key| key.id);
    let query = KeyQuery::new().ids(ids);
    same(
        &walk(store, query.clone(), None).await,
        &expected(keys, &query),
        "ids filter without an owner too",
    );
    // Those past the first thousand do not count.
    let many = std::iter::repeat_n(keys[0].id, KeyQuery::MAX_LIMIT);
    let query = KeyQuery::new().ids(many.chain([keys[1].id]));
    same(
        &walk(store, query.clone(), None).await,
        &expected(keys, &query),
        "a list takes as many ids as a page has keys",
    );
    let oldest = keys.iter().map(|key| key.created_at).min();
    for status in [KeyStatus::Active, KeyStatus::Revoked] {
        let query = KeyQuery::new()
            .status(status, fresh.now)
            .limit(KeyQuery::MAX_LIMIT);
        let mut listed = walk(store, query.clone(), oldest).await;
        holds(
            listed.iter().all(|key| query.matches(key)),
            format_args!("a list has only keys that match: {query:?}"),
        );
        listed.retain(|key| keys.iter().any(|own| own.id == key.id));
        let rule = "a status filters without an owner too";
        same(&listed, &expected(keys, &query), rule);
    }
}

async fn limits_are_kept<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture, keys: &[Key]) {
    let query = KeyQuery::new().owner(fresh.owner.as_str());
    let all = expected(keys, &query);
    for (limit, rule) in [
        (0, "a limit of zero is one"),
        (all.len(), "a page may be exactly full"),
        (usize::MAX, "a limit beyond the largest is the largest"),
    ] {
        let page = done(store.list(&query.clone().limit(limit)).await, rule);
        same(&page.items.len(), &limit.clamp(1, all.len()), rule);
        let more = page.items.len() < all.len();
        same(
            &page.next.is_some(),
            &more,
            "there is a next page exactly when there is more",
        );
    }
}

async fn foreign_tokens_are_refused<S: KeyAdmin + ?Sized>(store: &S, fresh: &Fixture) {
    for place in ["1", "01890a5d-ac96-774b-bcce-b302099a8057"] {
        let query = KeyQuery::new().after(PageToken::new(fresh.now, place));
        refused(
            store.list(&query).await,
            "StoreError::Page",
            |error| matches!(error, StoreError::Page(_)),
            "a page token of another list is StoreError::Page",
        );
    }
}

/// A page's end lies in a microsecond that several keys were told to share by halves.
async fn nanoseconds_are_no_places<S: KeyAdmin + ?Sized>(store: &S) {
    let fresh = Fixture::new();
    let mut created = Vec::new();
    for n in 0..6 {
        let mut record = fresh.record("Nanoseconds");
        record.key.created_at = fresh.after(Duration::from_nanos(n * 300));
        created.push(create(store, record).await.key.id);
    }
    let query = KeyQuery::new().owner(fresh.owner.as_str()).limit(1);
    let mut listed = ids(store, query).await;
    created.sort_unstable();
    listed.sort_unstable();
    same(
        &listed,
        &created,
        "pages skip no key of the same microsecond",
    );
}

/// Keys come, older and newer ones, and go, while somebody turns the pages.
async fn pages_stay_whole<S: KeyAdmin + ?Sized>(store: &S) {
    let fresh = Fixture::new();
    let make = |n: u64, name: &str| {
        let mut record: KeyRecord = fresh.record(name);
        record.key.created_at = fresh.before(Duration::from_micros(n / 2));
        record
    };
    let mut first = Vec::new();
    for n in 0..12 {
        first.push(create(store, make(100 + n, "There before")).await.key.id);
    }
    let mut query = KeyQuery::new().owner(fresh.owner.as_str()).limit(2);
    let mut listed: Vec<Key> = Vec::new();
    for step in 0..100 {
        let page = done(store.list(&query).await, "a list goes on while keys arrive");
        listed.extend(page.items);
        let Some(next) = page.next else { break };
        query.after = Some(next);
        create(store, make(step, "Newer")).await;
        create(store, make(200 + step, "Older")).await;
        if let Some(seen) = listed.iter().find(|key| key.name == "Newer") {
            panic!(
                "broken rule: a key that arrives before the place is not on later pages: {seen:?}"
            );
        }
        // The place itself may go.
        if step % 3 == 0 && step < 10 {
            let seen = listed.last().map_or_else(id, |key| key.id);
            done(store.delete(seen).await, "a key is deleted");
        }
        if step > 20 {
            break;
        }
    }
    in_order(&listed);
    let seen: Vec<_> = listed.iter().map(|key| key.id).collect();
    let missed: Vec<_> = first.iter().filter(|id| !seen.contains(id)).collect();
    same(
        &missed,
        &vec![],
        "pages skip no key that was there all the time",
    );
}

/// What the pure filter leaves, in the order of the list.
fn expected(keys: &[Key], query: &KeyQuery) -> Vec<Key> {
    let mut keys: Vec<_> = keys
        .iter()
        .filter(|key| query.matches(key))
        .cloned()
        .collect();
    keys.sort_by_key(|key| std::cmp::Reverse((key.created_at, key.id)));
    keys
}

/// Turns all pages, or those down to the oldest key of interest.
async fn walk<S>(store: &S, mut query: KeyQuery, oldest: Option<Timestamp>) -> Vec<Key>
where
    S: KeyAdmin + ?Sized,
{
    let mut listed = Vec::new();
    loop {
        let page = done(
            store.list(&query).await,
            format_args!("a list answers: {query:?}"),
        );
        holds(
            page.items.len() <= query.page_size(),
            "a page has at most as many keys as asked for",
        );
        holds(
            page.next.is_none() || !page.items.is_empty(),
            "no page but the last is empty",
        );
        listed.extend(page.items);
        in_order(&listed);
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
    listed
}

/// Nothing comes twice, and newer keys come first.
fn in_order(listed: &[Key]) {
    let place = |key: &Key| (key.created_at, key.id);
    for pair in listed.windows(2) {
        holds(
            place(&pair[0]) > place(&pair[1]),
            format_args!(
                "a list is ordered by creation and then by id from high to low, and repeats nothing\n  \
                 {:?} came before\n  {:?}",
                place(&pair[0]),
                place(&pair[1])
            ),
        );
    }
}

/// The ids of all keys on a list.
pub(super) async fn ids<S: KeyAdmin + ?Sized>(store: &S, query: KeyQuery) -> Vec<KeyId> {
    let keys = walk(store, query, None).await;
    keys.iter().map(|key| key.id).collect()
}

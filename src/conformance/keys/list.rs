//! Listing keys.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::steps::create;
use crate::conformance::assert::{equal, fails_with, holds, succeeds};
use crate::conformance::fixture::{Fixture, id, tricky_strings};
use crate::id::KeyId;
use crate::key::{Actor, Key, KeyAdmin, KeyQuery, KeyRecord, KeyStatus, StoreError};
use crate::page::{PageRequest, PageToken};

pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let fixture = Fixture::new();
    let keys = fill(store, &fixture).await;
    filters_agree_with_matches(store, &fixture, &keys).await;
    filters_work_alone(store, &fixture, &keys).await;
    owners_are_found(store, &fixture, &keys).await;
    page_sizes_are_clamped(store, &fixture, &keys).await;
    foreign_page_tokens_are_rejected(store, &fixture).await;
    times_within_a_microsecond_do_not_break_paging(store).await;
    paging_is_stable(store).await;
}

/// Creates keys of three owners and of none with every status and many names, some in the same microsecond.
async fn fill<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) -> Vec<Key> {
    let mut names = tricky_strings();
    names.truncate(10);
    let names: Vec<_> = names
        .into_iter()
        .map(|name| format!("{name} {}", fixture.tag))
        .collect();
    let mut keys = Vec::new();
    for n in 0..40_u32 {
        let mut record = fixture.record(names[n as usize % names.len()].as_str());
        let key = &mut record.key;
        // Three in a row have the same time, so that only their ids determine their order.
        key.created_at = fixture.before(Duration::from_millis((n / 3).into()));
        match n % 5 {
            0 => key.owner = Some(other_owner(fixture).into()),
            1 => key.owner = Some(tricky_owner(fixture).into()),
            2 if n > 30 => key.owner = None,
            _ => {}
        }
        key.disabled = n % 4 == 1;
        key.expires_at = match n % 7 {
            1 => Some(fixture.now),
            2 => Some(fixture.after(Duration::from_micros(1))),
            3 => Some(fixture.before(Duration::from_micros(1))),
            _ => None,
        };
        key.revoked_at = (n % 9 == 2).then_some(fixture.now);
        key.imported = n % 8 < 3;
        key.last_accepted_at = match n % 6 {
            1 => Some(fixture.now),
            2 | 3 => Some(fixture.before(Duration::from_micros(1))),
            _ => None,
        };
        keys.push(create(store, record).await.key);
    }
    keys
}

/// An owner that case-insensitive comparison confuses with the run's.
fn other_owner(fixture: &Fixture) -> String {
    fixture.owner.replace("conformance", "Conformance")
}

fn tricky_owner(fixture: &Fixture) -> String {
    format!("{}/../ ärger жУК '\"\\%_?#", fixture.owner)
}

async fn filters_agree_with_matches<S: KeyAdmin + ?Sized>(
    store: &S,
    fixture: &Fixture,
    keys: &[Key],
) {
    let owners = [fixture.owner.clone(), other_owner(fixture)];
    let prefix = fixture.owner[..fixture.owner.len() - 1].to_owned();
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
            for at in [fixture.now, fixture.after(Duration::from_micros(1))] {
                queries.push(query.clone().status(status, at));
            }
        }
        queries.extend(parts.map(|part| query.clone().name(part)));
        queries.extend(parts.map(|part| query.clone().search(part)));
        // Hints and ids, which are case-sensitive.
        for key in &keys[..2] {
            let (id, hint) = (key.id.as_str(), &*key.hint);
            for text in [id, &id[2..9], hint] {
                queries.push(query.clone().search(text));
                queries.push(query.clone().search(text.to_uppercase()));
            }
        }
        for (status, part) in statuses.into_iter().zip(["", "%", "ÄRGER", "'"]) {
            queries.push(query.clone().status(status, fixture.now).name(part));
        }
        for time in around(fixture.now).into_iter().chain([keys[20].created_at]) {
            queries.push(query.clone().unused_since(time));
            queries.push(query.clone().expires_before(time));
            let soon = query.clone().status(KeyStatus::Active, fixture.now);
            queries.push(soon.clone().expires_before(time));
            queries.push(soon.unused_since(time).expires_before(time));
        }
        let ids: Vec<_> = keys.iter().step_by(3).map(|key| key.id).collect();
        queries.extend([true, false].map(|imported| query.clone().imported(imported)));
        queries.push(query.clone().ids([]));
        queries.push(query.clone().ids(ids[..1].iter().copied()));
        // Duplicates, and an id that does not exist.
        let more = ids.iter().chain(&ids).copied().chain([id()]);
        queries.push(query.clone().ids(more).unused_since(fixture.now));
    }
    for query in queries {
        let rule = format!("a list agrees with KeyQuery::matches, newest first: {query:?}");
        equal(
            &read_all(store, query.clone(), None).await,
            &expected(keys, &query),
            rule,
        );
    }
    for page in [1, 2, 3, 7] {
        let query = KeyQuery::new().owner(fixture.owner.as_str()).limit(page);
        let rule = format!("pages of {page} neither skip nor repeat keys");
        equal(
            &read_all(store, query.clone(), None).await,
            &expected(keys, &query),
            rule,
        );
    }
}

/// A time, and the times a nanosecond before and after it.
fn around(time: Timestamp) -> [Timestamp; 3] {
    let nanosecond = jiff::SignedDuration::from_nanos(1);
    [time - nanosecond, time, time + nanosecond]
}

/// Filters without an owner, where the list may have unrelated keys.
async fn filters_work_alone<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture, keys: &[Key]) {
    let query = KeyQuery::new().name(fixture.tag.as_str().to_lowercase());
    equal(
        &read_all(store, query.clone(), None).await,
        &expected(keys, &query),
        "the name filter works without an owner and ignores case",
    );
    let query = KeyQuery::new().search(keys[0].id.as_str());
    equal(
        &read_all(store, query.clone(), None).await,
        &expected(keys, &query),
        "the search filter works without an owner",
    );
    let ids = keys.iter().map(|key| key.id);
    for part in [
        fixture.owner.to_uppercase(),
        tricky_owner(fixture).to_uppercase(),
        fixture.owner[1..].to_owned(),
        format!("{}\0", fixture.owner),
    ] {
        let query = KeyQuery::new().owner_contains(part);
        for query in [query.clone(), query.status(KeyStatus::Active, fixture.now)] {
            equal(
                &read_all(store, query.clone(), None).await,
                &expected(keys, &query),
                format_args!("a list agrees with KeyQuery::matches: {query:?}"),
            );
        }
    }
    let query = KeyQuery::new().ids(ids);
    equal(
        &read_all(store, query.clone(), None).await,
        &expected(keys, &query),
        "the ids filter works without an owner",
    );
    // Ids beyond the first thousand are ignored.
    let many = std::iter::repeat_n(keys[0].id, PageRequest::MAX_LIMIT);
    let query = KeyQuery::new().ids(many.chain([keys[1].id]));
    equal(
        &read_all(store, query.clone(), None).await,
        &expected(keys, &query),
        "a list uses at most PageRequest::MAX_LIMIT ids",
    );
    let oldest = keys.iter().map(|key| key.created_at).min();
    for status in [KeyStatus::Active, KeyStatus::Revoked] {
        let query = KeyQuery::new()
            .status(status, fixture.now)
            .limit(PageRequest::MAX_LIMIT);
        let mut listed = read_all(store, query.clone(), oldest).await;
        holds(
            listed.iter().all(|key| query.matches(key)),
            format_args!("a list has only matching keys: {query:?}"),
        );
        listed.retain(|key| keys.iter().any(|own| own.id == key.id));
        let rule = "the status filter works without an owner";
        equal(&listed, &expected(keys, &query), rule);
    }
}

async fn owners_are_found<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture, keys: &[Key]) {
    let owners = keys.iter().filter_map(|key| key.owner.as_deref());
    let owners: BTreeSet<_> = owners.collect();
    for part in ["", "/../", "ЖУК '\"\\%_", "\0", "no such owner"] {
        let part = format!("{}{part}", fixture.owner.to_uppercase());
        let expected = owners.iter();
        let expected = expected.filter(|owner| owner.to_lowercase().contains(&part.to_lowercase()));
        let expected: Vec<_> = expected.map(|owner| (*owner).to_owned()).collect();
        for limit in [0, 1, 2, 99] {
            let found = succeeds(
                store.owners(&part, limit).await,
                format_args!("a query for owners succeeds: {part:?}"),
            );
            equal(
                &found,
                &expected.iter().take(limit).cloned().collect(),
                format_args!("owners that contain {part:?} are sorted and limited to {limit}"),
            );
        }
    }
    let all = succeeds(
        store.owners("", usize::MAX).await,
        "a query for all owners succeeds",
    );
    holds(
        all.is_sorted() && owners.iter().all(|owner| all.iter().any(|it| it == owner)),
        "an empty text matches all owners, each once and sorted by name",
    );
}

async fn page_sizes_are_clamped<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture, keys: &[Key]) {
    let query = KeyQuery::new().owner(fixture.owner.as_str());
    let all = expected(keys, &query);
    for (limit, rule) in [
        (0, "a page size of 0 is raised to 1"),
        (all.len(), "a page can be exactly full"),
        (
            usize::MAX,
            "a page size above the maximum is reduced to the maximum",
        ),
    ] {
        let page = succeeds(store.list(&query.clone().limit(limit)).await, rule);
        equal(&page.items.len(), &limit.clamp(1, all.len()), rule);
        let more = page.items.len() < all.len();
        equal(
            &page.next.is_some(),
            &more,
            "there is a next page token if and only if more items follow",
        );
    }
}

async fn foreign_page_tokens_are_rejected<S: KeyAdmin + ?Sized>(store: &S, fixture: &Fixture) {
    for item_id in ["1", "01890a5d-ac96-774b-bcce-b302099a8057"] {
        let query = KeyQuery::new().after(PageToken::new(fixture.now, item_id));
        fails_with(
            store.list(&query).await,
            "StoreError::Page",
            |error| matches!(error, StoreError::Page(_)),
            "a page token of another list fails with StoreError::Page",
        );
    }
}

/// Pages end within a microsecond that several keys share once their times are truncated.
async fn times_within_a_microsecond_do_not_break_paging<S: KeyAdmin + ?Sized>(store: &S) {
    let fixture = Fixture::new();
    let mut created = Vec::new();
    for n in 0..6 {
        let mut record = fixture.record("Nanoseconds");
        record.key.created_at = fixture.after(Duration::from_nanos(n * 300));
        created.push(create(store, record).await.key.id);
    }
    let query = KeyQuery::new().owner(fixture.owner.as_str()).limit(1);
    let mut listed = ids(store, query).await;
    created.sort_unstable();
    listed.sort_unstable();
    equal(
        &listed,
        &created,
        "pages skip no keys within the same microsecond",
    );
}

/// Newer and older keys are created, and keys are deleted, while a client pages through the list.
async fn paging_is_stable<S: KeyAdmin + ?Sized>(store: &S) {
    let fixture = Fixture::new();
    let new_record = |n: u64, name: &str| {
        let mut record: KeyRecord = fixture.record(name);
        record.key.created_at = fixture.before(Duration::from_micros(n / 2));
        record
    };
    let mut first = Vec::new();
    for n in 0..12 {
        first.push(create(store, new_record(100 + n, "Existing")).await.key.id);
    }
    let mut query = KeyQuery::new().owner(fixture.owner.as_str()).limit(2);
    let mut listed: Vec<Key> = Vec::new();
    for step in 0..100 {
        let page = succeeds(
            store.list(&query).await,
            "paging through a list succeeds while keys are created",
        );
        listed.extend(page.items);
        let Some(next) = page.next else { break };
        query.page.after = Some(next);
        create(store, new_record(step, "Newer")).await;
        create(store, new_record(200 + step, "Older")).await;
        if let Some(seen) = listed.iter().find(|key| key.name == "Newer") {
            panic!(
                "broken rule: a key created before the position of a page token is not on later pages: {seen:?}"
            );
        }
        // The key at the position of the page token may be deleted.
        if step % 3 == 0 && step < 10 {
            let seen = listed.last().map_or_else(id, |key| key.id);
            succeeds(
                store.delete(seen, Actor::SYSTEM).await,
                "deleting a key succeeds",
            );
        }
        if step > 20 {
            break;
        }
    }
    check_order(&listed);
    let seen: Vec<_> = listed.iter().map(|key| key.id).collect();
    let missed: Vec<_> = first.iter().filter(|id| !seen.contains(id)).collect();
    equal(
        &missed,
        &vec![],
        "pages skip no key that existed throughout",
    );
}

/// The keys that match according to [`KeyQuery::matches`], in the order of the list.
fn expected(keys: &[Key], query: &KeyQuery) -> Vec<Key> {
    let mut keys: Vec<_> = keys
        .iter()
        .filter(|key| query.matches(key))
        .cloned()
        .collect();
    keys.sort_by_key(|key| std::cmp::Reverse((key.created_at, key.id)));
    keys
}

/// Reads all pages, or those down to the oldest key of interest.
async fn read_all<S>(store: &S, mut query: KeyQuery, oldest: Option<Timestamp>) -> Vec<Key>
where
    S: KeyAdmin + ?Sized,
{
    let mut listed = Vec::new();
    loop {
        let page = succeeds(
            store.list(&query).await,
            format_args!("listing keys succeeds: {query:?}"),
        );
        holds(
            page.items.len() <= query.page.size(),
            "a page has at most the requested number of keys",
        );
        holds(
            page.next.is_none() || !page.items.is_empty(),
            "only the last page can be empty",
        );
        listed.extend(page.items);
        check_order(&listed);
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

/// Checks that keys are ordered newest first, without duplicates.
fn check_order(listed: &[Key]) {
    let position = |key: &Key| (key.created_at, key.id);
    for pair in listed.windows(2) {
        holds(
            position(&pair[0]) > position(&pair[1]),
            format_args!(
                "a list is ordered by creation time and then by id, newest first, without duplicates\n  \
                 {:?} came before\n  {:?}",
                position(&pair[0]),
                position(&pair[1])
            ),
        );
    }
}

/// The ids of all keys that match a query.
pub(super) async fn ids<S: KeyAdmin + ?Sized>(store: &S, query: KeyQuery) -> Vec<KeyId> {
    let keys = read_all(store, query, None).await;
    keys.iter().map(|key| key.id).collect()
}

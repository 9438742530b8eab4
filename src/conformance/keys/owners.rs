//! Owners and plans.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::steps::{create, find_key};
use crate::conformance::assert::{equal, fails_with, holds, join_all, succeeds};
use crate::conformance::fixture::{Fixture, tricky_strings};
use crate::id::KeyId;
use crate::key::{
    Actor, AuditAction, AuditQuery, AuditState, Invalidate, KeyAdmin, KeyQuery, KeyUpdate, NewKey,
    Owner, OwnerAdmin, OwnerChange, OwnerQuery, OwnerStatus, OwnerUpdate, Plan, Policy, StoreError,
};
use crate::limit::RateLimit;
use crate::page::{PageToken, whole_micros};

/// Checks the owners and plans of a store that keeps them.
pub(super) async fn suite<S: KeyAdmin + ?Sized>(store: &S) {
    let Some(owners) = store.owner_admin() else {
        return;
    };
    let fixture = Fixture::new();
    owners_are_created_with_their_first_key(store, owners, &fixture).await;
    concurrent_keys_create_their_owner_once(store, owners, &fixture).await;
    changes_agree_with_apply(owners, &fixture).await;
    concurrent_changes_do_not_overwrite_each_other(owners, &fixture).await;
    owner_lists_agree_with_matches(owners, &fixture).await;
    plans_are_kept(owners, &fixture).await;
    lookups_resolve_the_policy(store, owners, &fixture).await;
    suspension_applies_to_all_keys_of_the_owner(store, owners, &fixture).await;
    plans_in_use_are_not_deleted(store, owners, &fixture).await;
    unknown_plans_are_rejected(store, owners, &fixture).await;
    invalid_owners_and_plans_are_rejected(owners, &fixture).await;
    every_change_is_audited(store, owners, &fixture).await;
    every_change_is_published(store, owners, &fixture).await;
}

async fn find_owner(owners: &dyn OwnerAdmin, id: &str) -> Option<Owner> {
    succeeds(owners.owner(id).await, "an owner lookup succeeds")
}

async fn change(owners: &dyn OwnerAdmin, id: &str, change: OwnerChange) -> Owner {
    let changed = owners.change_owner(id, change, Actor::SYSTEM).await;
    succeeds(changed, "changing an owner succeeds")
}

async fn update(owners: &dyn OwnerAdmin, id: &str, update: OwnerUpdate) -> Owner {
    change(owners, id, OwnerChange::Update(Box::new(update))).await
}

async fn set_plan(owners: &dyn OwnerAdmin, plan: Plan) -> Plan {
    let set = owners.set_plan(plan, Actor::SYSTEM).await;
    succeeds(set, "setting a valid plan succeeds")
}

fn plan(fixture: &Fixture, name: &str) -> Plan {
    Plan::new(format!("{name} {}", fixture.tag), fixture.now)
}

fn limits(burst: u32) -> Vec<RateLimit> {
    vec![RateLimit::per_second(1).with_burst(burst)]
}

async fn owners_are_created_with_their_first_key<S: KeyAdmin + ?Sized>(
    store: &S,
    owners: &dyn OwnerAdmin,
    fixture: &Fixture,
) {
    let id = |nth: u8| format!("{nth} {}", fixture.owner);
    let record = |nth: u8| fixture.record_of(NewKey::new("Owned").owner(id(nth)));
    let rule = "an owner that nothing has named does not exist";
    equal(&find_owner(owners, &id(0)).await, &None, rule);
    let first = create(store, record(0)).await.key.id;
    let records = vec![record(1), record(2), record(1)];
    let created = store.create_all(records, Actor::SYSTEM).await;
    succeeds(created, "creating several keys succeeds");
    let moved = KeyUpdate::new().owner(Some(id(3)));
    let moved = store.update(first, moved, Actor::SYSTEM).await;
    succeeds(moved, "updating a key succeeds");
    for nth in 0..4 {
        let found = find_owner(owners, &id(nth)).await;
        let rule = "an owner exists, active and without plan and limits, once a key has named it";
        let Some(found) = found else {
            panic!(
                "broken rule: {rule}\n  expected: {:?}\n       got: None",
                id(nth)
            );
        };
        equal(&found, &Owner::new(id(nth), found.created_at), rule);
    }
    let named = update(owners, &id(0), OwnerUpdate::new().name(Some("Acme"))).await;
    create(store, record(0)).await;
    let rule = "further keys do not change their owner";
    equal(&find_owner(owners, &id(0)).await, &Some(named), rule);
    for text in tricky_strings() {
        let owner = format!("{text} {}", fixture.tag);
        create(
            store,
            fixture.record_of(NewKey::new("Owned").owner(&*owner)),
        )
        .await;
        let found = find_owner(owners, &owner).await.map(|found| found.id);
        let rule = "every id of an owner is kept unchanged";
        equal(&found.as_deref(), &Some(&*owner), rule);
    }
    let rule = "ids of owners are compared exactly, including case";
    let other = id(0).to_uppercase();
    equal(&find_owner(owners, &other).await, &None, rule);
}

async fn concurrent_keys_create_their_owner_once<S: KeyAdmin + ?Sized>(
    store: &S,
    owners: &dyn OwnerAdmin,
    fixture: &Fixture,
) {
    let ids: Vec<_> = (0..4)
        .map(|nth| format!("concurrent {nth} {}", fixture.tag))
        .collect();
    let creates = (0..8).map(|n| {
        let records = ids.iter().map(|id| {
            let new = NewKey::new("Concurrent").owner(&**id);
            fixture.record_of(new)
        });
        // In different orders.
        let mut records: Vec<_> = records.collect();
        records.rotate_left(n % 4);
        store.create_all(records, Actor::SYSTEM)
    });
    let rule = "concurrent keys of a new owner are all created";
    for created in join_all(creates).await {
        equal(&succeeds(created, rule), &Vec::new(), rule);
    }
    let query = OwnerQuery::new().contains(format!("{}", fixture.tag));
    let page = owners.list_owners(&query.limit(1_000)).await;
    let listed = succeeds(page, "listing owners succeeds").items;
    for id in &ids {
        let count = listed.iter().filter(|owner| *owner.id == **id).count();
        equal(&count, &1, "concurrent keys of a new owner create it once");
    }
}

async fn changes_agree_with_apply(owners: &dyn OwnerAdmin, fixture: &Fixture) {
    let plan = set_plan(owners, plan(fixture, "changes")).await;
    let id = format!("changed {}", fixture.tag);
    let mut expected = update(owners, &id, OwnerUpdate::new()).await;
    let new = Owner::new(&*id, expected.created_at);
    equal(&expected, &new, "changing an unknown owner creates it");
    let metadata = json!({ "nested": { "a": [1, null, "ä"] }, "": u64::MAX });
    let metadata = metadata.as_object().cloned().unwrap_or_default();
    let updates = [
        OwnerUpdate::new()
            .name(Some("Acme Inc."))
            .plan(Some(plan.name.clone()))
            .limits(limits(7))
            .metadata(metadata),
        OwnerUpdate::new(),
        OwnerUpdate::new().plan(None::<String>),
        OwnerUpdate::new().name(None::<String>).limits([]),
    ];
    let updates = updates.map(|update| OwnerChange::Update(Box::new(update)));
    let names = tricky_strings().into_iter().map(|name| {
        let update = OwnerUpdate::new().name(Some(name));
        OwnerChange::Update(Box::new(update))
    });
    let status = [
        OwnerChange::Suspend,
        OwnerChange::Suspend,
        OwnerChange::Resume,
        OwnerChange::Resume,
    ];
    for what in updates.into_iter().chain(names).chain(status) {
        let rule = format!("a change of an owner agrees with Owner::apply: {what:?}");
        let applied = expected.apply(&what);
        succeeds(applied, "a valid change applies");
        equal(&change(owners, &id, what).await, &expected, &rule);
        equal(
            &find_owner(owners, &id).await.as_ref(),
            &Some(&expected),
            rule,
        );
    }
}

async fn concurrent_changes_do_not_overwrite_each_other(
    owners: &dyn OwnerAdmin,
    fixture: &Fixture,
) {
    let id = format!("raced {}", fixture.tag);
    let changes = [
        OwnerChange::Update(Box::new(OwnerUpdate::new().name(Some("Raced")))),
        OwnerChange::Update(Box::new(OwnerUpdate::new().limits(limits(7)))),
        OwnerChange::Suspend,
    ];
    let running = changes.map(|what| owners.change_owner(&id, what, Actor::SYSTEM));
    for changed in join_all(running).await {
        succeeds(changed, "concurrent changes of an owner succeed");
    }
    let found = find_owner(owners, &id).await;
    let found = found.map(|it| (it.name, it.limits, it.status));
    let expected = (Some("Raced".into()), limits(7), OwnerStatus::Suspended);
    let rule = "concurrent changes of an owner do not overwrite each other";
    equal(&found, &Some(expected), rule);
}

async fn owner_lists_agree_with_matches(owners: &dyn OwnerAdmin, fixture: &Fixture) {
    // Not part of other names of the run.
    let tag = format!("listed-{}", fixture.tag);
    let plan = set_plan(owners, plan(fixture, "listed")).await;
    let mut all = Vec::new();
    for n in 0..20_u8 {
        let id = match n % 3 {
            0 => format!("{tag} ÄRGER {n}"),
            _ => format!("{tag} {n}"),
        };
        let mut with = OwnerUpdate::new();
        if n % 4 == 0 {
            with = with.name(Some(format!("Straße & Söhne {n}")));
        }
        if n % 5 < 2 {
            with = with.plan(Some(plan.name.clone()));
        }
        let mut owner = update(owners, &id, with).await;
        if n % 7 == 1 {
            owner = change(owners, &id, OwnerChange::Suspend).await;
        }
        all.push(owner);
    }
    let is_own = |owner: &Owner| owner.id.starts_with(&*tag);
    let queries = [
        OwnerQuery::new().contains(&*tag),
        OwnerQuery::new().contains(tag.to_uppercase()),
        OwnerQuery::new().contains(format!("{tag} ärger")),
        OwnerQuery::new().contains("SÖHNE 4"),
        OwnerQuery::new().contains(""),
        OwnerQuery::new().contains("\0"),
        OwnerQuery::new().plan(&*plan.name),
        OwnerQuery::new().plan(plan.name.to_uppercase()),
        OwnerQuery::new().plan("\0"),
        OwnerQuery::new().status(OwnerStatus::Suspended),
        OwnerQuery::new()
            .status(OwnerStatus::Active)
            .contains(&*tag),
        OwnerQuery::new()
            .plan(&*plan.name)
            .status(OwnerStatus::Active)
            .contains("ärger"),
        OwnerQuery::new().ids([]),
        OwnerQuery::new().ids([all[4].id.clone(), "\0".into(), all[1].id.clone()]),
        OwnerQuery::new()
            .ids([all[0].id.clone(), all[1].id.clone()])
            .status(all[0].status),
    ];
    for query in queries {
        for limit in [1, 3, 1_000] {
            if limit < 1_000 && query.contains.as_deref() != Some(&*tag) {
                continue;
            }
            let mut query = query.clone().limit(limit);
            let mut listed = Vec::new();
            loop {
                let page = owners.list_owners(&query).await;
                let page = succeeds(page, "listing owners succeeds");
                let rule = "a page of owners has at most the requested number";
                holds(page.items.len() <= limit, rule);
                listed.extend(page.items);
                match page.next {
                    Some(next) => query = query.after(next),
                    None => break,
                }
            }
            listed.retain(is_own);
            let mut expected: Vec<_> = all.iter().filter(|it| query.matches(it)).collect();
            expected.sort_by_key(|owner| std::cmp::Reverse((owner.created_at, &owner.id)));
            let listed: Vec<_> = listed.iter().collect();
            let rule = format!(
                "a list of owners agrees with OwnerQuery::matches, newest first: {query:?}"
            );
            equal(&listed, &expected, rule);
        }
    }
    for id in ["", "a\nb"] {
        let query = OwnerQuery::new().after(PageToken::new(fixture.now, id));
        let listed = owners.list_owners(&query).await;
        fails_with(
            listed,
            "StoreError::Page",
            |error| matches!(error, StoreError::Page(_)),
            "a page token that is not that of an owner fails with StoreError::Page",
        );
    }
}

async fn plans_are_kept(owners: &dyn OwnerAdmin, fixture: &Fixture) {
    let find = async |name: &str| succeeds(owners.plan(name).await, "a plan lookup succeeds");
    let mut kept = Vec::new();
    for text in tricky_strings() {
        let mut plan = Plan::new(text.chars().take(80).collect::<String>(), fixture.now);
        // Without surrounding whitespace.
        plan.name = format!("x{} {}", plan.name, fixture.tag).into();
        plan.key_limits = limits(3);
        plan.owner_limits = vec![
            RateLimit::per(7, Duration::from_nanos(1_234_567_891)).with_name("odd"),
            RateLimit::per_hour(u32::MAX).with_name("large"),
        ];
        plan.metadata.insert(text.clone(), text.into());
        let rule = "a plan is kept with all its fields";
        equal(
            &find(&plan.name).await,
            &None,
            "a plan that was not set does not exist",
        );
        equal(&set_plan(owners, plan.clone()).await, &plan, rule);
        equal(&find(&plan.name).await.as_ref(), &Some(&plan), rule);
        kept.push(plan);
    }
    let replaced = Plan {
        key_limits: limits(9),
        created_at: whole_micros(fixture.after(Duration::from_secs(1))),
        ..Plan::new(kept[0].name.clone(), fixture.now)
    };
    let set = set_plan(owners, replaced.clone()).await;
    kept[0] = Plan {
        created_at: kept[0].created_at,
        ..replaced
    };
    let rule = "replacing a plan replaces all fields except the creation time";
    equal(&set, &kept[0], rule);
    let rule = "plans are listed once, sorted by name";
    let mut listed = succeeds(owners.list_plans().await, "listing plans succeeds");
    holds(listed.is_sorted_by(|one, next| one.name < next.name), rule);
    kept.sort_by(|one, other| one.name.cmp(&other.name));
    listed.retain(|plan| kept.iter().any(|own| own.name == plan.name));
    equal(&listed, &kept, rule);
}

/// The policy of a key as looked up.
async fn policy_of<S: KeyAdmin + ?Sized>(store: &S, id: KeyId) -> Policy {
    let found = find_key(store, id).await;
    found.map(|record| record.policy).unwrap_or_default()
}

async fn lookups_resolve_the_policy<S: KeyAdmin + ?Sized>(
    store: &S,
    owners: &dyn OwnerAdmin,
    fixture: &Fixture,
) {
    let with = |name: &str, key, owner| Plan {
        key_limits: key,
        owner_limits: owner,
        ..plan(fixture, name)
    };
    let of_key = set_plan(owners, with("of key", limits(1), limits(2))).await;
    let mut of_owner = set_plan(owners, with("of owner", limits(3), limits(4))).await;
    let bare = set_plan(owners, with("bare", vec![], vec![])).await;
    let id = format!("limited {}", fixture.tag);
    let plans = [None, Some(&bare), Some(&of_key)];
    let mut keys = Vec::new();
    for plan in plans {
        let mut new = NewKey::new("Limited").owner(&*id);
        if let Some(plan) = plan {
            new = new.plan(plan.name.clone());
        }
        keys.push(create(store, fixture.record_of(new)).await.key);
    }
    let rule =
        "a lookup resolves the limits of a key by its plan, its owner and the plan of its owner";
    for (owner_plan, own) in [
        (None, vec![]),
        (Some(&bare), vec![]),
        (Some(&of_owner), vec![]),
        (Some(&of_owner), limits(5)),
        (None, limits(6)),
    ] {
        let with = OwnerUpdate::new().plan(owner_plan.map(|plan| plan.name.clone()));
        let owner = update(owners, &id, with.limits(own)).await;
        for (key, plan) in keys.iter().zip(plans) {
            let expected = Policy::of(plan, Some(&owner), owner_plan);
            equal(&policy_of(store, key.id).await, &expected, rule);
        }
    }
    let with = OwnerUpdate::new().plan(Some(of_owner.name.clone()));
    let owner = update(owners, &id, with.limits([])).await;
    (of_owner.key_limits, of_owner.owner_limits) = (limits(7), limits(8));
    set_plan(owners, of_owner.clone()).await;
    let expected = Policy::of(None, Some(&owner), Some(&of_owner));
    let rule = "a lookup resolves the limits of a plan as last set";
    equal(&policy_of(store, keys[0].id).await, &expected, rule);
    let new = NewKey::new("Anonymous").plan(of_key.name.clone());
    let anonymous = create(store, fixture.record_of(new)).await.key;
    let expected = Policy::of(Some(&of_key), None, None);
    let rule = "the owner limits of a plan do not apply to its keys";
    equal(&policy_of(store, anonymous.id).await, &expected, rule);

    let query = KeyQuery::new().plan(&*of_key.name).limit(1_000);
    let listed = succeeds(store.list(&query).await, "listing keys succeeds").items;
    let mut listed: Vec<_> = listed.into_iter().map(|key| key.id).collect();
    listed.sort_unstable();
    let mut expected = [keys[2].id, anonymous.id];
    expected.sort_unstable();
    let rule = "a list of keys by plan has the keys that name it";
    equal(&*listed, &expected, rule);

    let removed = KeyUpdate::new().plan(None::<String>);
    let removed = store.update(anonymous.id, removed, Actor::SYSTEM).await;
    succeeds(removed, "updating a key succeeds");
    let rule = "a key without a plan does not have its limits";
    equal(
        &policy_of(store, anonymous.id).await,
        &Policy::default(),
        rule,
    );
    let new = fixture
        .issuer()
        .rotate(store, keys[2].id, Duration::from_secs(60), Actor::SYSTEM)
        .await;
    let new = succeeds(new, "rotating a key succeeds").key;
    equal(&new.plan, &keys[2].plan, "a rotated key keeps its plan");
}

async fn suspension_applies_to_all_keys_of_the_owner<S: KeyAdmin + ?Sized>(
    store: &S,
    owners: &dyn OwnerAdmin,
    fixture: &Fixture,
) {
    let id = format!("suspended {}", fixture.tag);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let new = NewKey::new("Suspended").owner(&*id);
        ids.push(create(store, fixture.record_of(new)).await.key.id);
    }
    let bystander = create(store, fixture.record("Bystander")).await;
    for (what, expected, rule) in [
        (
            OwnerChange::Suspend,
            true,
            "a lookup tells that the owner is suspended",
        ),
        (
            OwnerChange::Resume,
            false,
            "a lookup tells that the owner is resumed",
        ),
    ] {
        change(owners, &id, what).await;
        for &key in &ids {
            equal(
                &policy_of(store, key).await.is_owner_suspended,
                &expected,
                rule,
            );
        }
        let rule = "suspending an owner does not affect keys of other owners";
        let found = find_key(store, bystander.key.id).await;
        equal(&found.as_ref(), &Some(&bystander), rule);
    }
    // Before its first key.
    let early = format!("suspended early {}", fixture.tag);
    change(owners, &early, OwnerChange::Suspend).await;
    let new = NewKey::new("Late").owner(&*early);
    let late = create(store, fixture.record_of(new)).await.key.id;
    let rule = "an owner that was suspended before its first key stays suspended";
    equal(
        &policy_of(store, late).await.is_owner_suspended,
        &true,
        rule,
    );
}

async fn plans_in_use_are_not_deleted<S: KeyAdmin + ?Sized>(
    store: &S,
    owners: &dyn OwnerAdmin,
    fixture: &Fixture,
) {
    let plan = set_plan(owners, plan(fixture, "used")).await;
    let in_use = async |rule: &str| {
        fails_with(
            owners.delete_plan(&plan.name, Actor::SYSTEM).await,
            "StoreError::PlanInUse",
            |error| matches!(error, StoreError::PlanInUse(name) if *name == plan.name),
            rule,
        );
        let found = succeeds(owners.plan(&plan.name).await, "a plan lookup succeeds");
        equal(&found.as_ref(), &Some(&plan), rule);
    };
    let new = NewKey::new("Planned").plan(plan.name.clone());
    let id = create(store, fixture.record_of(new)).await.key.id;
    in_use("a plan that a key has is not deleted").await;
    succeeds(
        store.revoke(id, Actor::SYSTEM).await,
        "revoking a key succeeds",
    );
    in_use("a plan that a revoked key has is not deleted").await;
    succeeds(
        store.delete(id, Actor::SYSTEM).await,
        "deleting a key succeeds",
    );
    let owner = format!("planned {}", fixture.tag);
    let with = OwnerUpdate::new().plan(Some(plan.name.clone()));
    update(owners, &owner, with).await;
    in_use("a plan that an owner has is not deleted").await;
    update(owners, &owner, OwnerUpdate::new().plan(None::<String>)).await;
    succeeds(
        owners.delete_plan(&plan.name, Actor::SYSTEM).await,
        "deleting a plan that is not in use succeeds",
    );
    let found = succeeds(owners.plan(&plan.name).await, "a plan lookup succeeds");
    equal(&found, &None, "a deleted plan is not found");
    for name in [&*plan.name, "\0", ""] {
        fails_with(
            owners.delete_plan(name, Actor::SYSTEM).await,
            "StoreError::PlanNotFound",
            |error| matches!(error, StoreError::PlanNotFound(of) if **of == *name),
            "deleting an unknown plan fails with StoreError::PlanNotFound",
        );
    }
}

async fn unknown_plans_are_rejected<S: KeyAdmin + ?Sized>(
    store: &S,
    owners: &dyn OwnerAdmin,
    fixture: &Fixture,
) {
    let name = plan(fixture, "unknown").name;
    let rule = "an unknown plan is rejected with StoreError::PlanNotFound, with nothing changed";
    let is_expected =
        |error: &StoreError| matches!(error, StoreError::PlanNotFound(of) if *of == name);
    let expected = "StoreError::PlanNotFound";
    let owner = format!("unplanned {}", fixture.tag);
    let record = |name| fixture.record_of(NewKey::new("Unplanned").owner(&*owner).plan(name));
    let unplanned = record(name.clone());
    let created = store.create(unplanned.clone(), Actor::SYSTEM).await;
    fails_with(created, expected, is_expected, rule);
    let records = vec![unplanned.clone()];
    let created = store.create_all(records, Actor::SYSTEM).await;
    fails_with(created, expected, is_expected, rule);
    equal(&find_key(store, unplanned.key.id).await, &None, rule);
    let with = OwnerUpdate::new().plan(Some(name.clone()));
    let changed = owners.update_owner(&owner, with, Actor::SYSTEM).await;
    fails_with(changed, expected, is_expected, rule);
    equal(&find_owner(owners, &owner).await, &None, rule);
    let other = create(store, fixture.record("Valid")).await;
    let with = KeyUpdate::new()
        .plan(Some(name.clone()))
        .owner(Some(&*owner));
    let changed = store.update(other.key.id, with, Actor::SYSTEM).await;
    fails_with(changed, expected, is_expected, rule);
    equal(&find_key(store, other.key.id).await, &Some(other), rule);
    equal(&find_owner(owners, &owner).await, &None, rule);
}

async fn invalid_owners_and_plans_are_rejected(owners: &dyn OwnerAdmin, fixture: &Fixture) {
    let rule = "an invalid owner is rejected with StoreError::InvalidOwner, with nothing changed";
    let id = format!("invalid {}", fixture.tag);
    let invalid = vec![RateLimit::per_second(0)];
    let update = OwnerUpdate::new().limits(invalid.clone());
    let changes = [
        (&*id, OwnerChange::Update(Box::new(update))),
        ("", OwnerChange::Suspend),
        ("\0", OwnerChange::Resume),
    ];
    for (id, what) in changes {
        fails_with(
            owners.change_owner(id, what, Actor::SYSTEM).await,
            "StoreError::InvalidOwner",
            |error| matches!(error, StoreError::InvalidOwner(_)),
            rule,
        );
        equal(&find_owner(owners, id).await, &None, rule);
    }
    let rule = "an invalid plan is rejected with StoreError::InvalidPlan";
    let plan = Plan {
        key_limits: invalid,
        ..plan(fixture, "invalid")
    };
    let padded = Plan::new(" a", fixture.now);
    for plan in [plan, padded, Plan::new("\0", fixture.now)] {
        fails_with(
            owners.set_plan(plan.clone(), Actor::SYSTEM).await,
            "StoreError::InvalidPlan",
            |error| matches!(error, StoreError::InvalidPlan(_)),
            rule,
        );
        let found = succeeds(owners.plan(&plan.name).await, "a plan lookup succeeds");
        equal(&found, &None, rule);
    }
}

async fn every_change_is_audited<S: KeyAdmin + ?Sized>(
    store: &S,
    owners: &dyn OwnerAdmin,
    fixture: &Fixture,
) {
    let Some(log) = store.audit_log() else {
        return;
    };
    let actor = Actor::new("conformance");
    let id = format!("audited {}", fixture.tag);
    let name = plan(fixture, "audited").name;
    create(store, fixture.record_of(NewKey::new("Audited").owner(&*id))).await;
    let found = find_owner(owners, &id).await;
    let mut steps = Vec::new();
    let mut before = found.map(AuditState::from);
    let with = OwnerUpdate::new().name(Some("Audited"));
    for (what, action) in [
        (OwnerChange::Update(with.into()), AuditAction::Updated),
        (OwnerChange::Suspend, AuditAction::Suspended),
        (OwnerChange::Suspend, AuditAction::Suspended),
        (OwnerChange::Resume, AuditAction::Resumed),
    ] {
        let changed = owners.change_owner(&id, what, actor).await;
        let after = Some(succeeds(changed, "changing an owner succeeds").into());
        steps.push((action, before, after.clone()));
        before = after;
    }
    let (mut plan_steps, mut before) = (Vec::new(), None);
    for action in [AuditAction::Created, AuditAction::Updated] {
        let set = owners.set_plan(Plan::new(name.clone(), fixture.now), actor);
        let after = succeeds(set.await, "setting a valid plan succeeds");
        let after = Some(AuditState::from(after));
        plan_steps.push((action, before, after.clone()));
        before = after;
    }
    succeeds(
        owners.delete_plan(&name, actor).await,
        "deleting a plan that is not in use succeeds",
    );
    plan_steps.push((AuditAction::Deleted, before, None));
    for (query, steps) in [
        (AuditQuery::new().owner(&*id), steps),
        (AuditQuery::new().plan(&*name), plan_steps),
    ] {
        let entries = log.audit_entries(&query).await;
        let entries = succeeds(entries, "the audit log can be read").items;
        let rule = "every change of an owner or a plan has exactly one entry";
        let actions: Vec<_> = entries.iter().rev().map(|entry| entry.action).collect();
        let expected: Vec<_> = steps.iter().map(|(action, ..)| *action).collect();
        equal(&actions, &expected, rule);
        for (entry, (_, before, after)) in entries.iter().rev().zip(&steps) {
            let rule = "an entry of an owner or a plan holds its state before and after the change";
            equal(&(&entry.before, &entry.after), &(before, after), rule);
            let rule = "an entry of an owner or a plan names the actor of the change";
            equal(&entry.actor, &actor.to_name(), rule);
            holds(
                query.matches(entry),
                "an audit query returns only matching entries",
            );
        }
    }
    for query in [AuditQuery::new().owner("\0"), AuditQuery::new().plan("\0")] {
        let entries = log.audit_entries(&query).await;
        let entries = succeeds(entries, "the audit log can be read").items;
        equal(
            &entries,
            &Vec::new(),
            "no owner and no plan has such a name",
        );
    }
}

async fn every_change_is_published<S: KeyAdmin + ?Sized>(
    store: &S,
    owners: &dyn OwnerAdmin,
    fixture: &Fixture,
) {
    let Some(feed) = store.invalidations() else {
        return;
    };
    let published = Arc::new(Published::default());
    let weak = Arc::downgrade(&published);
    feed.subscribe(weak);
    let id = format!("published {}", fixture.tag);
    for what in [OwnerChange::Suspend, OwnerChange::Resume] {
        change(owners, &id, what).await;
        let rule = "changing an owner publishes an invalidation of its keys";
        holds(published.has(Some(&id)), rule);
    }
    set_plan(owners, plan(fixture, "published")).await;
    let rule = "setting a plan publishes an invalidation of all keys";
    holds(published.has(None), rule);
}

/// The invalidated owners; `None` for all keys.
#[derive(Default)]
struct Published(Mutex<Vec<Option<String>>>);

impl Published {
    fn push(&self, owner: Option<String>) {
        let mut published = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        published.push(owner);
    }

    /// Whether the keys of this owner, or all keys, were invalidated since the last call.
    fn has(&self, owner: Option<&str>) -> bool {
        let mut published = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut published = std::mem::take(&mut *published).into_iter();
        published.any(|it| it.is_none() || it.as_deref() == owner)
    }
}

impl Invalidate for Published {
    fn remove(&self, _: KeyId) {}

    fn remove_owner(&self, owner: &str) {
        self.push(Some(owner.into()));
    }

    fn clear(&self) {
        self.push(None);
    }
}

//! Owners and plans: their forms, and suspending owners.

use http::StatusCode;
use http::header::LOCATION;
use keytally::key::{Actor, KeyAdmin, KeyQuery, OwnerAdmin, OwnerStatus, OwnerUpdate};
use keytally::limit::RateLimit;

use crate::owners::path_of;
use crate::pages::{Pages, encoded, inputs};

#[tokio::test]
async fn plans_are_created_edited_and_deleted() {
    let pages = Pages::new();
    let list = pages.get("/admin/plans").await;
    assert!(list.text.contains("No plans yet."), "{}", list.text);
    let fields = [
        ("name", "pro & co"),
        ("key-limit-1", "20"),
        ("key-limit-period-1", "s"),
        ("owner-limit-1", "6000 per minute"),
        ("owner-limit-name-1", "all"),
    ];
    let created = pages.change("/admin/plans/new", &fields).await;
    assert_eq!(created.headers[LOCATION], "/admin/plans");
    let plan = pages.backend.plan("pro & co").await.unwrap().unwrap();
    assert_eq!(plan.key_limits, [RateLimit::per_second(20)]);
    let all = RateLimit::per_minute(6_000).with_name("all");
    assert_eq!(plan.owner_limits, std::slice::from_ref(&all));
    let list = pages.get("/admin/plans").await;
    let link = "/admin/plans/edit?plan=pro+%26+co";
    for part in [
        link,
        "<bdi>pro &amp; co</bdi>",
        "20 per second",
        "6,000 per minute",
    ] {
        assert!(list.text.contains(part), "{part}: {}", list.text);
    }
    let again = pages.change("/admin/plans/new", &fields).await;
    assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        again
            .text
            .contains("There is already a plan with this name.")
    );

    // The form has the limits of the plan, also if they do not fit its rows.
    let form = pages.get(link).await;
    assert!(
        form.text
            .contains(r#"name="owner-limit-name-1" value="all""#)
    );
    let edited = pages.change(link, &[("key-limit-1", "")]).await;
    assert_eq!(edited.headers[LOCATION], "/admin/plans");
    let plan = pages.backend.plan("pro & co").await.unwrap().unwrap();
    assert!(plan.key_limits.is_empty());
    assert_eq!(plan.owner_limits, [all]);
    for (field, value, why) in [
        ("key-limit-1", "many", "key-limits-wrong"),
        ("owner-limit-1", "0/s", "owner-limits-wrong"),
    ] {
        let wrong = pages.change(link, &[(field, value)]).await;
        assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY, "{field}");
        assert!(
            wrong.text.contains(&format!("id=\"{why}\"")),
            "{}",
            wrong.text
        );
    }

    // A plan in use cannot be deleted.
    let key = pages
        .key_with("Watched", |key| key.owner = Some("acme".into()))
        .await;
    let used = pages.change("/admin/owners/acme/edit", &[("plan", "pro & co")]);
    assert_eq!(used.await.headers[LOCATION], "/admin/owners/acme");
    let page = pages.get("/admin/plans/delete?plan=pro+%26+co").await;
    assert!(page.text.contains("Change their plan first."));
    assert!(
        page.text.contains("/admin/owners/acme")
            && !page
                .text
                .contains("method=\"post\" action=\"/admin/plans/delete")
    );
    let by_key = pages.change("/admin/owners/acme/edit", &[("plan", "")]);
    assert_eq!(by_key.await.status, StatusCode::SEE_OTHER);
    let edit = format!("/admin/keys/{}/edit", key.id);
    assert_eq!(
        pages.change(&edit, &[("plan", "pro & co")]).await.status,
        StatusCode::SEE_OTHER
    );
    let stored = pages.backend.get(key.id).await.unwrap().unwrap();
    assert_eq!(stored.plan.as_deref(), Some("pro & co"));
    let page = pages.get(link).await;
    assert!(page.text.contains(&format!("/admin/keys/{}", key.id)));
    assert_eq!(
        pages.change(&edit, &[("plan", "")]).await.status,
        StatusCode::SEE_OTHER
    );

    let deleted = pages
        .change("/admin/plans/delete?plan=pro+%26+co", &[])
        .await;
    assert_eq!(deleted.headers[LOCATION], "/admin/plans");
    assert_eq!(pages.backend.plan("pro & co").await.unwrap(), None);
    let missing = pages.get(link).await;
    assert_eq!(missing.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn concurrent_changes_of_a_plan_are_not_overwritten() {
    let pages = Pages::new();
    let fields = [("name", "pro"), ("key-limit-1", "20/s")];
    pages.change("/admin/plans/new", &fields).await;
    let path = "/admin/plans/edit?plan=pro";
    let stale = inputs(&pages.get(path).await.text);
    let changed = pages.change(path, &[("key-limit-1", "30/s")]).await;
    assert_eq!(changed.status, StatusCode::SEE_OTHER);
    let stale = stale.iter().map(|(name, value)| match &**name {
        "owner-limit-1" => (&**name, "500/min"),
        name => (name, &**value),
    });
    let stale: Vec<_> = stale.collect();
    let answer = pages.post(path, &stale, &[]).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.text);
    assert!(answer.text.contains("changed after you opened this form"));
    let plan = pages.backend.plan("pro").await.unwrap().unwrap();
    assert_eq!(plan.key_limits, [RateLimit::per_second(30)]);
    assert!(plan.owner_limits.is_empty());
}

#[tokio::test]
async fn owners_are_found_by_name_and_without_keys() {
    let pages = Pages::new();
    let update = OwnerUpdate::new().name(Some("Ärger & Söhne"));
    let updated = pages
        .backend
        .update_owner("customer-17", update, Actor::SYSTEM);
    updated.await.unwrap();
    pages
        .key_with("Watched", |key| key.owner = Some("acme".into()))
        .await;
    for (part, found) in [("ärger", true), ("17", true), ("acme", false)] {
        let page = pages
            .get(&format!("/admin/owners?{}", encoded(&[("owner", part)])))
            .await;
        assert_eq!(
            page.text.contains("href=\"/admin/owners/customer-17\""),
            found,
            "{part}"
        );
        assert_eq!(
            page.text.contains("href=\"/admin/owners/acme\""),
            !found,
            "{part}"
        );
    }
}

#[tokio::test]
async fn owners_are_edited() {
    let pages = Pages::new();
    let owner = "a/b \"&\" <ä>";
    let at = path_of(owner);
    pages
        .key_with("Watched", |key| key.owner = Some(owner.into()))
        .await;
    pages
        .change(
            "/admin/plans/new",
            &[("name", "pro"), ("key-limit-1", "5/min")],
        )
        .await;
    let fields = [
        ("name", "Ärger & Söhne"),
        ("plan", "pro"),
        ("limit-1", "100/h"),
    ];
    let saved = pages.change(&format!("{at}/edit"), &fields).await;
    assert_eq!(saved.headers[LOCATION].to_str().unwrap(), at);
    let record = pages.backend.owner(owner).await.unwrap().unwrap();
    assert_eq!(record.name.as_deref(), Some("Ärger & Söhne"));
    assert_eq!(record.plan.as_deref(), Some("pro"));
    assert_eq!(record.limits, [RateLimit::per_hour(100)]);
    let page = pages.get(&at).await;
    for part in ["Ärger &amp; Söhne", "100 per hour", "5 per minute", ">pro<"] {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    let list = pages.get("/admin/owners").await;
    for part in ["Ärger &amp; Söhne", "/admin/plans/edit?plan=pro"] {
        assert!(list.text.contains(part), "{part}: {}", list.text);
    }
    // The page of a key has the limits that apply to it.
    let id = pages.backend.list(&KeyQuery::new()).await.unwrap().items[0].id;
    let key = pages.get(&format!("/admin/keys/{id}")).await;
    for part in ["5 per minute", "100 per hour"] {
        assert!(key.text.contains(part), "{part}: {}", key.text);
    }
    for (field, value, wrong) in [
        ("limit-1", "many", "limits-wrong"),
        ("name", "\u{7}", "name-wrong"),
    ] {
        let answer = pages.change(&format!("{at}/edit"), &[(field, value)]).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{field}");
        assert!(
            answer.text.contains(&format!("id=\"{wrong}\"")),
            "{}",
            answer.text
        );
    }
    assert_eq!(pages.backend.owner(owner).await.unwrap(), Some(record));
}

#[tokio::test]
async fn owners_are_suspended_and_resumed() {
    let pages = Pages::new();
    let key = pages
        .key_with("Watched", |key| key.owner = Some("acme".into()))
        .await;
    let status = async || pages.backend.owner("acme").await.unwrap().unwrap().status;
    let form = pages.get("/admin/owners/acme/suspend").await;
    assert!(
        form.text.contains("Suspend <bdi>acme</bdi>?"),
        "{}",
        form.text
    );
    let done = pages.change("/admin/owners/acme/suspend", &[]).await;
    assert_eq!(done.headers[LOCATION], "/admin/owners/acme");
    assert_eq!(status().await, OwnerStatus::Suspended);
    let page = pages.get("/admin/owners/acme").await;
    assert!(page.text.contains(">suspended<") && page.text.contains("/admin/owners/acme/resume"));
    let list = pages.get("/admin/owners").await;
    assert!(list.text.contains(">suspended<"));
    let page = pages.get(&format!("/admin/keys/{}", key.id)).await;
    assert!(page.text.contains("owner suspended"));
    let done = pages.change("/admin/owners/acme/resume", &[]).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER);
    assert_eq!(status().await, OwnerStatus::Active);
    // Without a form token, nothing changes.
    let forged = pages
        .post("/admin/owners/acme/suspend", &[("token", "x")], &[])
        .await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN);
    assert_eq!(status().await, OwnerStatus::Active);
    // An owner without keys can be suspended before the first one.
    pages.change("/admin/owners/new/suspend", &[]).await;
    let new = pages.backend.owner("new").await.unwrap().unwrap();
    assert!(new.is_suspended());
    let audit = pages.get("/admin/audit").await;
    assert!(audit.text.contains("acme"), "{}", audit.text);
}

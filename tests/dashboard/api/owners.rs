//! Owners and plans with the JSON API.

use axum::Router;
use axum::body::Body;
use http::header::ALLOW;
use http::{Method, Request};
use keytally::backend::MemoryBackend;
use keytally::dashboard::{AllowEveryone, Dashboard};
use keytally::key::{
    Actor, AuditAction, AuditLog, AuditQuery, AuditSubject, Issuer, KeyAdmin, NewKey, OwnerAdmin,
};
use serde_json::{Value, json};

use super::{Answer, Api, ask};
use crate::counted::Counted;
use crate::owners::{odd_owners, path_of};

impl Api {
    async fn put(&self, path: &str, body: &str) -> Answer {
        self.send(Method::PUT, path, &[], body).await
    }
}

/// The path of an owner in the API.
fn owner_path(owner: &str) -> String {
    let path = path_of(owner);
    path.strip_prefix("/admin").expect("a page").to_owned()
}

fn plan_path(plan: &str) -> String {
    owner_path(plan).replacen("owners", "plans", 1)
}

/// The names of items.
fn names(items: &Value, field: &str) -> Vec<String> {
    let items = items.as_array().expect("items").iter();
    items
        .map(|item| item[field].as_str().expect(field).to_owned())
        .collect()
}

/// The actions of entries by the administrator and their subjects, oldest first.
async fn audited(api: &Api) -> Vec<(AuditAction, AuditSubject)> {
    let query = AuditQuery::new().actor("Ada");
    let entries = api.backend.audit_entries(&query).await.unwrap().items;
    let entries = entries.into_iter().rev();
    entries.map(|it| (it.action, it.subject)).collect()
}

#[tokio::test]
async fn plans_are_set_read_and_deleted() {
    let api = Api::new();
    assert_eq!(api.get("/plans").await.with(200), json!({"plans": []}));
    let body = json!({
        "key_limits": [{"requests": 20, "period_seconds": 1}],
        "owner_limits": [{"name": "all", "requests": 6_000, "period_seconds": 60, "burst": 100}],
        "metadata": {"price": {"monthly": 49}},
    });
    let set = api.put("/plans/pro", &body.to_string()).await.with(200);
    let key_limits =
        json!([{"name": "second", "requests": 20, "period_seconds": 1.0, "burst": 20}]);
    let owner_limits =
        json!([{"name": "all", "requests": 6_000, "period_seconds": 60.0, "burst": 100}]);
    assert_eq!(set["name"], "pro");
    assert_eq!(set["key_limits"], key_limits);
    assert_eq!(set["owner_limits"], owner_limits);
    assert_eq!(set["metadata"], body["metadata"]);
    assert_eq!(api.get("/plans/pro").await.with(200), set);

    // Absent fields are cleared; the creation time is kept.
    let replaced = api.put("/plans/pro", "{}").await.with(200);
    let empty = [&replaced["key_limits"], &replaced["owner_limits"]];
    assert_eq!(empty, [&json!([]); 2]);
    assert_eq!(replaced["metadata"], json!({}));
    assert_eq!(replaced["created_at"], set["created_at"]);
    api.put("/plans/free", "{}").await.with(200);
    let plans = api.get("/plans").await.with(200);
    assert_eq!(names(&plans["plans"], "name"), ["free", "pro"]);

    api.delete("/plans/pro").await.with(204);
    for gone in [api.get("/plans/pro").await, api.delete("/plans/pro").await] {
        let (detail, _) = gone.problem(404);
        assert_eq!(detail, "Plan not found.");
    }
    let plan = |name: &str| AuditSubject::Plan(name.into());
    let expected = [
        (AuditAction::Created, plan("pro")),
        (AuditAction::Updated, plan("pro")),
        (AuditAction::Created, plan("free")),
        (AuditAction::Deleted, plan("pro")),
    ];
    assert_eq!(audited(&api).await, expected);
}

#[tokio::test]
async fn a_plan_in_use_is_not_deleted() {
    let api = Api::new();
    api.put("/plans/pro", "{}").await.with(200);
    let pro = r#"{"plan":"pro"}"#;
    let none = r#"{"plan":null}"#;
    let key = api.issue(NewKey::new("a")).await.key;
    for user in ["/owners/acme", &format!("/keys/{}", key.id)] {
        assert_eq!(api.patch(user, pro).await.with(200)["plan"], "pro");
        let (detail, _) = api.delete("/plans/pro").await.problem(409);
        assert!(detail.contains("in use"), "{detail}");
        api.get("/plans/pro").await.with(200);
        assert_eq!(api.patch(user, none).await.with(200)["plan"], json!(null));
    }
    api.delete("/plans/pro").await.with(204);
}

#[tokio::test]
async fn keys_have_plans() {
    let api = Api::new();
    api.put("/plans/pro", "{}").await.with(200);
    let created = api.post("/keys", r#"{"name":"a","plan":"pro"}"#).await;
    let created = created.with(201)["key"].clone();
    assert_eq!(created["plan"], "pro");
    let other = api.post("/keys", r#"{"name":"b"}"#).await.with(201);
    assert_eq!(other["key"]["plan"], json!(null));
    let of_pro = api.get("/keys?plan=pro").await.with(200);
    assert_eq!(names(&of_pro["items"], "name"), ["a"]);
    let of_none = api.get("/keys?plan=Pro").await.with(200);
    assert_eq!(of_none["items"], json!([]));

    // The plan is kept unless the update names it.
    let at = format!("/keys/{}", created["id"].as_str().unwrap());
    let renamed = api.patch(&at, r#"{"name":"c"}"#).await.with(200);
    assert_eq!(renamed["plan"], "pro");
    for (plan, detail) in [
        ("free", "there is no plan \"free\""),
        ("", "the plan must be 1 to 100 characters"),
    ] {
        let body = json!({"name": "d", "plan": plan}).to_string();
        for rejected in [
            api.post("/keys", &body).await,
            api.patch(&at, &body).await,
            api.patch("/owners/acme", &body).await,
        ] {
            let (_, wrong) = rejected.problem(422);
            assert_eq!(wrong["pointer"], "#/plan");
            let why = wrong["detail"].as_str().unwrap();
            assert!(why.starts_with(detail), "{why}");
        }
    }
    assert_eq!(api.get(&at).await.with(200), renamed);
    let removed = api.patch(&at, r#"{"plan":null}"#).await.with(200);
    assert_eq!(removed["plan"], json!(null));
    api.get("/owners/acme").await.problem(404);
}

#[tokio::test]
async fn owners_are_updated_suspended_and_resumed() {
    let api = Api::new();
    api.put("/plans/pro", "{}").await.with(200);
    let key = api.issue(NewKey::new("a").owner("acme")).await.key;
    let owner = api.get("/owners/acme").await.with(200);
    let expected = json!({
        "id": "acme",
        "name": null,
        "plan": null,
        "limits": [],
        "status": "active",
        "metadata": {},
        "created_at": owner["created_at"],
    });
    assert_eq!(owner, expected);

    let body = json!({
        "name": "Acme Inc.",
        "plan": "pro",
        "limits": [{"requests": 600, "period_seconds": 60}],
        "metadata": {"country": "NO"},
    });
    let updated = api.patch("/owners/acme", &body.to_string()).await.with(200);
    for field in ["name", "plan", "metadata"] {
        assert_eq!(updated[field], body[field], "{field}");
    }
    let limits = json!([{"name": "minute", "requests": 600, "period_seconds": 60.0, "burst": 600}]);
    assert_eq!(updated["limits"], limits);
    assert_eq!(api.get("/owners/acme").await.with(200), updated);
    // Absent fields are unchanged.
    assert_eq!(api.patch("/owners/acme", "{}").await.with(200), updated);
    let cleared = r#"{"name":null,"limits":[]}"#;
    let cleared = api.patch("/owners/acme", cleared).await.with(200);
    let fields = (&cleared["name"], &cleared["limits"], &cleared["plan"]);
    assert_eq!(fields, (&json!(null), &json!([]), &json!("pro")));

    let suspended = api.post("/owners/acme/suspend", "").await.with(200);
    assert_eq!(suspended["status"], "suspended");
    assert_eq!(suspended["plan"], "pro");
    let found = api.backend.owner("acme").await.unwrap().unwrap();
    assert!(found.is_suspended());
    let resumed = api.post("/owners/acme/resume", "").await.with(200);
    assert_eq!(resumed["status"], "active");
    // The key itself is unchanged.
    assert_eq!(api.backend.get(key.id).await.unwrap(), Some(key));

    // An update creates the record, and so does suspending.
    api.get("/owners/new").await.problem(404);
    let new = api.patch("/owners/new", r#"{"name":"New"}"#).await;
    assert_eq!(new.with(200)["id"], "new");
    let barred = api.post("/owners/barred/suspend", "").await.with(200);
    assert_eq!(barred["status"], "suspended");

    let entries = audited(&api).await;
    let actions: Vec<_> = entries
        .iter()
        .filter(|(_, subject)| *subject == AuditSubject::Owner("acme".into()))
        .map(|(action, _)| *action)
        .collect();
    let [first, .., suspended, resumed] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(
        [first, suspended, resumed],
        [
            &AuditAction::Updated,
            &AuditAction::Suspended,
            &AuditAction::Resumed
        ]
    );
    let entries = api.get("/audit?actor=Ada&action=resumed").await.with(200);
    let entry = &entries["items"][0];
    assert_eq!(
        (&entry["owner"], &entry["key"]),
        (&json!("acme"), &json!(null))
    );
    assert_eq!(entry["before"]["status"], "suspended");
    assert_eq!(entry["after"]["status"], "active");
    api.put("/plans/pro", "{}").await.with(200);
    for (filter, subject) in [("owner=acme", "owner"), ("plan=pro", "plan")] {
        let entries = api.get(&format!("/audit?{filter}")).await.with(200);
        let entries = entries["items"].as_array().unwrap();
        assert!(!entries.is_empty() && entries.iter().all(|it| it[subject].is_string()));
    }
    let entries = api.get("/audit?owner=acme&plan=pro").await.with(200);
    assert_eq!(entries["items"], json!([]));
}

#[tokio::test]
async fn lists_of_owners_are_filtered_and_paginated() {
    let api = Api::new();
    api.put("/plans/pro", "{}").await.with(200);
    for n in 0..5 {
        let plan = if n % 2 == 0 { "pro" } else { "" };
        let plan = Some(plan).filter(|plan| !plan.is_empty());
        let body = json!({"name": format!("Customer {n}"), "plan": plan});
        let path = format!("/owners/c{n}");
        api.patch(&path, &body.to_string()).await.with(200);
    }
    api.post("/owners/c4/suspend", "").await.with(200);
    let ids = async |query: &str| -> Vec<String> {
        let page = api.get(&format!("/owners?{query}")).await.with(200);
        let mut ids = names(&page["items"], "id");
        ids.sort_unstable();
        ids
    };
    assert_eq!(ids("").await.len(), 5);
    assert_eq!(ids("plan=pro").await, ["c0", "c2", "c4"]);
    assert_eq!(ids("plan=pro&status=active").await, ["c0", "c2"]);
    assert_eq!(ids("status=suspended").await, ["c4"]);
    assert_eq!(ids("contains=cUSTOMER%203").await, ["c3"]);
    assert_eq!(ids("contains=C3").await, ["c3"]);
    assert_eq!(ids("contains=c9").await, [""; 0]);
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = api.get(&format!("/owners?limit=2{after}")).await;
        let page = page.with(200);
        let items = names(&page["items"], "id");
        assert!((1..=2).contains(&items.len()), "{items:?}");
        seen.extend(items);
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, ["c0", "c1", "c2", "c3", "c4"]);
    for (name, query) in [
        ("limit", "limit=0"),
        ("limit", "limit=1001"),
        ("status", "status=Active"),
        ("after", "after=x"),
        ("name", "name=a"),
    ] {
        let answer = api.get(&format!("/owners?{query}")).await;
        let (_, wrong) = answer.problem(400);
        assert_eq!(wrong["parameter"], name, "{query}: {wrong}");
    }
}

#[tokio::test]
async fn any_owner_and_any_plan_is_one_path_segment() {
    let api = Api::new();
    for name in odd_owners() {
        let at = owner_path(&name);
        let updated = api.patch(&at, r#"{"metadata":{"a":1}}"#).await.with(200);
        assert_eq!(updated["id"], name);
        let suspended = api.post(&format!("{at}/suspend"), "").await.with(200);
        assert_eq!(suspended["id"], name);
        assert_eq!(api.get(&at).await.with(200), suspended);
        let stored = api.backend.owner(&name).await.unwrap().unwrap();
        assert!(stored.is_suspended(), "{name}");

        let at = plan_path(&name);
        let set = api.put(&at, "{}").await;
        if name.is_empty() || name.trim() != name || name.chars().count() > 100 {
            let (_, wrong) = set.problem(400);
            assert_eq!(wrong["parameter"], "plan", "{name}");
            continue;
        }
        assert_eq!(set.with(200)["name"], name);
        assert_eq!(api.get(&at).await.with(200)["name"], name);
        api.delete(&at).await.with(204);
        assert_eq!(api.backend.plan(&name).await.unwrap(), None);
    }
    let long = "a".repeat(201);
    for segment in ["~", "a%00b", "a%0Ab", "%FF", &long, &format!("~{long}")] {
        for (name, answer) in [
            ("owner", api.get(&format!("/owners/{segment}")).await),
            (
                "owner",
                api.patch(&format!("/owners/{segment}"), "{}").await,
            ),
            (
                "owner",
                api.post(&format!("/owners/{segment}/suspend"), "").await,
            ),
            (
                "owner",
                api.post(&format!("/owners/{segment}/resume"), "").await,
            ),
            ("plan", api.get(&format!("/plans/{segment}")).await),
            ("plan", api.put(&format!("/plans/{segment}"), "{}").await),
            ("plan", api.delete(&format!("/plans/{segment}")).await),
        ] {
            let (_, wrong) = answer.problem(400);
            assert_eq!(wrong["parameter"], name, "{segment}: {wrong}");
        }
    }
}

/// The path at which the dashboard is nested may have captures with the same names.
#[tokio::test]
async fn captures_of_the_base_path_are_ignored() {
    let backend = MemoryBackend::new();
    let dashboard = Dashboard::new(backend.clone(), AllowEveryone).into_router();
    let router = Router::new().nest_service("/{owner}/{plan}", dashboard);
    for (method, path) in [
        (Method::PATCH, "/a/b/api/owners/acme"),
        (Method::PUT, "/a/b/api/plans/pro"),
    ] {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json");
        ask(&router, request.body(Body::from("{}")).unwrap())
            .await
            .with(200);
    }
    assert!(backend.owner("acme").await.unwrap().is_some());
    assert!(backend.plan("pro").await.unwrap().is_some());
}

#[tokio::test]
async fn errors_in_a_body_name_the_field_of_the_owner_or_the_plan() {
    let api = Api::new();
    let limit = |n: usize| json!({"name": format!("n{n}"), "requests": 1, "period_seconds": 1});
    let limits = |count| Value::from_iter((0..count).map(limit));
    let five = |field: &str| json!({ field: limits(5) }).to_string();
    let zero = |field: &str| {
        let zero = json!({"requests": 0, "period_seconds": 1});
        json!({ field: [limit(0), zero] }).to_string()
    };
    let nul = json!({"metadata": {"a": "\0"}}).to_string();
    for (field, body) in [
        ("#/name", r#"{"name":""}"#.to_owned()),
        ("#/name", r#"{"name":7}"#.to_owned()),
        ("#/plan", r#"{"plan":"none"}"#.to_owned()),
        ("#/limits", r#"{"limits":null}"#.to_owned()),
        ("#/limits", five("limits")),
        ("#/limits/1", zero("limits")),
        ("#/metadata", nul.clone()),
        ("#/id", r#"{"id":"a"}"#.to_owned()),
        ("#/status", r#"{"status":"suspended"}"#.to_owned()),
        ("#", "[]".to_owned()),
    ] {
        let (_, wrong) = api.patch("/owners/acme", &body).await.problem(422);
        assert_eq!(wrong["pointer"], field, "{body}: {wrong}");
    }
    api.get("/owners/acme").await.problem(404);
    for (field, body) in [
        ("#/owner_limits", five("owner_limits")),
        ("#/owner_limits/1", zero("owner_limits")),
        ("#/key_limits", json!({"key_limits": limits(9)}).to_string()),
        ("#/key_limits/1", zero("key_limits")),
        ("#/metadata", nul),
        ("#/name", r#"{"name":"a"}"#.to_owned()),
    ] {
        let (_, wrong) = api.put("/plans/pro", &body).await.problem(422);
        assert_eq!(wrong["pointer"], field, "{body}: {wrong}");
    }
    // The most that fits.
    let most = json!({"key_limits": limits(8), "owner_limits": limits(4)});
    api.put("/plans/pro", &most.to_string()).await.with(200);
    api.put("/plans/pro", "{").await.problem(400);
    let text = [("content-type", "text/plain")];
    api.send(Method::PUT, "/plans/pro", &text, "{}")
        .await
        .problem(415);
    for (path, allow) in [
        ("/owners", "GET,HEAD"),
        ("/owners/acme", "GET,HEAD,PATCH"),
        ("/owners/acme/suspend", "POST"),
        ("/plans/pro", "GET,HEAD,PUT,DELETE"),
    ] {
        let wrong = api.send(Method::OPTIONS, path, &[], "").await;
        wrong.problem(405);
        assert_eq!(wrong.headers[ALLOW], allow, "{path}");
    }
}

#[tokio::test]
async fn a_store_without_owners_is_a_404() {
    let store = Counted::of(MemoryBackend::new());
    let issuer = Issuer::new("acme_live").unwrap();
    let new = NewKey::new("a").owner("acme");
    issuer.issue(&store, new, Actor::SYSTEM).await.unwrap();
    let dashboard = Dashboard::new(store, AllowEveryone).into_router();
    let router = Router::new().nest("/admin", dashboard);
    for (method, path) in [
        (Method::GET, "owners"),
        (Method::GET, "owners/acme"),
        (Method::PATCH, "owners/acme"),
        (Method::POST, "owners/acme/suspend"),
        (Method::POST, "owners/acme/resume"),
        (Method::GET, "plans"),
        (Method::GET, "plans/pro"),
        (Method::PUT, "plans/pro"),
        (Method::DELETE, "plans/pro"),
    ] {
        let uri = format!("/admin/api/{path}");
        let request = Request::builder().method(method).uri(uri);
        let request = request.header("content-type", "application/json");
        let answer = ask(&router, request.body(Body::from("{}")).unwrap()).await;
        let (detail, _) = answer.problem(404);
        assert_eq!(
            detail, "the store does not support owners and plans",
            "{path}"
        );
    }
}

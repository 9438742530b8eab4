//! Key management with the JSON API.

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Request;
use http::header::{AUTHORIZATION, CACHE_CONTROL, LOCATION};
use keytally::backend::MemoryBackend;
use keytally::key::{
    Actor, AuditAction, AuditLog, AuditQuery, ImportedKey, Issuer, KeyAdmin, NewKey, Vault,
};
use keytally::{ApiKeyLayer, KeyId};
use serde_json::json;

use super::{Api, ask};

#[tokio::test]
async fn a_key_is_created_as_requested_and_its_secret_is_returned_once() {
    let api = Api::new();
    let body = json!({
        "name": "Zapier integration",
        "owner": "customer-17",
        "environment": "live",
        "scopes": ["read", "orders:write"],
        "limits": [
            {"requests": 600, "period_seconds": 60},
            {"name": "daily", "requests": 10_000, "period_seconds": 86_400.5, "burst": 500},
        ],
        "addresses": ["203.0.113.0/24", "2001:db8::1"],
        "metadata": {"plan": {"name": "pro"}},
        "expires_at": "2031-01-01T01:00:00+01:00",
    });
    let response = api.post("/keys", &body.to_string()).await;
    let created = response.with(201);
    assert_eq!(response.headers[CACHE_CONTROL], "no-store");
    let (secret, key) = (created["secret"].as_str().unwrap(), &created["key"]);
    let url = format!("/admin/api/keys/{}", key["id"].as_str().unwrap());
    assert_eq!(response.headers[LOCATION], url);
    for field in ["name", "owner", "environment", "scopes", "metadata"] {
        assert_eq!(key[field], body[field], "{field}");
    }
    let limits = json!([
        {"name": "minute", "requests": 600, "period_seconds": 60.0, "burst": 600},
        {"name": "daily", "requests": 10_000, "period_seconds": 86_400.5, "burst": 500},
    ]);
    assert_eq!(key["limits"], limits);
    assert_eq!(
        key["addresses"],
        json!(["203.0.113.0/24", "2001:db8::1/128"])
    );
    assert_eq!(key["expires_at"], "2031-01-01T00:00:00Z");
    assert_eq!(key["status"], "active");
    let nothing = [
        &key["revoked_at"],
        &key["first_accepted_at"],
        &key["last_accepted_at"],
        &key["rotated_from"],
        &key["replaced_by"],
    ];
    assert_eq!(nothing, [&json!(null); 5]);
    assert_eq!(key["rejected_since"], 0);

    let id = id_of(secret);
    let protected = Router::new()
        .route("/", get(|| async { "in" }))
        .layer(ApiKeyLayer::new(api.backend.clone()));
    let request = Request::get("/").header(AUTHORIZATION, format!("Bearer {secret}"));
    // The client IP is not allowed.
    let rejected = ask(&protected, request.body(Body::empty()).unwrap()).await;
    assert_eq!(rejected.status, 403, "{}", rejected.text);
    let read = api.get(&format!("/keys/{id}")).await;
    assert_eq!(&read.with(200), key);
    assert!(!read.text.contains(secret));
}

fn id_of(secret: &str) -> KeyId {
    KeyId::of_secret(secret).expect("a secret")
}

#[tokio::test]
async fn changes_of_a_key_are_applied_and_audited() {
    let api = Api::new();
    let new = NewKey::new("a")
        .owner("b")
        .environment("live")
        .scope("read");
    let id = api.issue(new).await.key.id;
    let at = format!("/keys/{id}");
    let changed = api
        .patch(
            &at,
            r#"{"name":"c","owner":null,"limits":[{"requests":5,"period_seconds":1}]}"#,
        )
        .await
        .with(200);
    assert_eq!(changed["name"], "c");
    assert_eq!(changed["owner"], json!(null));
    assert_eq!(changed["environment"], "live");
    assert_eq!(changed["scopes"], json!(["read"]));
    assert_eq!(changed["limits"][0]["name"], "second");
    assert_eq!(api.patch(&at, "{}").await.with(200)["name"], "c");

    let off = api.post(&format!("{at}/disable"), "").await.with(200);
    assert_eq!(
        (&off["status"], &off["disabled"]),
        (&json!("disabled"), &json!(true))
    );
    let on = api.post(&format!("{at}/enable"), "").await.with(200);
    assert_eq!(on["status"], "active");
    let over = api.post(&format!("{at}/revoke"), "").await.with(200);
    assert_eq!(over["status"], "revoked");
    let rotate = format!("{at}/rotate");
    api.post(&rotate, r#"{"grace_seconds":0}"#)
        .await
        .problem(409);
    api.delete(&at).await.with(204);
    assert_eq!(api.backend.get(id).await.unwrap(), None);
    for response in [
        api.get(&at).await,
        api.delete(&at).await,
        api.patch(&at, "{}").await,
    ] {
        response.problem(404);
    }

    let entries = api
        .get(&format!("/audit?key={id}&actor=Ada&limit=3"))
        .await
        .with(200);
    let actions = |page: &serde_json::Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap().iter();
        items
            .map(|item| item["action"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(actions(&entries), ["deleted", "revoked", "enabled"]);
    let next = entries["next"].as_str().unwrap();
    let rest = api
        .get(&format!("/audit?key={id}&actor=Ada&after={next}"))
        .await
        .with(200);
    assert_eq!(actions(&rest), ["disabled", "updated", "updated"]);
    assert_eq!(rest["next"], json!(null));
    let updated = &rest["items"][2];
    assert_eq!(
        (&updated["before"]["name"], &updated["after"]["name"]),
        (&json!("a"), &json!("c"))
    );
    let query = AuditQuery::new().key(id).action(AuditAction::Revoked);
    assert_eq!(
        api.backend.audit_entries(&query).await.unwrap().items.len(),
        1
    );
}

/// As in JSON Schema 2020-12. Some languages write all numbers with a fraction.
#[tokio::test]
async fn numbers_with_a_zero_fraction_are_integers() {
    let api = Api::new();
    let body = r#"{"name":"a","limits":[{"requests":600.0,"period_seconds":60,"burst":1e2}]}"#;
    let created = api.post("/keys", body).await.with(201);
    let limit = &created["key"]["limits"][0];
    assert_eq!(
        (&limit["requests"], &limit["burst"]),
        (&600.into(), &100.into())
    );
    let rotate = format!("/keys/{}/rotate", created["key"]["id"].as_str().unwrap());
    api.post(&rotate, r#"{"grace_seconds":60.0}"#)
        .await
        .with(201);
    api.post(&rotate, r#"{"grace_seconds":60.5}"#)
        .await
        .problem(422);
}

#[tokio::test]
async fn a_rotated_key_expires_after_its_grace_period() {
    let api = Api::new();
    let old = api.issue(NewKey::new("a").scope("read")).await.key;
    let body = r#"{"grace_seconds":3600}"#;
    let created = api
        .post(&format!("/keys/{}/rotate", old.id), body)
        .await
        .with(201);
    let new = &created["key"];
    assert_eq!(new["rotated_from"], old.id.as_str());
    assert_eq!(new["lineage"], old.id.as_str());
    assert_eq!(new["scopes"], json!(["read"]));
    assert_eq!(
        new["id"],
        id_of(created["secret"].as_str().unwrap()).as_str()
    );
    let old = api.get(&format!("/keys/{}", old.id)).await.with(200);
    let end: jiff::Timestamp = old["expires_at"].as_str().unwrap().parse().unwrap();
    let left = end.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((3_500..=3_600).contains(&left), "{left}");
    assert_eq!(old["replaced_by"], new["id"]);
    let again = format!("/keys/{}/rotate", old["id"].as_str().unwrap());
    let (detail, _) = api.post(&again, body).await.problem(409);
    let expected = format!(
        "key {} has been replaced by key {}; rotate that key instead",
        old["id"].as_str().unwrap(),
        new["id"].as_str().unwrap()
    );
    assert_eq!(detail, expected);
    let gone = format!("/keys/{}/rotate", "0".repeat(16));
    api.post(&gone, body).await.problem(404);
}

#[tokio::test]
async fn lists_are_filtered_and_paginated() {
    let api = Api::new();
    for n in 0..5 {
        let owner = if n % 2 == 0 { "even" } else { "odd" };
        let key = api
            .issue(NewKey::new(format!("Key {n}")).owner(owner))
            .await
            .key;
        if n == 4 {
            api.backend.disable(key.id, Actor::SYSTEM).await.unwrap();
        }
    }
    let imported = ImportedKey::from_secret(NewKey::new("Old"), "sk-from-another-system");
    let issuer = Issuer::new("acme_live").unwrap();
    let imported = issuer.import(&api.backend, imported, Actor::SYSTEM).await;
    let imported = imported.unwrap();
    let names = async |query: &str| -> Vec<String> {
        let page = api.get(&format!("/keys?{query}")).await.with(200);
        let items = page["items"].as_array().unwrap().iter();
        items
            .map(|key| key["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("imported=true").await, ["Old"]);
    assert_eq!(names("imported=false").await.len(), 5);
    api.get("/keys?imported=maybe").await.problem(400);
    let rotate = format!("/keys/{}/rotate", imported.id);
    let new = api.post(&rotate, r#"{"grace_seconds":60}"#).await.with(201);
    assert_eq!(new["key"]["imported"], false);
    for id in [new["key"]["id"].as_str().unwrap(), imported.id.as_str()] {
        api.backend
            .delete(id.parse().unwrap(), Actor::SYSTEM)
            .await
            .unwrap();
    }
    assert_eq!(names("").await.len(), 5);
    assert_eq!(names("owner=even&status=active").await, ["Key 2", "Key 0"]);
    assert_eq!(names("name=kEY%201").await, ["Key 1"]);
    assert_eq!(names("owner=eve").await, [""; 0]);
    assert_eq!(names("unused_since=2126-01-01T00:00:00Z").await.len(), 5);
    assert_eq!(names("unused_since=2026-01-01T00:00:00Z").await.len(), 0);
    assert_eq!(names("expires_before=2126-01-01T00:00:00Z").await.len(), 0);
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = api.get(&format!("/keys?limit=2{after}")).await.with(200);
        let items = page["items"].as_array().unwrap().iter();
        seen.extend(items.map(|key| key["name"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["Key 4", "Key 3", "Key 2", "Key 1", "Key 0"]);
}

#[tokio::test]
async fn a_recoverable_secret_is_revealed_and_audited() {
    let backend = MemoryBackend::new();
    let vault = Vault::new([7; 32]);
    let issuer = Issuer::new("acme_live").unwrap().vault(vault);
    let api = Api::with(backend, issuer);
    let body = r#"{"name":"a","recoverable":true}"#;
    let created = api.post("/keys", body).await.with(201);
    assert_eq!(created["key"]["recoverable"], true);
    let at = format!("/keys/{}", created["key"]["id"].as_str().unwrap());
    let revealed = api.post(&format!("{at}/reveal"), "").await;
    assert_eq!(revealed.with(200), json!({"secret": created["secret"]}));
    assert_eq!(revealed.headers[CACHE_CONTROL], "no-store");
    let audit = api.get("/audit?action=revealed").await.with(200);
    assert_eq!(audit["items"][0]["actor"], "Ada");

    let plain = api.post("/keys", r#"{"name":"b"}"#).await.with(201);
    assert_eq!(plain["key"]["recoverable"], false);
    let plain = format!("/keys/{}/reveal", plain["key"]["id"].as_str().unwrap());
    api.post(&plain, "").await.problem(404);

    // Without the encryption key, secrets cannot be stored or revealed.
    let without = Api::over(api.backend.clone());
    let (_, wrong) = without.post("/keys", body).await.problem(422);
    assert_eq!(wrong["pointer"], "#/recoverable");
    without.post(&format!("{at}/reveal"), "").await.problem(501);
    let other = Issuer::new("acme_live").unwrap().vault(Vault::new([8; 32]));
    let other = Api::with(api.backend.clone(), other);
    other.post(&format!("{at}/reveal"), "").await.problem(500);
    api.post(&format!("{at}/revoke"), "").await.with(200);
    api.post(&format!("{at}/reveal"), "").await.problem(404);
}

//! Rejected requests and their problem details.

use axum::Router;
use axum::body::Body;
use http::header::{ALLOW, AUTHORIZATION, WWW_AUTHENTICATE};
use http::{Method, Request};
use keytally::backend::MemoryBackend;
use keytally::dashboard::{AllowEveryone, Dashboard};
use keytally::key::{KeyAdmin, KeyQuery, NewKey};

use super::{Api, TOKEN, ask};

#[tokio::test]
async fn errors_in_a_body_name_the_field() {
    let api = Api::new();
    for (field, body) in [
        ("#/name", r#"{"name":""}"#),
        ("#/name", r#"{"name":"  "}"#),
        ("#/name", r#"{"name":7}"#),
        ("#/name", r#"{"name":"a\u0000b"}"#),
        ("#/owner", r#"{"name":"a","owner":""}"#),
        ("#/environment", r#"{"name":"a","environment":"Live"}"#),
        ("#/scopes", r#"{"name":"a","scopes":["a","a"]}"#),
        ("#/scopes/1", r#"{"name":"a","scopes":["a",1]}"#),
        (
            "#/limits/1/requests",
            r#"{"name":"a","limits":[{"requests":1,"period_seconds":1},{"requests":-1,"period_seconds":1}]}"#,
        ),
        (
            "#/limits/0/requests",
            r#"{"name":"a","limits":[{"requests":600.5,"period_seconds":1}]}"#,
        ),
        (
            "#/limits/0/burst",
            r#"{"name":"a","limits":[{"requests":1,"period_seconds":1,"burst":4294967296.0}]}"#,
        ),
        (
            "#/limits/0",
            r#"{"name":"a","limits":[{"requests":0,"period_seconds":1}]}"#,
        ),
        (
            "#/limits/0",
            r#"{"name":"a","limits":[{"requests":1,"period_seconds":-1}]}"#,
        ),
        (
            "#/limits/0",
            r#"{"name":"a","limits":[{"requests":1,"period_seconds":1e300}]}"#,
        ),
        (
            "#/limits",
            r#"{"name":"a","limits":[{"requests":1,"period_seconds":1},{"requests":2,"period_seconds":1}]}"#,
        ),
        (
            "#/addresses/1",
            r#"{"name":"a","addresses":["::1","10.0.0.0/33"]}"#,
        ),
        ("#/limits/0", r#"{"name":"a","limits":[[null,5,1.0,null]]}"#),
        ("#", r#"["a",null,null,[],[],[],{},null,false]"#),
        ("#/expires_at", r#"{"name":"a","expires_at":"tomorrow"}"#),
        (
            "#/expires_at",
            r#"{"name":"a","expires_at":"2020-01-01T00:00:00Z"}"#,
        ),
        ("#/metadata", r#"{"name":"a","metadata":[]}"#),
        ("#/secret", r#"{"name":"a","secret":"mine"}"#),
    ] {
        let (_, wrong) = api.post("/keys", body).await.problem(422);
        assert_eq!(wrong["pointer"], field, "{body}: {wrong}");
    }
    let id = api.issue(NewKey::new("a")).await.key.id;
    for (field, body) in [
        ("#/name", r#"{"name":null}"#),
        ("#/scopes", r#"{"scopes":null}"#),
        ("#/owner", r#"{"owner":""}"#),
        ("#/limits/0", r#"{"limits":[[null,5,1.0,null]]}"#),
        ("#/id", r#"{"id":"3fK9aB0000zzZZ19"}"#),
    ] {
        let (_, wrong) = api.patch(&format!("/keys/{id}"), body).await.problem(422);
        assert_eq!(wrong["pointer"], field, "{body}: {wrong}");
    }
    let rotate = format!("/keys/{id}/rotate");
    for body in [
        "{}",
        "[60]",
        r#"{"grace_seconds":-1}"#,
        r#"{"grace_seconds":1.5}"#,
    ] {
        api.post(&rotate, body).await.problem(422);
    }
    for body in ["{", "x", "\u{feff}{}"] {
        api.post("/keys", body).await.problem(400);
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for body in ["", "name=a"] {
        api.send(Method::POST, "/keys", &form, body)
            .await
            .problem(415);
    }
    // A cross-site form can send JSON text, but not with the content type of JSON.
    let text = [("content-type", "text/plain")];
    api.send(Method::POST, "/keys", &text, r#"{"name":"a"}"#)
        .await
        .problem(415);
    // Not a merge patch (RFC 7396), since metadata is replaced.
    let patch = [("content-type", "application/merge-patch+json")];
    api.send(Method::PATCH, &format!("/keys/{id}"), &patch, "{}")
        .await
        .problem(415);
    let long = format!(r#"{{"name":"{}"}}"#, "a".repeat(100_000));
    api.post("/keys", &long).await.problem(413);
    let all = api.backend.list(&KeyQuery::new()).await.unwrap().items;
    assert_eq!(all.len(), 1);
}

#[tokio::test]
async fn errors_in_a_query_name_the_parameter() {
    let api = Api::new();
    for (name, path) in [
        ("limit", "/keys?limit=0"),
        ("limit", "/keys?limit=1001"),
        ("limit", "/log?limit=many"),
        ("status", "/keys?status=Active"),
        ("after", "/keys?after=x"),
        // A page token of another list.
        (
            "after",
            "/keys?after=1.00000000-0000-0000-0000-000000000000",
        ),
        ("after", "/log?after=1.3fK9aB0000zzZZ19"),
        ("after", "/audit?after=1.3fK9aB0000zzZZ19"),
        ("names", "/keys?names=a"),
        ("name", "/keys?name=a&name=b"),
        ("method", "/log?method=BREW"),
        ("status", "/log?status=9"),
        ("status", "/log/count?status=429,9xx"),
        ("status", "/log?status=429,"),
        ("outcome", "/log?outcome=failed,lost"),
        ("outcome", "/log?outcome="),
        ("client_ip", "/log?client_ip=localhost"),
        ("from", "/log?from=yesterday"),
        ("key", "/log?key=short"),
        ("top", "/usage?top=0"),
        ("from", "/usage/over-time"),
        (
            "zone",
            "/usage/over-time?from=2026-11-01T00:00:00Z&zone=../etc/passwd",
        ),
        (
            "width",
            "/usage/over-time?from=0001-01-01T00:00:00Z&width=minute",
        ),
        ("action", "/audit?action=danced"),
    ] {
        let (_, wrong) = api.get(path).await.problem(400);
        assert_eq!(wrong["parameter"], name, "{path}: {wrong}");
    }
    let reversed = "from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z";
    for path in [
        "usage",
        "usage/over-time",
        "usage/spikes",
        "log",
        "log/count",
        "log/export/csv",
        "audit",
    ] {
        let (_, wrong) = api.get(&format!("/{path}?{reversed}")).await.problem(400);
        assert_eq!(wrong["parameter"], "to", "{path}: {wrong}");
    }
    let (_, wrong) = api.get("/log/export/xlsx").await.problem(400);
    assert_eq!(wrong["parameter"], "format");
    api.get("/keys/short").await.problem(404);
    api.get("/").await.problem(404);
    api.get("/nothing").await.problem(404);
    api.post("/log", "").await.problem(405);
    let response = api.send(Method::PUT, "/keys", &[], "").await;
    response.problem(405);
    assert_eq!(response.headers[ALLOW], "GET,HEAD,POST");
}

#[tokio::test]
async fn unauthenticated_and_cross_site_requests_are_rejected() {
    let api = Api::new();
    let body = || Body::from(r#"{"name":"a"}"#);
    let post = || Request::post("/admin/api/keys").header("content-type", "application/json");
    let unauthenticated = ask(&api.router, post().body(body()).unwrap()).await;
    unauthenticated.problem(401);
    assert_eq!(
        unauthenticated.headers[WWW_AUTHENTICATE],
        r#"Bearer realm="keytally""#
    );
    let signed_in = post().header(AUTHORIZATION, format!("Bearer {TOKEN}"));
    let cross = signed_in.header("sec-fetch-site", "cross-site");
    ask(&api.router, cross.body(body()).unwrap())
        .await
        .problem(403);
    let all = api.backend.list(&KeyQuery::new()).await.unwrap().items;
    assert_eq!(all.len(), 0);
}

#[tokio::test]
async fn a_missing_issuer_is_a_501_and_missing_statistics_are_a_404() {
    let dashboard = Dashboard::new(MemoryBackend::new(), AllowEveryone);
    let router = Router::new().nest("/admin", dashboard.into_router());
    let post = Request::post("/admin/api/keys").header("content-type", "application/json");
    let post = post.body(Body::from(r#"{"name":"a"}"#)).unwrap();
    ask(&router, post).await.problem(501);
    for path in ["recorder", "recorder/rejections", "merge-backlog"] {
        let get = Request::get(format!("/admin/api/{path}"));
        let get = get.body(Body::empty()).unwrap();
        ask(&router, get).await.problem(404);
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn store_errors_are_503_and_reveal_no_details() {
    let pool = sqlx::SqlitePool::connect("sqlite::memory:").await.unwrap();
    let backend = keytally::backend::SqliteBackend::from_pool(pool.clone());
    backend.migrate().await.unwrap();
    let dashboard = Dashboard::new(backend, AllowEveryone);
    let router = Router::new().nest("/admin", dashboard.into_router());
    pool.close().await;
    for path in [
        "keys",
        "log",
        "log/count",
        "usage",
        "audit",
        "keys/3fK9aB0000zzZZ19",
        "owners",
        "owners/acme",
        "plans",
        "plans/pro",
    ] {
        let get = Request::get(format!("/admin/api/{path}"))
            .body(Body::empty())
            .unwrap();
        let response = ask(&router, get).await;
        response.problem(503);
        assert_eq!(response.headers["retry-after"], "1");
        assert!(
            !response.text.to_lowercase().contains("sql"),
            "{}",
            response.text
        );
    }
}

//! Error pages: an unavailable store and an unknown key.

use http::StatusCode;
use keytally::backend::SqliteBackend;
use keytally::key::{Actor, Issuer, NewKey};

use crate::pages::Pages;

#[tokio::test]
async fn an_unavailable_store_is_a_503_page() {
    let options = "sqlite::memory:".parse::<sqlx::sqlite::SqliteConnectOptions>();
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let pool = pool.connect_with(options.unwrap()).await.unwrap();
    let backend = SqliteBackend::from_pool(pool.clone());
    backend.migrate().await.unwrap();
    let issuer = Issuer::new("acme_live").unwrap();
    let issued = issuer
        .issue(&backend, NewKey::new("Existing"), Actor::SYSTEM)
        .await;
    let id = issued.unwrap().key.id;
    let pages = Pages::over(backend);
    let edit = format!("/admin/keys/{id}/edit");
    let token = pages.token(&edit).await;
    assert_eq!(pages.get("/admin").await.status, StatusCode::OK);
    pool.close().await;
    for path in [
        "",
        "/",
        "/keys",
        "/log",
        "/owners",
        "/owners/acme",
        "/owners/acme/csv?month=2026-10",
        "/billing/csv?month=2026-10",
        "/audit",
        "/keys/ID",
        "/keys/ID/edit",
        "/keys/ID/rotate",
        "/keys/ID/disable",
        "/keys/ID/delete",
    ] {
        let path = format!("/admin{}", path.replace("ID", id.as_str()));
        let response = pages.get(&path).await;
        assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(response.text.contains("The store is unavailable"), "{path}");
        assert!(response.headers.contains_key("retry-after"), "{path}");
        // Backend errors never reach clients.
        assert!(!response.text.to_lowercase().contains("pool"), "{path}");
    }
    let fields = [("name", "Other"), ("token", &token)];
    for path in [&edit, "/admin/keys/new"] {
        let response = pages.post(path, &fields, &[]).await;
        assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(response.text.contains("first check whether"), "{path}");
    }
    // Pages that need no store still work.
    assert_eq!(pages.get("/admin/keys/new").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_unknown_key_is_a_404_page_with_links_to_its_history() {
    let pages = Pages::new();
    let id = "3fK9aB0000zzZZ19";
    for action in [
        "", "/edit", "/rotate", "/disable", "/enable", "/revoke", "/delete",
    ] {
        let response = pages.get(&format!("/admin/keys/{id}{action}")).await;
        assert_eq!(response.status, StatusCode::NOT_FOUND, "{action}");
        assert!(response.text.contains("API key not found"));
        for (link, to) in [("Its requests", "log"), ("audit log entries", "audit")] {
            let href = response.link(link);
            assert_eq!(href, format!("/admin/{to}?key={id}"));
            assert_eq!(pages.get(&href).await.status, StatusCode::OK);
        }
        assert_eq!(response.link("Back to API keys"), "/admin/keys");
    }
    let response = pages.get("/admin/keys/%3Cb%3E").await;
    assert_eq!(response.status, StatusCode::NOT_FOUND);
    assert!(!response.text.contains("Its requests"));
}

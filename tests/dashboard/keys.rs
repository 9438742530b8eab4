//! Key management on the pages.

use axum::Router;
use http::StatusCode;
use jiff::SignedDuration;
use keytally::Clock;
use keytally::backend::MemoryBackend;
use keytally::dashboard::{BearerToken, Dashboard};
use keytally::key::{KeyAdmin, KeyQuery, KeyStatus, KeyStore};

use crate::pages::{Pages, TOKEN};

#[tokio::test]
async fn a_key_is_generated_disabled_rotated_and_deleted() {
    let pages = Pages::new();
    let fields = [
        ("name", "Zapier Integration"),
        ("owner", "customer-17"),
        ("scopes", "read, orders:write"),
        ("limits", "600/min 20/s"),
        ("addresses", "203.0.113.0/24"),
        ("expires", "2999-01-01T10:00"),
    ];
    let response = pages.send("/admin/keys/new", &fields).await;
    assert_eq!(response.status, StatusCode::OK, "{}", response.text);
    assert_eq!(response.headers["cache-control"], "no-store");
    let all = pages.backend.list(&KeyQuery::new()).await.unwrap().items;
    let key = &all[0];
    assert!(response.text.contains(&format!("acme_live_{}", key.id)));
    assert_eq!(
        (&*key.name, key.owner.as_deref()),
        ("Zapier Integration", Some("customer-17"))
    );
    assert_eq!(key.scopes, ["read", "orders:write"]);
    assert_eq!((key.limits.len(), key.addresses.len()), (2, 1));
    assert_eq!(key.expires_at.unwrap().to_string(), "2999-01-01T10:00:00Z");
    let list = pages.get("/admin/keys").await.text;
    assert!(
        list.contains("Zapier Integration") && !list.contains(&format!("acme_live_{}", key.id))
    );

    let at = |action: &str| format!("/admin/keys/{}/{action}", key.id);
    let status = async || {
        let key = pages.backend.get(key.id).await.unwrap().unwrap();
        key.status(Clock::system().now().timestamp())
    };
    assert_eq!(
        pages.send(&at("disable"), &[]).await.status,
        StatusCode::SEE_OTHER
    );
    assert_eq!(status().await, KeyStatus::Disabled);
    assert_eq!(
        pages.send(&at("enable"), &[]).await.status,
        StatusCode::SEE_OTHER
    );
    assert_eq!(status().await, KeyStatus::Active);

    let wrong = pages
        .send(&at("rotate"), &[("grace", "custom"), ("hours", "soon")])
        .await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(status().await, KeyStatus::Active);
    let rotated = pages.send(&at("rotate"), &[("grace", "now")]).await;
    assert_eq!(rotated.status, StatusCode::OK);
    assert_eq!(status().await, KeyStatus::Expired);
    assert_eq!(
        pages
            .backend
            .list(&KeyQuery::new())
            .await
            .unwrap()
            .items
            .len(),
        2
    );

    let wrong = pages.send(&at("delete"), &[("name", "Zapier")]).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(pages.backend.find(key.id).await.unwrap().is_some());
    let gone = pages
        .send(&at("delete"), &[("name", "Zapier Integration")])
        .await;
    assert_eq!(gone.status, StatusCode::SEE_OTHER);
    assert!(pages.backend.find(key.id).await.unwrap().is_none());
    assert_eq!(pages.get(&at("delete")).await.status, StatusCode::NOT_FOUND);

    let audit = pages.get("/admin/audit").await.text;
    for action in ["created", "disabled", "enabled", "rotated", "deleted"] {
        assert!(
            audit.contains(&format!(
                "<bdi>Ada</bdi></span></td><td data-label=\"Action\">{action}</td>"
            )),
            "{action}"
        );
    }
}

#[tokio::test]
async fn an_invalid_form_has_an_error_and_creates_no_key() {
    let pages = Pages::new();
    let long = "x".repeat(10_000);
    for fields in [
        vec![],
        vec![("name", "  ")],
        vec![("name", &*long)],
        vec![("name", "a"), ("limits", "many")],
        vec![("name", "a"), ("limits", "0/s")],
        vec![("name", "a"), ("addresses", "somewhere")],
        vec![("name", "a"), ("expires", "later")],
        vec![("name", "a"), ("expires", "99999-01-01T00:00")],
        vec![("name", "a"), ("expires", "2020-01-01T00:00")],
        vec![("name", "a"), ("owner", &*long)],
        vec![("name", "a\0b")],
    ] {
        let response = pages.send("/admin/keys/new", &fields).await;
        assert_eq!(
            response.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{fields:?}"
        );
        assert!(response.text.contains("role=\"alert\""), "{fields:?}");
    }
    assert!(
        pages
            .backend
            .list(&KeyQuery::new())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn a_form_that_is_submitted_twice_creates_one_key() {
    let pages = Pages::new();
    let path = "/admin/keys/new";
    let token = pages.token(path).await;
    let fields = [("token", &*token), ("once", "a-form"), ("name", "Zapier")];
    let (first, second) = tokio::join!(
        pages.post(path, &fields, &[]),
        pages.post(path, &fields, &[])
    );
    assert_eq!((first.status, &first.text), (StatusCode::OK, &second.text));
    let keys = pages.backend.list(&KeyQuery::new()).await.unwrap().items;
    assert_eq!(keys.len(), 1);

    let path = format!("/admin/keys/{}/rotate", keys[0].id);
    let fields = [("token", &*token), ("once", "another"), ("grace", "1h")];
    let first = pages.post(&path, &fields, &[]).await;
    let second = pages.post(&path, &fields, &[]).await;
    assert_eq!((first.status, &first.text), (StatusCode::OK, &second.text));
    assert_eq!(
        pages
            .backend
            .list(&KeyQuery::new())
            .await
            .unwrap()
            .items
            .len(),
        2
    );
    // Each rendered form has its own idempotency key.
    let once = async || {
        let form = pages.get("/admin/keys/new").await.text;
        let (_, once) = form.split_once("name=\"once\" value=\"").expect("a field");
        once.split('"').next().unwrap().to_owned()
    };
    assert_ne!(once().await, once().await);
}

#[tokio::test]
async fn imported_keys_are_listed() {
    let pages = Pages::new();
    pages.key("Issued here").await;
    let imported = pages.key_with("Issued elsewhere", |key| key.imported = true);
    let imported = imported.await;
    let all = pages.get("/admin/keys").await.text;
    assert!(all.contains("Issued here") && all.contains("Issued elsewhere"));
    let list = pages.get("/admin/keys?show=imported").await.text;
    assert!(!list.contains("Issued here") && list.contains("Issued elsewhere"));
    let key = pages
        .get(&format!("/admin/keys/{}", imported.id))
        .await
        .text;
    assert!(key.contains("Imported from another system"));
}

#[tokio::test]
async fn keys_and_usage_can_come_from_separate_stores() {
    let (keys, usage) = (MemoryBackend::new(), MemoryBackend::new());
    let pages = Pages {
        backend: keys.clone(),
        router: Router::new(),
    };
    let key = pages.key("Kept apart").await;
    let of_usage = Pages {
        backend: usage.clone(),
        router: Router::new(),
    };
    let ago = SignedDuration::from_secs(60);
    of_usage.requests(&key, 7, ago, |_, _| ()).await;
    let guard = BearerToken::new(TOKEN).unwrap();
    let router = Dashboard::with_stores(keys, usage, guard).into_router();
    let pages = Pages {
        router: Router::new().nest("/admin", router),
        ..pages
    };
    let page = pages.get(&format!("/admin/keys/{}", key.id)).await.text;
    assert!(page.contains("Kept apart") && page.contains("Requests"));
    let log = pages.get("/admin/log").await.text;
    assert_eq!(log.matches(">Kept apart<").count(), 7);
}

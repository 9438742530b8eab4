//! The current status of rate limits on pages and in the API.

use axum::body::Body;
use axum::routing::get;
use http::{Request, StatusCode};
use keytally::ApiKeyLayer;
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, Issuer, Key, NewKey, OwnerAdmin, OwnerUpdate, Plan};
use keytally::limit::{RateLimit, RedisConfig, RedisLimiter};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::pages::Pages;

/// A dashboard with a layer, whose limiter is `set`.
fn pages(set: impl FnOnce(ApiKeyLayer) -> ApiKeyLayer) -> (Pages, ApiKeyLayer) {
    let backend = MemoryBackend::new();
    let layer = set(ApiKeyLayer::new(backend.clone()));
    let of_dashboard = layer.clone();
    let pages = Pages::with(backend, |dashboard| dashboard.layer(of_dashboard));
    (pages, layer)
}

/// Sends requests with a new key, and returns the key.
async fn key_with_requests(pages: &Pages, layer: &ApiKeyLayer, new: NewKey, count: usize) -> Key {
    let issuer = Issuer::new("acme_live").unwrap();
    let issued = issuer
        .issue(&pages.backend, new, Actor::SYSTEM)
        .await
        .unwrap();
    let service = axum::Router::new()
        .route("/", get(|| async {}))
        .layer(layer.clone());
    for _ in 0..count {
        let bearer = format!("Bearer {}", issued.secret.expose());
        let request = Request::get("/")
            .header("authorization", bearer)
            .body(Body::empty());
        let response = service.clone().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    issued.key
}

async fn json_of(pages: &Pages, path: &str, status: u16) -> Value {
    let answer = pages.get(&format!("/admin/api{path}")).await;
    assert_eq!(answer.status, status, "{path}: {}", answer.text);
    serde_json::from_str(&answer.text).unwrap()
}

/// The text of the cells with numbers in the table of limits.
fn numbers(page: &str) -> Vec<&str> {
    let (_, section) = page.split_once(r#"data-live="limits""#).expect("limits");
    let (table, _) = section.split_once("</table>").unwrap();
    let cells = table.split(r#"<td class="number""#).skip(1);
    cells
        .map(|cell| cell.split_once('>').unwrap().1.split_once('<').unwrap().0)
        .collect()
}

#[tokio::test]
async fn pages_and_api_have_the_remaining_requests_of_keys_and_owners() {
    let (pages, layer) = pages(|layer| layer);
    let mut plan = Plan::new("pro", jiff::Timestamp::now());
    plan.owner_limits = vec![RateLimit::per_hour(50)];
    pages.backend.set_plan(plan, Actor::SYSTEM).await.unwrap();
    let new = || {
        NewKey::new("Zapier")
            .owner("acme")
            .limit(RateLimit::per_day(10))
    };
    let first = key_with_requests(&pages, &layer, new(), 0).await;
    let update = OwnerUpdate::new().plan(Some("pro"));
    pages
        .backend
        .update_owner("acme", update, Actor::SYSTEM)
        .await
        .unwrap();
    let second = key_with_requests(&pages, &layer, new(), 3).await;

    let page = pages.get(&format!("/admin/keys/{}", second.id)).await.text;
    assert_eq!(numbers(&page), ["7 of 10", "8 h", "47 of 50", "4 min"]);
    assert!(page.contains("owner-hour") && page.contains("50 per hour"));
    let page = pages.get(&format!("/admin/keys/{}", first.id)).await.text;
    assert_eq!(numbers(&page)[..3], ["10 of 10", "–", "47 of 50"]);
    let page = pages.get("/admin/owners/acme").await.text;
    assert_eq!(numbers(&page), ["47 of 50", "4 min"]);

    let limits = json_of(&pages, &format!("/keys/{}/limits", second.id), 200).await;
    let [of_key, of_owner] = &limits["limits"].as_array().unwrap()[..] else {
        panic!("{limits}");
    };
    assert_eq!(
        (&of_key["name"], &of_key["remaining"]),
        (&json!("day"), &json!(7))
    );
    let reset = of_key["reset_seconds"].as_u64().unwrap();
    assert!((25_000..=25_920).contains(&reset), "{reset}");
    assert_eq!(of_owner["remaining"], 47);
    let limits = json_of(&pages, "/owners/acme/limits", 200).await;
    assert_eq!(limits["limits"][0]["name"], "owner-hour");
    assert_eq!(limits["limits"][0]["remaining"], 47);
    // Reading charges nothing.
    assert_eq!(
        json_of(&pages, "/owners/acme/limits", 200).await["limits"][0]["remaining"],
        47
    );
    json_of(&pages, "/owners/nobody/limits", 404).await;
    json_of(&pages, "/keys/3fK9aB0000zzZZ19/limits", 404).await;
}

#[tokio::test]
async fn default_limits_of_the_layer_are_included() {
    let (pages, layer) = pages(|layer| layer.default_limits([RateLimit::per_hour(9)]));
    let key = key_with_requests(&pages, &layer, NewKey::new("Zapier"), 2).await;
    let page = pages.get(&format!("/admin/keys/{}", key.id)).await.text;
    assert_eq!(numbers(&page), ["7 of 9", "14 min"]);
}

#[tokio::test]
async fn without_a_layer_the_status_is_left_out() {
    let pages = Pages::new();
    let key = pages.key_with("Zapier", |key| key.limits = vec![RateLimit::per_hour(9)]);
    let key = key.await;
    let page = pages.get(&format!("/admin/keys/{}", key.id)).await.text;
    assert!(!page.contains(r#"data-live="limits""#));
    for path in [
        &*format!("/keys/{}/limits", key.id),
        "/owners/a/limits",
        "/limiter",
    ] {
        let problem = json_of(&pages, path, 404).await;
        assert_eq!(
            problem["detail"],
            "No layer is configured for this dashboard."
        );
    }
}

#[tokio::test]
async fn the_overview_has_the_state_of_a_shared_limiter() {
    let (local, _) = pages(|layer| layer);
    json_of(&local, "/limiter", 404).await;
    assert!(
        !local
            .get("/admin")
            .await
            .text
            .contains("Shared rate limits")
    );

    // Nothing listens on this port.
    let limiter = RedisLimiter::new(RedisConfig::new("redis://127.0.0.1:1/").unwrap());
    let (pages, _) = pages(|layer| layer.limiter(limiter));
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while json_of(&pages, "/limiter", 200).await["available"] == true {
        assert!(std::time::Instant::now() < end, "Redis is available");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let state = json_of(&pages, "/limiter", 200).await;
    assert_eq!(state, json!({"available": false, "failures": 1}));
    let page = pages.get("/admin").await.text;
    let (_, section) = page.split_once("Shared rate limits").unwrap();
    assert!(section.contains("Unavailable") && section.contains("Outages"));
}

//! The self-service API.

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, RETRY_AFTER};
use http::{Request, StatusCode};
use keytally::SelfServiceApi;
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, Issuer, NewKey, OwnerAdmin, OwnerUpdate};
use keytally::limit::RateLimit;
use keytally::testing::FailingStore;
use keytally::usage::Recorder;
use keytally::{ApiKeyLayer, StoreFailure};

use super::{Answer, ask};

struct Service {
    router: Router,
    recorder: Recorder,
    secrets: [String; 2],
}

impl Service {
    async fn new() -> Self {
        let backend = MemoryBackend::new();
        let issuer = Issuer::new("acme_live").unwrap();
        let mut secrets = Vec::new();
        for name in ["mine", "another's"] {
            let new = NewKey::new(name).limit(RateLimit::per_hour(3));
            let issued = issuer.issue(&backend, new, Actor::SYSTEM).await.unwrap();
            secrets.push(issued.secret.expose().to_owned());
        }
        let recorder = Recorder::new(backend.clone());
        let layer = ApiKeyLayer::new(backend.clone()).recorder(recorder.clone());
        let router = Router::new()
            .route("/v1/orders", get(|| async { "none" }))
            .layer(layer.clone())
            .nest("/me", SelfServiceApi::new(&layer, backend).into_router());
        let secrets = secrets.try_into().unwrap();
        Self {
            router,
            recorder,
            secrets,
        }
    }

    async fn ask(&self, path: &str, secret: &str) -> Answer {
        let request = Request::get(path).header(AUTHORIZATION, format!("Bearer {secret}"));
        ask(&self.router, request.body(Body::empty()).unwrap()).await
    }
}

#[tokio::test]
async fn reading_the_limits_consumes_nothing() {
    let service = Service::new().await;
    let [mine, _] = &service.secrets;
    for left in [3, 2, 1, 0] {
        // Twice: the first request consumes nothing.
        for _ in 0..2 {
            let limits = service.ask("/me/limits", mine).await;
            assert_eq!(limits.headers[CACHE_CONTROL], "no-store");
            let limit = &limits.with(200)["limits"][0];
            assert_eq!(limit["name"], "hour");
            assert_eq!(limit["remaining"], left);
        }
        if left > 0 {
            assert_eq!(service.ask("/v1/orders", mine).await.status, 200);
        }
    }
    assert_eq!(service.ask("/v1/orders", mine).await.status, 429);
}

#[tokio::test]
async fn limits_of_the_owner_follow_those_of_the_key() {
    let backend = MemoryBackend::new();
    let update = OwnerUpdate::new().limits([RateLimit::per_hour(5)]);
    let updated = backend.update_owner("acme", update, Actor::SYSTEM).await;
    updated.unwrap();
    let issuer = Issuer::new("acme_live").unwrap();
    let mut secrets = Vec::new();
    for name in ["mine", "a colleague's"] {
        let new = NewKey::new(name).owner("acme");
        let new = new.limit(RateLimit::per_hour(3));
        let issued = issuer.issue(&backend, new, Actor::SYSTEM).await.unwrap();
        secrets.push(issued.secret.expose().to_owned());
    }
    let layer = ApiKeyLayer::new(backend.clone());
    let router = Router::new()
        .route("/v1/orders", get(|| async { "none" }))
        .layer(layer.clone())
        .nest("/me", SelfServiceApi::new(&layer, backend).into_router());
    let send = async |path: &str, secret: &str| {
        let request = Request::get(path).header(AUTHORIZATION, format!("Bearer {secret}"));
        ask(&router, request.body(Body::empty()).unwrap()).await
    };
    let remaining = async |secret: &str| {
        let limits = send("/me/limits", secret).await.with(200);
        let limits = limits["limits"].as_array().unwrap().iter();
        let limits = limits.map(|it| (it["name"].clone(), it["remaining"].clone()));
        limits.collect::<Vec<_>>()
    };
    let of = |key: u32, owner: u32| {
        [
            ("hour".into(), key.into()),
            ("owner-hour".into(), owner.into()),
        ]
    };
    assert_eq!(remaining(&secrets[0]).await, of(3, 5));
    for _ in 0..2 {
        assert_eq!(send("/v1/orders", &secrets[1]).await.status, 200);
    }
    // All keys of the owner share its limits.
    assert_eq!(remaining(&secrets[0]).await, of(3, 3));
    assert_eq!(remaining(&secrets[1]).await, of(1, 3));
}

#[tokio::test]
async fn usage_covers_the_callers_own_key_only() {
    let service = Service::new().await;
    let [mine, other] = &service.secrets;
    for status in [200, 200, 200, 429] {
        assert_eq!(service.ask("/v1/orders", mine).await.status, status);
    }
    service.recorder.flush().await;
    let usage = service.ask("/me/usage", mine).await.with(200);
    let totals = &usage["totals"];
    assert_eq!(totals["total"], 4);
    assert_eq!(totals["completed"], 3);
    assert_eq!(totals["rate_limited"], 1);
    assert_eq!(usage["top_endpoints"][0]["endpoint"], "/v1/orders");
    let others = service.ask("/me/usage", other).await.with(200);
    assert_eq!(others["totals"]["total"], 0);
    // Self-service requests are not recorded.
    assert_eq!(service.recorder.stats().accepted, 4);
    let later = "/me/usage?from=2126-01-01T00:00:00Z";
    assert_eq!(
        service.ask(later, mine).await.with(200)["totals"]["total"],
        0
    );
    service.ask("/me/usage?from=soon", mine).await.problem(400);
    let reversed = "/me/usage?from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z";
    service.ask(reversed, mine).await.problem(400);
    service
        .ask("/me/usage?key=3fK9aB0000zzZZ19", mine)
        .await
        .problem(400);
    assert_eq!(service.ask("/me/usage", "nobody's").await.status, 401);
}

#[tokio::test]
async fn other_methods_are_not_allowed() {
    let service = Service::new().await;
    let [mine, _] = &service.secrets;
    let post = Request::post("/me/usage").header(AUTHORIZATION, format!("Bearer {mine}"));
    let post = ask(&service.router, post.body(Body::empty()).unwrap()).await;
    post.problem(405);
    assert_eq!(post.headers[ALLOW], "GET,HEAD");
}

#[tokio::test]
async fn requests_without_a_key_are_rejected_even_if_the_layer_admits_them() {
    let backend = MemoryBackend::new();
    let open = || ApiKeyLayer::new(backend.clone()).allow_anonymous();
    let router = |layer: &ApiKeyLayer| SelfServiceApi::new(layer, backend.clone()).into_router();
    let get = || Request::get("/usage").body(Body::empty()).unwrap();
    ask(&router(&open()), get()).await.problem(401);
    ask(&router(&open().exempt("/usage")), get())
        .await
        .problem(401);
}

#[tokio::test]
async fn an_unavailable_store_is_a_503() {
    let store = FailingStore::new(MemoryBackend::new());
    let issuer = Issuer::new("acme_live").unwrap();
    let secret = issuer.prepare(NewKey::new("mine")).unwrap().0;
    let layer = ApiKeyLayer::new(store.clone()).on_store_failure(StoreFailure::Admit);
    let router = SelfServiceApi::new(&layer, MemoryBackend::new()).into_router();
    store.fail();
    let get = Request::get("/limits").header(AUTHORIZATION, format!("Bearer {}", secret.expose()));
    ask(&router, get.body(Body::empty()).unwrap())
        .await
        .problem(503);
}

#[tokio::test]
async fn requests_are_rate_limited_per_key() {
    let service = Service::new().await;
    let [mine, other] = &service.secrets;
    let mut rejected = None;
    for _ in 0..100 {
        let response = service.ask("/me/limits", mine).await;
        if response.status == 429 {
            rejected = Some(response);
            break;
        }
    }
    let rejected = rejected.expect("a rejection");
    let problem = rejected.with(429);
    assert_eq!(problem["violated-policies"][0], "self-service");
    assert_eq!(rejected.headers[RETRY_AFTER], "1");
    service.ask("/me/limits", other).await.with(200);
}

#[tokio::test]
async fn the_layer_customizes_rejections() {
    let backend = MemoryBackend::new();
    let issuer = Issuer::new("acme_live").unwrap();
    let new = NewKey::new("mine");
    let issued = issuer.issue(&backend, new, Actor::SYSTEM).await.unwrap();
    let layer = ApiKeyLayer::new(backend.clone()).on_rejection(|rejection, mut response| {
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response.map(|_| rejection.violated_limits().join(",").into())
    });
    let router = SelfServiceApi::new(&layer, backend).into_router();
    let missing = Request::get("/limits").body(Body::empty()).unwrap();
    let missing = ask(&router, missing).await;
    assert_eq!(
        (missing.status, &*missing.text),
        (StatusCode::IM_A_TEAPOT, "")
    );
    for _ in 0..100 {
        let get = Request::get("/limits").header("x-api-key", issued.secret.expose());
        let response = ask(&router, get.body(Body::empty()).unwrap()).await;
        if response.status != 200 {
            assert_eq!(
                (response.status, &*response.text),
                (StatusCode::IM_A_TEAPOT, "self-service")
            );
            return;
        }
    }
    panic!("no request was rejected");
}

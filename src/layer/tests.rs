use std::convert::Infallible;
use std::sync::Arc;

use async_trait::async_trait;
use http::{Request, Response, StatusCode};
use tower::{Layer, ServiceExt};

use crate::backend::MemoryBackend;
use crate::clock::Now;
use crate::id::KeyId;
use crate::key::{
    Actor, AddressList, Issuer, KeyRecord, KeyStore, NewKey, Prefix, Secret, StoreError,
};
use crate::layer::{ApiKeyLayer, PeerAddress};
use crate::limit::{LimitError, LimitHandle, Limiter, LocalLimiter, RateLimit, SubjectLimits};
use crate::test_tracing::CapturedEvents;

/// A store that fails.
struct Down;

#[async_trait]
impl KeyStore for Down {
    async fn find(&self, _: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Err(StoreError::unavailable("connection reset"))
    }
}

/// A limiter at capacity.
struct Full;

impl Limiter for Full {
    fn attach(&self, _: &[SubjectLimits<'_>], _: Now) -> Result<Arc<dyn LimitHandle>, LimitError> {
        Err(LimitError::AtCapacity)
    }
}

async fn status(layer: &ApiKeyLayer, secret: &Secret) -> StatusCode {
    let service = layer.layer(tower::service_fn(async |_: Request<String>| {
        Ok::<_, Infallible>(Response::new(String::new()))
    }));
    let request = Request::get("/").header("x-api-key", secret.expose());
    let request = request.body(String::new()).unwrap();
    service.oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn rejections_and_failures_are_logged() {
    let backend = MemoryBackend::new();
    let new = NewKey::new("test").limit(RateLimit::per_minute(1));
    let issued = Issuer::new("acme")
        .unwrap()
        .issue(&backend, new, Actor::SYSTEM)
        .await
        .unwrap();
    let events = CapturedEvents::default();
    let capture = events.capture();
    let down = ApiKeyLayer::new(Down);
    assert_eq!(status(&down, &issued.secret).await, 503);
    let full = ApiKeyLayer::new(backend.clone()).limiter(Full);
    assert_eq!(status(&full, &issued.secret).await, 503);
    let unknown = Secret::generate(&Prefix::new("acme").unwrap()).unwrap();
    assert_eq!(status(&full, &unknown).await, 401);
    drop(capture);
    let reasons = ["store_unavailable", "limiter_unavailable", "unknown"];
    assert_eq!(events.values_of("reason"), reasons);
    assert_eq!(events.values_of("key"), [issued.key.id.as_str()]);
    let limiter_full = LimitError::AtCapacity.to_string();
    assert_eq!(
        events.values_of("error"),
        ["connection reset", &limiter_full]
    );
}

#[tokio::test]
async fn unknown_client_ips_are_logged_once() {
    let layer = ApiKeyLayer::new(MemoryBackend::new());
    let unlimited = ApiKeyLayer::new(MemoryBackend::new()).without_lookup_limit();
    let events = CapturedEvents::default();
    let _capture = events.capture();
    let send = async |layer: &ApiKeyLayer, peer: Option<PeerAddress>| {
        let secret = Secret::generate(&Prefix::new("acme").unwrap()).unwrap();
        let request = Request::get("/").header("x-api-key", secret.expose());
        let mut request = request.body(String::new()).unwrap();
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let service = layer.layer(tower::service_fn(async |_: Request<String>| {
            Ok::<_, Infallible>(Response::new(String::new()))
        }));
        assert_eq!(service.oneshot(request).await.unwrap().status(), 401);
    };
    let warnings = || {
        let messages = events.values_of("message");
        let is_warning = |message: &&String| message.contains("the client IP is unknown");
        messages.iter().filter(is_warning).count()
    };
    send(&layer, Some(PeerAddress([192, 0, 2, 1].into()))).await;
    send(&unlimited, None).await;
    assert_eq!(warnings(), 0);
    for _ in 0..3 {
        send(&layer.clone().realm("here"), None).await;
    }
    assert_eq!(warnings(), 1);
}

/// Mistakes in the configuration that are only noticed in use.
#[tokio::test]
async fn configuration_mistakes_are_logged_once() {
    let backend = MemoryBackend::new();
    let addresses = AddressList::parse(["203.0.113.0/24"]).unwrap();
    let new = NewKey::new("test").addresses(addresses);
    let issuer = Issuer::new("acme").unwrap();
    let issued = issuer.issue(&backend, new, Actor::SYSTEM).await.unwrap();
    let events = CapturedEvents::default();
    let capture = events.capture();
    let logged = |text: &str| {
        let messages = events.values_of("message");
        messages.iter().filter(|it| it.contains(text)).count()
    };
    let layer = ApiKeyLayer::new(backend.clone());
    for _ in 0..3 {
        assert_eq!(status(&layer, &issued.secret).await, StatusCode::FORBIDDEN);
    }
    assert_eq!(logged("keys with an address list are rejected"), 1);
    assert_eq!(logged("several layers"), 0);
    // A limiter that was set is not counted.
    let shared = ApiKeyLayer::new(backend.clone()).limiter(LocalLimiter::new());
    status(&shared, &issued.secret).await;
    assert_eq!(logged("several layers"), 0);
    let second = ApiKeyLayer::new(backend);
    for _ in 0..2 {
        status(&second, &issued.secret).await;
    }
    assert_eq!(logged("several layers over one key store"), 1);
    drop(capture);
}

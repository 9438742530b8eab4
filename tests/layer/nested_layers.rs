//! Layers behind layers.
use crate::support;

use axum::Router;
use axum::routing::get;
use http::{HeaderName, Request, StatusCode};
use keytally::backend::MemoryBackend;
use keytally::key::{KeyRecord, KeyStore, NewKey, StoreError};
use keytally::limit::RateLimit;
use keytally::usage::{
    Cause, LogFilter, LogQuery, Outcome, Recorder, Status, UsageReader, WhenFull,
};
use keytally::{ApiKeyLayer, Caller, KeyId, StoreFailure, async_trait};
use support::{Answer, Service};

const TENANT_KEY: HeaderName = HeaderName::from_static("x-tenant-key");

fn routes() -> Router {
    Router::new().route(
        "/me",
        get(|caller: Caller| async move { caller.name.clone() }),
    )
}

#[tokio::test]
async fn stacked_layers_check_each_and_count_once() {
    let service = Service::plain(routes()).await;
    let outer = ApiKeyLayer::new(service.backend.clone()).recorder(service.recorder.clone());
    let limits = [RateLimit::per_hour(2).with_name("inner")];
    let inner = outer.clone().default_limits(limits).unwrap();
    let address = support::serve(routes().layer(inner).layer(outer)).await;
    let secret = service.key().await.secret.expose().to_owned();
    let ask = async || {
        let request = support::get(&format!("http://{address}/me"), &secret);
        let request = request.body(http_body_util::Full::default()).unwrap();
        Answer::of(service.client.request(request).await.unwrap()).await
    };
    let first = ask().await;
    assert_eq!(first.body, "test");
    assert_eq!(first.header("ratelimit"), Some(r#""inner";r=1;t=1800"#));
    ask().await;
    assert_eq!(ask().await.status, StatusCode::TOO_MANY_REQUESTS);
    let events = service.events().await;
    assert_eq!(events.len(), 3);
    assert_eq!(events[0].outcome, Outcome::RateLimited);
    assert_eq!(
        first.header("x-request-id"),
        Some(&*events[2].id.to_string())
    );
}

#[tokio::test]
async fn layers_with_recorders_of_their_own_each_count() {
    let service = Service::plain(routes()).await;
    let backend = MemoryBackend::new();
    let own = Recorder::new(backend.clone());
    let outer = ApiKeyLayer::new(service.backend.clone()).recorder(service.recorder.clone());
    let inner = outer.clone().recorder(own.clone());
    let address = support::serve(routes().layer(inner).layer(outer)).await;
    let secret = service.key().await.secret.expose().to_owned();
    let request = support::get(&format!("http://{address}/me"), &secret);
    let request = request.body(http_body_util::Full::default()).unwrap();
    let answer = Answer::of(service.client.request(request).await.unwrap()).await;
    assert_eq!(answer.body, "test");
    own.flush().await;
    let query = LogQuery::new(LogFilter::new());
    let [inner] = &*backend.requests(&query).await.unwrap().items else {
        panic!("one event of the inner layer")
    };
    let [outer] = &*service.events().await else {
        panic!("one event of the outer layer")
    };
    assert_eq!(inner.key, outer.key);
    assert_eq!(inner.wire_id(), outer.wire_id());
}

#[tokio::test]
async fn stacked_layers_count_an_anonymous_request_once() {
    let service = Service::plain(routes()).await;
    let layer = ApiKeyLayer::new(service.backend.clone())
        .recorder(service.recorder.clone())
        .allow_anonymous();
    let routes = Router::new().route("/", get(|| async { "ok" }));
    let address = support::serve(routes.layer(layer.clone()).layer(layer)).await;
    let request = Request::get(format!("http://{address}/"));
    let request = request.body(http_body_util::Full::default()).unwrap();
    let answer = Answer::of(service.client.request(request).await.unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(service.events().await.len(), 1);
}

#[tokio::test]
async fn an_inner_layer_with_a_place_of_its_own_asks_for_a_key_of_its_own() {
    let service = Service::plain(routes()).await;
    let platform = service.key().await.secret.expose().to_owned();
    let tenants = MemoryBackend::new();
    let tenant = support::issue(&tenants, NewKey::new("tenant")).await;
    let inner = ApiKeyLayer::new(tenants)
        .no_credential_sources()
        .header(TENANT_KEY);
    let outer = ApiKeyLayer::new(service.backend.clone());
    let address = support::serve(routes().layer(inner).layer(outer)).await;
    let ask = async |tenant: Option<&str>| {
        let mut request = support::get(&format!("http://{address}/me"), &platform);
        if let Some(tenant) = tenant {
            request = request.header("x-tenant-key", tenant);
        }
        let request = request.body(http_body_util::Full::default()).unwrap();
        Answer::of(service.client.request(request).await.unwrap()).await
    };
    let both = ask(Some(tenant.secret.expose())).await;
    assert_eq!((both.status, &*both.body), (StatusCode::OK, &b"tenant"[..]));
    let without = ask(None).await;
    assert_eq!(without.status, StatusCode::UNAUTHORIZED);
    // No credential came where this layer looks, so there is no error to name.
    let challenge = without.header("www-authenticate");
    assert_eq!(challenge, Some(r#"Bearer realm="api""#));
}

#[tokio::test]
async fn an_inner_layer_that_finds_a_key_tells_of_the_request_instead() {
    let service = Service::plain(routes()).await;
    let key = service.key().await;
    let layer = || ApiKeyLayer::new(service.backend.clone()).recorder(service.recorder.clone());
    let outer = layer().allow_anonymous();
    let inner = layer().no_credential_sources().header(TENANT_KEY);
    let address = support::serve(routes().layer(inner).layer(outer)).await;
    for secret in [key.secret.expose(), "nonsense"] {
        let request = Request::get(format!("http://{address}/me")).header("x-tenant-key", secret);
        let request = request.body(http_body_util::Full::default()).unwrap();
        Answer::of(service.client.request(request).await.unwrap()).await;
    }
    let events = service.events().await;
    let told: Vec<_> = events
        .iter()
        .rev()
        .map(|event| (event.key, event.status))
        .collect();
    let (known, stranger) = (
        (Some(key.key.id), Status::Http(200)),
        (None, Status::Http(401)),
    );
    assert_eq!(told, [known, stranger]);
    let stats = service.recorder.stats();
    assert_eq!((stats.accepted, stats.open), (2, 0));
}

#[tokio::test]
async fn an_outer_key_is_told_of_once_when_the_inner_layer_lets_anyone_pass() {
    let service = Service::plain(routes()).await;
    let key = service.key().await;
    let layer = || ApiKeyLayer::new(service.backend.clone()).recorder(service.recorder.clone());
    let elsewhere = |head: keytally::RequestParts<'_>| {
        Some(head.headers().get("x-own")?.to_str().ok()?.to_owned())
    };
    let outer = layer().credential(elsewhere);
    let address = support::serve(routes().layer(layer().allow_anonymous()).layer(outer)).await;
    let request = Request::get(format!("http://{address}/me")).header("x-own", key.secret.expose());
    let request = request.body(http_body_util::Full::default()).unwrap();
    let answer = Answer::of(service.client.request(request).await.unwrap()).await;
    assert_eq!(answer.body, "test");
    let events = service.events().await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].key, Some(key.key.id));
}

#[tokio::test]
async fn the_clients_request_id_names_the_event_whoever_tells_of_it() {
    let service = Service::plain(routes()).await;
    let key = service.key().await;
    let layer = || ApiKeyLayer::new(service.backend.clone()).recorder(service.recorder.clone());
    let inner = layer().no_credential_sources().header(TENANT_KEY);
    for outer in [layer().allow_anonymous(), layer().exempt("/me")] {
        let address = support::serve(routes().layer(inner.clone()).layer(outer)).await;
        let request = Request::get(format!("http://{address}/me"))
            .header("x-tenant-key", key.secret.expose())
            .body(http_body_util::Full::default())
            .unwrap();
        let answer = Answer::of(service.client.request(request).await.unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK);
        let event = &service.events().await[0];
        assert_eq!(answer.header("x-request-id"), Some(&*event.wire_id()));
    }
    assert_eq!(service.events().await.len(), 2);
}

#[tokio::test]
async fn a_key_that_came_in_two_places_is_found_in_either() {
    let service = Service::plain(routes()).await;
    let secret = service.key().await.secret.expose().to_owned();
    let layer = || ApiKeyLayer::new(service.backend.clone());
    let x_api_key = HeaderName::from_static("x-api-key");
    let inner = layer().no_credential_sources().header(x_api_key);
    let address = support::serve(routes().layer(inner).layer(layer())).await;
    let request = support::get(&format!("http://{address}/me"), &secret)
        .header("x-api-key", &secret)
        .body(http_body_util::Full::default())
        .unwrap();
    let answer = Answer::of(service.client.request(request).await.unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn the_recorders_last_place_is_enough_for_stacked_layers() {
    let backend = MemoryBackend::new();
    let issued = support::issue(&backend, NewKey::new("x")).await;
    let recorder = Recorder::builder(backend.clone())
        .capacity(1)
        .when_full(WhenFull::Refuse)
        .start();
    let layer = ApiKeyLayer::new(backend).recorder(recorder.clone());
    let service = Service::plain(routes()).await;
    let address = support::serve(routes().layer(layer.clone()).layer(layer)).await;
    for _ in 0..3 {
        let request = support::get(&format!("http://{address}/me"), issued.secret.expose());
        let request = request.body(http_body_util::Full::default()).unwrap();
        let answer = Answer::of(service.client.request(request).await.unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK);
        recorder.flush().await;
    }
    assert_eq!(recorder.stats().written, 3);
}

#[tokio::test]
async fn a_hook_that_panics_leaves_no_request_untold() {
    let service = Service::plain(routes()).await;
    let key = service.key().await;
    let layer = || ApiKeyLayer::new(service.backend.clone()).recorder(service.recorder.clone());
    let outer = layer().allow_anonymous();
    let inner = layer()
        .no_credential_sources()
        .header(TENANT_KEY)
        .resource_id(|_| panic!("a hook that panics, on purpose"));
    let address = support::serve(routes().layer(inner).layer(outer)).await;
    let request = Request::get(format!("http://{address}/me"))
        .header("x-tenant-key", key.secret.expose())
        .body(http_body_util::Full::default())
        .unwrap();
    assert!(service.client.request(request).await.is_err());
    service.until_open(0).await;
    let events = service.events().await;
    assert_eq!(
        (events.len(), events[0].cause),
        (1, Some(Cause::ServerError))
    );
    // The key's own event could not be made: that is not hidden.
    assert_eq!(service.recorder.stats().lost, 1);
}

struct Failing;

#[async_trait]
impl KeyStore for Failing {
    async fn find(&self, _: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Err(StoreError::unavailable("down"))
    }
}

/// The key that was sent to the inner layer is not verified, whoever an outer layer let in.
#[tokio::test]
async fn an_unverified_request_has_no_caller_of_an_outer_layer() {
    let service = Service::plain(routes()).await;
    let outer = ApiKeyLayer::new(service.backend.clone()).recorder(service.recorder.clone());
    let inner = ApiKeyLayer::new(Failing)
        .no_credential_sources()
        .header(TENANT_KEY)
        .on_store_failure(StoreFailure::Pass)
        .allow_anonymous();
    let address = support::serve(routes().layer(inner).layer(outer)).await;
    let secret = service.key().await.secret.expose().to_owned();
    let ask = async |tenant: Option<&str>| {
        let mut request = support::get(&format!("http://{address}/me"), &secret);
        if let Some(tenant) = tenant {
            request = request.header(TENANT_KEY, tenant);
        }
        let request = request.body(http_body_util::Full::default()).unwrap();
        Answer::of(service.client.request(request).await.unwrap()).await
    };
    // Without a key for it, the inner layer does not apply.
    assert_eq!(ask(None).await.body, "test");
    assert_eq!(ask(Some(&secret)).await.status, StatusCode::UNAUTHORIZED);
    // Both are requests of the outer key.
    assert_eq!(service.events().await.len(), 2);
}

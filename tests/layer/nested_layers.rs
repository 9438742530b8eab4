//! Several API key layers around one service.
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
use keytally::{ApiKeyLayer, Caller, CredentialSource, KeyId, StoreFailure, async_trait};
use support::{Answer, Service};

const TENANT_KEY: HeaderName = HeaderName::from_static("x-tenant-key");

fn routes() -> Router {
    Router::new().route(
        "/me",
        get(|caller: Caller| async move { caller.name.clone() }),
    )
}

#[tokio::test]
async fn nested_layers_each_check_and_record_once() {
    let service = Service::plain(routes()).await;
    let outer = ApiKeyLayer::new(service.backend.clone()).recorder(service.recorder.clone());
    let limits = [RateLimit::per_hour(2).with_name("inner")];
    let inner = outer.clone().default_limits(limits);
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
async fn nested_layers_with_separate_recorders_each_record() {
    let service = Service::plain(routes()).await;
    let backend = MemoryBackend::new();
    let own = Recorder::new(backend.clone());
    let outer = ApiKeyLayer::new(service.backend.clone()).recorder(service.recorder.clone());
    let inner = outer.clone().recorder(own.clone());
    let address = support::serve(routes().layer(inner).layer(outer)).await;
    let secret = service.key().await.secret.expose().to_owned();
    let request = support::get(&format!("http://{address}/me"), &secret);
    let request = request.body(http_body_util::Full::default()).unwrap();
    let response = Answer::of(service.client.request(request).await.unwrap()).await;
    assert_eq!(response.body, "test");
    own.flush().await;
    let query = LogQuery::new(LogFilter::new());
    let [inner] = &*backend.requests(&query).await.unwrap().items else {
        panic!("one event of the inner layer")
    };
    let [outer] = &*service.events().await else {
        panic!("one event of the outer layer")
    };
    assert_eq!(inner.key, outer.key);
    assert_eq!(inner.request_id_or_id(), outer.request_id_or_id());
}

#[tokio::test]
async fn nested_layers_record_an_anonymous_request_once() {
    let service = Service::plain(routes()).await;
    let layer = ApiKeyLayer::new(service.backend.clone())
        .recorder(service.recorder.clone())
        .allow_anonymous();
    let routes = Router::new().route("/", get(|| async { "ok" }));
    let address = support::serve(routes.layer(layer.clone()).layer(layer)).await;
    let request = Request::get(format!("http://{address}/"));
    let request = request.body(http_body_util::Full::default()).unwrap();
    let response = Answer::of(service.client.request(request).await.unwrap()).await;
    assert_eq!(response.status, StatusCode::OK);
    assert_eq!(service.events().await.len(), 1);
}

#[tokio::test]
async fn inner_layer_with_its_own_header_requires_its_own_key() {
    let service = Service::plain(routes()).await;
    let platform_secret = service.key().await.secret.expose().to_owned();
    let tenants = MemoryBackend::new();
    let tenant = support::issue(&tenants, NewKey::new("tenant")).await;
    let inner =
        ApiKeyLayer::new(tenants).credential_sources([CredentialSource::Header(TENANT_KEY)]);
    let outer = ApiKeyLayer::new(service.backend.clone());
    let address = support::serve(routes().layer(inner).layer(outer)).await;
    let ask = async |tenant: Option<&str>| {
        let mut request = support::get(&format!("http://{address}/me"), &platform_secret);
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
    // The request has no credential for the inner layer, so the challenge has no error code.
    let challenge = without.header("www-authenticate");
    assert_eq!(challenge, Some(r#"Bearer realm="api""#));
}

#[tokio::test]
async fn inner_layer_that_finds_a_key_records_the_request() {
    let service = Service::plain(routes()).await;
    let key = service.key().await;
    let layer = || ApiKeyLayer::new(service.backend.clone()).recorder(service.recorder.clone());
    let outer = layer().allow_anonymous();
    let inner = layer().credential_sources([CredentialSource::Header(TENANT_KEY)]);
    let address = support::serve(routes().layer(inner).layer(outer)).await;
    for secret in [key.secret.expose(), "nonsense"] {
        let request = Request::get(format!("http://{address}/me")).header("x-tenant-key", secret);
        let request = request.body(http_body_util::Full::default()).unwrap();
        Answer::of(service.client.request(request).await.unwrap()).await;
    }
    let events = service.events().await;
    let recorded: Vec<_> = events
        .iter()
        .rev()
        .map(|event| (event.key, event.status))
        .collect();
    let (authenticated, unknown) = (
        (Some(key.key.id), Status::Http(200)),
        (None, Status::Http(401)),
    );
    assert_eq!(recorded, [authenticated, unknown]);
    let stats = service.recorder.stats();
    assert_eq!((stats.accepted, stats.in_flight), (2, 0));
}

#[tokio::test]
async fn outer_key_is_recorded_once_when_the_inner_layer_allows_anonymous() {
    let service = Service::plain(routes()).await;
    let key = service.key().await;
    let layer = || ApiKeyLayer::new(service.backend.clone()).recorder(service.recorder.clone());
    let from_custom_header = |head: keytally::RequestParts<'_>| {
        Some(head.headers().get("x-own")?.to_str().ok()?.to_owned())
    };
    let outer = layer().credential_sources([CredentialSource::function(from_custom_header)]);
    let address = support::serve(routes().layer(layer().allow_anonymous()).layer(outer)).await;
    let request = Request::get(format!("http://{address}/me")).header("x-own", key.secret.expose());
    let request = request.body(http_body_util::Full::default()).unwrap();
    let response = Answer::of(service.client.request(request).await.unwrap()).await;
    assert_eq!(response.body, "test");
    let events = service.events().await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].key, Some(key.key.id));
}

#[tokio::test]
async fn response_request_id_matches_the_event_whichever_layer_records_it() {
    let service = Service::plain(routes()).await;
    let key = service.key().await;
    let layer = || ApiKeyLayer::new(service.backend.clone()).recorder(service.recorder.clone());
    let inner = layer().credential_sources([CredentialSource::Header(TENANT_KEY)]);
    for outer in [layer().allow_anonymous(), layer().exempt("/me")] {
        let address = support::serve(routes().layer(inner.clone()).layer(outer)).await;
        let request = Request::get(format!("http://{address}/me"))
            .header("x-tenant-key", key.secret.expose())
            .body(http_body_util::Full::default())
            .unwrap();
        let response = Answer::of(service.client.request(request).await.unwrap()).await;
        assert_eq!(response.status, StatusCode::OK);
        let event = &service.events().await[0];
        assert_eq!(
            response.header("x-request-id"),
            Some(&*event.request_id_or_id())
        );
    }
    assert_eq!(service.events().await.len(), 2);
}

#[tokio::test]
async fn key_sent_in_two_places_is_found_by_both_layers() {
    let service = Service::plain(routes()).await;
    let secret = service.key().await.secret.expose().to_owned();
    let layer = || ApiKeyLayer::new(service.backend.clone());
    let x_api_key = HeaderName::from_static("x-api-key");
    let inner = layer().credential_sources([CredentialSource::Header(x_api_key)]);
    let address = support::serve(routes().layer(inner).layer(layer())).await;
    let request = support::get(&format!("http://{address}/me"), &secret)
        .header("x-api-key", &secret)
        .body(http_body_util::Full::default())
        .unwrap();
    let response = Answer::of(service.client.request(request).await.unwrap()).await;
    assert_eq!(response.status, StatusCode::OK);
}

#[tokio::test]
async fn nested_layers_need_only_one_recorder_slot() {
    let backend = MemoryBackend::new();
    let issued = support::issue(&backend, NewKey::new("x")).await;
    let recorder = Recorder::builder(backend.clone())
        .capacity(1)
        .when_full(WhenFull::Reject)
        .start();
    let layer = ApiKeyLayer::new(backend).recorder(recorder.clone());
    let service = Service::plain(routes()).await;
    let address = support::serve(routes().layer(layer.clone()).layer(layer)).await;
    for _ in 0..3 {
        let request = support::get(&format!("http://{address}/me"), issued.secret.expose());
        let request = request.body(http_body_util::Full::default()).unwrap();
        let response = Answer::of(service.client.request(request).await.unwrap()).await;
        assert_eq!(response.status, StatusCode::OK);
        recorder.flush().await;
    }
    assert_eq!(recorder.stats().written, 3);
}

#[tokio::test]
async fn panicking_hook_still_records_the_request() {
    let service = Service::plain(routes()).await;
    let key = service.key().await;
    let layer = || ApiKeyLayer::new(service.backend.clone()).recorder(service.recorder.clone());
    let outer = layer().allow_anonymous();
    let inner = layer()
        .credential_sources([CredentialSource::Header(TENANT_KEY)])
        .resource_id(|_| panic!("simulated hook panic"));
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
    // The inner layer's event could not be created and is counted as lost.
    assert_eq!(service.recorder.stats().lost, 1);
}

struct FailingStore;

#[async_trait]
impl KeyStore for FailingStore {
    async fn find(&self, _: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Err(StoreError::unavailable("down"))
    }
}

/// The key for the inner layer is unverified, even though the outer layer authenticated another one.
#[tokio::test]
async fn unverified_request_does_not_inherit_the_outer_caller() {
    let service = Service::plain(routes()).await;
    let outer = ApiKeyLayer::new(service.backend.clone()).recorder(service.recorder.clone());
    let inner = ApiKeyLayer::new(FailingStore)
        .credential_sources([CredentialSource::Header(TENANT_KEY)])
        .on_store_failure(StoreFailure::Admit)
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
    // Without a tenant key, the inner layer passes the request on as anonymous.
    assert_eq!(ask(None).await.body, "test");
    assert_eq!(ask(Some(&secret)).await.status, StatusCode::UNAUTHORIZED);
    // Both events belong to the outer key.
    assert_eq!(service.events().await.len(), 2);
}

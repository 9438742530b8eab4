//! Limiters, caches and clocks of layers, and how layers share them; without sockets.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use keytally::backend::MemoryBackend;
use keytally::key::{
    Actor, CacheConfig, CachedStore, Issued, Issuer, Key, KeyAdmin, KeyChange, KeyQuery, KeyRecord,
    KeyStore, KeyUpdate, NewKey, Rotation, StoreError,
};
use keytally::limit::{
    LimitError, LimitHandle, LimitResponse, Limiter, LocalLimiter, RateLimit, SubjectLimits,
};
use keytally::usage::{LogQuery, Recorder, Status, UNMATCHED, UsageReader};
use keytally::{ApiKeyLayer, Clock, KeyId, Now, Page, Rejection, RequireScope, RouteCost};
use tower::{Layer, Service};

/// A store without an invalidation feed.
struct Silent(MemoryBackend);

#[async_trait]
impl KeyStore for Silent {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.0.find(id).await
    }
}

#[async_trait]
impl KeyAdmin for Silent {
    async fn create(&self, record: KeyRecord, actor: Actor<'_>) -> Result<(), StoreError> {
        self.0.create(record, actor).await
    }

    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        self.0.list(query).await
    }

    async fn change(
        &self,
        id: KeyId,
        change: KeyChange,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        self.0.change(id, change, actor).await
    }

    async fn rotate(
        &self,
        id: KeyId,
        rotation: Rotation,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        self.0.rotate(id, rotation, actor).await
    }

    async fn delete(&self, id: KeyId, actor: Actor<'_>) -> Result<(), StoreError> {
        self.0.delete(id, actor).await
    }
}

type InnerResponse = Response<Full<Bytes>>;

async fn ok_response(_: Request<String>) -> Result<InnerResponse, Infallible> {
    Ok(Response::default())
}

/// Sends a request with this key through the service.
async fn send<S, B>(mut service: S, issued: &Issued) -> Response<B>
where
    S: Service<Request<String>, Response = Response<B>, Error = Infallible>,
{
    let request = Request::get("/").header("x-api-key", issued.secret.expose());
    service
        .call(request.body(String::new()).unwrap())
        .await
        .unwrap()
}

/// The response status of a request with this key.
async fn status_of(layer: &ApiKeyLayer, issued: &Issued) -> StatusCode {
    let service = layer.layer(tower::service_fn(ok_response));
    send(service, issued).await.status()
}

fn clock() -> Clock {
    Clock::manual(Timestamp::from_second(1_767_261_600).unwrap())
}

fn issuer(clock: &Clock) -> Issuer {
    Issuer::new("test").unwrap().clock(clock.clone())
}

async fn issue(store: &impl KeyAdmin, clock: &Clock) -> Issued {
    let new = NewKey::new("test");
    issuer(clock)
        .issue(store, new, Actor::SYSTEM)
        .await
        .unwrap()
}

mod prompt_revocation {
    use super::*;

    #[tokio::test]
    async fn layer_created_later_uses_the_clock_of_its_cache() {
        let (clock, backend) = (clock(), MemoryBackend::new());
        let ttl = Duration::from_secs(30);
        let config = CacheConfig::new().ttl(ttl);
        let store = CachedStore::with_config(Silent(backend.clone()), config, clock.clone());
        let issued = issue(&backend, &clock).await;
        clock.advance(Duration::from_secs(36_000));
        let layer = ApiKeyLayer::new(store);
        assert_eq!(status_of(&layer, &issued).await, StatusCode::OK);
        backend.revoke(issued.key.id, Actor::SYSTEM).await.unwrap();
        clock.advance(ttl - Duration::from_nanos(1));
        assert_eq!(status_of(&layer, &issued).await, StatusCode::OK);
        clock.advance(Duration::from_nanos(1));
        assert_eq!(status_of(&layer, &issued).await, StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn layer_cache_receives_invalidations_through_a_cached_store() {
        let clock = clock();
        let store = CachedStore::new(Silent(MemoryBackend::new()));
        let layers = [
            ApiKeyLayer::new(store.clone()).cache(CacheConfig::new().capacity(10)),
            ApiKeyLayer::new(store.clone()).clock(clock.clone()),
            ApiKeyLayer::new(store.clone())
                .clock(clock.clone())
                .cache(CacheConfig::new()),
        ];
        let issued = issue(&store, &clock).await;
        for layer in &layers {
            assert_eq!(status_of(layer, &issued).await, StatusCode::OK);
        }
        store.revoke(issued.key.id, Actor::SYSTEM).await.unwrap();
        for layer in &layers {
            assert_eq!(status_of(layer, &issued).await, StatusCode::UNAUTHORIZED);
        }
    }
}

#[tokio::test]
async fn nested_layers_each_enforce_their_default_limits() {
    let (clock, backend) = (clock(), MemoryBackend::new());
    let base = ApiKeyLayer::new(backend.clone()).clock(clock.clone());
    let hourly = base.clone().default_limits([RateLimit::per_hour(3)]);
    let by_second = base.default_limits([RateLimit::per_second(5)]);
    let stack = hourly.layer(by_second.layer(tower::service_fn(ok_response)));
    let issued = issue(&backend, &clock).await;
    for _ in 0..3 {
        let response = send(stack.clone(), &issued).await;
        assert_eq!(response.status(), StatusCode::OK);
        clock.advance(Duration::from_secs(1));
    }
    let rejected = send(stack, &issued).await;
    assert_eq!(rejected.status(), StatusCode::TOO_MANY_REQUESTS);
    let rejection = rejected.extensions().get::<Rejection>().unwrap();
    assert_eq!(*rejection.violated_limits(), [Arc::from("hour")]);
}

#[tokio::test]
async fn rotated_keys_keep_their_own_limits_and_share_rate_limit_state() {
    let (clock, backend) = (clock(), MemoryBackend::new());
    let layer = ApiKeyLayer::new(backend.clone()).clock(clock.clone());
    let new = NewKey::new("test").limit(RateLimit::per_hour(4));
    let old = issuer(&clock)
        .issue(&backend, new, Actor::SYSTEM)
        .await
        .unwrap();
    for _ in 0..2 {
        assert_eq!(status_of(&layer, &old).await, StatusCode::OK);
    }
    let grace = Duration::from_secs(600);
    let new = issuer(&clock)
        .rotate(&backend, old.key.id, grace, Actor::SYSTEM)
        .await
        .unwrap();
    let update = KeyUpdate::new().limits(vec![RateLimit::per_hour(8)]);
    backend
        .update(new.key.id, update, Actor::SYSTEM)
        .await
        .unwrap();
    for key in [&new, &old, &new, &new] {
        // Reload the keys and their limits.
        layer.key_cache().invalidate_all();
        assert_eq!(status_of(&layer, key).await, StatusCode::OK);
    }
    // Six requests are used: above the old key's limit of four and below the new key's eight.
    assert_eq!(status_of(&layer, &old).await, StatusCode::TOO_MANY_REQUESTS);
    for _ in 0..2 {
        assert_eq!(status_of(&layer, &new).await, StatusCode::OK);
    }
    assert_eq!(status_of(&layer, &new).await, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn limit_statuses_consume_nothing() {
    let (clock, backend) = (clock(), MemoryBackend::new());
    let limiter = Arc::new(LocalLimiter::new());
    let layer = ApiKeyLayer::new(backend.clone())
        .clock(clock.clone())
        .limiter(limiter.clone())
        .default_limits([RateLimit::per_minute(60).with_burst(5)]);
    let issued = issue(&backend, &clock).await;
    assert_eq!(status_of(&layer, &issued).await, StatusCode::OK);
    for _ in 0..3 {
        let statuses = layer.limit_statuses(&issued.key).await.unwrap();
        let [(limit, status)] = &*statuses else {
            panic!("one limit")
        };
        assert_eq!((limit.name(), limit.burst()), ("minute", 5));
        assert_eq!((status.remaining, status.reset_secs), (4, 1));
    }
    assert_eq!(limiter.tracked_keys(), 1);
    let unlimited = ApiKeyLayer::new(backend).limiter(limiter);
    assert!(
        unlimited
            .limit_statuses(&issued.key)
            .await
            .unwrap()
            .is_empty()
    );
}

/// A limiter whose first call fails.
#[derive(Default)]
struct FlakyLimiter {
    called: AtomicBool,
    limiter: LocalLimiter,
}

impl Limiter for FlakyLimiter {
    fn attach(
        &self,
        subjects: &[SubjectLimits<'_>],
        now: Now,
    ) -> Result<Arc<dyn LimitHandle>, LimitError> {
        if !self.called.swap(true, Ordering::Relaxed) {
            return Err(LimitError::Unavailable("simulated outage".into()));
        }
        self.limiter.attach(subjects, now)
    }
}

#[tokio::test]
async fn failed_limiter_attach_is_retried() {
    let clock = clock();
    let backend = MemoryBackend::new();
    let issued = issue(&backend, &clock).await;
    let layer = ApiKeyLayer::new(backend)
        .clock(clock)
        .limiter(FlakyLimiter::default())
        .default_limits([RateLimit::per_second(5)]);
    let first = send(layer.layer(tower::service_fn(ok_response)), &issued).await;
    assert_eq!(first.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(first.headers()["retry-after"], "1");
    assert_eq!(status_of(&layer, &issued).await, StatusCode::OK);
    let stats = layer.cache_stats();
    assert_eq!((stats.lookups, stats.failures), (1, 0));
}

#[tokio::test]
async fn rejection_names_the_key_and_the_missing_scope() {
    let clock = clock();
    let backend = MemoryBackend::new();
    let issued = issue(&backend, &clock).await;
    let layer = ApiKeyLayer::new(backend).clock(clock);
    let scoped = RequireScope::new("write").layer(tower::service_fn(ok_response));
    let response = send(layer.layer(scoped), &issued).await;
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.key, Some(issued.key.id));
    assert_eq!(rejection.scope.as_deref(), Some("write"));
}

/// A limiter that decides like `LocalLimiter`, but asynchronously.
#[derive(Debug, Default)]
struct AsyncLimiter(LocalLimiter);

#[derive(Debug)]
struct RemoteHandle(Arc<dyn LimitHandle>);

impl Limiter for AsyncLimiter {
    fn attach(
        &self,
        subjects: &[SubjectLimits<'_>],
        now: Now,
    ) -> Result<Arc<dyn LimitHandle>, LimitError> {
        Ok(Arc::new(RemoteHandle(self.0.attach(subjects, now)?)))
    }
}

impl LimitHandle for RemoteHandle {
    fn acquire(&self, cost: u32, now: Now) -> LimitResponse {
        later(self.0.acquire(cost, now))
    }

    fn recharge(&self, charged: u32, charged_at: Now, cost: u32, now: Now) -> LimitResponse {
        later(self.0.recharge(charged, charged_at, cost, now))
    }
}

fn later(response: LimitResponse) -> LimitResponse {
    LimitResponse::Pending(Box::pin(async move {
        tokio::task::yield_now().await;
        match response {
            LimitResponse::Ready(decision) => Ok(decision),
            LimitResponse::Pending(decision) => decision.await,
        }
    }))
}

/// A limiter that never decides about other costs than those of the layer.
#[derive(Debug)]
struct HangingRecharge(Arc<dyn LimitHandle>);

impl LimitHandle for HangingRecharge {
    fn acquire(&self, cost: u32, now: Now) -> LimitResponse {
        self.0.acquire(cost, now)
    }

    fn recharge(&self, _: u32, _: Now, _: u32, _: Now) -> LimitResponse {
        LimitResponse::Pending(Box::pin(std::future::pending()))
    }
}

#[derive(Debug, Default)]
struct HangingLimiter(LocalLimiter);

impl Limiter for HangingLimiter {
    fn attach(
        &self,
        subjects: &[SubjectLimits<'_>],
        now: Now,
    ) -> Result<Arc<dyn LimitHandle>, LimitError> {
        let local = self.0.attach(subjects, now)?;
        Ok(Arc::new(HangingRecharge(local)))
    }
}

#[tokio::test(start_paused = true)]
async fn asynchronous_limiter_charges_route_costs() {
    let clock = clock();
    let backend = MemoryBackend::new();
    let issued = issue(&backend, &clock).await;
    let layer = ApiKeyLayer::new(backend.clone())
        .clock(clock.clone())
        .limiter(AsyncLimiter::default())
        .default_limits([RateLimit::per_minute(6)]);
    let route = RouteCost::new(4).layer(tower::service_fn(ok_response));
    for (left, status, wait) in [(2, 200, None), (2, 429, Some("20"))] {
        let response = send(layer.layer(route.clone()), &issued).await;
        assert_eq!(response.status(), status);
        let rate_limit = response.headers()["ratelimit"].to_str().unwrap();
        assert!(
            rate_limit.starts_with(&format!("\"minute\";r={left};")),
            "{rate_limit}"
        );
        let retry_after = response.headers().get("retry-after");
        assert_eq!(retry_after.map(|wait| wait.to_str().unwrap()), wait);
    }
    let hanging = ApiKeyLayer::new(backend)
        .clock(clock.clone())
        .limiter(HangingLimiter::default())
        .limiter_timeout(Duration::from_secs(3))
        .default_limits([RateLimit::per_minute(6)]);
    let began = tokio::time::Instant::now();
    let response = send(hanging.layer(route), &issued).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(began.elapsed(), Duration::from_secs(3));
}

#[tokio::test]
async fn asynchronous_limiter_enforces_limits() {
    let clock = clock();
    let backend = MemoryBackend::new();
    let issued = issue(&backend, &clock).await;
    let layer = ApiKeyLayer::new(backend)
        .clock(clock.clone())
        .limiter(AsyncLimiter::default())
        .default_limits([RateLimit::per_minute(2)]);
    for (left, status, wait) in [(1, 200, None), (0, 200, None), (0, 429, Some("30"))] {
        let response = send(layer.layer(tower::service_fn(ok_response)), &issued).await;
        assert_eq!(response.status(), status);
        let rate_limit = response.headers()["ratelimit"].to_str().unwrap();
        assert!(
            rate_limit.starts_with(&format!("\"minute\";r={left};")),
            "{rate_limit}"
        );
        let retry_after = response.headers().get("retry-after");
        assert_eq!(retry_after.map(|wait| wait.to_str().unwrap()), wait);
    }
    clock.advance(Duration::from_secs(30));
    assert_eq!(status_of(&layer, &issued).await, StatusCode::OK);
}

/// A store whose lookups take three seconds.
struct SlowStore(MemoryBackend);

#[async_trait]
impl KeyStore for SlowStore {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        tokio::time::sleep(Duration::from_secs(3)).await;
        self.0.find(id).await
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_for_a_lookup_are_limited_when_it_ends() {
    let clock = clock();
    let backend = MemoryBackend::new();
    let issued = Arc::new(issue(&backend, &clock).await);
    let layer = ApiKeyLayer::new(SlowStore(backend))
        .clock(clock.clone())
        .default_limits([RateLimit::per_second(100)]);
    let first = tokio::spawn({
        let (layer, issued) = (layer.clone(), issued.clone());
        async move { status_of(&layer, &issued).await }
    });
    tokio::task::yield_now().await;
    // They join the lookup.
    let mut requests: Vec<_> = Vec::new();
    for _ in 0..5 {
        clock.advance(Duration::from_millis(250));
        let mut request = Box::pin(status_of(&layer, &issued));
        let polled = std::future::poll_fn(|cx| Poll::Ready(request.as_mut().poll(cx)));
        assert!(polled.await.is_pending());
        requests.push(request);
    }
    assert_eq!(first.await.unwrap(), StatusCode::OK);
    // The last to arrive is decided first.
    for request in requests.into_iter().rev() {
        assert_eq!(request.await, StatusCode::OK);
    }
}

/// The state of requests is reused.
#[tokio::test]
async fn a_request_leaves_nothing_to_the_next() {
    let backend = MemoryBackend::new();
    let recorder = Recorder::new(backend.clone());
    let layer = ApiKeyLayer::new(backend.clone())
        .recorder(recorder.clone())
        .resource_id(|parts| Some(parts.headers().get("resource")?.to_str().ok()?.to_owned()));
    let service = tower::service_fn(|request: Request<String>| async move {
        let mut response: InnerResponse = Response::default();
        if request.headers().contains_key("resource") {
            let grpc = http::HeaderValue::from_static("application/grpc");
            response.headers_mut().insert("content-type", grpc);
            response
                .headers_mut()
                .insert("grpc-status", http::HeaderValue::from_static("5"));
        }
        Ok::<_, Infallible>(response)
    });
    let mut service = layer.layer(service);
    let issuer = Issuer::new("acme_live").unwrap();
    let limited = NewKey::new("limited")
        .owner("customer-17")
        .limit(RateLimit::per_hour(100));
    let limited = issuer
        .issue(&backend, limited, Actor::SYSTEM)
        .await
        .unwrap();
    let plain = issuer
        .issue(&backend, NewKey::new("plain"), Actor::SYSTEM)
        .await
        .unwrap();
    let path = format!("/{}", "long".repeat(100));
    for _ in 0..3 {
        let full = Request::post(&path)
            .header("x-api-key", limited.secret.expose())
            .header("x-request-id", "request-1")
            .header("resource", "r1")
            .header("content-length", "7");
        let full = full.body(String::from("content")).unwrap();
        let response = service.call(full).await.unwrap();
        assert_eq!(response.headers()["x-request-id"], "request-1");
        assert!(response.headers().contains_key("ratelimit"));
        drop(response);
        let bare = Request::get("/").header("x-api-key", plain.secret.expose());
        let response = service
            .call(bare.body(String::new()).unwrap())
            .await
            .unwrap();
        assert!(!response.headers().contains_key("ratelimit"));
        assert_ne!(response.headers()["x-request-id"], "request-1");
        drop(response);
    }
    recorder.flush().await;
    let events = backend.requests(&LogQuery::default()).await.unwrap().items;
    assert_eq!(events.len(), 6);
    for event in events {
        let is_bare = event.key == Some(plain.key.id);
        assert_eq!(*event.path, *if is_bare { "/" } else { &path });
        assert_eq!(event.resource_id.is_none(), is_bare);
        assert_eq!(event.request_id.is_none(), is_bare);
        assert_eq!(event.owner.is_none(), is_bare);
        let status = if is_bare {
            Status::Http(200)
        } else {
            Status::Grpc(5)
        };
        assert_eq!(event.status, status);
        assert_eq!(event.request_bytes, if is_bare { 0 } else { 7 });
        assert_eq!(
            &*event.endpoint,
            if is_bare { UNMATCHED } else { &path[..256] }
        );
        assert_eq!(event.rejection_reason, None);
    }
}

/// Neither the states of requests nor the names that a thread keeps refer to a layer.
#[tokio::test]
async fn a_layer_is_dropped_with_its_last_request() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let (backend, dropped) = (MemoryBackend::new(), Arc::new(AtomicBool::new(false)));
    let issuer = Issuer::new("acme_live").unwrap();
    let issued = issuer
        .issue(&backend, NewKey::new("x"), Actor::SYSTEM)
        .await
        .unwrap();
    let held = Dropped(dropped.clone());
    let layer = ApiKeyLayer::new(backend).endpoint(move |_| {
        let _ = &held;
        Some("/v1".into())
    });
    for _ in 0..3 {
        let response = send(layer.layer(tower::service_fn(ok_response)), &issued).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert!(!dropped.load(Ordering::SeqCst));
    drop(layer);
    assert!(dropped.load(Ordering::SeqCst));
}

/// Limits are exact while other limits are attached to the same key.
#[test]
fn concurrent_requests_and_changes_of_limits_are_exact() {
    let (clock, id) = (
        Clock::manual(Timestamp::UNIX_EPOCH),
        "3fK9aB0000zzZZ19".parse::<KeyId>().unwrap(),
    );
    for _ in 0..20 {
        let limiter = LocalLimiter::new();
        let limit = |burst| [RateLimit::per_hour(burst).with_name("rate")];
        let acquire = |handle: &dyn LimitHandle| match handle.acquire(1, clock.now()) {
            LimitResponse::Ready(decision) => u32::from(decision.is_allowed()),
            LimitResponse::Pending(_) => unreachable!("the local limiter responds immediately"),
        };
        let handle = limiter
            .attach(&[SubjectLimits::new(id, &limit(1_000))], clock.now())
            .unwrap();
        let allowed: u32 = std::thread::scope(|threads| {
            let spend = || (0..1_000).map(|_| acquire(&*handle)).sum::<u32>();
            let spenders: Vec<_> = (0..3).map(|_| threads.spawn(spend)).collect();
            let limits = limit(500);
            let other = limiter.attach(&[SubjectLimits::new(id, &limits)], clock.now());
            let other = other.unwrap();
            let others: u32 = (0..10).map(|_| acquire(&*other)).sum();
            others
                + spenders
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .sum::<u32>()
        });
        assert_eq!(allowed, 1_000);
    }
}

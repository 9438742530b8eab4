//! tower's contract: only the service instance that was polled ready is called.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, Issuer, NewKey};
use keytally::{ApiKeyLayer, RequireScope};
use tower::{Layer, Service, ServiceExt};

/// Panics if called before `poll_ready`. Clones start unready.
struct Strict {
    ready: bool,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { ready: false }
    }
}

impl Service<Request<String>> for Strict {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called before poll_ready");
        std::future::ready(Ok(Response::new(Full::from("ok"))))
    }
}

#[tokio::test]
async fn the_service_polled_ready_is_the_one_called() {
    let backend = MemoryBackend::new();
    let issuer = Issuer::new("acme").unwrap();
    let new = NewKey::new("x").scope("read");
    let issued = issuer.issue(&backend, new, Actor::SYSTEM).await.unwrap();
    let layer = ApiKeyLayer::new(backend);
    let mut service = layer.layer(RequireScope::new("read").layer(Strict { ready: false }));
    // The first request waits for the store, the others hit the cache; after an invalidation, one
    // waits again.
    for round in 0..6 {
        let request = Request::get("/").header("x-api-key", issued.secret.expose());
        let request = request.body(String::new()).unwrap();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status(), 200, "{round}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "ok");
        if round == 3 {
            layer.key_cache().invalidate_all();
        }
    }
    assert_eq!(layer.cache_stats().lookups, 2);
}

/// Invariant 18: a request that waits for a decision holds no permit of the inner service.
mod waiting_holds_nothing {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use keytally::key::{KeyAdmin, KeyRecord, KeyStore, KeyUpdate, OwnerAdmin, StoreError};
    use keytally::limit::{
        Decision, LimitError, LimitHandle, LimitResponse, Limiter, RateLimit, SubjectLimits,
    };
    use keytally::usage::{
        Cause, LogFilter, LogQuery, Recorder, RejectionReason, UsageEvent, UsageReader,
    };
    use keytally::{Clock, KeyId, Now};
    use tokio::sync::Semaphore;
    use tower::buffer::Buffer;
    use tower::limit::GlobalConcurrencyLimitLayer;
    use tower::{BoxError, ServiceBuilder};

    use super::*;

    /// Hangs on lookups of unknown keys.
    struct HangingStore(MemoryBackend);

    #[async_trait]
    impl KeyStore for HangingStore {
        async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
            match self.0.find(id).await {
                Ok(None) => std::future::pending().await,
                result => result,
            }
        }
    }

    async fn issue(backend: &MemoryBackend) -> String {
        let issuer = Issuer::new("acme").unwrap();
        let issued = issuer
            .issue(backend, NewKey::new("x").scope("read"), Actor::SYSTEM)
            .await;
        issued.unwrap().secret.expose().to_owned()
    }

    /// The secret of an unknown key.
    async fn unknown() -> String {
        issue(&MemoryBackend::new()).await
    }

    fn request(secret: &str) -> Request<String> {
        let request = Request::get("/").header("x-api-key", secret);
        request.body(String::new()).unwrap()
    }

    async fn hello(_: Request<String>) -> Result<Response<Full<Bytes>>, Infallible> {
        Ok(Response::new(Full::from("ok")))
    }

    /// Starts requests with unknown keys, which wait for the store, and asserts that requests with a cached key
    /// complete without any time passing on the paused clock.
    async fn assert_cached_key_does_not_wait<S, F>(inner: S)
    where
        S: Service<Request<String>, Response = Response<Full<Bytes>>, Future = F>,
        S: Clone + Send + 'static,
        S::Error: std::fmt::Debug + Send,
        F: Send + 'static,
    {
        let backend = MemoryBackend::new();
        let good = issue(&backend).await;
        let layer = ApiKeyLayer::new(HangingStore(backend));
        let service = layer.layer(inner);
        let status = service
            .clone()
            .oneshot(request(&good))
            .await
            .unwrap()
            .status();
        assert_eq!(status, 200);
        for _ in 0..1_000 {
            let service = service.clone();
            let secret = unknown().await;
            tokio::spawn(async move { service.oneshot(request(&secret)).await });
        }
        // Advances the paused clock once all of them are waiting.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let start = tokio::time::Instant::now();
        for _ in 0..100 {
            let response = service.clone().oneshot(request(&good)).await.unwrap();
            assert_eq!(response.status(), 200);
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn pending_lookups_hold_no_concurrency_permit() {
        for permits in [1, 100] {
            let limit = GlobalConcurrencyLimitLayer::new(permits);
            assert_cached_key_does_not_wait(limit.layer(tower::service_fn(hello))).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pending_lookups_hold_no_buffer_slot() {
        let inner = ServiceBuilder::new()
            .map_err(|error: BoxError| panic!("{error}"))
            .buffer(1)
            .service_fn(hello);
        assert_cached_key_does_not_wait::<_, _>(inner.map_err(|never: Infallible| never)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn pending_lookups_hold_no_permit_inside_a_buffer() {
        let limited = ServiceBuilder::new().concurrency_limit(1).service_fn(hello);
        let buffer = Buffer::new(limited, 4).map_err(|error| panic!("{error}"));
        assert_cached_key_does_not_wait::<_, _>(buffer.map_err(|never: Infallible| never)).await;
    }

    /// Decides once there is a permit, or immediately if `immediate` is set.
    #[derive(Clone, Debug)]
    struct RemoteLimiter {
        acquisitions: Arc<AtomicUsize>,
        permits: Arc<Semaphore>,
        immediate: Arc<AtomicBool>,
    }

    impl RemoteLimiter {
        fn new() -> Self {
            Self {
                acquisitions: Arc::default(),
                permits: Arc::new(Semaphore::new(0)),
                immediate: Arc::default(),
            }
        }
    }

    impl Limiter for RemoteLimiter {
        fn attach(
            &self,
            _: &[SubjectLimits<'_>],
            _: Now,
        ) -> Result<Arc<dyn LimitHandle>, LimitError> {
            Ok(Arc::new(self.clone()))
        }
    }

    impl LimitHandle for RemoteLimiter {
        fn acquire(&self, _: u32, _: Now) -> LimitResponse {
            if self.immediate.load(Ordering::SeqCst) {
                return LimitResponse::Ready(Decision::default());
            }
            self.acquisitions.fetch_add(1, Ordering::SeqCst);
            let permits = self.permits.clone();
            LimitResponse::Pending(Box::pin(async move {
                let _permit = permits.acquire().await;
                Ok(Decision::default())
            }))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pending_limiter_decisions_hold_no_permit() {
        let backend = MemoryBackend::new();
        let good = issue(&backend).await;
        let limiter = RemoteLimiter::new();
        let layer = ApiKeyLayer::new(backend)
            .default_limits([RateLimit::per_second(1)])
            .limiter(limiter.clone());
        let limit = GlobalConcurrencyLimitLayer::new(1);
        let service = layer.layer(limit.layer(tower::service_fn(hello)));
        let mut calls = Vec::new();
        for _ in 0..10 {
            calls.push(tokio::spawn(service.clone().oneshot(request(&good))));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(limiter.acquisitions.load(Ordering::SeqCst), 10);
        limiter.immediate.store(true, Ordering::SeqCst);
        let start = tokio::time::Instant::now();
        let response = service.oneshot(request(&good)).await.unwrap();
        assert_eq!(
            (response.status(), start.elapsed()),
            (http::StatusCode::OK, Duration::ZERO)
        );
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap().status(), 503);
        }
    }

    /// A connection that keeps its service after a rejection but sends nothing more.
    #[tokio::test]
    async fn rejections_release_the_permit() {
        let backend = MemoryBackend::new();
        let good = issue(&backend).await;
        let permits = Arc::new(Semaphore::new(1));
        let limit = GlobalConcurrencyLimitLayer::with_semaphore(permits.clone());
        let layer = ApiKeyLayer::new(backend);
        let service = layer.layer(limit.layer(tower::service_fn(hello)));
        let scoped = RequireScope::new("read").layer(limit.layer(tower::service_fn(hello)));
        let (mut authenticating, mut unscoped) = (service.clone(), scoped);
        let response = authenticating
            .ready()
            .await
            .unwrap()
            .call(request("nonsense"))
            .await;
        assert_eq!(response.unwrap().status(), 401);
        assert_eq!(permits.available_permits(), 1);
        let response = unscoped.ready().await.unwrap().call(request(&good)).await;
        assert_eq!(response.unwrap().status(), 500);
        assert_eq!(permits.available_permits(), 1);
        assert_eq!(service.oneshot(request(&good)).await.unwrap().status(), 200);
    }

    /// Becomes ready, fails or panics on demand.
    #[derive(Clone)]
    struct OnDemand(Arc<Semaphore>, Arc<AtomicUsize>);

    const FAILS: usize = 1;
    const PANICS: usize = 2;

    impl Service<Request<String>> for OnDemand {
        type Response = Response<Full<Bytes>>;
        type Error = &'static str;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            match self.1.load(Ordering::SeqCst) {
                FAILS => return Poll::Ready(Err("broken")),
                PANICS => panic!("simulated service panic"),
                _ => {}
            }
            let mut permit = std::pin::pin!(self.0.acquire());
            match std::future::Future::poll(permit.as_mut(), cx) {
                Poll::Ready(_) => Poll::Ready(Ok(())),
                Poll::Pending => {
                    // Dropping the `Acquire` future removes its waker, so another task has to wake this one.
                    let (waker, permits) = (cx.waker().clone(), self.0.clone());
                    tokio::spawn(async move {
                        let _ = permits.acquire().await;
                        waker.wake();
                    });
                    Poll::Pending
                }
            }
        }

        fn call(&mut self, _: Request<String>) -> Self::Future {
            std::future::ready(Ok(Response::new(Full::from("ok"))))
        }
    }

    /// A request whose lookup is done and that waits for a service that is not ready.
    struct Admitted {
        backend: MemoryBackend,
        recorder: Recorder,
        key: KeyId,
        service: OnDemand,
        call: tokio::task::JoinHandle<Result<u16, &'static str>>,
    }

    /// Runs `then` after the lookup of a request and returns the request's only event.
    async fn event_after_lookup(then: impl AsyncFnOnce(Admitted)) -> UsageEvent {
        let backend = MemoryBackend::new();
        let issuer = Issuer::new("acme").unwrap();
        let issued = issuer
            .issue(&backend, NewKey::new("x"), Actor::SYSTEM)
            .await
            .unwrap();
        let recorder = Recorder::new(backend.clone());
        let layer = ApiKeyLayer::new(backend.clone())
            .clock(Clock::manual(jiff::Timestamp::now()))
            .recorder(recorder.clone());
        let service = OnDemand(Arc::new(Semaphore::new(0)), Arc::default());
        let call = layer
            .layer(service.clone())
            .call(request(issued.secret.expose()));
        let call = tokio::spawn(async move {
            let response = call.await?;
            let status = response.status().as_u16();
            assert!(response.into_body().collect().await.is_ok());
            Ok(status)
        });
        let lookup_done = async {
            while recorder.stats().in_flight == 0 || layer.cache_stats().lookups == 0 {
                tokio::task::yield_now().await;
            }
        };
        let waits = tokio::time::timeout(Duration::from_secs(10), lookup_done).await;
        waits.expect("the key is not looked up in time");
        then(Admitted {
            backend: backend.clone(),
            recorder: recorder.clone(),
            key: issued.key.id,
            service,
            call,
        })
        .await;
        recorder.flush().await;
        let events = backend.requests(&LogQuery::new(LogFilter::new())).await;
        let mut events = events.unwrap().items;
        assert_eq!((events.len(), recorder.stats().in_flight), (1, 0));
        events.remove(0)
    }

    #[tokio::test]
    async fn admitted_request_is_sent_once_the_service_is_ready() {
        let event = event_after_lookup(async |it| {
            assert!(!it.call.is_finished());
            it.service.0.add_permits(1);
            assert_eq!(it.call.await.unwrap(), Ok(200));
        });
        assert_eq!(event.await.cause, None);
    }

    #[tokio::test]
    async fn readiness_error_while_waiting_is_a_server_error() {
        let event = event_after_lookup(async |it| {
            it.service.1.store(FAILS, Ordering::SeqCst);
            it.service.0.add_permits(1);
            assert_eq!(it.call.await.unwrap(), Err("broken"));
        });
        assert_eq!(event.await.cause, Some(Cause::ServerError));
    }

    #[tokio::test]
    async fn readiness_panic_while_waiting_is_a_server_error() {
        let event = event_after_lookup(async |it| {
            it.service.1.store(PANICS, Ordering::SeqCst);
            it.service.0.add_permits(1);
            assert!(it.call.await.unwrap_err().is_panic());
        });
        assert_eq!(event.await.cause, Some(Cause::ServerError));
    }

    #[tokio::test]
    async fn shutdown_while_waiting_records_one_cancelled_event() {
        let event = event_after_lookup(async |it| {
            let report = it.recorder.shutdown(Duration::from_secs(10)).await;
            assert_eq!((report.written, report.lost), (1, 0));
            it.service.0.add_permits(1);
            assert_eq!(it.call.await.unwrap(), Ok(200));
        });
        assert_eq!(event.await.cause, Some(Cause::Cancelled));
    }

    #[tokio::test]
    async fn client_disconnect_while_waiting_is_recorded_as_cancelled() {
        let event = event_after_lookup(async |it| {
            it.call.abort();
            assert!(it.call.await.unwrap_err().is_cancelled());
        });
        assert_eq!(event.await.cause, Some(Cause::Cancelled));
    }

    #[tokio::test]
    async fn key_revoked_or_deleted_while_waiting_is_rejected() {
        let event = event_after_lookup(async |it| {
            it.backend.revoke(it.key, Actor::SYSTEM).await.unwrap();
            it.service.0.add_permits(1);
            assert_eq!(it.call.await.unwrap(), Ok(401));
        });
        assert_eq!(event.await.rejection_reason, Some(RejectionReason::Revoked));
        let event = event_after_lookup(async |it| {
            it.backend.delete(it.key, Actor::SYSTEM).await.unwrap();
            it.service.0.add_permits(1);
            assert_eq!(it.call.await.unwrap(), Ok(401));
        });
        assert_eq!(event.await.rejection_reason, Some(RejectionReason::Unknown));
    }

    #[tokio::test]
    async fn key_whose_owner_is_suspended_while_it_waits_is_rejected() {
        let event = event_after_lookup(async |it| {
            let update = KeyUpdate::new().owner(Some("acme"));
            let updated = it.backend.update(it.key, update, Actor::SYSTEM).await;
            updated.unwrap();
            let suspended = it.backend.suspend_owner("acme", Actor::SYSTEM).await;
            suspended.unwrap();
            it.service.0.add_permits(1);
            assert_eq!(it.call.await.unwrap(), Ok(401));
        });
        let reason = event.await.rejection_reason;
        assert_eq!(reason, Some(RejectionReason::OwnerSuspended));
    }

    #[tokio::test]
    async fn key_edited_while_waiting_is_admitted() {
        let event = event_after_lookup(async |it| {
            let update = KeyUpdate::new().name("y");
            it.backend
                .update(it.key, update, Actor::SYSTEM)
                .await
                .unwrap();
            it.service.0.add_permits(1);
            assert_eq!(it.call.await.unwrap(), Ok(200));
        });
        assert_eq!(event.await.rejection_reason, None);
    }

    /// The service has no permit left; rejected requests do not wait for one.
    #[tokio::test]
    async fn rejected_requests_do_not_wait_for_a_saturated_service() {
        let backend = MemoryBackend::new();
        let good = issue(&backend).await;
        let permits = Arc::new(Semaphore::new(1));
        let limit = GlobalConcurrencyLimitLayer::with_semaphore(permits.clone());
        let layer = ApiKeyLayer::new(backend);
        let service = layer.layer(limit.layer(tower::service_fn(hello)));
        let permit = permits.clone().acquire_owned().await.unwrap();
        let mut waiting = tokio::spawn(service.clone().oneshot(request(&good)));
        for secret in ["nonsense", &unknown().await] {
            let rejected = service.clone().oneshot(request(secret)).await.unwrap();
            assert_eq!(rejected.status(), 401);
        }
        assert!(poll_once(&mut waiting).is_none());
        drop(permit);
        assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
        assert_eq!(permits.available_permits(), 1);
    }

    fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn key_revoked_while_the_limiter_decides_is_rejected() {
        let backend = MemoryBackend::new();
        let issuer = Issuer::new("acme").unwrap();
        let issued = issuer
            .issue(&backend, NewKey::new("x"), Actor::SYSTEM)
            .await
            .unwrap();
        let limiter = RemoteLimiter::new();
        let layer = ApiKeyLayer::new(backend.clone())
            .default_limits([RateLimit::per_second(1)])
            .limiter(limiter.clone());
        let service = layer.layer(tower::service_fn(hello));
        let call = tokio::spawn(service.oneshot(request(issued.secret.expose())));
        while limiter.acquisitions.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        backend.revoke(issued.key.id, Actor::SYSTEM).await.unwrap();
        limiter.permits.add_permits(1);
        assert_eq!(call.await.unwrap().unwrap().status(), 401);
    }
}

#[tokio::test]
async fn service_is_usable_after_a_rejection() {
    let mut service = ApiKeyLayer::new(MemoryBackend::new()).layer(Strict { ready: false });
    for _ in 0..2 {
        let request = Request::get("/").body(String::new()).unwrap();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status(), 401);
    }
}

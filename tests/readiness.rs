//! tower's contract: a service is called only after it was polled ready, and it is the one that was.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use keytally::backend::MemoryBackend;
use keytally::key::{Issuer, NewKey};
use keytally::{ApiKeyLayer, RequireScope};
use tower::{Layer, Service, ServiceExt};

/// Panics when it is called without having been polled ready itself. A clone was not.
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
        assert!(std::mem::take(&mut self.ready), "called unready");
        std::future::ready(Ok(Response::new(Full::from("ok"))))
    }
}

#[tokio::test]
async fn the_service_that_was_ready_is_the_one_that_is_called() {
    let backend = MemoryBackend::new();
    let issuer = Issuer::new("acme").unwrap();
    let new = NewKey::named("x").scope("read");
    let issued = issuer.issue(&backend, new).await.unwrap();
    let layer = ApiKeyLayer::new(backend);
    let mut service = layer.layer(RequireScope::new("read").layer(Strict { ready: false }));
    // The first request waits for the store, the others find the key in memory, and after it was
    // dropped one waits again.
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

/// Invariant 18: waiting for a decision holds no permit of the inner service.
mod waiting_holds_nothing {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use keytally::key::{KeyRecord, KeyStore, StoreError};
    use keytally::limit::{Allowance, Answer, Decision, LimitError, Limiter, RateLimit};
    use keytally::usage::{Cause, LogFilter, LogQuery, Recorder, UsageReader};
    use keytally::{Clock, KeyId, Now};
    use tokio::sync::Semaphore;
    use tower::buffer::Buffer;
    use tower::limit::GlobalConcurrencyLimitLayer;
    use tower::{BoxError, ServiceBuilder};

    use super::*;

    /// Hangs whenever it is asked for a key that it does not have.
    struct Hanging(MemoryBackend);

    #[async_trait]
    impl KeyStore for Hanging {
        async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
            match self.0.find(id).await {
                Ok(None) => std::future::pending().await,
                found => found,
            }
        }
    }

    async fn issue(backend: &MemoryBackend) -> String {
        let issuer = Issuer::new("acme").unwrap();
        let issued = issuer
            .issue(backend, NewKey::named("x").scope("read"))
            .await;
        issued.unwrap().secret.expose().to_owned()
    }

    /// The secret of a key that no store has.
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

    /// Sends requests of unknown keys that wait for the store, and then one of a cached key, which waits for
    /// nothing: time stands still.
    async fn a_cached_key_passes_at_once<S, F>(inner: S)
    where
        S: Service<Request<String>, Response = Response<Full<Bytes>>, Future = F>,
        S: Clone + Send + 'static,
        S::Error: std::fmt::Debug + Send,
        F: Send + 'static,
    {
        let backend = MemoryBackend::new();
        let good = issue(&backend).await;
        let layer = ApiKeyLayer::new(Hanging(backend));
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
        // One step of the clock lets all of them begin to wait.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let began = tokio::time::Instant::now();
        for _ in 0..100 {
            let answer = service.clone().oneshot(request(&good)).await.unwrap();
            assert_eq!(answer.status(), 200);
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_concurrency_limit() {
        for permits in [1, 100] {
            let limit = GlobalConcurrencyLimitLayer::new(permits);
            a_cached_key_passes_at_once(limit.layer(tower::service_fn(hello))).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_buffer() {
        let inner = ServiceBuilder::new()
            .map_err(|error: BoxError| panic!("{error}"))
            .buffer(1)
            .service_fn(hello);
        a_cached_key_passes_at_once::<_, _>(inner.map_err(|never: Infallible| never)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_concurrency_limit_within_a_buffer() {
        let limited = ServiceBuilder::new().concurrency_limit(1).service_fn(hello);
        let buffer = Buffer::new(limited, 4).map_err(|error| panic!("{error}"));
        a_cached_key_passes_at_once::<_, _>(buffer.map_err(|never: Infallible| never)).await;
    }

    /// Answers for one key at once, and for the others never.
    #[derive(Debug)]
    struct HangingLimiter {
        waiting: Arc<AtomicUsize>,
        answers: Arc<AtomicBool>,
    }

    #[derive(Debug)]
    struct Hangs(Arc<AtomicUsize>, Arc<AtomicBool>);

    impl Limiter for HangingLimiter {
        fn attach(
            &self,
            _: KeyId,
            _: &[RateLimit],
            _: Now,
        ) -> Result<Arc<dyn Allowance>, LimitError> {
            Ok(Arc::new(Hangs(self.waiting.clone(), self.answers.clone())))
        }
    }

    impl Allowance for Hangs {
        fn take(&self, _: u32, _: Now) -> Answer {
            if self.1.load(Ordering::SeqCst) {
                return Answer::Now(Decision::default());
            }
            self.0.fetch_add(1, Ordering::SeqCst);
            Answer::Later(Box::pin(std::future::pending()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn for_a_remote_limiter() {
        let backend = MemoryBackend::new();
        let good = issue(&backend).await;
        let limiter = HangingLimiter {
            waiting: Arc::default(),
            answers: Arc::default(),
        };
        let (waiting, answers) = (limiter.waiting.clone(), limiter.answers.clone());
        let layer = ApiKeyLayer::new(backend)
            .default_limits([RateLimit::per_second(1)])
            .unwrap()
            .limiter(limiter);
        let limit = GlobalConcurrencyLimitLayer::new(1);
        let service = layer.layer(limit.layer(tower::service_fn(hello)));
        let mut asked = Vec::new();
        for _ in 0..10 {
            asked.push(tokio::spawn(service.clone().oneshot(request(&good))));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(waiting.load(Ordering::SeqCst), 10);
        answers.store(true, Ordering::SeqCst);
        let began = tokio::time::Instant::now();
        let answer = service.oneshot(request(&good)).await.unwrap();
        assert_eq!(
            (answer.status(), began.elapsed()),
            (http::StatusCode::OK, Duration::ZERO)
        );
        for asked in asked {
            assert_eq!(asked.await.unwrap().unwrap().status(), 503);
        }
    }

    /// A connection that keeps its service, and sends nothing after a refusal.
    #[tokio::test]
    async fn after_a_refusal() {
        let backend = MemoryBackend::new();
        let good = issue(&backend).await;
        let permits = Arc::new(Semaphore::new(1));
        let limit = GlobalConcurrencyLimitLayer::with_semaphore(permits.clone());
        let layer = ApiKeyLayer::new(backend);
        let service = layer.layer(limit.layer(tower::service_fn(hello)));
        let scoped = RequireScope::new("read").layer(limit.layer(tower::service_fn(hello)));
        let (mut refused, mut unscoped) = (service.clone(), scoped);
        let answer = refused
            .ready()
            .await
            .unwrap()
            .call(request("nonsense"))
            .await;
        assert_eq!(answer.unwrap().status(), 401);
        assert_eq!(permits.available_permits(), 1);
        let answer = unscoped.ready().await.unwrap().call(request(&good)).await;
        assert_eq!(answer.unwrap().status(), 401);
        assert_eq!(permits.available_permits(), 1);
        assert_eq!(service.oneshot(request(&good)).await.unwrap().status(), 200);
    }

    /// Ready once it is told so, or failed.
    #[derive(Clone)]
    struct Told(Arc<Semaphore>, Arc<AtomicBool>);

    impl Service<Request<String>> for Told {
        type Response = Response<Full<Bytes>>;
        type Error = &'static str;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            if self.1.load(Ordering::SeqCst) {
                return Poll::Ready(Err("broken"));
            }
            let mut permit = std::pin::pin!(self.0.acquire());
            match std::future::Future::poll(permit.as_mut(), cx) {
                Poll::Ready(_) => Poll::Ready(Ok(())),
                Poll::Pending => {
                    // Nothing else wakes it: the semaphore forgets who is dropped.
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

    /// What an admitted request meets that has waited for its lookup.
    async fn after_its_lookup(
        then: impl AsyncFnOnce(&Told, tokio::task::JoinHandle<Result<u16, &'static str>>),
    ) -> Option<Cause> {
        let backend = MemoryBackend::new();
        let good = issue(&backend).await;
        let recorder = Recorder::new(backend.clone());
        let layer = ApiKeyLayer::new(backend.clone())
            .clock(Clock::manual(jiff::Timestamp::now()))
            .recorder(recorder.clone());
        let told = Told(Arc::new(Semaphore::new(0)), Arc::default());
        let mut service = layer.layer(told.clone());
        // As a caller that polled another clone ready.
        let call = service.call(request(&good));
        let call = tokio::spawn(async move {
            let answer = call.await?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await;
            assert!(body.is_ok());
            Ok(status)
        });
        tokio::time::timeout(Duration::from_secs(10), async {
            while recorder.stats().open == 0 || layer.cache_stats().lookups == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it is looked up");
        then(&told, call).await;
        recorder.flush().await;
        let events = backend.requests(&LogQuery::new(LogFilter::new())).await;
        let [event] = &events.unwrap().items[..] else {
            panic!("one event");
        };
        assert_eq!((recorder.stats().open, event.cost), (0, 1));
        event.cause
    }

    #[tokio::test]
    async fn it_is_called_once_the_service_is_ready() {
        let cause = after_its_lookup(async |told, call| {
            assert!(!call.is_finished());
            told.0.add_permits(1);
            assert_eq!(call.await.unwrap(), Ok(200));
        });
        assert_eq!(cause.await, None);
    }

    #[tokio::test]
    async fn a_service_that_breaks_meanwhile_is_its_failure() {
        let cause = after_its_lookup(async |told, call| {
            told.1.store(true, Ordering::SeqCst);
            told.0.add_permits(1);
            assert_eq!(call.await.unwrap(), Err("broken"));
        });
        assert_eq!(cause.await, Some(Cause::ServerError));
    }

    #[tokio::test]
    async fn a_client_that_leaves_meanwhile_is_an_event() {
        let cause = after_its_lookup(async |_, call| {
            call.abort();
            assert!(call.await.unwrap_err().is_cancelled());
        });
        assert_eq!(cause.await, Some(Cause::Cancelled));
    }
}

#[tokio::test]
async fn a_service_that_refused_is_polled_ready_again() {
    let mut service = ApiKeyLayer::new(MemoryBackend::new()).layer(Strict { ready: false });
    for _ in 0..2 {
        let request = Request::get("/").body(String::new()).unwrap();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status(), 401);
    }
}

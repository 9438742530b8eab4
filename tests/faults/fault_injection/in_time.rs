//! Timeouts and late results: mostly on tokio's paused clock, and without sockets.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, StatusCode};
use keytally::backend::MemoryBackend;
use keytally::key::{CacheConfig, NewKey};
use keytally::limit::{
    Decision, LimitError, LimitHandle, LimitResponse, LimitStatus, Limiter, RateLimit,
    SubjectLimits,
};
use keytally::usage::{Batch, Recorder, SinkError, UsageSink};
use keytally::{ApiKeyLayer, Now};
use tokio::sync::Notify;
use tower::{Layer, ServiceExt, service_fn};
use uuid::Uuid;

use super::faulty::{Moody, Store, cost_of};
use super::{Fault, support};

/// The status of the response of a service behind the layer, and how long it took.
pub(crate) async fn status_of(layer: ApiKeyLayer, secret: &str) -> (StatusCode, Duration) {
    let service = layer.layer(service_fn(async |_: Request<String>| {
        Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
    }));
    let request = support::get("/", secret).body(String::new()).unwrap();
    let start = tokio::time::Instant::now();
    let response = tokio::time::timeout(Duration::from_secs(60), service.oneshot(request)).await;
    let response = response.expect("no response in time").unwrap();
    (response.status(), start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn hanging_store_and_limiter_time_out_as_configured() {
    let backend = MemoryBackend::new();
    let issued = support::issue(&backend, NewKey::new("x")).await;
    let (id, secret) = (issued.key.id, issued.secret.expose());
    let hanging = Store {
        backend: backend.clone(),
        faults: Arc::new(Mutex::new([(id, Fault::StoreHangs)].into())),
    };
    let limited = |layer: ApiKeyLayer| {
        let cursed = "0000000000000000".parse().unwrap();
        let limits = [RateLimit::per_second(1)];
        let layer = layer.limiter(Moody { cursed }).default_limits(limits);
        layer.cost(|_| cost_of(Fault::LimiterHangs))
    };
    let store = || ApiKeyLayer::new(hanging.clone());
    let limiter = || limited(ApiKeyLayer::new(backend.clone()));
    let short_timeout = Duration::from_millis(70);
    for (layer, time) in [
        (store(), Duration::from_secs(5)),
        (
            store().cache(CacheConfig::new().lookup_timeout(short_timeout)),
            short_timeout,
        ),
        (limiter(), Duration::from_secs(1)),
        (limiter().limiter_timeout(short_timeout), short_timeout),
    ] {
        let (status, took) = status_of(layer, secret).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        // Timers have millisecond resolution.
        assert!(
            (time..=time + Duration::from_millis(1)).contains(&took),
            "{took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn limit_statuses_time_out_when_the_limiter_hangs() {
    #[derive(Debug)]
    struct HangingLimiter;
    impl Limiter for HangingLimiter {
        fn attach(
            &self,
            _: &[SubjectLimits<'_>],
            _: Now,
        ) -> Result<Arc<dyn LimitHandle>, LimitError> {
            Ok(Arc::new(Self))
        }
    }
    impl LimitHandle for HangingLimiter {
        fn acquire(&self, _: u32, _: Now) -> LimitResponse {
            LimitResponse::Pending(Box::pin(pending()))
        }
    }
    let backend = MemoryBackend::new();
    let key = support::issue(&backend, NewKey::new("x")).await.key;
    let layer = ApiKeyLayer::new(backend)
        .limiter(HangingLimiter)
        .default_limits([RateLimit::per_second(1)]);
    let statuses = tokio::time::timeout(Duration::from_secs(2), layer.limit_statuses(&key)).await;
    assert_eq!(statuses.unwrap(), Err(LimitError::Timeout));
}

/// A limiter that returns the given decision once it is notified.
#[derive(Debug, Clone)]
struct DelayedLimiter(Result<Decision, LimitError>, Arc<Notify>);

impl Limiter for DelayedLimiter {
    fn attach(&self, _: &[SubjectLimits<'_>], _: Now) -> Result<Arc<dyn LimitHandle>, LimitError> {
        Ok(Arc::new(self.clone()))
    }
}

impl LimitHandle for DelayedLimiter {
    fn acquire(&self, _: u32, _: Now) -> LimitResponse {
        let Self(decision, notify) = self.clone();
        LimitResponse::Pending(Box::pin(async move {
            notify.notified().await;
            decision
        }))
    }
}

mod complete_accounting {
    use super::*;

    #[tokio::test]
    async fn request_decided_after_the_shutdown_is_recorded_once() {
        let backend = MemoryBackend::new();
        let issued = support::issue(&backend, NewKey::new("x")).await;
        let allowed = Decision::new([LimitStatus::default()]);
        let mut rejected = allowed;
        rejected.deny(0, None);
        let failed = LimitError::Unavailable("simulated outage".into());
        for (decision, status) in [(Ok(allowed), 200), (Ok(rejected), 429), (Err(failed), 503)] {
            let notify = Arc::new(Notify::new());
            let recorder = Recorder::new(backend.clone());
            let layer = ApiKeyLayer::new(backend.clone())
                .limiter(DelayedLimiter(decision, notify.clone()))
                .default_limits([RateLimit::per_second(1)])
                .recorder(recorder.clone());
            let secret = issued.secret.expose().to_owned();
            let response = tokio::spawn(async move { status_of(layer, &secret).await });
            support::until(|| recorder.stats().in_flight == 1).await;
            let report = recorder.shutdown(Duration::from_secs(30)).await;
            assert_eq!((report.written, report.lost), (1, 0));
            notify.notify_one();
            assert_eq!(response.await.unwrap().0, status);
            // The shutdown has recorded the request; it is not counted again.
            let stats = recorder.stats();
            let counted = (stats.accepted, stats.written, stats.lost, stats.in_flight);
            assert_eq!(counted, (1, 1, 0, 0), "{status}");
        }
    }
}

/// A sink whose first write completes only after its retry and another batch.
#[derive(Clone, Default)]
struct OutOfOrder(Arc<Mutex<Vec<(Uuid, usize)>>>, Arc<Mutex<u32>>);

#[keytally::async_trait]
impl UsageSink for OutOfOrder {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        let first = {
            let mut calls = self.1.lock().unwrap();
            *calls += 1;
            *calls == 1
        };
        let (order, done) = (self.0.clone(), (batch.id, batch.len()));
        let write = async move {
            if first {
                tokio::time::sleep(Duration::from_secs(100)).await;
            }
            order.lock().unwrap().push(done);
        };
        // The write continues after the recorder has given up on it.
        tokio::spawn(write).await.map_err(SinkError::unavailable)
    }
}

mod batches_count_once {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn write_completed_after_its_retry_counts_once() {
        let backend = MemoryBackend::new();
        let issued = support::issue(&backend, NewKey::new("x")).await;
        let sink = OutOfOrder::default();
        let recorder = Recorder::builder(sink.clone()).start();
        let layer = ApiKeyLayer::new(backend).recorder(recorder.clone());
        for _ in 0..2 {
            let (status, _) = status_of(layer.clone(), issued.secret.expose()).await;
            assert_eq!(status, StatusCode::OK);
            recorder.flush().await;
        }
        tokio::time::sleep(Duration::from_secs(200)).await;
        let order = sink.0.lock().unwrap().clone();
        let [retried, second, late] = order[..] else {
            panic!("three writes: {order:?}")
        };
        // The retry has the same batch id, so the sink can deduplicate it.
        assert_eq!(late, retried);
        assert!(second.0 != retried.0);
        let report = recorder.shutdown(Duration::from_secs(1)).await;
        assert_eq!((report.written, report.lost), (2, 0));
        assert_eq!(recorder.stats().retries, 1);
    }
}

//! In time that only passes when nothing else happens, and without sockets.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, StatusCode};
use keytally::backend::MemoryBackend;
use keytally::key::{CacheConfig, NewKey};
use keytally::limit::{
    Decision, LimitError, LimitHandle, LimitResponse, LimitStatus, Limiter, RateLimit,
};
use keytally::usage::{Batch, Recorder, SinkError, UsageSink};
use keytally::{ApiKeyLayer, KeyId, Now};
use tokio::sync::Notify;
use tower::{Layer, ServiceExt, service_fn};
use uuid::Uuid;

use super::faulty::{Moody, Store, cost_of};
use super::{Fault, support};

/// A service without a socket.
pub(crate) async fn status_of(layer: ApiKeyLayer, secret: &str) -> (StatusCode, Duration) {
    let service = layer.layer(service_fn(async |_: Request<String>| {
        Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
    }));
    let request = support::get("/", secret).body(String::new()).unwrap();
    let began = tokio::time::Instant::now();
    let answered = tokio::time::timeout(Duration::from_secs(60), service.oneshot(request)).await;
    let answer = answered.expect("an answer in time").unwrap();
    (answer.status(), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_store_and_a_limiter_that_hang_are_waited_for_as_long_as_was_said() {
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
        layer.unwrap().cost(|_| cost_of(Fault::LimiterHangs))
    };
    let store = || ApiKeyLayer::new(hanging.clone());
    let limiter = || limited(ApiKeyLayer::new(backend.clone()));
    let brief = Duration::from_millis(70);
    for (layer, time) in [
        (store(), Duration::from_secs(5)),
        (
            store().cache(CacheConfig::new().lookup_timeout(brief)),
            brief,
        ),
        (limiter(), Duration::from_secs(1)),
        (limiter().limiter_timeout(brief), brief),
    ] {
        let (status, took) = status_of(layer, secret).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        // Timers go by the millisecond.
        assert!(
            (time..=time + Duration::from_millis(1)).contains(&took),
            "{took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn where_limits_stand_is_waited_for_as_long_too() {
    #[derive(Debug)]
    struct Silent;
    impl Limiter for Silent {
        fn attach(
            &self,
            _: KeyId,
            _: &[RateLimit],
            _: Now,
        ) -> Result<Arc<dyn LimitHandle>, LimitError> {
            Ok(Arc::new(Self))
        }
    }
    impl LimitHandle for Silent {
        fn acquire(&self, _: u32, _: Now) -> LimitResponse {
            LimitResponse::Pending(Box::pin(pending()))
        }
    }
    let backend = MemoryBackend::new();
    let key = support::issue(&backend, NewKey::new("x")).await.key;
    let layer = ApiKeyLayer::new(backend)
        .limiter(Silent)
        .default_limits([RateLimit::per_second(1)])
        .unwrap();
    let asked = tokio::time::timeout(Duration::from_secs(2), layer.limit_statuses(&key)).await;
    assert_eq!(asked.unwrap(), Err(LimitError::Timeout));
}

/// Decides as it is told, once it is told to.
#[derive(Debug, Clone)]
struct InTheEnd(Result<Decision, LimitError>, Arc<Notify>);

impl Limiter for InTheEnd {
    fn attach(
        &self,
        _: KeyId,
        _: &[RateLimit],
        _: Now,
    ) -> Result<Arc<dyn LimitHandle>, LimitError> {
        Ok(Arc::new(self.clone()))
    }
}

impl LimitHandle for InTheEnd {
    fn acquire(&self, _: u32, _: Now) -> LimitResponse {
        let Self(decision, told) = self.clone();
        LimitResponse::Pending(Box::pin(async move {
            told.notified().await;
            decision
        }))
    }
}

#[tokio::test]
async fn rule_9_a_decision_that_comes_after_the_shutdown_is_told_of_once() {
    let backend = MemoryBackend::new();
    let issued = support::issue(&backend, NewKey::new("x")).await;
    let mut allowed = Decision::default();
    allowed.push(LimitStatus::default());
    let mut refused = allowed;
    refused.refuse(None);
    let failed = LimitError::Unavailable("for a moment".into());
    for (decision, status) in [(Ok(allowed), 200), (Ok(refused), 429), (Err(failed), 503)] {
        let told = Arc::new(Notify::new());
        let recorder = Recorder::new(backend.clone());
        let layer = ApiKeyLayer::new(backend.clone())
            .limiter(InTheEnd(decision, told.clone()))
            .default_limits([RateLimit::per_second(1)])
            .unwrap()
            .recorder(recorder.clone());
        let secret = issued.secret.expose().to_owned();
        let asked = tokio::spawn(async move { status_of(layer, &secret).await });
        support::until(|| recorder.stats().open == 1).await;
        let report = recorder.shutdown(Duration::from_secs(30)).await;
        assert_eq!((report.written, report.lost), (1, 0));
        told.notify_one();
        assert_eq!(asked.await.unwrap().0, status);
        // The shutdown has told of it.
        let stats = recorder.stats();
        let counted = (stats.accepted, stats.written, stats.lost, stats.open);
        assert_eq!(counted, (1, 1, 0, 0), "{status}");
    }
}

/// A sink whose first write is done and answered only after its retry and another batch.
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
        let (order, done) = (self.0.clone(), (batch.id, batch.events.len()));
        let keep = async move {
            if first {
                tokio::time::sleep(Duration::from_secs(100)).await;
            }
            order.lock().unwrap().push(done);
        };
        // Whoever writes it goes on although nobody waits any more.
        tokio::spawn(keep).await.map_err(SinkError::unavailable)
    }
}

#[tokio::test(start_paused = true)]
async fn rule_10_a_write_that_is_done_after_its_retry_counts_once() {
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
    // The sink is told by its id that it is the same one.
    assert_eq!(late, retried);
    assert!(second.0 != retried.0);
    let report = recorder.shutdown(Duration::from_secs(1)).await;
    assert_eq!((report.written, report.lost), (2, 0));
    assert_eq!(recorder.stats().retries, 1);
}

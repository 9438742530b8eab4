//! Response streams whose key is revoked, disabled, deleted or expires meanwhile.
use crate::support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use keytally::backend::MemoryBackend;
use keytally::key::{
    Actor, CacheConfig, Issued, KeyAdmin, KeyRecord, KeyStore, NewKey, OwnerAdmin, StoreError,
};
use keytally::usage::{Cause, LogQuery, Outcome, Recorder, RejectionReason, Status, UsageReader};
use keytally::{ApiKeyLayer, BodyError, Clock, KeyId, ResponseBody};
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tower::{Layer, ServiceExt};

const SECOND: Duration = Duration::from_secs(1);

type Chunks = tokio_stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>;
type Ticks = StreamBody<
    std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>,
>;

/// An endless body with a chunk every 100 ms.
fn ticks() -> Ticks {
    let chunks = tokio_stream::iter(std::iter::repeat_with(|| Bytes::from_static(b"tick")));
    let chunks = chunks.map(|chunk| Ok(Frame::data(chunk)));
    StreamBody::new(Box::pin(chunks.throttle(SECOND / 10)))
}

/// A body that sends one chunk and then stalls.
fn stalled() -> Ticks {
    let first: Chunks = tokio_stream::iter(vec![Ok(Frame::data(Bytes::from_static(b"tick")))]);
    StreamBody::new(Box::pin(first.chain(tokio_stream::pending())))
}

async fn open(
    layer: &ApiKeyLayer,
    key: &Issued,
    content_type: &'static str,
    body: fn() -> Ticks,
) -> ResponseBody<Ticks> {
    let service = layer.layer(tower::service_fn(move |_: Request<String>| async move {
        let response = Response::builder().header("content-type", content_type);
        Ok::<_, Infallible>(response.body(body()).unwrap())
    }));
    let request = Request::get("/watch").header("x-api-key", key.secret.expose());
    let response = service.oneshot(request.body(String::new()).unwrap()).await;
    response.unwrap().into_body()
}

/// How a body ends (trailers or error) and after how long; `None` if it does not end in time.
async fn end(
    mut body: ResponseBody<Ticks>,
    within: Duration,
) -> Option<(Result<HeaderMap, BodyError<Infallible>>, Duration)> {
    let start = Instant::now();
    let ended = tokio::time::timeout(within, async {
        loop {
            match body.frame().await {
                Some(Ok(frame)) => match frame.into_trailers() {
                    Ok(trailers) => {
                        assert!(body.frame().await.is_none());
                        return Ok(trailers);
                    }
                    Err(_) => continue,
                },
                Some(Err(error)) => {
                    assert!(body.frame().await.is_none());
                    return Err(error);
                }
                None => panic!("the body ended without an error"),
            }
        }
    });
    Some((ended.await.ok()?, start.elapsed()))
}

async fn issue(backend: &MemoryBackend) -> Issued {
    support::issue(backend, NewKey::new("watching")).await
}

#[tokio::test(start_paused = true)]
async fn streams_outlive_revocation_by_default() {
    let backend = MemoryBackend::new();
    let key = issue(&backend).await;
    let layer = ApiKeyLayer::new(backend.clone());
    let body = open(&layer, &key, "text/plain", ticks).await;
    backend.revoke(key.key.id, Actor::SYSTEM).await.unwrap();
    assert!(end(body, 3_600 * SECOND).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn streams_end_within_the_configured_interval_after_revocation() {
    let backend = MemoryBackend::new();
    let recorder = Recorder::new(backend.clone());
    let layer = ApiKeyLayer::new(backend.clone())
        .recorder(recorder.clone())
        .end_streams_on_revocation(2 * SECOND);
    for body in [ticks, stalled] {
        for (content_type, grpc) in [
            ("text/event-stream", false),
            ("application/grpc+proto", true),
            ("application/grpc-web+proto", false),
        ] {
            let key = issue(&backend).await;
            let body = open(&layer, &key, content_type, body).await;
            let revoke = async {
                tokio::time::sleep(5 * SECOND).await;
                backend.revoke(key.key.id, Actor::SYSTEM).await.unwrap();
            };
            let (ended, ()) = tokio::join!(end(body, 60 * SECOND), revoke);
            let (ended, after) = ended.expect("the stream ends");
            assert!((5 * SECOND..=7 * SECOND).contains(&after), "{after:?}");
            match ended {
                Ok(trailers) => {
                    assert!(grpc);
                    assert_eq!(trailers["grpc-status"], "16");
                }
                Err(error) => {
                    assert!(!grpc);
                    assert_eq!(error, BodyError::KeyRejected);
                }
            }
        }
    }
    assert_eq!(recorder.shutdown(SECOND).await.lost, 0);
    let events = backend.requests(&LogQuery::default()).await.unwrap().items;
    assert_eq!(events.len(), 6);
    for event in events {
        assert_eq!(event.rejection_reason, Some(RejectionReason::Revoked));
        assert_eq!(event.outcome, Outcome::Failed);
        assert_eq!(event.cause, Some(Cause::Rejected));
        let status = [Status::Http(200), Status::Grpc(16)];
        assert!(status.contains(&event.status), "{event:?}");
        assert!(event.response_bytes >= 4);
    }
}

#[tokio::test(start_paused = true)]
async fn streams_end_when_their_key_is_disabled_expires_is_deleted_or_its_owner_is_suspended() {
    let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
    let backend = MemoryBackend::with_clock(Default::default(), clock.clone());
    let layer = ApiKeyLayer::new(backend.clone()).clock(clock.clone());
    let layer = layer.end_streams_on_revocation(SECOND);
    for change in ["disabled", "expired", "deleted", "suspended", "nothing"] {
        let new = NewKey::new(change).expires_at(clock.now().timestamp() + 3_600 * SECOND);
        let key = support::issue(&backend, new.owner("acme")).await;
        let body = open(&layer, &key, "text/plain", stalled).await;
        match change {
            "suspended" => {
                let suspended = backend.suspend_owner("acme", Actor::SYSTEM).await;
                suspended.unwrap();
            }
            "disabled" => drop(backend.disable(key.key.id, Actor::SYSTEM).await.unwrap()),
            "expired" => clock.advance(3_600 * SECOND),
            "deleted" => backend.delete(key.key.id, Actor::SYSTEM).await.unwrap(),
            _ => {}
        }
        let ended = end(body, 10 * SECOND).await;
        assert_eq!(ended.is_some(), change != "nothing", "{change}");
        backend.resume_owner("acme", Actor::SYSTEM).await.unwrap();
    }
}

/// A store that another instance changes: no invalidations arrive here.
#[derive(Clone)]
struct RemoteStore {
    inner: MemoryBackend,
    is_down: Arc<AtomicBool>,
}

#[keytally::async_trait]
impl KeyStore for RemoteStore {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        if self.is_down.load(Ordering::Relaxed) {
            return Err(StoreError::unavailable("simulated outage"));
        }
        self.inner.find(id).await
    }
}

#[tokio::test(start_paused = true)]
async fn revocation_on_another_instance_ends_streams_after_the_cache_ttl_but_an_outage_does_not() {
    let inner = MemoryBackend::new();
    let store = RemoteStore {
        inner: inner.clone(),
        is_down: Arc::default(),
    };
    let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
    let layer = ApiKeyLayer::new(store.clone())
        .clock(clock.clone())
        .cache(CacheConfig::new().ttl(10 * SECOND))
        .end_streams_on_revocation(SECOND);
    let advance = |clock: Clock| async move {
        loop {
            tokio::time::sleep(SECOND / 10).await;
            clock.advance(SECOND / 10);
        }
    };
    let key = support::issue(&inner, NewKey::new("watching")).await;
    let clock_task = tokio::spawn(advance(clock.clone()));
    let body = open(&layer, &key, "text/plain", stalled).await;
    inner.revoke(key.key.id, Actor::SYSTEM).await.unwrap();
    let (_, after) = end(body, 60 * SECOND).await.expect("the stream ends");
    assert!((10 * SECOND..=12 * SECOND).contains(&after), "{after:?}");

    let key = support::issue(&inner, NewKey::new("watching")).await;
    let body = open(&layer, &key, "text/plain", stalled).await;
    store.is_down.store(true, Ordering::Relaxed);
    inner.revoke(key.key.id, Actor::SYSTEM).await.unwrap();
    let recovery = async {
        tokio::time::sleep(60 * SECOND).await;
        store.is_down.store(false, Ordering::Relaxed);
    };
    let (ended, ()) = tokio::join!(end(body, 120 * SECOND), recovery);
    let (_, after) = ended.expect("the stream ends");
    assert!((60 * SECOND..=75 * SECOND).contains(&after), "{after:?}");
    clock_task.abort();
}

#[tokio::test]
async fn client_sees_an_error_when_its_stream_is_ended() {
    let routes = Router::new().route("/watch", get(async || Body::new(ticks())));
    let configure = |layer: ApiKeyLayer| layer.end_streams_on_revocation(SECOND / 20);
    let service = support::Service::start(routes, configure).await;
    let key = service.key().await;
    let request = Request::get(format!("http://{}/watch", service.address))
        .header("x-api-key", key.secret.expose());
    let request = request.body(Default::default()).unwrap();
    let mut body = service.client.request(request).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok());
    service
        .backend
        .revoke(key.key.id, Actor::SYSTEM)
        .await
        .unwrap();
    let error = tokio::time::timeout(10 * SECOND, async {
        loop {
            match body.frame().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error,
                None => panic!("the body ended without an error"),
            }
        }
    });
    error.await.expect("the stream ends");
}

//! Streams of keys that stop working while they run.
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
use keytally::key::{CacheConfig, Issued, KeyAdmin, KeyRecord, KeyStore, NewKey, StoreError};
use keytally::usage::{Cause, LogQuery, Outcome, Recorder, RejectionReason, Status, UsageReader};
use keytally::{ApiKeyLayer, BodyError, Clock, KeyId, ResponseBody};
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tower::{Layer, ServiceExt};

const SECOND: Duration = Duration::from_secs(1);

type Frames = tokio_stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>;
type Ticks = StreamBody<
    std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>,
>;

/// A body with a piece each 100 ms, without end.
fn ticks() -> Ticks {
    let pieces = tokio_stream::iter(std::iter::repeat_with(|| Bytes::from_static(b"tick")));
    let pieces = pieces.map(|piece| Ok(Frame::data(piece)));
    StreamBody::new(Box::pin(pieces.throttle(SECOND / 10)))
}

/// One piece and then nothing for ever.
fn silence() -> Ticks {
    let first: Frames = tokio_stream::iter(vec![Ok(Frame::data(Bytes::from_static(b"tick")))]);
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

/// How a body ends, and when: its trailers or its error.
async fn end(
    mut body: ResponseBody<Ticks>,
    within: Duration,
) -> Option<(Result<HeaderMap, BodyError<Infallible>>, Duration)> {
    let began = Instant::now();
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
                None => panic!("it ended as if it were whole"),
            }
        }
    });
    Some((ended.await.ok()?, began.elapsed()))
}

async fn issue(backend: &MemoryBackend) -> Issued {
    support::issue(backend, NewKey::new("watching")).await
}

#[tokio::test(start_paused = true)]
async fn a_stream_outlives_its_key_unless_that_is_set() {
    let backend = MemoryBackend::new();
    let key = issue(&backend).await;
    let layer = ApiKeyLayer::new(backend.clone());
    let body = open(&layer, &key, "text/plain", ticks).await;
    backend.revoke(key.key.id).await.unwrap();
    assert!(end(body, 3_600 * SECOND).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn streams_end_within_the_time_that_is_set() {
    let backend = MemoryBackend::new();
    let recorder = Recorder::new(backend.clone());
    let layer = ApiKeyLayer::new(backend.clone())
        .recorder(recorder.clone())
        .end_streams_on_revocation(2 * SECOND);
    for body in [ticks, silence] {
        for (content_type, grpc) in [
            ("text/event-stream", false),
            ("application/grpc+proto", true),
            ("application/grpc-web+proto", false),
        ] {
            let key = issue(&backend).await;
            let body = open(&layer, &key, content_type, body).await;
            let revoke = async {
                tokio::time::sleep(5 * SECOND).await;
                backend.revoke(key.key.id).await.unwrap();
            };
            let (ended, ()) = tokio::join!(end(body, 60 * SECOND), revoke);
            let (ended, after) = ended.expect("it ends");
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
        assert_eq!(event.cause, Some(Cause::Refused));
        let status = [Status::Http(200), Status::Grpc(16)];
        assert!(status.contains(&event.status), "{event:?}");
        assert!(event.response_bytes >= 4);
    }
}

#[tokio::test(start_paused = true)]
async fn streams_end_when_their_key_is_disabled_expires_or_is_deleted() {
    let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
    let backend = MemoryBackend::with_clock(Default::default(), clock.clone());
    let layer = ApiKeyLayer::new(backend.clone()).clock(clock.clone());
    let layer = layer.end_streams_on_revocation(SECOND);
    for way in ["disabled", "expired", "deleted", "nothing"] {
        let new = NewKey::new(way).expires_at(clock.now().timestamp() + 3_600 * SECOND);
        let key = support::issue(&backend, new).await;
        let body = open(&layer, &key, "text/plain", silence).await;
        match way {
            "disabled" => drop(backend.disable(key.key.id).await.unwrap()),
            "expired" => clock.advance(3_600 * SECOND),
            "deleted" => backend.delete(key.key.id).await.unwrap(),
            _ => {}
        }
        let ended = end(body, 10 * SECOND).await;
        assert_eq!(ended.is_some(), way != "nothing", "{way}");
    }
}

/// A store of another instance: nobody hears of its changes.
#[derive(Clone)]
struct Elsewhere {
    inner: MemoryBackend,
    is_down: Arc<AtomicBool>,
}

#[keytally::async_trait]
impl KeyStore for Elsewhere {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        if self.is_down.load(Ordering::Relaxed) {
            return Err(StoreError::unavailable("down, on purpose"));
        }
        self.inner.find(id).await
    }
}

#[tokio::test(start_paused = true)]
async fn elsewhere_streams_end_after_the_caches_time_to_live_and_not_for_an_outage() {
    let inner = MemoryBackend::new();
    let store = Elsewhere {
        inner: inner.clone(),
        is_down: Arc::default(),
    };
    let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
    let layer = ApiKeyLayer::new(store.clone())
        .clock(clock.clone())
        .cache(CacheConfig::new().ttl(10 * SECOND))
        .end_streams_on_revocation(SECOND);
    let tick = |clock: Clock| async move {
        loop {
            tokio::time::sleep(SECOND / 10).await;
            clock.advance(SECOND / 10);
        }
    };
    let key = support::issue(&inner, NewKey::new("watching")).await;
    let ticking = tokio::spawn(tick(clock.clone()));
    let body = open(&layer, &key, "text/plain", silence).await;
    inner.revoke(key.key.id).await.unwrap();
    let (_, after) = end(body, 60 * SECOND).await.expect("it ends");
    assert!((10 * SECOND..=12 * SECOND).contains(&after), "{after:?}");

    let key = support::issue(&inner, NewKey::new("watching")).await;
    let body = open(&layer, &key, "text/plain", silence).await;
    store.is_down.store(true, Ordering::Relaxed);
    inner.revoke(key.key.id).await.unwrap();
    let up = async {
        tokio::time::sleep(60 * SECOND).await;
        store.is_down.store(false, Ordering::Relaxed);
    };
    let (ended, ()) = tokio::join!(end(body, 120 * SECOND), up);
    let (_, after) = ended.expect("it ends");
    assert!((60 * SECOND..=75 * SECOND).contains(&after), "{after:?}");
    ticking.abort();
}

#[tokio::test]
async fn a_client_notices_that_a_stream_was_broken_off() {
    let routes = Router::new().route("/watch", get(async || Body::new(ticks())));
    let configure = |layer: ApiKeyLayer| layer.end_streams_on_revocation(SECOND / 20);
    let service = support::Service::start(routes, configure).await;
    let key = service.key().await;
    let request = Request::get(format!("http://{}/watch", service.address))
        .header("x-api-key", key.secret.expose());
    let request = request.body(Default::default()).unwrap();
    let mut body = service.client.request(request).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok());
    service.backend.revoke(key.key.id).await.unwrap();
    let broken = tokio::time::timeout(10 * SECOND, async {
        loop {
            match body.frame().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error,
                None => panic!("it ended as if it were whole"),
            }
        }
    });
    broken.await.expect("it ends");
}

//! Requests are tracked to completion: response bodies, streams, disconnects, panics and shutdown.
use crate::support;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response, Sse, sse};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use keytally::limit::{LimitError, LimitHandle, Limiter, RateLimit, SubjectLimits};
use keytally::usage::{Cause, Outcome, Status, UNMATCHED};
use keytally::{ApiKeyLayer, Now};
use support::{Answer, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::{Stream, StreamExt};
use tower::{Layer, Service as _};

fn routes() -> Router {
    Router::new()
        .route("/v1/postings/{id}", get(|| async { "a posting" }))
        .route("/v1/postings", post(|body: String| async move { body }))
        .route(
            "/broken",
            get(|| async { StatusCode::INTERNAL_SERVER_ERROR }),
        )
        .route("/panic", get(panics))
}

async fn panics() -> &'static str {
    panic!("simulated handler panic")
}

mod complete_accounting {
    use super::*;

    #[tokio::test]
    async fn failures_and_panics_are_one_event_each() {
        let service = Service::plain(routes()).await;
        let secret = service.key().await.secret.expose().to_owned();
        service.get("/broken", &secret).await;
        service.get("/nowhere", &secret).await;
        let panicked = support::get(&format!("http://{}/panic", service.address), &secret);
        let request = panicked.body(http_body_util::Full::default()).unwrap();
        assert!(service.client.request(request).await.is_err());
        let events = service.events().await;
        let seen: Vec<_> = events
            .iter()
            .rev()
            .map(|event| (&*event.endpoint, event.status, event.cause.unwrap()))
            .collect();
        assert_eq!(
            seen,
            [
                ("/broken", Status::Http(500), Cause::ServerError),
                (UNMATCHED, Status::Http(404), Cause::ClientError),
                ("/panic", Status::Http(500), Cause::ServerError),
            ]
        );
    }

    #[tokio::test]
    async fn stream_stays_open_until_its_client_disconnects() {
        let service = Service::start(ticking(), |layer| layer).await;
        let secret = service.key().await.secret.expose().to_owned();
        let request = support::get(&format!("http://{}/ticks", service.address), &secret);
        let request = request.body(http_body_util::Full::default()).unwrap();
        let mut body = service.client.request(request).await.unwrap().into_body();
        for _ in 0..3 {
            body.frame().await.unwrap().unwrap();
        }
        assert_eq!(service.recorder.stats().in_flight, 1);
        assert!(service.events().await.is_empty());
        drop(body);
        service.until_open(0).await;
        let [event] = &*service.events().await else {
            panic!("one event")
        };
        assert_eq!(
            (event.outcome, event.cause),
            (Outcome::Failed, Some(Cause::Cancelled))
        );
        assert!(event.response_bytes > 0);
    }

    #[tokio::test]
    async fn open_requests_are_recorded_as_cancelled_at_shutdown() {
        let service = Service::start(ticking(), |layer| layer).await;
        let secret = service.key().await.secret.expose().to_owned();
        let request = |path: &str| {
            let request = support::get(&format!("http://{}{path}", service.address), &secret);
            request.body(http_body_util::Full::default()).unwrap()
        };
        let mut body = service
            .client
            .request(request("/ticks"))
            .await
            .unwrap()
            .into_body();
        body.frame().await.unwrap().unwrap();
        let hanging = tokio::spawn(service.client.request(request("/never")));
        service.until_open(2).await;
        let report = service.recorder.shutdown(Duration::from_secs(5)).await;
        assert_eq!((report.written, report.lost), (2, 0));
        hanging.abort();
        drop(body);
        let stats = service.recorder.stats();
        assert_eq!((stats.accepted, stats.in_flight), (2, 0));
        let causes: Vec<_> = service
            .events()
            .await
            .iter()
            .map(|event| event.cause)
            .collect();
        assert_eq!(causes, [Some(Cause::Cancelled); 2]);
    }

    #[tokio::test]
    async fn client_disconnect_is_one_cancelled_event() {
        let service = Service::start(ticking(), |layer| layer).await;
        let secret = service.key().await.secret.expose().to_owned();
        let mut raw = tokio::net::TcpStream::connect(service.address)
            .await
            .unwrap();
        let request = format!("GET /never HTTP/1.1\r\nhost: x\r\nx-api-key: {secret}\r\n\r\n");
        raw.write_all(request.as_bytes()).await.unwrap();
        service.until_open(1).await;
        drop(raw);
        service.until_open(0).await;
        let [event] = &*service.events().await else {
            panic!("one event")
        };
        assert_eq!(
            (event.status, event.cause),
            (Status::None, Some(Cause::Cancelled))
        );
        assert_eq!(&*event.endpoint, "/never");
    }

    #[tokio::test]
    async fn panic_caught_by_an_outer_layer_is_a_server_error() {
        async fn catching(request: axum::extract::Request, next: Next) -> Response<Body> {
            let mut call = std::pin::pin!(next.run(request));
            std::future::poll_fn(|cx| {
                let poll = AssertUnwindSafe(|| call.as_mut().poll(cx));
                catch_unwind(poll).unwrap_or_else(|_| {
                    Poll::Ready(StatusCode::INTERNAL_SERVER_ERROR.into_response())
                })
            })
            .await
        }
        let service = Service::plain(routes()).await;
        let layer = ApiKeyLayer::new(service.backend.clone()).recorder(service.recorder.clone());
        let routes = routes()
            .layer(layer)
            .layer(axum::middleware::from_fn(catching));
        let address = support::serve(routes).await;
        let secret = service.key().await.secret.expose().to_owned();
        let request = support::get(&format!("http://{address}/panic"), &secret);
        let request = request.body(http_body_util::Full::default()).unwrap();
        let response = Answer::of(service.client.request(request).await.unwrap()).await;
        assert_eq!(response.status, StatusCode::INTERNAL_SERVER_ERROR);
        let event = &service.events().await[0];
        assert_eq!(event.cause, Some(Cause::ServerError));
    }

    #[tokio::test]
    async fn unread_body_stays_open_until_shutdown() {
        let endless = || async {
            let chunk = Bytes::from_static(&[b'x'; 65_536]);
            let chunks = std::iter::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
            Body::from_stream(tokio_stream::iter(chunks))
        };
        let service = Service::start(routes().route("/endless", get(endless)), |layer| layer).await;
        let secret = service.key().await.secret.expose().to_owned();
        let mut client = tokio::net::TcpStream::connect(service.address)
            .await
            .unwrap();
        let request =
            format!("GET /endless HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        client.readable().await.unwrap();
        service.until_open(1).await;
        let _ = service.recorder.shutdown(Duration::from_secs(10)).await;
        let event = &service.events().await[0];
        assert_eq!(event.cause, Some(Cause::Cancelled));
        assert!(event.response_bytes > 0);
    }

    #[tokio::test]
    async fn bodyless_response_is_complete_without_being_read() {
        let service = Service::plain(routes()).await;
        for (method, status, cause) in [
            (Method::GET, 200, Some(Cause::Cancelled)),
            (Method::HEAD, 200, None),
            (Method::GET, 204, None),
            (Method::GET, 304, None),
            (Method::GET, 101, None),
        ] {
            let response = response_with(
                &service,
                method.clone(),
                status,
                None,
                tokio_stream::pending(),
            )
            .await;
            drop(response);
            let event = &service.events().await[0];
            assert_eq!(
                (event.status, event.cause),
                (Status::Http(status), cause),
                "{method}"
            );
        }
    }

    #[tokio::test]
    async fn panicking_body_is_a_server_error() {
        let service = Service::plain(routes()).await;
        let chunks = tokio_stream::iter([()]).map(|()| panic!("simulated body panic"));
        let mut response = response_with(&service, Method::GET, 200, None, chunks).await;
        let mut context = Context::from_waker(Waker::noop());
        let polled = catch_unwind(AssertUnwindSafe(|| {
            Pin::new(response.body_mut()).poll_frame(&mut context)
        }));
        assert!(polled.is_err());
        // The body has not been dropped yet.
        let event = &service.events().await[0];
        assert_eq!(event.cause, Some(Cause::ServerError));
    }

    /// The rest of the body is never polled.
    #[tokio::test]
    async fn partially_read_body_is_cancelled_at_shutdown() {
        for (content_length, taken) in [(Some(6), 1), (Some(100), 2), (None, 2), (None, 3)] {
            let service = Service::plain(routes()).await;
            let chunks = std::iter::repeat_with(|| Ok(Bytes::from_static(b"chunk")));
            let chunks = tokio_stream::iter(chunks);
            let response = response_with(&service, Method::GET, 200, content_length, chunks).await;
            let mut body = response.into_body();
            for _ in 0..taken {
                body.frame().await.unwrap().unwrap();
            }
            let _ = service.recorder.shutdown(Duration::from_secs(10)).await;
            let [event] = &*service.events().await else {
                panic!("one event")
            };
            assert_eq!(event.cause, Some(Cause::Cancelled));
            assert_eq!(event.response_bytes, 5 * taken);
        }
    }

    #[tokio::test]
    async fn client_disconnect_during_a_limiter_call_is_one_cancelled_event() {
        let service = Service::start(routes(), |layer| {
            let limits = [RateLimit::per_second(1)];
            layer
                .limiter(HangingLimiter)
                .limiter_timeout(Duration::MAX)
                .default_limits(limits)
        })
        .await;
        let key = service.key().await;
        let mut client = tokio::net::TcpStream::connect(service.address)
            .await
            .unwrap();
        let secret = key.secret.expose();
        let request = format!(
            "GET /v1/postings/1 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n\r\n"
        );
        client.write_all(request.as_bytes()).await.unwrap();
        service.until_open(1).await;
        drop(client);
        service.until_open(0).await;
        let [event] = &*service.events().await else {
            panic!("one event")
        };
        assert_eq!(
            (event.key, event.cause),
            (Some(key.key.id), Some(Cause::Cancelled))
        );
        assert_eq!((event.status, event.cost), (Status::None, 0));
    }
}

#[tokio::test]
async fn body_bytes_are_counted_to_completion_over_http_1_and_2() {
    let routes = routes()
        .route(
            "/chunked",
            get(|| async {
                let chunks = (0..10).map(|_| Ok::<_, std::io::Error>("0123456789"));
                Body::from_stream(tokio_stream::iter(chunks))
            }),
        )
        .route(
            "/content_length",
            get(|| async {
                // Only the header has the length, as in a proxied download.
                let chunks = (0..10).map(|_| Ok::<_, std::io::Error>("0123456789"));
                let body = Body::from_stream(tokio_stream::iter(chunks));
                ([("content-length", "100")], body)
            }),
        )
        .route("/nothing", get(|| async { StatusCode::NO_CONTENT }));
    let service = Service::start(routes, |layer| layer).await;
    let secret = service.key().await.secret.expose().to_owned();
    let http2 = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .http2_only(true)
        .build_http::<http_body_util::Full<Bytes>>();
    for (path, method, bytes) in [
        ("/v1/postings/1", "GET", 9),
        ("/v1/postings/1", "HEAD", 0),
        ("/chunked", "GET", 100),
        ("/content_length", "GET", 100),
        ("/nothing", "GET", 0),
    ] {
        for client in [&service.client, &http2] {
            let request = support::get(&format!("http://{}{path}", service.address), &secret)
                .method(method)
                .body(http_body_util::Full::default())
                .unwrap();
            let response = Answer::of(client.request(request).await.unwrap()).await;
            assert_eq!(response.body.len(), bytes);
        }
        let events = service.events().await;
        for event in &events[..2] {
            assert_eq!(event.outcome, Outcome::Completed, "{path} {method}");
            assert_eq!(event.response_bytes, bytes as u64, "{path} {method}");
        }
    }
    let response = service
        .send_body(support::post("/v1/postings", &secret), "four")
        .await;
    assert_eq!(response.body, "four");
    let event = &service.events().await[0];
    assert_eq!((event.request_bytes, event.response_bytes), (4, 4));
}

fn ticking() -> Router {
    let stream = || async {
        let ticks = tokio_stream::StreamExt::then(tokio_stream::iter(0..), |n| async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok::<_, std::io::Error>(sse::Event::default().data(n.to_string()))
        });
        Sse::new(ticks).into_response()
    };
    Router::new()
        .route("/ticks", get(stream))
        .route("/never", get(std::future::pending::<&'static str>))
}

#[tokio::test]
async fn upgrade_is_recorded_when_its_handshake_completes() {
    let upgrade = || async {
        (
            StatusCode::SWITCHING_PROTOCOLS,
            [("upgrade", "x"), ("connection", "upgrade")],
        )
    };
    let service = Service::start(Router::new().route("/ws", get(upgrade)), |layer| layer).await;
    let secret = service.key().await.secret.expose().to_owned();
    let mut raw = tokio::net::TcpStream::connect(service.address)
        .await
        .unwrap();
    let request = format!(
        "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: x\r\nx-api-key: {secret}\r\n\r\n"
    );
    raw.write_all(request.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    raw.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 101");
    service.until_open(0).await;
    let [event] = &*service.events().await else {
        panic!("one event")
    };
    assert_eq!(
        (event.status, event.outcome),
        (Status::Http(101), Outcome::Completed)
    );
}

type Chunk = Result<Bytes, std::io::Error>;

/// The response of a service behind the layer with this status, content length and body; without a socket.
async fn response_with(
    service: &Service,
    method: Method,
    status: u16,
    content_length: Option<u64>,
    chunks: impl Stream<Item = Chunk> + Send + 'static,
) -> http::Response<keytally::ResponseBody<Body>> {
    let layer = ApiKeyLayer::new(service.backend.clone()).recorder(service.recorder.clone());
    let mut response = Response::builder().status(status);
    if let Some(length) = content_length {
        response = response.header("content-length", length);
    }
    let response = response.body(Body::from_stream(chunks));
    let response = Arc::new(Mutex::new(response.ok()));
    let inner = tower::service_fn(move |_: http::Request<String>| {
        std::future::ready(Ok::<_, std::convert::Infallible>(
            response.lock().unwrap().take().unwrap(),
        ))
    });
    let secret = service.key().await.secret.expose().to_owned();
    let request = support::get("/", &secret)
        .method(method)
        .body(String::new())
        .unwrap();
    layer.layer(inner).call(request).await.unwrap()
}

/// A limiter that never decides.
struct HangingLimiter;

impl Limiter for HangingLimiter {
    fn attach(&self, _: &[SubjectLimits<'_>], _: Now) -> Result<Arc<dyn LimitHandle>, LimitError> {
        Ok(Arc::new(HangingHandle))
    }
}

#[derive(Debug)]
struct HangingHandle;

impl LimitHandle for HangingHandle {
    fn acquire(&self, _: u32, _: Now) -> keytally::limit::LimitResponse {
        keytally::limit::LimitResponse::Pending(Box::pin(std::future::pending()))
    }
}

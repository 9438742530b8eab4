//! Layers of tower-http outside of the API key layer and inside of it, in every combination: what clients get, and
//! what is recorded. The guide's table of the recommended order has its reasons here.
use crate::support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use keytally::backend::MemoryBackend;
use keytally::key::NewKey;
use keytally::limit::RateLimit;
use keytally::usage::{
    Cause, LogQuery, Outcome, Recorder, Status, UNMATCHED, UsageEvent, UsageReader,
};
use keytally::{ApiKeyLayer, RESPONSE_HEADERS};
use support::Answer;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{Any, CorsLayer};
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::normalize_path::NormalizePathLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

const SECOND: Duration = Duration::from_secs(1);

/// Bits of a combination: set where the layer is outside of the API key layer.
const NORMALIZE_PATH: u8 = 1;
const CORS: u8 = 2;
const REQUEST_ID: u8 = 4;
const TRACE: u8 = 8;
const BODY_LIMIT: u8 = 16;
const TIMEOUT: u8 = 32;
const COMPRESSION: u8 = 64;
const CATCH_PANIC: u8 = 128;

/// The order that the guide recommends.
const RECOMMENDED: u8 = NORMALIZE_PATH | CORS | REQUEST_ID | TRACE;

const TEXT: &str = "a baker, a joiner, a smith; ";

fn routes() -> Router {
    let id = async |headers: HeaderMap| {
        let id = headers.get("x-request-id").cloned();
        let id = id.unwrap_or(HeaderValue::from_static("none"));
        ([("x-handled-id", id)], "")
    };
    Router::new()
        .route("/v1/postings", get(async || TEXT.repeat(200)))
        .route(
            "/v1/upload",
            post(async |body: String| body.len().to_string()),
        )
        .route("/id", get(id))
        .route("/slow", get(async || tokio::time::sleep(60 * SECOND).await))
        .route("/panic", get(panics))
}

async fn panics() -> &'static str {
    panic!("a handler that panics, on purpose")
}

/// A service with one combination of layers.
struct Ordered {
    service: BoxCloneSyncService<Request<Body>, http::Response<Body>, Infallible>,
    backend: MemoryBackend,
    recorder: Recorder,
    traced: Arc<AtomicUsize>,
    key: String,
}

impl Ordered {
    async fn new(outside: u8) -> Self {
        let backend = MemoryBackend::new();
        let recorder = Recorder::new(backend.clone());
        let layer = ApiKeyLayer::new(backend.clone()).recorder(recorder.clone());
        let traced = Arc::new(AtomicUsize::new(0));
        let inner = layers(routes(), !outside & !NORMALIZE_PATH, &traced);
        let inner = match outside & NORMALIZE_PATH {
            // What axum does with a layer: it routes first.
            0 => inner.layer(NormalizePathLayer::trim_trailing_slash()),
            _ => inner,
        };
        let router = layers(inner.layer(layer), outside & !NORMALIZE_PATH, &traced);
        let service = match outside & NORMALIZE_PATH {
            0 => BoxCloneSyncService::new(router),
            _ => {
                let layer = NormalizePathLayer::trim_trailing_slash();
                BoxCloneSyncService::new(layer.layer(router))
            }
        };
        let limit = RateLimit::per_hour(1_000).with_name("hourly");
        let key = support::issue(&backend, NewKey::new("any").limit(limit)).await;
        Self {
            service,
            backend,
            recorder,
            traced,
            key: key.secret.expose().to_owned(),
        }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.service.clone().oneshot(request).await;
        Answer::of(response.unwrap()).await
    }

    async fn ask(&self, method: Method, path: &str, with_key: bool, body: &'static str) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("origin", "https://app.example")
            .header("accept-encoding", "gzip");
        if with_key {
            request = request.header("x-api-key", &self.key);
        }
        if !body.is_empty() {
            request = request.header("content-length", body.len());
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, true, "").await
    }

    /// The events of what was just done.
    async fn events(&self, seen: &mut usize) -> Vec<UsageEvent> {
        self.recorder.flush().await;
        let page = self.backend.requests(&LogQuery::default()).await.unwrap();
        let new = page.items.len() - *seen;
        *seen = page.items.len();
        page.items.into_iter().take(new).collect()
    }
}

/// Puts layers around a router, the first of them outermost.
fn layers(mut router: Router, which: u8, traced: &Arc<AtomicUsize>) -> Router {
    let has = |layer| which & layer != 0;
    if has(CATCH_PANIC) {
        router = router.layer(CatchPanicLayer::new());
    }
    if has(COMPRESSION) {
        router = router.layer(CompressionLayer::new());
    }
    if has(TIMEOUT) {
        let layer = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, 5 * SECOND);
        router = router.layer(layer);
    }
    if has(BODY_LIMIT) {
        router = router.layer(RequestBodyLimitLayer::new(1_024));
    }
    if has(TRACE) {
        let traced = traced.clone();
        let count = move |_: &http::Response<_>, _: Duration, _: &tracing::Span| {
            traced.fetch_add(1, Ordering::Relaxed);
        };
        router = router.layer(TraceLayer::new_for_http().on_response(count));
    }
    if has(REQUEST_ID) {
        router = router
            .layer(PropagateRequestIdLayer::x_request_id())
            .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid));
    }
    if has(CORS) {
        let cors = CorsLayer::new().allow_origin(Any).allow_headers(Any);
        router = router.layer(cors.expose_headers(RESPONSE_HEADERS));
    }
    router
}

#[track_caller]
fn one(events: Vec<UsageEvent>, what: &str) -> UsageEvent {
    assert_eq!(events.len(), 1, "{what}: {events:?}");
    events.into_iter().next().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_each_order_of_layers_does() {
    static LARGE: [u8; 4_096] = [b'x'; 4_096];
    let large = std::str::from_utf8(&LARGE).unwrap();
    for outside in 0..=u8::MAX {
        let is_out = |layer| outside & layer != 0;
        let what = format!("{outside:08b}");
        let service = Ordered::new(outside).await;
        let seen = &mut 0;

        // A request that is admitted: its bytes are those on the wire where compression is inside.
        let answer = service.get("/v1/postings").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["content-encoding"], "gzip");
        assert!(answer.headers.contains_key("ratelimit"));
        assert!(answer.headers.contains_key("access-control-allow-origin"));
        let event = one(service.events(seen).await, &what);
        assert_eq!(
            (event.outcome, event.status),
            (Outcome::Completed, Status::Http(200))
        );
        assert_eq!(&*event.endpoint, "/v1/postings");
        let (plain, wire) = (TEXT.len() as u64 * 200, answer.body.len() as u64);
        assert!(wire < plain);
        assert_eq!(
            event.response_bytes,
            if is_out(COMPRESSION) { plain } else { wire }
        );

        // The id that the client sees is the event's and, where it is set outside, the handler's.
        let answer = service.get("/id").await;
        let event = one(service.events(seen).await, &what);
        let id = answer.header("x-request-id").unwrap();
        assert_eq!(event.wire_id(), id, "{what}");
        assert_eq!(
            answer.header("x-handled-id") == Some(id),
            is_out(REQUEST_ID),
            "{what}"
        );

        // Browsers read a refusal only where CORS is outside, and traces have it only where they are.
        let traced = service.traced.load(Ordering::Relaxed);
        let answer = service.ask(Method::GET, "/v1/postings", false, "").await;
        assert_eq!(answer.status, 401);
        let readable = answer.headers.contains_key("access-control-allow-origin");
        assert_eq!(readable, is_out(CORS), "{what}");
        let exposed = answer.header("access-control-expose-headers");
        assert_eq!(
            exposed.is_some_and(|names| names.contains("retry-after")),
            is_out(CORS)
        );
        assert_eq!(
            service.traced.load(Ordering::Relaxed) > traced,
            is_out(TRACE)
        );
        assert!(service.events(seen).await.is_empty());

        // A preflight has no key.
        let preflight = Request::options("/v1/postings")
            .header("origin", "https://app.example")
            .header("access-control-request-method", "GET");
        let answer = service.send(preflight.body(Body::empty()).unwrap()).await;
        assert_eq!(
            answer.status,
            if is_out(CORS) { 200 } else { 401 },
            "{what}"
        );
        assert!(service.events(seen).await.is_empty());

        // A panic is an event with the status of what catches it, in both orders.
        let answer = service.get("/panic").await;
        assert_eq!(answer.status, 500);
        assert_eq!(
            answer.headers.contains_key("ratelimit"),
            !is_out(CATCH_PANIC),
            "{what}"
        );
        let event = one(service.events(seen).await, &what);
        assert_eq!(event.status, Status::Http(500), "{what}");
        assert_eq!(event.cause, Some(Cause::ServerError));

        // A timeout outside ends the request as a client does that goes away.
        let answer = service.get("/slow").await;
        assert_eq!(answer.status, 504);
        assert_eq!(
            answer.headers.contains_key("ratelimit"),
            !is_out(TIMEOUT),
            "{what}"
        );
        let event = one(service.events(seen).await, &what);
        let expected = match is_out(TIMEOUT) {
            true => (Status::None, Some(Cause::Cancelled)),
            false => (Status::Http(504), Some(Cause::ServerError)),
        };
        assert_eq!((event.status, event.cause), expected, "{what}");

        // A body limit outside tells clients without a key apart, and accounts for nothing.
        for with_key in [true, false] {
            let answer = service
                .ask(Method::POST, "/v1/upload", with_key, large)
                .await;
            let refused = !with_key && !is_out(BODY_LIMIT);
            assert_eq!(answer.status, if refused { 401 } else { 413 }, "{what}");
            let events = service.events(seen).await;
            if with_key && !is_out(BODY_LIMIT) {
                let event = one(events, &what);
                assert_eq!(event.status, Status::Http(413));
                assert_eq!(event.cause, Some(Cause::ClientError));
            } else {
                assert!(events.is_empty(), "{what}: {events:?}");
            }
        }

        // A path is normalized before it is routed only outside of the router.
        let answer = service.get("/v1/postings/").await;
        let event = one(service.events(seen).await, &what);
        match is_out(NORMALIZE_PATH) {
            true => {
                assert_eq!(answer.status, 200);
                assert_eq!(
                    (&*event.endpoint, &*event.path),
                    ("/v1/postings", "/v1/postings")
                );
            }
            false => {
                assert_eq!(answer.status, 404);
                assert_eq!(
                    (&*event.endpoint, &*event.path),
                    (UNMATCHED, "/v1/postings/")
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_the_recommended_order_every_response_is_whole_and_every_event_right() {
    let service = Ordered::new(RECOMMENDED).await;
    for (path, status) in [
        ("/v1/postings", 200),
        ("/v1/postings/", 200),
        ("/nowhere", 404),
        ("/panic", 500),
        ("/slow", 504),
    ] {
        let answer = service.get(path).await;
        assert_eq!(answer.status, status);
        for name in [
            "x-request-id",
            "ratelimit",
            "ratelimit-policy",
            "access-control-allow-origin",
        ] {
            assert!(answer.headers.contains_key(name), "{path}: {name}");
        }
        let exposed = answer.header("access-control-expose-headers").unwrap();
        for name in &RESPONSE_HEADERS {
            assert!(exposed.contains(name.as_str()), "{name}");
        }
    }
    service.recorder.flush().await;
    let page = service
        .backend
        .requests(&LogQuery::default())
        .await
        .unwrap();
    let statuses: Vec<_> = page.items.iter().rev().map(|event| event.status).collect();
    assert_eq!(statuses, [200, 200, 404, 500, 504].map(Status::Http));
    let blamed = |cause| {
        page.items
            .iter()
            .filter(|event| event.cause == Some(cause))
            .count()
    };
    assert_eq!(blamed(Cause::ServerError), 2);
    assert_eq!(blamed(Cause::Cancelled), 0);
}

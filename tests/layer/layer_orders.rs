//! tower-http layers outside and inside the API key layer, in every combination: what clients receive and what is
//! recorded. These tests back the guide's table of the recommended layer order.
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

/// Bits of a combination: set if the layer is outside the API key layer.
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
    panic!("simulated handler panic")
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
            // A layer of an axum router runs after routing.
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

    async fn request_to(
        &self,
        method: Method,
        path: &str,
        with_key: bool,
        body: &'static str,
    ) -> Answer {
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
        self.request_to(Method::GET, path, true, "").await
    }

    /// The events recorded since the last call.
    async fn events(&self, seen: &mut usize) -> Vec<UsageEvent> {
        self.recorder.flush().await;
        let page = self.backend.requests(&LogQuery::default()).await.unwrap();
        let new = page.items.len() - *seen;
        *seen = page.items.len();
        page.items.into_iter().take(new).collect()
    }
}

/// Adds the selected layers to a router; those added last are outermost.
fn layers(mut router: Router, selected: u8, traced: &Arc<AtomicUsize>) -> Router {
    let has = |layer| selected & layer != 0;
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
fn single(events: Vec<UsageEvent>, combination: &str) -> UsageEvent {
    assert_eq!(events.len(), 1, "{combination}: {events:?}");
    events.into_iter().next().unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_layer_order_has_its_documented_effects() {
    static LARGE: [u8; 4_096] = [b'x'; 4_096];
    let large = std::str::from_utf8(&LARGE).unwrap();
    for outside in 0..=u8::MAX {
        let is_outside = |layer| outside & layer != 0;
        let combination = format!("{outside:08b}");
        let service = Ordered::new(outside).await;
        let seen = &mut 0;

        // An admitted request: compressed bytes are counted if compression is inside.
        let response = service.get("/v1/postings").await;
        assert_eq!(response.status, 200);
        assert_eq!(response.headers["content-encoding"], "gzip");
        assert!(response.headers.contains_key("ratelimit"));
        assert!(response.headers.contains_key("access-control-allow-origin"));
        let event = single(service.events(seen).await, &combination);
        assert_eq!(
            (event.outcome, event.status),
            (Outcome::Completed, Status::Http(200))
        );
        assert_eq!(&*event.endpoint, "/v1/postings");
        let (plain, wire) = (TEXT.len() as u64 * 200, response.body.len() as u64);
        assert!(wire < plain);
        assert_eq!(
            event.response_bytes,
            if is_outside(COMPRESSION) { plain } else { wire }
        );

        // The client's request id is the event's and, if it is set outside, also the handler's.
        let response = service.get("/id").await;
        let event = single(service.events(seen).await, &combination);
        let id = response.header("x-request-id").unwrap();
        assert_eq!(event.request_id_or_id(), id, "{combination}");
        assert_eq!(
            response.header("x-handled-id") == Some(id),
            is_outside(REQUEST_ID),
            "{combination}"
        );

        // Browsers can read rejections only if CORS is outside; they are traced only if tracing is outside.
        let traced = service.traced.load(Ordering::Relaxed);
        let response = service
            .request_to(Method::GET, "/v1/postings", false, "")
            .await;
        assert_eq!(response.status, 401);
        let readable = response.headers.contains_key("access-control-allow-origin");
        assert_eq!(readable, is_outside(CORS), "{combination}");
        let exposed = response.header("access-control-expose-headers");
        assert_eq!(
            exposed.is_some_and(|names| names.contains("retry-after")),
            is_outside(CORS)
        );
        assert_eq!(
            service.traced.load(Ordering::Relaxed) > traced,
            is_outside(TRACE)
        );
        assert!(service.events(seen).await.is_empty());

        // Preflights carry no key: they succeed only if CORS is outside.
        let preflight = Request::options("/v1/postings")
            .header("origin", "https://app.example")
            .header("access-control-request-method", "GET");
        let response = service.send(preflight.body(Body::empty()).unwrap()).await;
        assert_eq!(
            response.status,
            if is_outside(CORS) { 200 } else { 401 },
            "{combination}"
        );
        assert!(service.events(seen).await.is_empty());

        // A panic is recorded as 500 in both orders.
        let response = service.get("/panic").await;
        assert_eq!(response.status, 500);
        assert_eq!(
            response.headers.contains_key("ratelimit"),
            !is_outside(CATCH_PANIC),
            "{combination}"
        );
        let event = single(service.events(seen).await, &combination);
        assert_eq!(event.status, Status::Http(500), "{combination}");
        assert_eq!(event.cause, Some(Cause::ServerError));

        // An outer timeout is recorded like a client disconnect.
        let response = service.get("/slow").await;
        assert_eq!(response.status, 504);
        assert_eq!(
            response.headers.contains_key("ratelimit"),
            !is_outside(TIMEOUT),
            "{combination}"
        );
        let event = single(service.events(seen).await, &combination);
        let expected = match is_outside(TIMEOUT) {
            true => (Status::None, Some(Cause::Cancelled)),
            false => (Status::Http(504), Some(Cause::ServerError)),
        };
        assert_eq!((event.status, event.cause), expected, "{combination}");

        // An outer body limit rejects requests before the key is checked, and such requests are not recorded.
        for with_key in [true, false] {
            let response = service
                .request_to(Method::POST, "/v1/upload", with_key, large)
                .await;
            let unauthorized = !with_key && !is_outside(BODY_LIMIT);
            assert_eq!(
                response.status,
                if unauthorized { 401 } else { 413 },
                "{combination}"
            );
            let events = service.events(seen).await;
            if with_key && !is_outside(BODY_LIMIT) {
                let event = single(events, &combination);
                assert_eq!(event.status, Status::Http(413));
                assert_eq!(event.cause, Some(Cause::ClientError));
            } else {
                assert!(events.is_empty(), "{combination}: {events:?}");
            }
        }

        // Paths are normalized before routing only if the layer is outside the router.
        let response = service.get("/v1/postings/").await;
        let event = single(service.events(seen).await, &combination);
        match is_outside(NORMALIZE_PATH) {
            true => {
                assert_eq!(response.status, 200);
                assert_eq!(
                    (&*event.endpoint, &*event.path),
                    ("/v1/postings", "/v1/postings")
                );
            }
            false => {
                assert_eq!(response.status, 404);
                assert_eq!(
                    (&*event.endpoint, &*event.path),
                    (UNMATCHED, "/v1/postings/")
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn recommended_order_gives_complete_responses_and_correct_events() {
    let service = Ordered::new(RECOMMENDED).await;
    for (path, status) in [
        ("/v1/postings", 200),
        ("/v1/postings/", 200),
        ("/nowhere", 404),
        ("/panic", 500),
        ("/slow", 504),
    ] {
        let response = service.get(path).await;
        assert_eq!(response.status, status);
        for name in [
            "x-request-id",
            "ratelimit",
            "ratelimit-policy",
            "access-control-allow-origin",
        ] {
            assert!(response.headers.contains_key(name), "{path}: {name}");
        }
        let exposed = response.header("access-control-expose-headers").unwrap();
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
    let count_by_cause = |cause| {
        page.items
            .iter()
            .filter(|event| event.cause == Some(cause))
            .count()
    };
    assert_eq!(count_by_cause(Cause::ServerError), 2);
    assert_eq!(count_by_cause(Cause::Cancelled), 0);
}

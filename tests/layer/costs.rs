//! Costs that are set while or after a request is processed.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::{Response, StatusCode};
use keytally::key::NewKey;
use keytally::limit::RateLimit;
use keytally::{ApiKeyLayer, Caller, Cost};
use tokio_stream::StreamExt;

use crate::support::{Service, get as request};

async fn charged(caller: Caller) -> &'static str {
    assert_eq!(caller.charged(), None);
    caller.charge(7);
    // The last call counts.
    caller.clone().charge(42);
    assert_eq!(caller.charged(), Some(42));
    "charged"
}

/// Charges for each chunk as it is sent.
async fn streamed(caller: Caller) -> Body {
    let chunks = tokio_stream::iter(1..=5).map(move |n| {
        caller.charge(10 * n);
        Ok::<_, std::convert::Infallible>(Bytes::from("chunk"))
    });
    Body::from_stream(chunks)
}

async fn in_extension() -> Response<Body> {
    let mut response = Response::new(Body::from("rows"));
    response.extensions_mut().insert(Cost(3));
    response
}

fn routes() -> Router {
    Router::new()
        .route("/charged", get(charged))
        .route("/streamed", get(streamed))
        .route("/extension", get(in_extension))
        .route("/fixed", get(|| async { "fixed" }))
}

async fn costs(service: &Service) -> Vec<(String, u32)> {
    let mut events = service.events().await;
    events.reverse();
    let costs = events.iter().map(|it| (it.endpoint.to_string(), it.cost));
    costs.collect()
}

#[tokio::test]
async fn recorded_cost_is_the_last_one_set() {
    let service = Service::start(routes(), |layer| layer.cost(|_| 2)).await;
    let limit = RateLimit::per_hour(20);
    let key = service.issue(NewKey::new("x").limit(limit)).await;
    // Twice, since the memory of a request is used for the next one.
    for _ in 0..2 {
        for path in ["/charged", "/streamed", "/extension", "/fixed"] {
            let answer = service.get(path, key.secret.expose()).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}");
        }
    }
    let expected = [
        ("/charged", 42),
        ("/streamed", 50),
        ("/extension", 3),
        ("/fixed", 2),
    ];
    let expected = expected.map(|(path, cost)| (path.to_owned(), cost));
    assert_eq!(costs(&service).await, [expected.clone(), expected].concat());
    assert_eq!(service.summary().await.totals.cost(), 2 * (42 + 50 + 3 + 2));
    // The rate limit was charged 2 for each request.
    let last = service.get("/fixed", key.secret.expose()).await;
    assert_eq!(last.status, StatusCode::OK);
    let remaining = last.header("ratelimit").unwrap();
    assert!(remaining.starts_with(r#""hour";r=2;"#), "{remaining}");
}

#[tokio::test]
async fn a_cost_set_after_the_end_of_a_request_has_no_effect() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let route = get(move |caller: Caller| async move {
        keep.lock().unwrap().push(caller);
    });
    let service = Service::plain(Router::new().route("/", route)).await;
    let key = service.key().await;
    for _ in 0..3 {
        service.get("/", key.secret.expose()).await;
        for caller in &*kept.lock().unwrap() {
            caller.charge(1_000);
        }
    }
    service.get("/", key.secret.expose()).await;
    assert_eq!(service.summary().await.totals.cost(), 4);
}

#[tokio::test]
async fn anonymous_and_nested_requests_have_costs_too() {
    let service = Service::start(routes(), ApiKeyLayer::allow_anonymous).await;
    let anonymous = service.send(http::Request::get("/extension")).await;
    assert_eq!(anonymous.status, StatusCode::OK);
    assert_eq!(costs(&service).await, [("/extension".to_owned(), 3)]);

    let backend = keytally::backend::MemoryBackend::new();
    let recorder = keytally::usage::Recorder::new(backend.clone());
    let layer = ApiKeyLayer::new(backend.clone()).recorder(recorder.clone());
    let routes = routes().layer(layer.clone()).layer(layer);
    let address = crate::support::serve(routes).await;
    let key = crate::support::issue(&backend, NewKey::new("nested")).await;
    let nested = Service {
        address,
        backend,
        recorder,
        client: service.client.clone(),
    };
    nested.send(request("/charged", key.secret.expose())).await;
    assert_eq!(costs(&nested).await, [("/charged".to_owned(), 42)]);
}

mod by_route {
    use std::time::Duration;

    use keytally::usage::{Outcome, RejectionReason};
    use keytally::{Clock, RouteCost};
    use tower::ServiceExt;

    use super::*;

    fn text() -> axum::routing::MethodRouter {
        get(|| async { "text" })
    }

    fn routes() -> Router {
        Router::new()
            .route("/export", text().route_layer(RouteCost::new(5)))
            .route("/free", text().route_layer(RouteCost::new(0)))
            .route(
                "/corrected",
                get(charged_less).route_layer(RouteCost::new(5)),
            )
            .route("/postings", text())
            .route(
                "/innermost",
                text()
                    .route_layer(RouteCost::new(2))
                    .route_layer(RouteCost::new(0)),
            )
    }

    async fn charged_less(caller: Caller) {
        assert_eq!(caller.charged(), Some(5));
        caller.charge(4);
    }

    /// Status, remaining, wait.
    async fn ask(service: &Service, secret: &str, path: &str) -> (u16, String, Option<String>) {
        let answer = service.get(path, secret).await;
        let remaining = answer.header("ratelimit").unwrap();
        let (_, remaining) = remaining.split_once("r=").unwrap();
        let remaining = remaining.split(';').next().unwrap().to_owned();
        let wait = answer.header("retry-after").map(str::to_owned);
        (answer.status.as_u16(), remaining, wait)
    }

    #[tokio::test]
    async fn route_cost_is_charged_reported_and_recorded() {
        let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
        let service = Service::start(routes(), |layer| layer.clock(clock.clone())).await;
        let limit = RateLimit::per_hour(12);
        let key = service.issue(NewKey::new("x").limit(limit)).await;
        let secret = key.secret.expose();
        for (path, status, remaining, wait) in [
            ("/export", 200, "7", None),
            ("/free", 200, "7", None),
            ("/corrected", 200, "2", None),
            // Rejected at no cost. Each request takes 300 seconds to be restored.
            ("/export", 429, "2", Some("900")),
            ("/postings", 200, "1", None),
            ("/innermost", 429, "1", Some("300")),
            ("/free", 200, "1", None),
        ] {
            let wait = wait.map(str::to_owned);
            let expected = (status, remaining.to_owned(), wait);
            assert_eq!(ask(&service, secret, path).await, expected, "{path}");
            // Events are ordered by time.
            clock.advance(Duration::from_millis(1));
        }
        // Waiting `Retry-After` suffices.
        clock.advance(Duration::from_secs(300));
        assert_eq!(ask(&service, secret, "/innermost").await.0, 200);
        let mut events = service.events().await;
        events.sort_by_key(|event| event.id);
        let recorded: Vec<_> = events
            .iter()
            .map(|event| (&*event.endpoint, event.cost, event.rejection_reason))
            .collect();
        let limited = Some(RejectionReason::RateLimited);
        assert_eq!(
            recorded,
            [
                ("/export", 5, None),
                ("/free", 0, None),
                ("/corrected", 4, None),
                ("/export", 0, limited),
                ("/postings", 1, None),
                ("/innermost", 0, limited),
                ("/free", 0, None),
                ("/innermost", 2, None),
            ]
        );
        assert_eq!(events[3].outcome, Outcome::RateLimited);
        assert!(!events[3].billable);
    }

    #[tokio::test]
    async fn cost_beyond_the_burst_is_rejected_without_a_wait() {
        let service = Service::start(routes(), |layer| layer).await;
        let limit = RateLimit::per_hour(4);
        let key = service.issue(NewKey::new("x").limit(limit)).await;
        let answer = ask(&service, key.secret.expose(), "/export").await;
        assert_eq!(answer, (429, "4".to_owned(), None));
        // The cost of the layer is charged first: the key has no capacity for it.
        for _ in 0..4 {
            assert_eq!(ask(&service, key.secret.expose(), "/postings").await.0, 200);
        }
        assert_eq!(ask(&service, key.secret.expose(), "/free").await.0, 429);
    }

    #[tokio::test]
    async fn keys_without_limits_anonymous_and_unprotected_requests() {
        let service = Service::start(routes(), ApiKeyLayer::allow_anonymous).await;
        let key = service.key().await;
        let answer = service.get("/export", key.secret.expose()).await;
        assert_eq!(answer.status, StatusCode::OK);
        let anonymous = service.send(http::Request::get("/export")).await;
        assert_eq!(anonymous.status, StatusCode::OK);
        let costs = costs(&service).await;
        assert_eq!(
            costs,
            [("/export".to_owned(), 5), ("/export".to_owned(), 0)]
        );
        let request = http::Request::get("/export").body(Body::empty()).unwrap();
        let unprotected = routes().oneshot(request).await.unwrap();
        assert_eq!(unprotected.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}

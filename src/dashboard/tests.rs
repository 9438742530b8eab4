use axum::body::Body;
use http::Request;
use http::header::AUTHORIZATION;
use tower::ServiceExt;

use crate::backend::MemoryBackend;
use crate::dashboard::{BearerToken, Dashboard};
use crate::key::StoreError;
use crate::test_tracing::CapturedEvents;
use crate::usage::ReadError;
use crate::web::Problem;

#[test]
fn store_errors_are_logged_but_never_sent_to_clients() {
    let events = CapturedEvents::default();
    let _capture = events.capture();
    let problems: [Problem; 2] = [
        StoreError::unavailable("the disk is full").into(),
        ReadError::unavailable("the disk is full").into(),
    ];
    for problem in problems {
        let body = serde_json::to_string(&problem).unwrap();
        assert!(!body.contains("disk"), "{body}");
    }
    assert_eq!(events.values_of("error"), ["the disk is full"; 2]);
}

#[tokio::test]
async fn rejected_credentials_are_logged() {
    let guard = BearerToken::new("a token of sixteen or more").unwrap();
    let dashboard = Dashboard::new(MemoryBackend::new(), guard);
    let router = dashboard.into_router();
    let events = CapturedEvents::default();
    let _capture = events.capture();
    for (credentials, path) in [
        (None, "/keys"),
        (Some("Bearer a token of sixteen or more"), "/keys"),
        (Some("Bearer another of sixteen or more"), "/keys"),
        (Some("Bearer another of sixteen or more"), "/api/keys"),
    ] {
        let mut request = Request::get(path);
        if let Some(credentials) = credentials {
            request = request.header(AUTHORIZATION, credentials);
        }
        let request = request.body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap();
    }
    // Logged once per second: the second rejection is counted in the next message.
    let rejected = "dashboard credentials rejected";
    assert_eq!(events.values_of("message"), [rejected]);
    assert_eq!(events.values_of("requests"), ["1"]);
}

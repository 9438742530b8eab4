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
fn operators_are_told_why_the_store_failed_and_clients_are_not() {
    let told = CapturedEvents::default();
    let _listening = told.capture();
    let problems: [Problem; 2] = [
        StoreError::unavailable("the disk is full").into(),
        ReadError::unavailable("the disk is full").into(),
    ];
    for problem in problems {
        let answer = serde_json::to_string(&problem).unwrap();
        assert!(!answer.contains("disk"), "{answer}");
    }
    assert_eq!(told.values_of("error"), ["the disk is full"; 2]);
}

#[tokio::test]
async fn operators_are_told_of_refused_credentials() {
    let guard = BearerToken::new("a token of sixteen or more").unwrap();
    let dashboard = Dashboard::new(MemoryBackend::new(), guard).unwrap();
    let router = dashboard.into_router();
    let told = CapturedEvents::default();
    let _listening = told.capture();
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
    // The second is told with those of the second after.
    let refused = "credentials for the dashboard were rejected";
    assert_eq!(told.values_of("message"), [refused]);
    assert_eq!(told.values_of("requests"), ["1"]);
}

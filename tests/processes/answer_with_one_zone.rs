//! Answers requests to the JSON API, whose paths it reads from standard input, in a process whose system time zone
//! database has one zone. Prints the status and the body of each response.

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use jiff::tz::TimeZone;
use keytally::backend::MemoryBackend;
use keytally::dashboard::{BearerToken, Dashboard};
use tower::ServiceExt;

const TOKEN: &str = "a token of sixteen or more";

pub(crate) async fn run() {
    assert!(TimeZone::get("Asia/Kathmandu").is_err());
    let guard = BearerToken::new(TOKEN).unwrap();
    let router = Dashboard::new(MemoryBackend::new(), guard).into_router();
    for path in std::io::stdin().lines() {
        let request =
            Request::get(path.unwrap()).header("authorization", format!("Bearer {TOKEN}"));
        let request = request.body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        println!("{status} {}", str::from_utf8(&body).unwrap());
    }
}

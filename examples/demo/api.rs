//! The API behind the keys, and a client of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path};
use axum::http::{Method, Request, StatusCode};
use axum::routing::get;
use keytally::key::Secret;
use tower::ServiceExt;

/// The routes of the API.
pub(crate) fn routes() -> Router {
    let thanks = |posting: String| async move { format!("thanks for {} bytes\n", posting.len()) };
    Router::new()
        .route(
            "/v1/postings",
            get(|| async { "a baker, a joiner\n" }).post(thanks),
        )
        .route(
            "/v1/postings/{id}",
            get(posting).put(posting).delete(deleted),
        )
        .route("/v1/search", get(|| async { "a baker\n" }))
        .route("/v1/reports", get(report))
}

/// The cost of a request, which is charged to the rate limits of its key.
pub(crate) fn cost(path: &str) -> u32 {
    if path == "/v1/reports" { 5 } else { 1 }
}

/// The posting in a path. Makes the request log searchable by posting.
pub(crate) fn resource_id(path: &str) -> Option<String> {
    path.strip_prefix("/v1/postings/").map(Into::into)
}

async fn posting(Path(id): Path<String>) -> Result<String, StatusCode> {
    id.parse::<u32>().map_err(|_| StatusCode::NOT_FOUND)?;
    Ok(format!("posting {id}\n"))
}

async fn deleted(path: Path<String>) -> Result<StatusCode, StatusCode> {
    posting(path).await.map(|_| StatusCode::NO_CONTENT)
}

async fn report() -> Result<&'static str, StatusCode> {
    // Reports are slow and sometimes fail.
    tokio::time::sleep(Duration::from_millis(3)).await;
    match fastrand::u32(..8) {
        0 => Err(StatusCode::INTERNAL_SERVER_ERROR),
        _ => Ok("report\n"),
    }
}

/// Sends a request through the API every few seconds. Their ids start with `demo-`.
pub(crate) async fn send_requests(api: Router, key: Secret) {
    let address = ConnectInfo(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    loop {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(2_000..8_000))).await;
        let posting = format!("/v1/postings/{}", fastrand::u32(1..900));
        let (method, path) = match fastrand::u32(..100) {
            0..35 => (Method::GET, "/v1/postings"),
            35..75 => (Method::GET, &*posting),
            75..78 => (Method::GET, "/v1/postings/missing"),
            78..95 => (Method::GET, "/v1/search"),
            95..98 => (Method::POST, "/v1/postings"),
            _ => (Method::GET, "/v1/reports"),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", key.expose()))
            .header("x-request-id", format!("demo-{:08x}", fastrand::u32(..)))
            .extension(address)
            .body(Body::empty());
        let Ok(request) = request else { continue };
        let Ok(response) = api.clone().oneshot(request).await;
        // A request is recorded at the end of its response body.
        let _ = axum::body::to_bytes(response.into_body(), 1 << 20).await;
    }
}

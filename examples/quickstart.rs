//! An API with keys, rate limits and usage accounting, in memory.
//!
//! ```text
//! cargo run --example quickstart --features axum
//! ```
//!
//! Run the printed commands. `PORT` sets the port; `0` picks a free one.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, Issuer, NewKey};
use keytally::limit::RateLimit;
use keytally::usage::{
    LogFilter, LogQuery, Recorder, SummaryQuery, SummarySpec, UsageRange, UsageReader,
};
use keytally::{ApiKeyLayer, Caller, PageToken};
use serde::Deserialize;
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = MemoryBackend::new();
    let recorder = Recorder::new(backend.clone());
    let layer = ApiKeyLayer::new(backend.clone())
        .recorder(recorder.clone())
        .resource_id(|head| {
            head.uri()
                .path()
                .strip_prefix("/v1/postings/")
                .map(Into::into)
        })
        .exempt("/health");

    let app = Router::new()
        .route("/v1/postings", get(list).post(create))
        .route("/v1/postings/{id}", get(posting))
        .route("/usage", get(usage))
        .route("/health", get(|| async { "ok" }))
        .with_state(Usage {
            backend: backend.clone(),
            recorder: recorder.clone(),
        })
        .layer(layer);

    let new = NewKey::new("Zapier integration")
        .owner("customer-17")
        .limit(RateLimit::per_second(5).with_burst(10).with_name("burst"));
    let issued = Issuer::new("acme_live")?
        .issue(&backend, new, Actor::SYSTEM)
        .await?;

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let address = listener.local_addr()?;
    let key = issued.secret.expose();
    println!("serving on http://{address}; a fresh key: {key}\n");
    println!("curl -i http://{address}/v1/postings");
    println!("curl -i -H 'Authorization: Bearer {key}' http://{address}/v1/postings/7");
    println!("curl -i -H 'x-api-key: {key}' -d 'A new posting' http://{address}/v1/postings");
    println!("curl -s -H 'x-api-key: {key}' http://{address}/usage\n");

    // Provides the peer address for the request log and for address lists.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app)
        .with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) })
        .await?;
    let report = recorder.shutdown(Duration::from_secs(5)).await;
    println!("written: {}, lost: {}", report.written, report.lost);
    Ok(())
}

async fn list() -> Json<serde_json::Value> {
    Json(json!([{ "id": 1, "title": "Baker" }, { "id": 2, "title": "Joiner" }]))
}

async fn posting(Path(id): Path<u32>) -> Response {
    match id {
        1..=99 => Json(json!({ "id": id, "title": format!("Posting {id}") })).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn create(caller: Caller, title: String) -> impl IntoResponse {
    let posting = json!({ "id": 3, "title": title, "by": caller.name });
    (StatusCode::CREATED, Json(posting))
}

#[derive(Clone)]
struct Usage {
    backend: MemoryBackend,
    recorder: Recorder,
}

#[derive(Deserialize)]
struct LogPage {
    after: Option<PageToken>,
}

/// The summary and the request log of the calling key.
async fn usage(
    caller: Caller,
    Query(page): Query<LogPage>,
    State(Usage { backend, recorder }): State<Usage>,
) -> Result<Json<serde_json::Value>, StatusCode> {
    recorder.flush().await;
    let failed = |_| StatusCode::SERVICE_UNAVAILABLE;
    let range = UsageRange::new().key(caller.id);
    let summary = SummaryQuery::new(range, SummarySpec::new().latency());
    let summary = backend.summary(&summary).await.map_err(failed)?;
    let mut query = LogQuery::new(LogFilter::new().key(caller.id)).limit(20);
    query.page.after = page.after;
    let requests = backend.requests(&query).await.map_err(failed)?;
    Ok(Json(json!({ "summary": summary, "requests": requests })))
}

//! Cross-origin browser clients, with the CORS layer outside the API key layer, as recommended. The CORS layer
//! answers preflight requests, which carry no key, and makes rejections readable to scripts.
//!
//! ```text
//! cargo run --example cors_outside --features axum
//! ```

use std::error::Error;

use axum::Router;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::routing::get;
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, Issuer, NewKey};
use keytally::{ApiKeyLayer, RESPONSE_HEADERS};
use tower_http::cors::CorsLayer;

pub(crate) fn app(backend: MemoryBackend, origin: HeaderValue) -> Router {
    let cors = CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            HeaderName::from_static("x-api-key"),
        ])
        .expose_headers(RESPONSE_HEADERS);
    Router::new()
        .route("/v1/postings", get(async || "a baker, a joiner"))
        .layer(ApiKeyLayer::new(backend))
        // Layers added later wrap those added earlier.
        .layer(cors)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = MemoryBackend::new();
    let new = NewKey::new("Single-page application");
    let issued = Issuer::new("acme_live")?
        .issue(&backend, new, Actor::SYSTEM)
        .await?;
    let app = app(backend, HeaderValue::from_static("http://localhost:5173"));

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("serving on http://{}", listener.local_addr()?);
    println!(
        "fetch(url, {{ headers: {{ 'x-api-key': '{}' }} }})",
        issued.secret.expose()
    );
    axum::serve(listener, app).await?;
    Ok(())
}

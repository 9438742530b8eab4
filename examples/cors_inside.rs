//! Cross-origin browser clients, with the CORS layer inside the API key layer, for services that come with
//! their own CORS layer. The API key layer passes preflight requests through. Scripts cannot read rejections:
//! 401 and 429 look like network errors.
//!
//! ```text
//! cargo run --example cors_inside --features axum
//! ```

use std::error::Error;

use axum::Router;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::routing::get;
use keytally::ApiKeyLayer;
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, Issuer, NewKey};
use tower_http::cors::CorsLayer;

/// A service with its own CORS layer.
fn service(origin: HeaderValue) -> Router {
    let cors = CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            HeaderName::from_static("x-api-key"),
        ]);
    Router::new()
        .route("/v1/postings", get(async || "a baker, a joiner"))
        .layer(cors)
}

pub(crate) fn app(backend: MemoryBackend, origin: HeaderValue) -> Router {
    service(origin).layer(ApiKeyLayer::new(backend).allow_preflights())
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

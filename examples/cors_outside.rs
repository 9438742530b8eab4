//! Browsers of another origin, with the CORS layer outside of the API key layer, as recommended: it answers
//! preflights, which have no key, and lets scripts read refusals.
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
use keytally::key::{Issuer, NewKey};
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
        // A layer is outside of those that were added before it.
        .layer(cors)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = MemoryBackend::new();
    let new = NewKey::new("Single-page application");
    let issued = Issuer::new("acme_live")?.issue(&backend, new).await?;
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

//! An API with persistent keys and usage in a SQLite file.
//!
//! ```text
//! cargo run --example sqlite --features axum,sqlite -- keys.db
//! ```
//!
//! Run the printed command, stop the example with Ctrl-C and start it again: the counts persist. `PORT` sets
//! the port; `0` picks a free one.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use keytally::ApiKeyLayer;
use keytally::backend::{Retention, SqliteBackend};
use keytally::key::{Actor, Issuer, NewKey};
use keytally::usage::{Recorder, SummaryQuery, UsageReader};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "keys.db".into());
    let backend = SqliteBackend::open(&path).await?;
    backend.migrate().await?;
    // Prunes old data until dropped.
    let _maintenance = backend.maintain(Retention::new());
    let so_far = backend.summary(&SummaryQuery::default()).await?.totals;
    println!("{path} has counted {} requests", so_far.total());

    let new = NewKey::new("Zapier integration").owner("customer-17");
    let issued = Issuer::new("acme_live")?
        .issue(&backend, new, Actor::SYSTEM)
        .await?;

    let recorder = Recorder::new(backend.clone());
    let layer = ApiKeyLayer::new(backend).recorder(recorder.clone());
    let app = Router::new()
        .route("/v1/postings", get(|| async { "a baker, a joiner" }))
        .layer(layer);

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let (address, key) = (listener.local_addr()?, issued.secret.expose());
    println!("curl -i -H 'Authorization: Bearer {key}' http://{address}/v1/postings");

    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app)
        .with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) })
        .await?;
    let report = recorder.shutdown(Duration::from_secs(5)).await;
    println!("written: {}, lost: {}", report.written, report.lost);
    Ok(())
}

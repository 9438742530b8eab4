//! An API with keys and usage in PostgreSQL, shared by any number of instances.
//!
//! ```text
//! cargo run --example postgres --features axum,postgres,sqlite -- postgres://user:password@localhost/app
//! ```
//!
//! The URL can also be set in `DATABASE_URL`. Run the printed command, stop the example with Ctrl-C and start
//! it again: the counts persist. If you stop the database meanwhile, a recently used key keeps working for half
//! a minute, and its usage is spooled until the database is back. The spool is `spool.db`, or the file named by
//! the second argument. `PORT` sets the port; `0` picks a free one.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use keytally::ApiKeyLayer;
use keytally::backend::{PostgresBackend, Retention, SqliteSpool};
use keytally::key::{Actor, Issuer, NewKey};
use keytally::usage::{Recorder, SummaryQuery, UsageReader};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = match arguments.next() {
        Some(url) => url,
        None => std::env::var("DATABASE_URL").map_err(
            |_| "missing database URL: pass it as the first argument or set DATABASE_URL",
        )?,
    };
    let spool = arguments.next().unwrap_or_else(|| "spool.db".into());

    let backend = PostgresBackend::connect(&url).await?;
    backend.migrate().await?;
    // Prunes old data until dropped.
    let _maintenance = backend.maintain(Retention::new());
    let so_far = backend.summary(&SummaryQuery::default()).await?.totals;
    println!("the database has counted {} requests", so_far.total());

    // Events left in the spool by an earlier process are written first.
    let spool = SqliteSpool::open(spool).await?;
    println!(
        "{} events are waiting in the spool",
        spool.event_count().await?
    );
    let recorder = Recorder::builder(backend.clone()).spool(spool).start();

    let new = NewKey::new("Zapier integration").owner("customer-17");
    let issued = Issuer::new("acme_live")?
        .issue(&backend, new, Actor::SYSTEM)
        .await?;
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
    // Events that the database does not accept in time remain in the spool.
    let report = recorder.shutdown(Duration::from_secs(10)).await;
    let (written, lost, spooled) = (report.written, report.lost, report.spooled);
    println!("written: {written}, lost: {lost}, spooled: {spooled}");
    Ok(())
}

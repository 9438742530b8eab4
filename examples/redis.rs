//! Three instances of an API that share the rate limits of a key in Redis or Valkey.
//!
//! ```text
//! redis-server --port 6379 &
//! cargo run --example redis --features axum,redis,sqlite -- keys.db redis://127.0.0.1:6379/
//! ```
//!
//! The example starts three processes, each on a port of its own, with the keys in one SQLite file. Run the printed
//! command: together, the instances admit five requests a minute. Ctrl-C stops them. `PORT` sets the first port; `0` picks
//! free ones.

use std::error::Error;
use std::net::SocketAddr;
use std::process::Stdio;

use axum::Router;
use axum::routing::get;
use keytally::ApiKeyLayer;
use keytally::backend::SqliteBackend;
use keytally::key::{Actor, Issuer, NewKey};
use keytally::limit::{RateLimit, RedisConfig, RedisFallback, RedisLimiter};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

const INSTANCES: u16 = 3;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let argument = |index, default: &str| {
        let argument: Option<&String> = arguments.get(index);
        argument.cloned().unwrap_or_else(|| default.into())
    };
    let (path, redis) = (
        argument(0, "keys.db"),
        argument(1, "redis://127.0.0.1:6379/"),
    );
    match arguments.get(2) {
        Some(port) => serve(&path, &redis, port).await,
        None => start(&path, &redis).await,
    }
}

/// Creates a key and starts the instances.
async fn start(path: &str, redis: &str) -> Result<(), Box<dyn Error>> {
    let backend = SqliteBackend::open(path).await?;
    backend.migrate().await?;
    let new = NewKey::new("Zapier integration").limit(RateLimit::per_minute(5));
    let issued = Issuer::new("acme_live")?
        .issue(&backend, new, Actor::SYSTEM)
        .await?;

    let first: u16 = std::env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let (mut instances, mut addresses) = (Vec::new(), Vec::new());
    for number in 0..INSTANCES {
        let port = if first == 0 { 0 } else { first + number };
        let mut instance = Command::new(std::env::current_exe()?)
            .args([path, redis, &port.to_string()])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = instance.stdout.take().ok_or("no output")?;
        let mut lines = BufReader::new(output).lines();
        addresses.push(
            lines
                .next_line()
                .await?
                .ok_or("an instance did not start")?,
        );
        instances.push(instance);
    }
    let (key, addresses) = (issued.secret.expose(), addresses.join(","));
    println!(
        "for i in 1 2; do curl -s -w '%{{http_code}}\\n' -o /dev/null -H 'Authorization: Bearer {key}' 'http://{{{addresses}}}/v1/postings'; done"
    );
    tokio::signal::ctrl_c().await?;
    Ok(())
}

/// Runs an instance.
async fn serve(path: &str, redis: &str, port: &str) -> Result<(), Box<dyn Error>> {
    let backend = SqliteBackend::open(path).await?;
    let share = 1.0 / f64::from(INSTANCES);
    // Without Redis, each instance applies its share of the limits.
    let config = RedisConfig::new(redis)?.fallback(RedisFallback::Local { share });
    let layer = ApiKeyLayer::new(backend).limiter(RedisLimiter::new(config));
    let app = Router::new()
        .route("/v1/postings", get(|| async { "a baker, a joiner" }))
        .layer(layer);

    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("{}", listener.local_addr()?);
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app)
        .with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) })
        .await?;
    Ok(())
}

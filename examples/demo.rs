//! The dashboard and its JSON API for an API with keys, limits and some usage, stored in a SQLite file.
//!
//! ```text
//! cargo run --release --example demo --features full
//! ```
//!
//! Open the URL it prints and sign in with the token. Append `-- --fresh` to start over. Environment variables:
//! `PORT` (`0` picks a free port), `FILE` (the database) and `ADMIN_TOKEN`. Ctrl-C shuts down without losing
//! usage.

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use jiff::Timestamp;
use keytally::backend::{Retention, SqliteBackend};
use keytally::dashboard::{BearerToken, Dashboard};
use keytally::key::{Actor, Issuer, KeyAdmin, KeyQuery, KeyStatus, NewKey, Secret, Vault};
use keytally::limit::RateLimit;
use keytally::usage::Recorder;
use keytally::{ApiKeyLayer, SelfServiceApi};
use tower::ServiceExt;

const FILE: &str = "keytally-demo.db";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = PathBuf::from(std::env::var("FILE").unwrap_or_else(|_| FILE.into()));
    if std::env::args().any(|word| word == "--fresh") {
        for suffix in ["", "-wal", "-shm", ".vault-key"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
    }
    let backend = SqliteBackend::open(&path).await?;
    backend.migrate().await?;
    let _maintenance = backend.maintain(Retention::new());

    let issuer = Issuer::new("demo_live")?.vault(vault(&path)?);
    let recorder = Recorder::new(backend.clone());
    let layer = ApiKeyLayer::new(backend.clone())
        .recorder(recorder.clone())
        // Makes the request log searchable by posting.
        .resource_id(|head| {
            let id = head.uri().path().strip_prefix("/v1/postings/")?;
            Some(id.to_owned())
        });
    let api = Router::new()
        .route(
            "/v1/postings",
            get(|| async { "a baker, a joiner" }).post(|posting: String| async move {
                format!("thanks for {} bytes", posting.len())
            }),
        )
        .route("/v1/postings/{id}", get(posting))
        .route("/v1/reports", get(report))
        .layer(layer.clone());

    let secret = match existing_secret(&issuer, &backend).await? {
        Some(secret) => secret,
        None => seed(&issuer, &backend, &api, &recorder).await?,
    };

    let token = admin_token()?;
    let self_service = SelfServiceApi::new(&layer, backend.clone());
    let dashboard = Dashboard::new(backend, BearerToken::new(&token)?)
        .issuer(issuer)
        .recorder(recorder.clone());
    let app = api
        .nest("/me", self_service.into_router())
        .nest_service("/admin", dashboard.into_router());

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let address = listener.local_addr()?;
    println!("pages:  http://{address}/admin");
    println!("token:  {token}");
    println!("key:    {}", secret.expose());
    let curl = |secret: &str, path: &str| {
        println!("curl -i -H 'Authorization: Bearer {secret}' http://{address}{path}");
    };
    for path in [
        "/v1/postings",
        "/v1/postings/7",
        "/v1/postings/missing",
        "/v1/reports",
        "/me/usage",
        "/me/limits",
    ] {
        curl(secret.expose(), path);
    }
    curl(&token, "/admin/api/keys");
    curl(&token, "/admin/api/openapi.json");
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app)
        .with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) })
        .await?;
    let report = recorder.shutdown(Duration::from_secs(5)).await;
    println!("written: {}, lost: {}", report.written, report.lost);
    Ok(())
}

/// The name of the key to try out, whose secret is stored encrypted.
const DEMO_KEY: &str = "PowerAutomate";

/// The secret of the key from an earlier run, if it exists and is active.
async fn existing_secret(
    issuer: &Issuer,
    backend: &SqliteBackend,
) -> Result<Option<Secret>, Box<dyn Error>> {
    let active = KeyQuery::new().status(KeyStatus::Active, Timestamp::now());
    let keys = backend.list(&active.name(DEMO_KEY)).await?.items;
    let Some(key) = keys.iter().find(|key| key.recoverable) else {
        return Ok(None);
    };
    // Fails if the encryption key was deleted.
    let secret = issuer.reveal(backend, key.id, Actor::new("demo")).await;
    Ok(secret.ok().flatten())
}

/// Issues the demo key. In an empty database, also issues two more keys and sends some traffic.
async fn seed(
    issuer: &Issuer,
    backend: &SqliteBackend,
    api: &Router,
    recorder: &Recorder,
) -> Result<Secret, Box<dyn Error>> {
    let is_fresh = backend.list(&KeyQuery::new()).await?.items.is_empty();
    let new = NewKey::new(DEMO_KEY).owner("customer-17").recoverable();
    let secret = issuer.issue(backend, new, Actor::SYSTEM).await?.secret;
    if is_fresh {
        let limited = NewKey::new("Zapier Integration")
            .owner("customer-17")
            .environment("live")
            .limit(RateLimit::per_minute(60).with_burst(20));
        let limited = issuer.issue(backend, limited, Actor::SYSTEM).await?.secret;
        let unused = NewKey::new("Nightly export")
            .owner("customer-4")
            .scope("read");
        issuer.issue(backend, unused, Actor::SYSTEM).await?;
        send_traffic(api, &[&secret, &limited]).await?;
        recorder.flush().await;
    }
    Ok(secret)
}

/// Reads or creates the encryption key in a file next to the database. This is for demonstration only: in
/// production, keep the encryption key apart from the database, since both together reveal the secrets.
fn vault(database: &std::path::Path) -> Result<Vault, Box<dyn Error>> {
    let file = PathBuf::from(format!("{}.vault-key", database.display()));
    if !file.exists() {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&file)?.write_all(text.as_bytes())?;
    }
    Ok(std::fs::read_to_string(&file)?.trim().parse()?)
}

async fn posting(Path(id): Path<String>) -> Result<String, StatusCode> {
    id.parse::<u32>().map_err(|_| StatusCode::NOT_FOUND)?;
    Ok(format!("posting {id}"))
}

async fn report() -> Result<&'static str, StatusCode> {
    // Reports are slow and sometimes fail.
    tokio::time::sleep(Duration::from_millis(3)).await;
    match random()? % 8 {
        0 => Err(StatusCode::INTERNAL_SERVER_ERROR),
        _ => Ok("report"),
    }
}

fn random() -> Result<u32, StatusCode> {
    getrandom::u32().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

/// Sends requests through the API.
async fn send_traffic(api: &Router, keys: &[&Secret]) -> Result<(), Box<dyn Error>> {
    for n in 0..400 {
        let (method, path) = match n % 10 {
            0..5 => ("GET", "/v1/postings".into()),
            5 => ("POST", "/v1/postings".into()),
            6 | 7 => ("GET", format!("/v1/postings/{n}")),
            8 => ("GET", "/v1/postings/missing".into()),
            _ => ("GET", "/v1/reports".into()),
        };
        let key = keys[usize::from(n % 3 == 0)];
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", key.expose()))
            .body(Body::empty())?;
        let response = api.clone().oneshot(request).await?;
        // A request is recorded at the end of its response body.
        axum::body::to_bytes(response.into_body(), 1 << 20).await?;
    }
    Ok(())
}

/// The token in `ADMIN_TOKEN`, or a random one.
fn admin_token() -> Result<String, Box<dyn Error>> {
    if let Ok(token) = std::env::var("ADMIN_TOKEN") {
        return Ok(token);
    }
    let words = [getrandom::u64()?, getrandom::u64()?];
    Ok(words.map(|word| format!("{word:016x}")).concat())
}

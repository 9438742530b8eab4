//! The dashboard and its JSON API for an API with keys, limits and thirty days of sample traffic, stored in a SQLite
//! file.
//!
//! ```text
//! cargo run --release --example demo --features full
//! ```
//!
//! Open the URL it prints and sign in with the token. The printed commands call the API with a key of their own. Ctrl-C
//! shuts down without losing usage.
//!
//! Options, after `--`:
//!
//! - `--fresh` deletes the database and starts over. Otherwise, an existing database is used as it is.
//! - `--empty` leaves a new database without sample data.
//! - `--no-traffic` turns off the background client, which calls the API every few seconds with a sample key.
//!
//! Environment variables:
//!
//! - `FILE` is the database, `keytally-demo.db` by default. The key that encrypts secrets is in a file next to it.
//! - `PORT` is the port on 127.0.0.1, 3000 by default; `0` picks a free port.
//! - `ADMIN_TOKEN` is the token for the dashboard, random by default.
//!
//! Sample data is marked: its keys are in the environment `sample`, and the ids of its requests start with `sample-`.
//! Requests of the background client have ids that start with `demo-`.

mod api;
mod sample;

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use keytally::backend::{Retention, SqliteBackend};
use keytally::dashboard::{BearerToken, Dashboard};
use keytally::key::{Issuer, KeyAdmin, KeyQuery, KeyStatus, NewKey, Secret, Vault};
use keytally::limit::RateLimit;
use keytally::usage::Recorder;
use keytally::{ApiKeyLayer, SelfServiceApi};

/// The name of the printed key, whose secret is stored encrypted.
const PRINTED_KEY: &str = "Getting started";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::read()?;
    let path = PathBuf::from(std::env::var("FILE").unwrap_or_else(|_| "keytally-demo.db".into()));
    if options.fresh {
        for suffix in ["", "-wal", "-shm", ".vault-key"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
    }
    let is_new = !path.exists();
    let backend = SqliteBackend::open(&path).await?;
    backend.migrate().await?;

    let issuer = Issuer::new("demo_live")?.vault(vault(&path)?);
    let mut sample_requests = None;
    if is_new && !options.empty {
        sample_requests = Some(sample::write(&issuer, &backend).await?);
    }
    let _maintenance = backend.maintain(Retention::new());

    let recorder = Recorder::builder(backend.clone())
        .rejected_senders(50)
        .start();
    let layer = ApiKeyLayer::new(backend.clone())
        .recorder(recorder.clone())
        .cost(|head| api::cost(head.uri().path()))
        .resource_id(|head| api::resource_id(head.uri().path()));
    let api = api::routes().layer(layer.clone());

    let secret = match secret_of(PRINTED_KEY, &issuer, &backend).await? {
        Some(secret) => secret,
        None => {
            let new = NewKey::new(PRINTED_KEY)
                .owner("acme")
                .limit(RateLimit::per_minute(60))
                .recoverable();
            issuer.issue(&backend, new, sample::ACTOR).await?.secret
        }
    };
    let mut client = None;
    if !options.no_traffic {
        let key = secret_of(sample::BACKGROUND_KEY, &issuer, &backend).await?;
        client = key.map(|key| tokio::spawn(api::send_requests(api.clone(), key)));
    }

    let token = admin_token()?;
    let self_service = SelfServiceApi::new(&layer, backend.clone());
    let dashboard = Dashboard::new(backend, BearerToken::new(&token)?)
        .issuer(issuer)
        .layer(layer.clone())
        .recorder(recorder.clone())
        .example_url("/v1/postings");
    let app = api
        .nest("/me", self_service.into_router())
        .nest_service("/admin", dashboard.into_router());

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let address = listener.local_addr()?;
    println!("pages:  http://{address}/admin");
    println!("token:  {token}");
    println!("key:    {}", secret.expose());
    if let Some(count) = sample_requests {
        let days = sample::DAYS;
        println!("sample: {count} requests of {days} days, with ids that start with sample-");
    }
    if client.is_some() {
        println!("client: calls the API every few seconds; --no-traffic turns it off");
    }
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
    if let Some(client) = client {
        client.abort();
    }
    let report = recorder.shutdown(Duration::from_secs(5)).await;
    println!("written: {}, lost: {}", report.written, report.lost);
    Ok(())
}

#[derive(Default)]
struct Options {
    fresh: bool,
    empty: bool,
    no_traffic: bool,
}

impl Options {
    fn read() -> Result<Self, String> {
        let mut options = Self::default();
        for option in std::env::args().skip(1) {
            match &*option {
                "--fresh" => options.fresh = true,
                "--empty" => options.empty = true,
                "--no-traffic" => options.no_traffic = true,
                _ => {
                    let known = "--fresh, --empty and --no-traffic";
                    return Err(format!("unknown option {option}; the options are {known}"));
                }
            }
        }
        Ok(options)
    }
}

/// The secret of the newest active key with this name whose secret is stored.
async fn secret_of(
    name: &str,
    issuer: &Issuer,
    backend: &SqliteBackend,
) -> Result<Option<Secret>, Box<dyn Error>> {
    let active = KeyQuery::new().status(KeyStatus::Active, Timestamp::now());
    let keys = backend.list(&active.name(name)).await?.items;
    let Some(key) = keys.iter().find(|key| key.recoverable) else {
        return Ok(None);
    };
    // Fails if the encryption key was deleted.
    let secret = issuer.reveal(backend, key.id, sample::ACTOR).await;
    Ok(secret.ok().flatten())
}

/// Reads or creates the encryption key in a file next to the database. This is for demonstration only: in
/// production, keep the encryption key apart from the database, since both together reveal the secrets.
fn vault(database: &Path) -> Result<Vault, Box<dyn Error>> {
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

/// The token in `ADMIN_TOKEN`, or a random one.
fn admin_token() -> Result<String, Box<dyn Error>> {
    if let Ok(token) = std::env::var("ADMIN_TOKEN") {
        return Ok(token);
    }
    let words = [getrandom::u64()?, getrandom::u64()?];
    Ok(words.map(|word| format!("{word:016x}")).concat())
}

//! The process under test: a service of two routers with one recorder, which tells about itself and
//! ends when it is told to.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use keytally::backend::{PostgresBackend, SqliteBackend, SqliteSpool};
use keytally::key::{CacheConfig, KeyAdmin, StoreError};
use keytally::limit::LocalLimiter;
use keytally::usage::{Recorder, RecorderStats, ShutdownReport, UsageSink};
use keytally::{ApiKeyLayer, Clock, KeyId, Rejection};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::runtime::Handle;

use crate::children::given;

/// A cache's time to live.
pub(crate) const TTL: Duration = Duration::from_secs(2);
/// For how long one of the routers serves known keys while the database is gone.
pub(crate) const STALE: Duration = Duration::from_secs(20);
/// Fewer keys than there come to be, so that the caches are full all the time.
const CACHED: usize = 128;
/// Connections to PostgreSQL.
const CONNECTIONS: u32 = 6;

/// What the process tells about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Told {
    /// The time by which the layers go.
    pub(crate) wall: Timestamp,
    pub(crate) resident_kib: u64,
    pub(crate) handles: usize,
    pub(crate) tasks: usize,
    pub(crate) stats: RecorderStats,
}

/// What it says at its end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Farewell {
    pub(crate) report: ShutdownReport,
    pub(crate) stats: RecorderStats,
}

pub(crate) async fn serve() {
    let url = given("KEYTALLY_TEST_URL");
    if url.starts_with("postgres:") {
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(Duration::from_secs(2))
            .connect(&url)
            .await
            .unwrap();
        serve_with(PostgresBackend::from_pool(pool.clone()), Some(pool)).await;
    } else {
        serve_with(SqliteBackend::open(url).await.unwrap(), None).await;
    }
    // Tasks end by themselves once nothing is there that they are for.
    for _ in 0..200 {
        if tasks() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("tasks {}", tasks());
}

async fn serve_with<B>(backend: B, pool: Option<PgPool>)
where
    B: KeyAdmin + UsageSink + Clone,
{
    let spool = SqliteSpool::open(given("KEYTALLY_TEST_SPOOL"))
        .await
        .unwrap();
    let recorder = Recorder::builder(backend.clone())
        .spool(spool)
        .write_timeout(Duration::from_secs(5))
        .start();
    // What keys have spent is shared by both routers.
    let limiter = Arc::new(LocalLimiter::new());
    let layer = |cache: CacheConfig| {
        ApiKeyLayer::new(backend.clone())
            .cache(cache.ttl(TTL).capacity(CACHED).lookup_timeout(TTL / 2))
            .limiter(limiter.clone())
            .recorder(recorder.clone())
    };
    let strict = layer(CacheConfig::new());
    let stale = layer(CacheConfig::new().serve_stale(STALE));
    let app = Router::new()
        .nest("/strict", routes().layer(strict))
        .nest("/stale", routes().layer(stale))
        .layer(middleware::map_response(tell))
        .merge(changes(backend))
        .merge(about(recorder.clone(), pool.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("\nserving {}", listener.local_addr().unwrap());
    axum::serve(listener, app)
        .with_graceful_shutdown(told_to_stop())
        .await
        .unwrap();
    let report = recorder.shutdown(Duration::from_secs(40)).await;
    let stats = recorder.stats();
    let farewell = serde_json::to_string(&Farewell { report, stats });
    println!("farewell {}", farewell.unwrap());
    if let Some(pool) = pool {
        pool.close().await;
    }
}

/// Waits for a line, or for the other process's end: then nobody needs this one any more.
async fn told_to_stop() {
    let (told, stop) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        let _ = told.send(());
    });
    let _ = stop.await;
}

/// What the layers protect.
fn routes() -> Router {
    let endless = || async {
        let first = tokio_stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"first"))]);
        let never = tokio_stream::StreamExt::chain(first, tokio_stream::pending());
        Body::from_stream(never)
    };
    let posting = get(|| async { "a baker" })
        .post(|| async { (StatusCode::CREATED, "a joiner") })
        .put(|| async { StatusCode::INTERNAL_SERVER_ERROR })
        .delete(|| async { StatusCode::NOT_FOUND });
    Router::new()
        .route("/v1/postings/{id}", posting)
        .route("/v1/endless", get(endless))
}

/// Tells the client what only outer layers learn: why it was refused, and whether that is an event.
async fn tell(mut response: Response) -> Response {
    if let Some(rejection) = response.extensions().get::<Rejection>() {
        let (reason, known) = (rejection.reason.as_str(), rejection.key.is_some());
        let headers = response.headers_mut();
        headers.insert("x-refusal", reason.parse().unwrap());
        if known {
            headers.insert("x-event", "yes".parse().unwrap());
        }
    }
    response
}

/// Changes of keys through the process's own store.
fn changes<B: KeyAdmin + Clone>(backend: B) -> Router {
    let change = async |State(store): State<B>, Path((what, id)): Path<(String, KeyId)>| {
        let done = match &*what {
            "revoke" => store.revoke(id).await.map(drop),
            "disable" => store.disable(id).await.map(drop),
            "delete" => store.delete(id).await,
            _ => return StatusCode::NOT_FOUND,
        };
        match done {
            // Or before, when its answer was lost.
            Ok(()) | Err(StoreError::NotFound(_)) => StatusCode::NO_CONTENT,
            Err(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    };
    Router::new()
        .route("/keys/{what}/{id}", post(change))
        .with_state(backend)
}

fn about(recorder: Recorder, pool: Option<PgPool>) -> Router {
    let whole = async |State((recorder, pool)): State<(Recorder, Option<PgPool>)>| {
        Json(told(&recorder, pool.as_ref()).await).into_response()
    };
    let quick = async |State((recorder, _)): State<(Recorder, Option<PgPool>)>| {
        Json(told(&recorder, None).await).into_response()
    };
    Router::new()
        .route("/about", get(quick))
        .route("/about/whole", get(whole))
        .with_state((recorder, pool))
}

async fn told(recorder: &Recorder, pool: Option<&PgPool>) -> Told {
    // As many connections as there may be, so that their number is no matter of chance.
    let mut held = Vec::new();
    if let Some(pool) = pool {
        for _ in 0..CONNECTIONS {
            held.push(pool.acquire().await);
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident_kib = resident.and_then(|it| it.trim().strip_suffix(" kB")?.trim().parse().ok());
    Told {
        wall: Clock::system().now().timestamp(),
        resident_kib: resident_kib.unwrap(),
        handles: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        tasks: tasks(),
        stats: recorder.stats(),
    }
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

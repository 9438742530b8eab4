//! The process under test: a service with two routers and one recorder, which reports its status and stops on
//! request.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use bytes::Bytes;
use http::StatusCode;
use keytally::backend::{PostgresBackend, SqliteBackend, SqliteSpool};
use keytally::key::{Actor, CacheConfig, KeyAdmin, StoreError};
use keytally::limit::LocalLimiter;
use keytally::usage::{Recorder, UsageSink};
use keytally::{ApiKeyLayer, Clock, KeyId, Rejection};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::runtime::Handle;

use crate::given;

#[path = "../soak/status.rs"]
mod status;

use status::{FinalReport, STALE, ServerStatus, TTL};

/// The cache capacity: less than the number of keys, so that entries are evicted.
const CACHED: usize = 128;
/// The maximum number of PostgreSQL connections.
const CONNECTIONS: u32 = 6;

pub(crate) async fn run() {
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
    // Background tasks end once their owners are dropped.
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
    // Both routers share the limiter.
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
        .layer(middleware::map_response(add_rejection_headers))
        .merge(key_routes(backend))
        .merge(status_routes(recorder.clone(), pool.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("serving {}", listener.local_addr().unwrap());
    axum::serve(listener, app)
        .with_graceful_shutdown(stop_signal())
        .await
        .unwrap();
    let report = recorder.shutdown(Duration::from_secs(40)).await;
    let stats = recorder.stats();
    let final_report = serde_json::to_string(&FinalReport { report, stats });
    println!("final_report {}", final_report.unwrap());
    if let Some(pool) = pool {
        pool.close().await;
    }
}

/// Waits for a line on stdin, or for its end, when the parent process has ended.
async fn stop_signal() {
    let (sender, stop) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        let _ = sender.send(());
    });
    let _ = stop.await;
}

/// The protected routes.
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

/// Adds headers with the rejection reason and whether the rejection is an event.
async fn add_rejection_headers(mut response: Response) -> Response {
    if let Some(rejection) = response.extensions().get::<Rejection>() {
        let (reason, known) = (rejection.reason.as_str(), rejection.key.is_some());
        let headers = response.headers_mut();
        headers.insert("x-rejection", reason.parse().unwrap());
        if known {
            headers.insert("x-event", "yes".parse().unwrap());
        }
    }
    response
}

/// Routes that change keys through this process's store.
fn key_routes<B: KeyAdmin + Clone>(backend: B) -> Router {
    let change_key = async |State(store): State<B>, Path((change, id)): Path<(String, KeyId)>| {
        let result = match &*change {
            "revoke" => store.revoke(id, Actor::SYSTEM).await.map(drop),
            "disable" => store.disable(id, Actor::SYSTEM).await.map(drop),
            "delete" => store.delete(id, Actor::SYSTEM).await,
            _ => return StatusCode::NOT_FOUND,
        };
        match result {
            // `NotFound`: deleted by an earlier attempt whose response was lost.
            Ok(()) | Err(StoreError::NotFound(_)) => StatusCode::NO_CONTENT,
            Err(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    };
    Router::new()
        .route("/keys/{change}/{id}", post(change_key))
        .with_state(backend)
}

fn status_routes(recorder: Recorder, pool: Option<PgPool>) -> Router {
    let whole = async |State((recorder, pool)): State<(Recorder, Option<PgPool>)>| {
        Json(status(&recorder, pool.as_ref()).await).into_response()
    };
    let quick = async |State((recorder, _)): State<(Recorder, Option<PgPool>)>| {
        Json(status(&recorder, None).await).into_response()
    };
    Router::new()
        .route("/about", get(quick))
        .route("/about/whole", get(whole))
        .with_state((recorder, pool))
}

async fn status(recorder: &Recorder, pool: Option<&PgPool>) -> ServerStatus {
    // Open all connections, so that their number is deterministic.
    let mut connections = Vec::new();
    if let Some(pool) = pool {
        for _ in 0..CONNECTIONS {
            connections.push(pool.acquire().await);
        }
    }
    let proc_status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = proc_status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"));
    let resident_kib = resident.and_then(|it| it.trim().strip_suffix(" kB")?.trim().parse().ok());
    ServerStatus {
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

//! Server-side cost of the dashboard's pages, with ten million events stored.
//!
//! ```text
//! cargo bench --features full --bench dashboard -- 10000000
//! ```
//!
//! Takes the number of events and of keys (20 by default), `sqlite` or `postgres` to select one backend, and the start
//! of a page's name to select pages. PostgreSQL must be installed; the benchmark starts a server of its own. Without
//! arguments, it runs in a short form.
//!
//! Filling takes minutes. `KEYTALLY_BENCH_SQLITE`, a file, and `KEYTALLY_BENCH_POSTGRES`, the URL of a database, keep
//! the data: they are filled if they are empty.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use axum::Router;
use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use jiff::Timestamp;
use keytally::backend::{PostgresBackend, SqliteBackend};
use keytally::dashboard::{AllowEveryone, Dashboard};
use keytally::key::KeyQuery;
use keytally::usage::{LogFilter, LogQuery};
use tower::ServiceExt;

#[path = "../tests/support/postgres.rs"]
mod support;
mod traffic;

use traffic::{Backend, Traffic, fill, timed};

async fn page(router: &Router, path: &str) -> Vec<u8> {
    let request = Request::get(format!("/admin{path}")).body(Body::empty());
    let response = router.clone().oneshot(request.expect("a request")).await;
    let response = response.expect("a response");
    assert_eq!(response.status(), 200, "{path}");
    let body = response.into_body().collect().await.expect("a body");
    body.to_bytes().into()
}

/// The size after gzip compression, as a compressing server would send it.
fn compressed(bytes: &[u8]) -> usize {
    let gzip = Command::new("gzip")
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut gzip = gzip.expect("gzip");
    let mut input = gzip.stdin.take().expect("its input");
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(bytes).expect("write to gzip"));
        gzip.wait_with_output().expect("its output").stdout.len()
    })
}

/// Measures the pages after all rollups were merged, as the background task does with all but those of the last minute.
async fn pages(
    backend: impl Backend + Clone,
    events: usize,
    keys: usize,
    only: &[String],
    merge: impl AsyncFn(),
) {
    let mut traffic = Traffic::new(keys);
    let stored = backend.list(&KeyQuery::new().limit(1)).await;
    if stored.expect("keys").items.is_empty() {
        fill(&backend, &mut traffic, 0, events, Timestamp::now()).await;
        traffic.create_keys(&backend).await;
    }
    merge().await;
    let key = traffic.keys[3].0;
    let newest = backend.requests(&LogQuery::new(LogFilter::new())).await;
    let request = newest.expect("requests").items[20].id;
    let dashboard = Dashboard::new(backend, AllowEveryone);
    let router = Router::new().nest_service("/admin", dashboard.into_router());
    for (name, path) in [
        ("usage of a key, 24 hours", format!("/keys/{key}")),
        ("usage of a key, 7 days", format!("/keys/{key}?range=7d")),
        ("usage of a key, 30 days", format!("/keys/{key}?range=30d")),
        (
            "usage of a key, 30 days, log filtered",
            format!("/keys/{key}?range=30d&method=GET&code=5xx"),
        ),
        ("overview, 24 hours", "/".into()),
        ("overview, 30 days", "/?range=30d".into()),
        ("overview, 15 minutes", "/?range=15m".into()),
        ("overview, 7 days", "/?range=7d".into()),
        ("API keys", "/keys".into()),
        (
            "API keys of an owner, sorted",
            "/keys?owner=customer-77&sort=name".into(),
        ),
        ("owners", "/owners".into()),
        ("owners, 7 days", "/owners?range=7d".into()),
        ("owners, 30 days", "/owners?range=30d".into()),
        ("an owner, 24 hours", "/owners/customer-3".into()),
        ("an owner, 30 days", "/owners/customer-3?range=30d".into()),
        ("request log", "/log".into()),
        ("request log, filtered", "/log?method=GET&code=5xx".into()),
        ("a request", format!("/log/requests/{request}")),
        ("plans", "/plans".into()),
        ("audit log", "/audit".into()),
    ] {
        if !only.is_empty() && !only.iter().any(|it| name.starts_with(&**it)) {
            continue;
        }
        timed(name, 40, || page(&router, &path)).await;
        let page = page(&router, &path).await;
        println!("    {} bytes, {} compressed", page.len(), compressed(&page));
    }
    for asset in ["/assets/style.css", "/assets/script.js"] {
        let asset_bytes = page(&router, asset).await;
        println!("  {asset}: {} bytes compressed", compressed(&asset_bytes));
    }
}

/// Merges, again after timeouts while the background task merges.
async fn merged<E: std::fmt::Display>(merge: impl AsyncFn() -> Result<u64, E>) {
    while let Err(error) = merge().await {
        eprintln!("retrying: {error}");
    }
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|it| it == word);
    let mut numbers = words.iter().filter_map(|word| word.parse().ok());
    let events = numbers.next().unwrap_or(20_000);
    let keys = numbers.next().unwrap_or(20);
    let is_page = |word: &&String| {
        !word.starts_with('-')
            && word.parse::<usize>().is_err()
            && !["sqlite", "postgres"].contains(&&***word)
    };
    let only: Vec<String> = words.iter().filter(is_page).cloned().collect();
    let folder = std::env::temp_dir().join(format!("keytally-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    runtime.block_on(async {
        if !has("postgres") {
            println!("SQLite, {events} events, {keys} keys");
            let file = std::env::var_os("KEYTALLY_BENCH_SQLITE");
            let file = file.map_or_else(|| folder.join("pages.db"), PathBuf::from);
            let backend = SqliteBackend::open(file).await;
            let backend = backend.expect("open");
            backend.migrate().await.expect("migrate");
            let merge = async || {
                merged(async || backend.merge_rollups().await).await;
            };
            pages(backend.clone(), events, keys, &only, merge).await;
        }
        if !has("sqlite") {
            println!("PostgreSQL, {events} events, {keys} keys");
            let kept = std::env::var("KEYTALLY_BENCH_POSTGRES").ok();
            let cluster = kept.is_none().then(support::Cluster::durable);
            let url = match (kept, &cluster) {
                (None, Some(cluster)) => cluster.database().await,
                (kept, _) => kept.unwrap_or_default(),
            };
            let backend = PostgresBackend::connect(&url).await.expect("connect");
            backend.migrate().await.expect("migrate");
            let pool = support::pool(&url).await;
            let merge = async || {
                merged(async || backend.merge_rollups().await).await;
                // As autovacuum does within minutes.
                let analyze = sqlx::raw_sql("ANALYZE").execute(&pool);
                analyze.await.expect("analyze");
            };
            pages(backend.clone(), events, keys, &only, merge).await;
        }
    });
    let _ = std::fs::remove_dir_all(&folder);
}

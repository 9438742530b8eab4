//! The PostgreSQL backend, on a real server.

use std::sync::Arc;

use keytally::backend::PostgresBackend;
use keytally::conformance;
use keytally::key::{CachedStore, KeyAdmin};
use keytally::usage::{UsageReader, UsageSink};

#[path = "support/postgres.rs"]
mod support;

use support::{backend, database, number, pool};

/// All that a backend does, behind one pointer.
trait Backend: KeyAdmin + UsageSink + UsageReader {}

impl<T: KeyAdmin + UsageSink + UsageReader> Backend for T {}

#[tokio::test]
async fn it_passes_as_its_own_type() {
    conformance::backend(&backend().await.0).await;
}

#[tokio::test]
async fn it_passes_behind_pointers() {
    let (backend, _) = backend().await;
    let shared: Arc<dyn Backend> = Arc::new(backend.clone());
    conformance::backend(&shared).await;
    let keys: Arc<dyn KeyAdmin> = Arc::new(backend);
    conformance::key_admin(&CachedStore::new(keys)).await;
}

#[tokio::test]
async fn the_applications_own_pool_schema_and_prefix_pass() {
    let url = database().await;
    let own = pool(&url).await;
    let backend = PostgresBackend::from_pool(own.clone())
        .with_schema("gateway")
        .unwrap()
        .with_table_prefix("api_")
        .unwrap();
    backend.migrate().await.unwrap();
    conformance::backend(&backend).await;
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(number(&own, tables).await, 0);
}

#[tokio::test]
async fn suites_can_run_at_once() {
    let (backend, _) = backend().await;
    let runs: Vec<_> = (0..3)
        .map(|_| {
            let backend = backend.clone();
            tokio::spawn(async move { conformance::backend(&backend).await })
        })
        .collect();
    for run in runs {
        run.await.unwrap();
    }
}

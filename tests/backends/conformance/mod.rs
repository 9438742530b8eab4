//! The conformance suites pass for what keeps the rules and fail for what breaks one.

mod faulty;

use std::sync::Arc;

use keytally::backend::MemoryBackend;
use keytally::conformance;
use keytally::key::{CachedStore, Issuer, KeyAdmin, KeyStore, NewKey};
use keytally::usage::{UsageReader, UsageSink};

use faulty::{Fault, Faulty};

/// All that a backend does, behind one pointer.
trait Backend: KeyAdmin + UsageSink + UsageReader {}

impl<T: KeyAdmin + UsageSink + UsageReader> Backend for T {}

#[tokio::test]
async fn memory_passes_as_its_own_type() {
    conformance::backend(&MemoryBackend::new()).await;
}

#[tokio::test]
async fn memory_passes_behind_pointers() {
    let shared: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    conformance::backend(&shared).await;
    conformance::backend(&*shared).await;
    let boxed: Box<dyn Backend> = Box::new(MemoryBackend::new());
    conformance::backend(&boxed).await;
    let keys: Arc<dyn KeyAdmin> = Arc::new(MemoryBackend::new());
    conformance::key_admin(&keys).await;
}

#[tokio::test]
async fn a_cached_store_passes() {
    conformance::key_admin(&CachedStore::new(MemoryBackend::new())).await;
    let inner: Arc<dyn KeyAdmin> = Arc::new(MemoryBackend::new());
    conformance::key_admin(&CachedStore::new(inner)).await;
}

#[tokio::test]
async fn a_store_for_looking_up_passes() {
    let backend = MemoryBackend::new();
    let issuer = Issuer::new("test").unwrap();
    let (_, record) = issuer.prepare(NewKey::new("Known")).unwrap();
    backend.create(record.clone()).await.unwrap();
    let store: Box<dyn KeyStore> = Box::new(backend);
    conformance::key_store(&store, &record).await;
}

#[tokio::test]
async fn other_rows_are_overlooked() {
    let backend = MemoryBackend::new();
    for _ in 0..2 {
        conformance::backend(&backend).await;
    }
}

#[tokio::test]
async fn suites_can_run_at_once() {
    let backend = MemoryBackend::new();
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

#[tokio::test]
async fn without_a_fault_nothing_is_broken() {
    conformance::backend(&Faulty::new(None)).await;
}

#[tokio::test]
async fn every_fault_is_found_and_named() {
    for (fault, rule) in Fault::ALL {
        let run = tokio::spawn(async move {
            conformance::backend(&Faulty::new(Some(fault))).await;
        });
        let panic = match run.await {
            Ok(()) => panic!("{fault:?} was not found"),
            Err(error) => error.into_panic(),
        };
        let message = panic.downcast_ref::<String>().expect("a message");
        assert!(
            message.starts_with("broken rule: ") && message.contains(rule),
            "{fault:?} was taken for another fault: {message}"
        );
    }
}

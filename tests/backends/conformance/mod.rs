//! The conformance suites pass for correct backends and fail for a backend that violates any rule.

mod faulty;
mod limiter;

use std::sync::Arc;

use keytally::backend::MemoryBackend;
use keytally::conformance;
use keytally::key::{Actor, CachedStore, Issuer, KeyAdmin, KeyStore, NewKey};
use keytally::usage::{UsageReader, UsageSink};

use faulty::{Fault, Faulty};

/// Everything a backend implements, as one object-safe trait.
trait Backend: KeyAdmin + UsageSink + UsageReader {}

impl<T: KeyAdmin + UsageSink + UsageReader> Backend for T {}

#[tokio::test]
async fn concurrent_suites_pass() {
    let backend = MemoryBackend::new();
    tokio::join!(
        conformance::backend(&backend),
        conformance::backend(&backend)
    );
}

#[tokio::test]
async fn memory_backend_passes_as_trait_object() {
    let shared: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    conformance::backend(&shared).await;
    // Ignores the rows of earlier runs.
    conformance::backend(&*shared).await;
    let boxed: Box<dyn Backend> = Box::new(MemoryBackend::new());
    conformance::backend(&boxed).await;
    let keys: Arc<dyn KeyAdmin> = Arc::new(MemoryBackend::new());
    conformance::key_admin(&keys).await;
}

#[tokio::test]
async fn cached_store_passes() {
    conformance::key_admin(&CachedStore::new(MemoryBackend::new())).await;
    let inner: Arc<dyn KeyAdmin> = Arc::new(MemoryBackend::new());
    conformance::key_admin(&CachedStore::new(inner)).await;
}

#[tokio::test]
async fn lookup_only_store_passes() {
    let backend = MemoryBackend::new();
    let issuer = Issuer::new("test").unwrap();
    let (_, record) = issuer.prepare(NewKey::new("Known")).unwrap();
    backend.create(record.clone(), Actor::SYSTEM).await.unwrap();
    let store: Box<dyn KeyStore> = Box::new(backend);
    conformance::key_store(&store, &record).await;
}

#[tokio::test]
async fn faulty_backend_without_a_fault_passes() {
    conformance::backend(&Faulty::new(None)).await;
}

#[tokio::test]
async fn each_fault_fails_with_the_rule_it_violates() {
    for (fault, rule) in Fault::ALL {
        let run = tokio::spawn(async move {
            conformance::backend(&Faulty::new(Some(fault))).await;
        });
        let panic = match run.await {
            Ok(()) => panic!("{fault:?} was not detected"),
            Err(error) => error.into_panic(),
        };
        let message = panic.downcast_ref::<String>().expect("a panic message");
        assert!(
            message.starts_with("broken rule: ") && message.contains(rule),
            "{fault:?} was reported as another violation: {message}"
        );
    }
}

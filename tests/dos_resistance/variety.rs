//! Floods with valid keys: many different requests, and many different keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http::{Method, Request};
use jiff::Timestamp;
use keytally::backend::{MemoryBackend, MemoryConfig};
use keytally::key::{CacheConfig, Digest, Key, KeyRecord, KeyStore, NewKey, Secret, StoreError};
use keytally::limit::RateLimit;
use keytally::usage::{
    Batch, Recorder, SinkError, SummaryQuery, SummarySpec, UsageRange, UsageReader, UsageSink,
};
use keytally::{ApiKeyLayer, Clock, KeyId};
use sha2::{Digest as _, Sha256};

use super::measure::{Flood, MIB};
use super::{many, protected_by, secrets, status_of, support};

/// The number of requests between two flushes; fewer than the recorder's capacity.
const FLUSHED: u64 = 10_000;

mod bounded_cardinality {
    use super::*;

    #[tokio::test]
    async fn distinct_paths_and_methods_use_a_bounded_number_of_rollups() {
        let requests = many(40_000, 10_000_000);
        // A log of ten thousand requests, as many queued events, and a thousand rollups.
        let mut flood = Flood::begin("paths and methods of one key", 12 * MIB).await;
        let backend = MemoryBackend::with_config(MemoryConfig::new().log_capacity(10_000));
        let recorder = Recorder::new(backend.clone());
        let valid = support::issue(&backend, NewKey::new("valid")).await;
        // The worst case: the application treats each path as an endpoint. The clock stands still, since each minute
        // has rollups of its own.
        let layer = ApiKeyLayer::new(backend.clone())
            .recorder(recorder.clone())
            .clock(Clock::manual(Timestamp::UNIX_EPOCH))
            .endpoint(|head| Some(head.uri().path().into()));
        let mut service = protected_by(layer.clone());
        for n in 0..requests {
            let method = Method::from_bytes(format!("METHOD{n}").as_bytes()).unwrap();
            let request = Request::get(format!("/v1/postings/{n}?page={n}"))
                .method(method)
                .header("x-api-key", valid.secret.expose())
                .body(String::new())
                .unwrap();
            assert_eq!(status_of(&mut service, request).await, 200);
            if n % FLUSHED == 0 {
                recorder.flush().await;
                flood.check();
            }
        }
        recorder.flush().await;
        let stats = recorder.stats();
        assert_eq!(
            (stats.accepted, stats.written, stats.lost),
            (requests, requests, 0)
        );
        let query = SummaryQuery::new(UsageRange::new(), SummarySpec::new());
        let summary = backend.summary(&query).await.unwrap();
        assert_eq!(summary.totals.total(), requests);
        let rollups = backend.rollups(&UsageRange::new()).await.unwrap();
        // 1,024 endpoints have their own rollup; all others and all unknown methods are grouped.
        assert_eq!(rollups.len(), 1_025);
        assert!(
            rollups
                .iter()
                .all(|rollup| rollup.method == rollups[0].method)
        );
        flood.end(requests);
    }
}

/// A store that has a key for every id, with a secret derived from the id.
struct EveryKeyStore;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A pseudorandom key id.
fn id(n: u64) -> KeyId {
    let bits = Sha256::digest(n.to_ne_bytes());
    let digits = bits.iter().take(16);
    let id: String = digits
        .map(|byte| char::from(DIGITS[usize::from(byte % 62)]))
        .collect();
    id.parse().unwrap()
}

fn secret(id: KeyId) -> String {
    secrets::with_checksum(format!("acme_{id}{}", "0".repeat(32)))
}

#[async_trait]
impl KeyStore for EveryKeyStore {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let digest: String = Sha256::digest(secret(id))
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut key = Key::new(id, "one of many", Timestamp::UNIX_EPOCH);
        key.owner = Some("customer-17".into());
        key.limits.push(RateLimit::per_minute(60));
        let digest = Digest::from_sha256(&digest).unwrap();
        Ok(Some(KeyRecord::new(key, digest)))
    }
}

/// A sink that only counts events.
#[derive(Clone, Default)]
struct CountingSink(Arc<AtomicU64>);

#[async_trait]
impl UsageSink for CountingSink {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        self.0.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test]
async fn distinct_valid_keys_are_bounded_by_the_cache_capacity() {
    let requests = many(40_000, 1_000_000);
    let capacity = many(8_192, 65_536);
    // The cached keys, the limiter state of evicted ones, and ten thousand queued events.
    let bound = capacity as i64 * 2_000 + 12 * MIB;
    let mut flood = Flood::begin("valid keys in turn", bound).await;
    let (sink, clock) = (
        CountingSink::default(),
        Clock::manual(Timestamp::UNIX_EPOCH),
    );
    let recorder = Recorder::new(sink.clone());
    let layer = ApiKeyLayer::new(EveryKeyStore)
        .cache(CacheConfig::new().capacity(capacity as usize))
        .recorder(recorder.clone())
        .clock(clock.clone());
    // Each request's limit usage is refilled within a second, in which the whole cache is replaced once.
    let pause = Duration::from_secs(1) / capacity as u32;
    let mut service = protected_by(layer.clone());
    for n in 0..requests {
        let secret = secret(id(n));
        assert!(n > 0 || Secret::parse(&secret).is_ok());
        let request = Request::get("/")
            .header("x-api-key", secret)
            .body(String::new())
            .unwrap();
        assert_eq!(status_of(&mut service, request).await, 200);
        clock.advance(pause);
        if n % FLUSHED == 0 {
            recorder.flush().await;
            flood.check();
        }
    }
    recorder.flush().await;
    assert_eq!(sink.0.load(Ordering::Relaxed), requests);
    assert_eq!(recorder.stats().lost, 0);
    assert_eq!(layer.cache_stats().lookups, requests);
    flood.end(requests);
}

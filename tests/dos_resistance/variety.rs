//! Floods of good keys: of many kinds of requests, and of many keys.

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
use super::{ask, behind, many, secrets, support};

/// What the recorder has room for, less than it is given between two flushes.
const FLUSHED: u64 = 10_000;

#[tokio::test]
async fn rule_12_distinct_paths_and_methods_are_counted_in_a_few() {
    let requests = many(40_000, 10_000_000);
    // The log of the last ten thousand requests, as many that wait to be written, and a thousand sums.
    let mut flood = Flood::begin("paths and methods of one key", 12 * MIB).await;
    let backend = MemoryBackend::with_config(MemoryConfig::new().log_capacity(10_000));
    let recorder = Recorder::new(backend.clone());
    let good = support::issue(&backend, NewKey::new("good")).await;
    // The application that does the worst: it takes each path for an endpoint of its own. Time stands
    // still, since another minute would be counted by itself.
    let layer = ApiKeyLayer::new(backend.clone())
        .recorder(recorder.clone())
        .clock(Clock::manual(Timestamp::UNIX_EPOCH))
        .endpoint(|head| Some(head.uri().path().into()));
    let mut service = behind(layer.clone());
    for n in 0..requests {
        let method = Method::from_bytes(format!("METHOD{n}").as_bytes()).unwrap();
        let request = Request::get(format!("/v1/postings/{n}?page={n}"))
            .method(method)
            .header("x-api-key", good.secret.expose())
            .body(String::new())
            .unwrap();
        assert_eq!(ask(&mut service, request).await, 200);
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
    // A thousand endpoints have names, the others one, and no method has one.
    assert_eq!(rollups.len(), 1_025);
    assert!(
        rollups
            .iter()
            .all(|rollup| rollup.method == rollups[0].method)
    );
    flood.end(requests);
}

/// Where every id has a key, whose secret can be told from it.
struct Everyone;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// An id as random as those that are issued.
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
impl KeyStore for Everyone {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let digest: String = Sha256::digest(secret(id))
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut key = Key::new(id, "one of many", Timestamp::UNIX_EPOCH);
        key.owner = Some("customer-17".into());
        key.limits.push(RateLimit::per_minute(60));
        Ok(Some(KeyRecord {
            key,
            digest: Digest::from_sha256_hex(&digest).unwrap(),
            encrypted_secret: None,
        }))
    }
}

/// Keeps nothing.
#[derive(Clone, Default)]
struct Forgetful(Arc<AtomicU64>);

#[async_trait]
impl UsageSink for Forgetful {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        self.0
            .fetch_add(batch.events.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test]
async fn distinct_good_keys_are_held_no_more_than_the_cache_has_room() {
    let requests = many(40_000, 1_000_000);
    let room = many(8_192, 65_536);
    // So many keys, what others have spent and not got back, and ten thousand requests that wait to
    // be written.
    let bound = room as i64 * 2_000 + 12 * MIB;
    let mut flood = Flood::begin("good keys in turn", bound).await;
    let (sink, clock) = (Forgetful::default(), Clock::manual(Timestamp::UNIX_EPOCH));
    let recorder = Recorder::new(sink.clone());
    let layer = ApiKeyLayer::new(Everyone)
        .cache(CacheConfig::new().capacity(room as usize))
        .recorder(recorder.clone())
        .clock(clock.clone());
    // What one request spends is back in a second, in which the cache's room is used up once.
    let pause = Duration::from_secs(1) / room as u32;
    let mut service = behind(layer.clone());
    for n in 0..requests {
        let secret = secret(id(n));
        assert!(n > 0 || Secret::parse(&secret).is_ok());
        let request = Request::get("/")
            .header("x-api-key", secret)
            .body(String::new())
            .unwrap();
        assert_eq!(ask(&mut service, request).await, 200);
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

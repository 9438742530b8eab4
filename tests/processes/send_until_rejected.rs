//! Sends requests with all active keys in a loop, and with one rejected key at a time, until all keys are rejected.
//! Prints when each key was last admitted, and every key that was admitted again after a rejection.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use keytally::async_trait;
use keytally::backend::{PostgresBackend, SqliteBackend};
use keytally::key::{CacheConfig, CachedStore, InvalidationFeed, KeyRecord, KeyStore, StoreError};
use keytally::{ApiKeyLayer, Clock, KeyId};

use crate::service::Service;
use crate::{given, given_millis};

/// A store that delays its results.
struct DelayedStore<S>(S, Duration);

#[async_trait]
impl<S: KeyStore> KeyStore for DelayedStore<S> {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let result = self.0.find(id).await;
        tokio::time::sleep(self.1.mul_f64(fastrand::f64())).await;
        result
    }

    fn invalidations(&self) -> Option<&InvalidationFeed> {
        self.0.invalidations()
    }
}

pub(crate) async fn run() {
    let slowness = given_millis("KEYTALLY_TEST_SLOWNESS");
    let url = given("KEYTALLY_TEST_URL");
    let config = CacheConfig::new().ttl(given_millis("KEYTALLY_TEST_TTL"));
    if let Some(path) = url.strip_prefix("sqlite:") {
        let backend = SqliteBackend::open(path).await.unwrap();
        send_requests(CachedStore::with_config(
            DelayedStore(backend, slowness),
            config,
            Clock::system(),
        ))
        .await;
    } else {
        let mut backend = PostgresBackend::connect(&url).await.unwrap();
        if given("KEYTALLY_TEST_LISTENING") == "no" {
            backend = backend.without_notifications();
        }
        send_requests(CachedStore::with_config(
            DelayedStore(backend, slowness),
            config,
            Clock::system(),
        ))
        .await;
    }
}

async fn send_requests(store: impl KeyStore) {
    let service = Service::behind(ApiKeyLayer::new(store));
    let keys = std::fs::read_to_string(given("KEYTALLY_TEST_KEYS")).unwrap();
    let mut active: Vec<&str> = keys.lines().collect();
    let mut rejected = Vec::new();
    let mut last: HashMap<&str, i64> = HashMap::new();
    let (mut ready, mut turn) = (false, 0);
    let start = Instant::now();
    while !active.is_empty() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{} keys are still admitted",
            active.len()
        );
        // Concurrently, so that no request waits for another one's slow lookup.
        let requests = active.iter().map(|&secret| {
            let service = service.clone();
            async move {
                (
                    secret,
                    service.ask(secret).await.0,
                    Timestamp::now().as_microsecond(),
                )
            }
        });
        let mut still_active = Vec::new();
        for (secret, status, time) in join_all(requests).await {
            match status.as_u16() {
                200 => {
                    last.insert(secret, time);
                    still_active.push(secret);
                }
                401 => rejected.push(secret),
                _ => panic!("{status}"),
            }
        }
        active = still_active;
        if let Some(&secret) = rejected.get(turn % rejected.len().max(1)) {
            turn += 1;
            if service.ask(secret).await.0 == 200 {
                println!("again {secret}");
            }
        }
        if !ready {
            println!("ready");
            ready = true;
        }
        // Leave CPU time to the other processes.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Long enough for a stale cache entry to reappear.
    let end = Instant::now() + given_millis("KEYTALLY_TEST_TTL") / 2;
    while Instant::now() < end {
        let requests = rejected.iter().map(|&secret| {
            let service = service.clone();
            async move { (secret, service.ask(secret).await.0) }
        });
        for (secret, status) in join_all(requests).await {
            if status == 200 {
                println!("again {secret}");
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for (secret, time) in last {
        println!("last {secret} {time}");
    }
}

/// Polls all futures concurrently and returns their outputs in order.
async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.map(|it| (Box::pin(it), None)).collect();
    std::future::poll_fn(|context| {
        let mut ready = true;
        for (future, output) in &mut pending {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(it) => *output = Some(it),
                    std::task::Poll::Pending => ready = false,
                }
            }
        }
        if ready {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    pending
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}

//! A recorder with a spool, and a database that can be made unavailable.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

use std::collections::HashSet;
use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use keytally::backend::{MemoryBackend, SqliteBackend, SqliteSpool};
use keytally::key::{Actor, Issuer, NewKey};
use keytally::usage::{
    Batch, LogFilter, LogQuery, Recorder, RecorderBuilder, SinkError, SummaryQuery, UsageEvent,
    UsageReader, UsageSink,
};
use keytally::{ApiKeyLayer, PageRequest};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};

/// A database that can be switched off or slowed down, and that remembers the order of its events.
#[derive(Clone)]
pub struct Database {
    pub backend: SqliteBackend,
    pub off: Arc<AtomicBool>,
    /// The extra latency of each write, in milliseconds.
    pub slow: Arc<AtomicU64>,
    pub seen: Arc<Mutex<(HashSet<uuid::Uuid>, Vec<u64>)>>,
}

impl Database {
    pub async fn open(path: &Path) -> Self {
        let backend = SqliteBackend::open(path).await.unwrap();
        backend.migrate().await.unwrap();
        Self {
            backend,
            off: Arc::default(),
            slow: Arc::default(),
            seen: Arc::default(),
        }
    }

    pub fn switch(&self, on: bool) {
        self.off.store(!on, SeqCst);
    }

    /// The request numbers, in the order in which they were first written.
    pub fn order(&self) -> Vec<u64> {
        self.seen.lock().unwrap().1.clone()
    }

    /// All request numbers in the log in ascending order, duplicates included.
    pub async fn numbers(&self) -> Vec<u64> {
        let mut numbers = Vec::new();
        let mut query = LogQuery::new(LogFilter::new()).limit(PageRequest::MAX_LIMIT);
        loop {
            let page = self.backend.requests(&query).await.unwrap();
            numbers.extend(page.items.iter().map(number));
            let Some(next) = page.next else { break };
            query = query.after(next);
        }
        numbers.sort_unstable();
        let summary = self.backend.summary(&SummaryQuery::default()).await;
        assert_eq!(summary.unwrap().totals.total(), numbers.len() as u64);
        numbers
    }
}

#[keytally::async_trait]
impl UsageSink for Database {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        let slow = self.slow.load(SeqCst);
        if slow > 0 {
            tokio::time::sleep(Duration::from_millis(slow)).await;
        }
        if self.off.load(SeqCst) {
            return Err(SinkError::unavailable("switched off by a test"));
        }
        self.backend.write(batch).await?;
        let (ids, order) = &mut *self.seen.lock().unwrap();
        if ids.insert(batch.id) {
            order.extend(batch.events().iter().map(number));
        }
        Ok(())
    }
}

pub fn number(event: &UsageEvent) -> u64 {
    event.path.trim_start_matches('/').parse().unwrap()
}

/// A protected service; the path of each request is its number.
pub struct Service {
    pub recorder: Recorder,
    pub service: BoxCloneSyncService<Request<String>, Response<Full<bytes::Bytes>>, Infallible>,
    pub secret: String,
}

impl Service {
    pub async fn start(recorder: Recorder) -> Self {
        let keys = MemoryBackend::new();
        let issuer = Issuer::new("test").unwrap();
        let issued = issuer
            .issue(&keys, NewKey::new("x"), Actor::SYSTEM)
            .await
            .unwrap();
        let inner = tower::service_fn(|_: Request<String>| async {
            Ok::<_, Infallible>(Response::new(Full::<bytes::Bytes>::default()))
        });
        let layered = ApiKeyLayer::new(keys)
            .recorder(recorder.clone())
            .layer(inner);
        let layered = layered.map_response(|response| response.map(|_| Full::default()));
        Self {
            recorder,
            service: BoxCloneSyncService::new(layered),
            secret: issued.secret.expose().to_owned(),
        }
    }

    pub async fn send(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let request = Request::get(format!("/{number}")).header("x-api-key", &self.secret);
            let request = request.body(String::new()).unwrap();
            let response = self.service.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), 200);
            response.into_body().collect().await.unwrap();
        }
    }
}

pub async fn builder(database: &Database, spool: &Path) -> RecorderBuilder {
    let spool = SqliteSpool::open(spool).await.unwrap();
    Recorder::builder(database.clone())
        .capacity(200)
        .batch_size(20)
        .batch_age(Duration::from_millis(5))
        .backoff(Duration::from_millis(5), Duration::from_millis(50))
        .spool(spool)
}

/// Polls the condition until it is true; panics after a minute.
pub async fn until(condition: impl AsyncFn() -> bool) {
    for _ in 0..12_000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("timed out waiting for a condition");
}

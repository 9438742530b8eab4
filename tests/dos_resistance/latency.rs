//! Latency of valid keys during a flood of unknown ones.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use keytally::backend::MemoryBackend;
use keytally::key::{CacheConfig, KeyRecord, KeyStore, NewKey, Prefix, Secret, StoreError};
use keytally::usage::Recorder;
use keytally::{ApiKeyLayer, KeyId, PeerAddress};
use tokio::net::TcpStream;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{Layer, ServiceExt};

use super::measure::{Flood, MIB};
use super::{many, protected_by, status_of, support};

/// The number of connections with a valid key. Like those of the flood, each sends its requests back to back.
const CLIENTS: usize = 4;

struct Client(http1::SendRequest<Empty<Bytes>>);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn send(&mut self, path: &str, secret: &str) -> StatusCode {
        let request = support::get(path, secret).header("host", "x");
        let request = request.body(Empty::new()).unwrap();
        self.0.ready().await.unwrap();
        let response = self.0.send_request(request).await.unwrap();
        let status = response.status();
        response.into_body().collect().await.unwrap();
        status
    }
}

/// The load that runs beside the valid keys.
#[derive(Clone, Copy)]
enum Load {
    Nothing,
    /// Connections that send requests to an exempt path.
    ExemptPath(usize),
    /// Connections with unknown keys, all from one client IP.
    UnknownKeys(usize),
    /// Tasks that call the layer in process with unknown keys, each from its own client IP.
    InProcess(usize),
}

impl Load {
    fn flooders(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::ExemptPath(flooders)
            | Self::UnknownKeys(flooders)
            | Self::InProcess(flooders) => flooders,
        }
    }
}

struct Setup {
    address: SocketAddr,
    layer: ApiKeyLayer,
    valid: String,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Setup {
    fn flood(&self, load: Load) -> tokio::task::JoinSet<()> {
        let mut flooders = tokio::task::JoinSet::new();
        for n in 0..load.flooders() {
            let (stop, sent) = (self.stop.clone(), self.sent.clone());
            let (address, layer) = (self.address, self.layer.clone());
            let prefix = Prefix::new("acme_test").unwrap();
            match load {
                Load::Nothing => {}
                Load::ExemptPath(_) | Load::UnknownKeys(_) => {
                    let path = match load {
                        Load::UnknownKeys(_) => "/",
                        _ => "/exempt",
                    };
                    flooders.spawn(async move {
                        let mut client = Client::connect(address).await;
                        while !stop.load(Ordering::Relaxed) {
                            let secret = Secret::generate(&prefix).unwrap();
                            let status = client.send(path, secret.expose()).await;
                            assert!(matches!(status.as_u16(), 401 | 429), "{status}");
                            sent.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                Load::InProcess(_) => {
                    let mut service = protected_by(layer);
                    flooders.spawn(async move {
                        while !stop.load(Ordering::Relaxed) {
                            let secret = Secret::generate(&prefix).unwrap();
                            let request = Request::get("/").header("x-api-key", secret.expose());
                            let mut request = request.body(String::new()).unwrap();
                            let client_ip = IpAddr::from([192, 0, 2, n as u8]);
                            request.extensions_mut().insert(PeerAddress(client_ip));
                            let status = status_of(&mut service, request).await;
                            assert!(matches!(status.as_u16(), 401 | 429), "{status}");
                            sent.fetch_add(1, Ordering::Relaxed);
                            tokio::task::yield_now().await;
                        }
                    });
                }
            }
        }
        flooders
    }

    /// The sorted latencies of requests with a valid key.
    async fn measure(&self, load: Load, requests: u64) -> Vec<Duration> {
        self.stop.store(false, Ordering::Relaxed);
        let flooders = self.flood(load);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let (address, valid) = (self.address, self.valid.clone());
            clients.spawn(async move {
                let mut client = Client::connect(address).await;
                let mut latencies = Vec::new();
                for _ in 0..requests / CLIENTS as u64 {
                    let start = Instant::now();
                    assert_eq!(client.send("/", &valid).await, 200);
                    latencies.push(start.elapsed());
                }
                latencies
            });
        }
        let mut latencies: Vec<Duration> = clients.join_all().await.concat();
        self.stop.store(true, Ordering::Relaxed);
        flooders.join_all().await;
        latencies.sort_unstable();
        latencies
    }
}

/// Hangs on lookups of unknown keys.
struct HangingStore(MemoryBackend);

#[async_trait]
impl KeyStore for HangingStore {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        match self.0.find(id).await {
            Ok(None) => std::future::pending().await,
            result => result,
        }
    }
}

/// Requests with unknown keys wait for a hanging store; the inner service has a hundred permits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cached_keys_are_served_while_unknown_ones_wait() {
    let requests = many(2_000, 200_000);
    let flood = Flood::begin("cached keys beside waiting unknown keys", 40 * MIB).await;
    let backend = MemoryBackend::new();
    let valid = support::issue(&backend, NewKey::new("valid")).await;
    let layer = ApiKeyLayer::new(HangingStore(backend)).without_lookup_limit();
    let layer = layer.cache(CacheConfig::new().lookup_timeout(Duration::from_secs(3_600)));
    let service = layer.layer(
        GlobalConcurrencyLimitLayer::new(100).layer(tower::service_fn(
            async |_: Request<String>| {
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok")))
            },
        )),
    );
    let request = |secret: &str| {
        let request = Request::get("/").header("x-api-key", secret);
        request.body(String::new()).unwrap()
    };
    let prefix = Prefix::new("acme_test").unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for (name, unknown) in [("calm", 0), ("beside 1,000 waiting unknown keys", 1_000)] {
        for _ in 0..unknown {
            let secret = Secret::generate(&prefix).unwrap();
            waiting.spawn(service.clone().oneshot(request(secret.expose())));
        }
        // Wait until the maximum number of concurrent lookups is in progress.
        let lookups = 1 + unknown.min(64);
        while unknown > 0 && layer.cache_stats().lookups < lookups {
            tokio::task::yield_now().await;
        }
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let service = service.clone();
            let valid = request(valid.secret.expose());
            clients.spawn(async move {
                let mut latencies = Vec::new();
                for _ in 0..requests / CLIENTS as u64 {
                    let start = Instant::now();
                    let response = service.clone().oneshot(valid.clone()).await.unwrap();
                    assert_eq!(response.status(), 200);
                    latencies.push(start.elapsed());
                    tokio::task::yield_now().await;
                }
                latencies
            });
        }
        let mut latencies: Vec<Duration> = clients.join_all().await.concat();
        latencies.sort_unstable();
        let at = |share: usize| latencies[latencies.len() * share / 1_000].as_nanos();
        let (p50, p99) = (at(500), at(990));
        println!("figure: cached keys {name}: p50 {p50} ns, p99 {p99} ns");
    }
    // All requests with unknown keys are still waiting.
    assert!(waiting.try_join_next().is_none());
    waiting.shutdown().await;
    flood.end(2 * requests);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn valid_keys_are_served_during_a_flood_of_unknown_ones() {
    let requests = many(400, 200_000);
    let flood = Flood::begin("valid keys beside unknown ones", 40 * MIB).await;
    let backend = MemoryBackend::new();
    let recorder = Recorder::new(backend.clone());
    let layer = ApiKeyLayer::new(backend.clone())
        .recorder(recorder.clone())
        .exempt("/exempt");
    let routes = Router::new().route("/", get(|| async { "ok" })).route(
        "/exempt",
        get(|| async { (StatusCode::UNAUTHORIZED, "exempt") }),
    );
    let setup = Setup {
        address: support::serve(routes.layer(layer.clone())).await,
        layer,
        valid: support::issue(&backend, NewKey::new("valid"))
            .await
            .secret
            .expose()
            .to_owned(),
        stop: Arc::default(),
        sent: Arc::default(),
    };
    let mut total = 0;
    for (load, name) in [
        (Load::Nothing, "calm"),
        (Load::ExemptPath(1), "beside 1 client of an exempt path"),
        (Load::UnknownKeys(1), "beside 1 client with unknown keys"),
        (Load::ExemptPath(4), "beside 4 clients of an exempt path"),
        (
            Load::UnknownKeys(4),
            "beside 4 clients with unknown keys, one client IP",
        ),
        (Load::ExemptPath(8), "beside 8 clients of an exempt path"),
        (
            Load::UnknownKeys(8),
            "beside 8 clients with unknown keys, one client IP",
        ),
        (
            Load::InProcess(8),
            "beside 8 tasks with unknown keys, in process",
        ),
        (Load::Nothing, "calm again"),
    ] {
        setup.sent.store(0, Ordering::Relaxed);
        let start = Instant::now();
        let latencies = setup.measure(load, requests).await;
        total += latencies.len() as u64;
        let at = |share: usize| latencies[latencies.len() * share / 1_000].as_micros();
        let (secs, others) = (
            start.elapsed().as_secs_f64(),
            setup.sent.load(Ordering::Relaxed),
        );
        println!(
            "figure: valid keys {name}: p50 {} µs, p99 {} µs, p99.9 {} µs; {:.0} valid and {:.0} other requests per second",
            at(500),
            at(990),
            at(999),
            latencies.len() as f64 / secs,
            others as f64 / secs,
        );
    }
    recorder.flush().await;
    let stats = recorder.stats();
    assert_eq!((stats.written, stats.lost), (total, 0));
    flood.end(total);
}

//! How long good keys wait while a flood of bad ones runs beside them.

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
use keytally::{ApiKeyLayer, KeyId, PeerIp};
use tokio::net::TcpStream;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{Layer, ServiceExt};

use super::measure::{Flood, MIB};
use super::{ask, behind, many, support};

/// Connections with a good key; each asks again as soon as it is answered, as do those of the flood.
const GOOD: usize = 4;

struct Client(http1::SendRequest<Empty<Bytes>>);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn ask(&mut self, path: &str, secret: &str) -> StatusCode {
        let request = support::get(path, secret).header("host", "x");
        let request = request.body(Empty::new()).unwrap();
        self.0.ready().await.unwrap();
        let response = self.0.send_request(request).await.unwrap();
        let status = response.status();
        response.into_body().collect().await.unwrap();
        status
    }
}

/// What goes on beside the good keys.
#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    /// So many connections, answered without any work of the layer's.
    Bare(usize),
    /// So many connections with unknown keys, all from one address.
    Bad(usize),
    /// So many tasks that call the layer with unknown keys, each from an address of its own.
    Within(usize),
}

impl Beside {
    fn flooders(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Bare(flooders) | Self::Bad(flooders) | Self::Within(flooders) => flooders,
        }
    }
}

struct Setup {
    address: SocketAddr,
    layer: ApiKeyLayer,
    good: String,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Setup {
    fn flood(&self, beside: Beside) -> tokio::task::JoinSet<()> {
        let mut flooders = tokio::task::JoinSet::new();
        for n in 0..beside.flooders() {
            let (stop, sent) = (self.stop.clone(), self.sent.clone());
            let (address, layer) = (self.address, self.layer.clone());
            let prefix = Prefix::new("acme_test").unwrap();
            match beside {
                Beside::Nothing => {}
                Beside::Bare(_) | Beside::Bad(_) => {
                    let path = match beside {
                        Beside::Bad(_) => "/",
                        _ => "/exempt",
                    };
                    flooders.spawn(async move {
                        let mut client = Client::connect(address).await;
                        while !stop.load(Ordering::Relaxed) {
                            let secret = Secret::generate(&prefix).unwrap();
                            let status = client.ask(path, secret.expose()).await;
                            assert!(matches!(status.as_u16(), 401 | 429), "{status}");
                            sent.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                Beside::Within(_) => {
                    let mut service = behind(layer);
                    flooders.spawn(async move {
                        while !stop.load(Ordering::Relaxed) {
                            let secret = Secret::generate(&prefix).unwrap();
                            let request = Request::get("/").header("x-api-key", secret.expose());
                            let mut request = request.body(String::new()).unwrap();
                            let from = IpAddr::from([192, 0, 2, n as u8]);
                            request.extensions_mut().insert(PeerIp(from));
                            let status = ask(&mut service, request).await;
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

    /// Latencies of requests with a good key, a few at a time.
    async fn measure(&self, beside: Beside, requests: u64) -> Vec<Duration> {
        self.stop.store(false, Ordering::Relaxed);
        let flooders = self.flood(beside);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..GOOD {
            let (address, good) = (self.address, self.good.clone());
            clients.spawn(async move {
                let mut client = Client::connect(address).await;
                let mut latencies = Vec::new();
                for _ in 0..requests / GOOD as u64 {
                    let began = Instant::now();
                    assert_eq!(client.ask("/", &good).await, 200);
                    latencies.push(began.elapsed());
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

/// Hangs whenever it is asked for a key that it does not have.
struct Hanging(MemoryBackend);

#[async_trait]
impl KeyStore for Hanging {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        match self.0.find(id).await {
            Ok(None) => std::future::pending().await,
            found => found,
        }
    }
}

/// Unknown keys wait for a store that hangs, in front of a service with a hundred permits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cached_keys_are_served_while_unknown_ones_wait() {
    let requests = many(2_000, 200_000);
    let flood = Flood::begin("cached keys beside waiting ones", 40 * MIB).await;
    let backend = MemoryBackend::new();
    let good = support::issue(&backend, NewKey::new("good")).await;
    let layer = ApiKeyLayer::new(Hanging(backend)).no_lookup_limit();
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
    for (name, unknown) in [("calm", 0), ("beside 1,000 that wait", 1_000)] {
        for _ in 0..unknown {
            let secret = Secret::generate(&prefix).unwrap();
            waiting.spawn(service.clone().oneshot(request(secret.expose())));
        }
        // As many of them are asked for at once.
        let asked = 1 + unknown.min(64);
        while unknown > 0 && layer.cache_stats().lookups < asked {
            tokio::task::yield_now().await;
        }
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..GOOD {
            let service = service.clone();
            let good = request(good.secret.expose());
            clients.spawn(async move {
                let mut latencies = Vec::new();
                for _ in 0..requests / GOOD as u64 {
                    let began = Instant::now();
                    let answer = service.clone().oneshot(good.clone()).await.unwrap();
                    assert_eq!(answer.status(), 200);
                    latencies.push(began.elapsed());
                    tokio::task::yield_now().await;
                }
                latencies
            });
        }
        let mut latencies: Vec<Duration> = clients.join_all().await.concat();
        latencies.sort_unstable();
        let at = |share: usize| latencies[latencies.len() * share / 1_000].as_nanos();
        let (p50, p99) = (at(500), at(990));
        println!("cached keys {name}: p50 {p50} ns, p99 {p99} ns");
    }
    // All of them still wait.
    assert!(waiting.try_join_next().is_none());
    waiting.shutdown().await;
    flood.end(2 * requests);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_keys_are_served_while_a_flood_of_bad_ones_runs() {
    let requests = many(400, 200_000);
    let flood = Flood::begin("good keys beside bad ones", 40 * MIB).await;
    let backend = MemoryBackend::new();
    let recorder = Recorder::new(backend.clone());
    let layer = ApiKeyLayer::new(backend.clone())
        .recorder(recorder.clone())
        .exempt("/exempt");
    let routes = Router::new().route("/", get(|| async { "ok" })).route(
        "/exempt",
        get(|| async { (StatusCode::UNAUTHORIZED, "no key is looked at here") }),
    );
    let setup = Setup {
        address: support::serve(routes.layer(layer.clone())).await,
        layer,
        good: support::issue(&backend, NewKey::new("good"))
            .await
            .secret
            .expose()
            .to_owned(),
        stop: Arc::default(),
        sent: Arc::default(),
    };
    let mut asked = 0;
    for (beside, name) in [
        (Beside::Nothing, "calm"),
        (Beside::Bare(1), "beside 1 without the layer's work"),
        (Beside::Bad(1), "beside 1 with bad keys of one address"),
        (Beside::Bare(4), "beside 4 without the layer's work"),
        (Beside::Bad(4), "beside 4 with bad keys of one address"),
        (Beside::Bare(8), "beside 8 without the layer's work"),
        (Beside::Bad(8), "beside 8 with bad keys of one address"),
        (Beside::Within(8), "beside bad keys within the process"),
        (Beside::Nothing, "calm again"),
    ] {
        setup.sent.store(0, Ordering::Relaxed);
        let began = Instant::now();
        let latencies = setup.measure(beside, requests).await;
        asked += latencies.len() as u64;
        let at = |share: usize| latencies[latencies.len() * share / 1_000].as_micros();
        let (secs, others) = (
            began.elapsed().as_secs_f64(),
            setup.sent.load(Ordering::Relaxed),
        );
        println!(
            "good keys {name}: p50 {} µs, p99 {} µs, p99.9 {} µs; {:.0} good and {:.0} others a second",
            at(500),
            at(990),
            at(999),
            latencies.len() as f64 / secs,
            others as f64 / secs,
        );
    }
    recorder.flush().await;
    let stats = recorder.stats();
    assert_eq!((stats.written, stats.lost), (asked, 0));
    flood.end(asked);
}

//! The overhead of the layer over a service that does nothing. Each iteration sends one request. The recorder
//! is flushed between chunks of iterations: its work happens on another thread and is not measured.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::net::IpAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{Empty, Full};
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, Issuer, KeyAdmin, NewKey};
use keytally::limit::RateLimit;
use keytally::usage::Recorder;
use keytally::{ApiKeyLayer, PeerAddress};
use tower::{Layer, Service};

/// Requests between two flushes: fewer than fit into the recorder's queue.
const CHUNK: u64 = 16_384;

#[derive(Clone)]
struct NoOp;

impl Service<Request<Empty<Bytes>>> for NoOp {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Empty<Bytes>>) -> Self::Future {
        drop(request);
        let mut response = Response::new(Full::new(Bytes::from_static(b"ok")));
        let text = HeaderValue::from_static("text/plain");
        response.headers_mut().insert(CONTENT_TYPE, text);
        ready(Ok(response))
    }
}

/// The request parts that a server slices out of its read buffer without copying.
struct Template(Uri, HeaderValue);

impl Template {
    fn new(secret: &str) -> Self {
        let value = HeaderValue::from_maybe_shared(Bytes::from(format!("Bearer {secret}")));
        let value = value.unwrap();
        drop(value.clone());
        Self(Uri::from_static("/v1/postings/42"), value)
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.0.clone();
        request.headers_mut().insert(AUTHORIZATION, self.1.clone());
        let peer = PeerAddress(IpAddr::from([127, 0, 0, 1]));
        request.extensions_mut().insert(peer);
        request
    }
}

fn drive<S, B>(service: &mut S, request: Request<Empty<Bytes>>) -> StatusCode
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: Body,
{
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(service.poll_ready(cx).is_ready());
    let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(cx) else {
        panic!("the service did not respond immediately");
    };
    let (parts, body) = response.into_parts();
    let mut body = pin!(body);
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(cx) {
        black_box(frame.ok());
    }
    black_box(parts).status
}

fn layer(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    // Provides timers for lookups after a cache entry has expired.
    let _context = runtime.enter();
    let backend = MemoryBackend::new();
    let recorder = Recorder::new(backend.clone());
    let issuer = Issuer::new("acme_live").unwrap();
    let issue = |name, limit| {
        let new = NewKey::new(name).owner("customer-17").limit(limit);
        runtime
            .block_on(issuer.issue(&backend, new, Actor::SYSTEM))
            .unwrap()
    };
    let wide = RateLimit::per_second(10_000_000).with_burst(100_000_000);
    let allowed = issue("allowed", wide.clone());
    let limited = issue("limited", RateLimit::per_hour(1));
    let deleted = issue("deleted", wide);
    runtime
        .block_on(backend.delete(deleted.key.id, Actor::SYSTEM))
        .unwrap();
    let malformed = &allowed.secret.expose()[..63];

    let mut group = c.benchmark_group("layer");
    let request = Template::new(allowed.secret.expose());
    let mut bare = NoOp;
    group.bench_function("bare", |b| b.iter(|| drive(&mut bare, request.request())));

    let counting = ApiKeyLayer::new(backend.clone());
    let recording = counting.clone().recorder(recorder.clone());
    for (name, layer, secret, status) in [
        (
            "allowed_counted_only",
            &counting,
            allowed.secret.expose(),
            200,
        ),
        ("allowed", &recording, allowed.secret.expose(), 200),
        ("limited", &recording, limited.secret.expose(), 429),
        ("unknown", &recording, deleted.secret.expose(), 401),
        ("malformed", &recording, malformed, 401),
    ] {
        let mut service = layer.layer(NoOp);
        let template = Template::new(secret);
        // The first request looks up the key and uses up the limit of one request.
        for _ in 0..2 {
            let request = template.request();
            runtime.block_on(async { service.call(request).await.unwrap() });
        }
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                let mut elapsed = Duration::ZERO;
                let mut left = iterations;
                while left > 0 {
                    runtime.block_on(recorder.flush());
                    let count = left.min(CHUNK);
                    let start = Instant::now();
                    for _ in 0..count {
                        assert_eq!(drive(&mut service, template.request()), status);
                    }
                    elapsed += start.elapsed();
                    left -= count;
                }
                elapsed
            });
        });
        runtime.block_on(recorder.flush());
        let stats = recorder.stats();
        assert_eq!((stats.lost, stats.queued, stats.in_flight), (0, 0, 0));
    }
    group.finish();
}

criterion_group!(benches, layer);
criterion_main!(benches);

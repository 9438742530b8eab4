//! Sends requests through the layer, to be counted by Callgrind: `scripts/instructions`.
//!
//! ```text
//! keytally-instructions CASE REQUESTS
//! ```
//!
//! The recorder writes into the memory backend on a thread of its own.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{Empty, Full};
use keytally::ApiKeyLayer;
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, CacheConfig, Issued, Issuer, KeyAdmin, NewKey};
use keytally::limit::RateLimit;
use keytally::usage::Recorder;
use tower::{Layer, Service};

const HOUR: Duration = Duration::from_secs(3_600);

/// The service behind the layer.
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

/// The requests of a case.
struct Requests {
    authorization: HeaderValue,
    status: StatusCode,
}

impl Requests {
    fn new(secret: &str, status: StatusCode) -> Self {
        let authorization = HeaderValue::try_from(format!("Bearer {secret}")).unwrap();
        Self {
            authorization,
            status,
        }
    }

    fn next(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = Uri::from_static("/v1/postings/42");
        let authorization = self.authorization.clone();
        request.headers_mut().insert(AUTHORIZATION, authorization);
        request
    }

    /// Sends this many requests and reads the responses to their ends.
    fn send<S, B>(&self, service: &mut S, count: usize)
    where
        S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible>,
        B: Body,
    {
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..count {
            assert!(service.poll_ready(cx).is_ready());
            let Poll::Ready(Ok(response)) = pin!(service.call(self.next())).poll(cx) else {
                panic!("the service did not respond immediately");
            };
            assert_eq!(response.status(), self.status);
            let mut body = pin!(response.into_body());
            while let Poll::Ready(Some(_)) = body.as_mut().poll_frame(cx) {}
        }
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let case = arguments.next().expect("a case");
    let count = arguments.next().expect("a number of requests");
    let count = count.parse().expect("a number of requests");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let _context = runtime.enter();
    let backend = MemoryBackend::new();
    let issuer = Issuer::new("acme_live").unwrap();
    let issue = |limits: Vec<RateLimit>| -> Issued {
        let new = limits
            .into_iter()
            .fold(NewKey::new("key").owner("customer-17"), NewKey::limit);
        let issued = issuer.issue(&backend, new, Actor::SYSTEM);
        runtime.block_on(issued).unwrap()
    };
    let wide = || RateLimit::per_second(1_000_000).with_burst(1_000_000);
    let (secret, status) = match &*case {
        "bare" => (issue(vec![wide()]).secret, StatusCode::OK),
        "allowed" => (issue(vec![wide()]).secret, StatusCode::OK),
        "allowed_by_two_limits" => {
            let second = wide().with_name("other");
            (issue(vec![wide(), second]).secret, StatusCode::OK)
        }
        "limited" => {
            let issued = issue(vec![RateLimit::per_hour(1)]);
            (issued.secret, StatusCode::TOO_MANY_REQUESTS)
        }
        "unknown" => {
            let issued = issue(vec![wide()]);
            let deleted = backend.delete(issued.key.id, Actor::SYSTEM);
            runtime.block_on(deleted).unwrap();
            (issued.secret, StatusCode::UNAUTHORIZED)
        }
        "revoked" => {
            let issued = issue(vec![wide()]);
            let revoked = backend.revoke(issued.key.id, Actor::SYSTEM);
            runtime.block_on(revoked).unwrap();
            (issued.secret, StatusCode::UNAUTHORIZED)
        }
        "malformed" => {
            let requests = Requests::new("nonsense", StatusCode::UNAUTHORIZED);
            return run(&runtime, backend.clone(), &requests, count);
        }
        _ => panic!("unknown case {case}"),
    };
    let requests = Requests::new(secret.expose(), status);
    if case == "bare" {
        return requests.send(&mut NoOp, count);
    }
    run(&runtime, backend.clone(), &requests, count);
}

fn run(
    runtime: &tokio::runtime::Runtime,
    backend: MemoryBackend,
    requests: &Requests,
    count: usize,
) {
    let recorder = Recorder::new(backend.clone());
    // Callgrind is slow: entries must not expire.
    let cache = CacheConfig::new().ttl(HOUR).unknown_ttl(HOUR);
    let layer = ApiKeyLayer::new(backend)
        .cache(cache)
        .recorder(recorder.clone());
    let mut service = layer.layer(NoOp);
    // Fills the cache, and exceeds a limit of one request.
    let _ = runtime.block_on(async { service.call(requests.next()).await });
    requests.send(&mut service, count);
    runtime.block_on(recorder.flush());
    assert_eq!(recorder.stats().lost, 0);
}

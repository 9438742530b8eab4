//! Heap allocations that the layer adds to a request that it lets through: exact, whatever the
//! machine.

use std::alloc::System;
use std::convert::Infallible;
use std::net::IpAddr;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use keytally::backend::MemoryBackend;
use keytally::key::{Issuer, NewKey};
use keytally::limit::RateLimit;
use keytally::usage::Recorder;
use keytally::{ApiKeyLayer, PeerIp};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tower::{Layer, Service};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn calls() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

/// Allocations of one request, the same for a thousand of them.
async fn count<S, B>(service: &mut S, secret: &str) -> usize
where
    S: Service<Request<String>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Error: std::fmt::Debug>,
{
    let uri = Uri::from_static("/v1/postings/42");
    let authorization = HeaderValue::from_str(&format!("Bearer {secret}")).unwrap();
    let mut each = Vec::with_capacity(1_100);
    for _ in 0..1_100 {
        let before = calls();
        // The parts are shared, as a server slices them out of its buffer.
        let mut request = Request::new(String::new());
        *request.uri_mut() = uri.clone();
        request
            .headers_mut()
            .insert(AUTHORIZATION, authorization.clone());
        let peer = PeerIp(IpAddr::from([127, 0, 0, 1]));
        request.extensions_mut().insert(peer);
        let response = service.call(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let (parts, body) = response.into_parts();
        let mut body = std::pin::pin!(body);
        while body.frame().await.is_some() {}
        drop(parts);
        each.push(calls() - before);
    }
    // The first asks the store. The allocator counts for the process: what other threads do now
    // and then must not decide.
    each.sort_unstable();
    each[each.len() / 2]
}

async fn added(content_type: bool) -> usize {
    let mut bare = tower::service_fn(move |_: Request<String>| async move {
        let mut response = Response::new(Full::new(Bytes::from_static(b"ok")));
        if content_type {
            let text = HeaderValue::from_static("text/plain");
            response.headers_mut().insert(CONTENT_TYPE, text);
        }
        Ok::<_, Infallible>(response)
    });
    let backend = MemoryBackend::new();
    let limit = RateLimit::per_second(1_000_000);
    let new = NewKey::new("x").owner("customer-17").limit(limit);
    let issued = Issuer::new("acme_live")
        .unwrap()
        .issue(&backend, new)
        .await
        .unwrap();
    let layer = ApiKeyLayer::new(backend.clone()).recorder(Recorder::new(backend));
    let mut layered = layer.layer(bare);
    let secret = issued.secret.expose();
    count(&mut layered, secret).await - count(&mut bare, secret).await
}

#[tokio::test]
async fn the_allowed_path_adds_three_allocations() {
    // To an answer that has headers already, as most have.
    assert_eq!(added(true).await, 3);
    // To one without any it adds the map of headers too, which takes two by itself.
    assert_eq!(added(false).await, 5);
}

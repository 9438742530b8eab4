//! The exact number of heap allocations that the layer adds to an admitted request.

use std::alloc::System;
use std::convert::Infallible;
use std::net::IpAddr;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, Issuer, NewKey};
use keytally::limit::RateLimit;
use keytally::usage::Recorder;
use keytally::{ApiKeyLayer, PeerAddress};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tower::{Layer, Service};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn allocations_so_far() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

/// The median number of allocations per request.
async fn allocations_per_request<S, B>(service: &mut S, secret: &str) -> usize
where
    S: Service<Request<String>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Error: std::fmt::Debug>,
{
    let uri = Uri::from_static("/v1/postings/42");
    let authorization = HeaderValue::from_str(&format!("Bearer {secret}")).unwrap();
    let mut per_request = Vec::with_capacity(1_100);
    for _ in 0..1_100 {
        let before = allocations_so_far();
        // The parts share a buffer, as they do in a server.
        let mut request = Request::new(String::new());
        *request.uri_mut() = uri.clone();
        request
            .headers_mut()
            .insert(AUTHORIZATION, authorization.clone());
        let peer = PeerAddress(IpAddr::from([127, 0, 0, 1]));
        request.extensions_mut().insert(peer);
        let response = service.call(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let (parts, body) = response.into_parts();
        let mut body = std::pin::pin!(body);
        while body.frame().await.is_some() {}
        drop(parts);
        per_request.push(allocations_so_far() - before);
    }
    // The median: the first request calls the store, and the process-wide counter includes other threads.
    per_request.sort_unstable();
    per_request[per_request.len() / 2]
}

async fn added_allocations(content_type: bool) -> usize {
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
        .issue(&backend, new, Actor::SYSTEM)
        .await
        .unwrap();
    let layer = ApiKeyLayer::new(backend.clone()).recorder(Recorder::new(backend));
    let mut layered = layer.layer(bare);
    let secret = issued.secret.expose();
    allocations_per_request(&mut layered, secret).await
        - allocations_per_request(&mut bare, secret).await
}

#[tokio::test]
async fn admitted_request_adds_three_allocations() {
    // For a response that has headers already, as most do.
    assert_eq!(added_allocations(true).await, 3);
    // For a response without headers, the header map itself takes two more.
    assert_eq!(added_allocations(false).await, 5);
}

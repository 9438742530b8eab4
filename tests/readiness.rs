//! tower's contract: a service is called only after it was polled ready, and it is the one that was.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use keytally::backend::MemoryBackend;
use keytally::key::{Issuer, NewKey};
use keytally::{ApiKeyLayer, RequireScope};
use tower::{Layer, Service, ServiceExt};

/// Panics when it is called without having been polled ready itself. A clone was not.
struct Strict {
    ready: bool,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { ready: false }
    }
}

impl Service<Request<String>> for Strict {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called unready");
        std::future::ready(Ok(Response::new(Full::from("ok"))))
    }
}

#[tokio::test]
async fn the_service_that_was_ready_is_the_one_that_is_called() {
    let backend = MemoryBackend::new();
    let issuer = Issuer::new("acme").unwrap();
    let new = NewKey::named("x").scope("read");
    let issued = issuer.issue(&backend, new).await.unwrap();
    let layer = ApiKeyLayer::new(backend);
    let mut service = layer.layer(RequireScope::new("read").layer(Strict { ready: false }));
    // The first request waits for the store, the others find the key in memory, and after it was
    // dropped one waits again.
    for round in 0..6 {
        let request = Request::get("/").header("x-api-key", issued.secret.expose());
        let request = request.body(String::new()).unwrap();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status(), 200, "{round}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "ok");
        if round == 3 {
            layer.key_cache().invalidate_all();
        }
    }
    assert_eq!(layer.cache_stats().lookups, 2);
}

#[tokio::test]
async fn a_refusal_does_not_use_up_readiness() {
    let mut service = ApiKeyLayer::new(MemoryBackend::new()).layer(Strict { ready: false });
    for _ in 0..2 {
        let request = Request::get("/").body(String::new()).unwrap();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status(), 401);
    }
}

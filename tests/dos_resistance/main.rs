//! Floods of what strangers and holders of keys can send in masses: memory stays within a stated bound,
//! the store is asked no more than is allowed, and good keys go on working.
//!
//! Short forms run with all other tests; `scripts/dos-resistance` runs the long ones, optimized, and prints
//! their figures. They run one after another, since they measure the process.
#![cfg(target_os = "linux")]

mod headers;
mod latency;
mod measure;
#[path = "../support/secrets.rs"]
mod secrets;
mod slow;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
mod variety;

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use keytally::{ApiKeyLayer, ResponseBody};
use tower::{Layer, Service};

/// As many as the form of the flood has: `scripts/dos-resistance` runs the long one.
fn many(short: u64, long: u64) -> u64 {
    let is_long = std::env::var_os("KEYTALLY_FLOODS").is_some();
    if is_long { long } else { short }
}

/// What a flood is sent into.
trait Answers:
    Service<Request<String>, Response = Answer, Error = Infallible, Future: Send> + Send + 'static
{
}

impl<S> Answers for S where
    S: Service<Request<String>, Response = Answer, Error = Infallible, Future: Send>
        + Send
        + 'static
{
}

type Answer = Response<ResponseBody<Full<Bytes>>>;

/// A service that answers whatever the layer lets through.
fn behind(layer: ApiKeyLayer) -> impl Answers {
    layer.layer(tower::service_fn(async |_: Request<String>| {
        Ok::<_, Infallible>(Response::new(Full::from(Bytes::from_static(b"ok"))))
    }))
}

/// Asks a service that is always ready.
async fn ask(service: &mut impl Answers, request: Request<String>) -> StatusCode {
    let Ok(response) = service.call(request).await;
    let status = response.status();
    assert!(response.into_body().collect().await.is_ok());
    status
}

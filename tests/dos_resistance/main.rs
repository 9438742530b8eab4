//! Denial-of-service resistance: floods from unauthenticated clients and key holders. Memory stays within a stated
//! bound, store lookups stay within their limits, and valid keys keep working.
//!
//! Short versions run with all other tests; `scripts/dos-resistance` runs the long ones, optimized, and prints their
//! figures. They run one at a time, since they measure the whole process.
#![cfg(target_os = "linux")]

mod headers;
mod latency;
mod measure;
#[path = "../support/secrets.rs"]
mod secrets;
mod slow;
#[path = "../support/mod.rs"]
mod support;
mod unknown_keys;
mod variety;

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use keytally::{ApiKeyLayer, ResponseBody};
use tower::{Layer, Service};

/// The size of a flood: `long` if run by `scripts/dos-resistance`, else `short`.
fn many(short: u64, long: u64) -> u64 {
    let is_long = std::env::var_os("KEYTALLY_FLOODS").is_some();
    if is_long { long } else { short }
}

/// The service that a flood is sent to.
trait FloodTarget:
    Service<Request<String>, Response = FloodResponse, Error = Infallible, Future: Send>
    + Send
    + 'static
{
}

impl<S> FloodTarget for S where
    S: Service<Request<String>, Response = FloodResponse, Error = Infallible, Future: Send>
        + Send
        + 'static
{
}

type FloodResponse = Response<ResponseBody<Full<Bytes>>>;

/// A service behind the layer that responds to every admitted request.
fn protected_by(layer: ApiKeyLayer) -> impl FloodTarget {
    layer.layer(tower::service_fn(async |_: Request<String>| {
        Ok::<_, Infallible>(Response::new(Full::from(Bytes::from_static(b"ok"))))
    }))
}

/// Sends a request to a service that is always ready; reads the whole response and returns its status.
async fn status_of(service: &mut impl FloodTarget, request: Request<String>) -> StatusCode {
    let Ok(response) = service.call(request).await;
    let status = response.status();
    assert!(response.into_body().collect().await.is_ok());
    status
}

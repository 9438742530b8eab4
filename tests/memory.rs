//! Rule 6: nothing unauthenticated creates state that grows. In a process of its own, since it
//! measures the process.
#![cfg(target_os = "linux")]

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use keytally::ApiKeyLayer;
use keytally::backend::MemoryBackend;
use keytally::key::{Prefix, Secret};
use keytally::usage::{Recorder, Refusal};
use tower::{Layer, Service, ServiceExt};

const FLOOD: u64 = 2_000_000;

/// Resident memory in bytes.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<i64>()
        .unwrap()
        * 1_024
}

#[tokio::test]
async fn rule_6_unknown_keys_leave_no_memory_behind() {
    let backend = MemoryBackend::new();
    let recorder = Recorder::new(backend.clone());
    let layer = ApiKeyLayer::new(backend).recorder(recorder.clone());
    let mut service = layer.layer(tower::service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::from(Bytes::new())))
    }));
    let prefix = Prefix::new("acme").unwrap();
    let mut flood = async |requests| {
        for _ in 0..requests {
            let secret = Secret::generate(&prefix).unwrap();
            let request = Request::get("/").header("x-api-key", secret.expose());
            let request = request.body(()).unwrap();
            let response = service.ready().await.unwrap().call(request).await.unwrap();
            assert_eq!(response.status(), 401);
        }
    };
    // Fills what is bounded.
    flood(100_000).await;
    let before = resident();
    flood(FLOOD).await;
    let grown = resident() - before;
    assert!(grown < 8 * 1_024 * 1_024, "grown by {grown} bytes");
    let stats = recorder.stats();
    assert_eq!(stats.refused_for(Refusal::Unknown), FLOOD + 100_000);
    assert_eq!(stats.accepted, 0);
}

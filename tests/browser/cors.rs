//! Cross-origin requests, with the layer orders of the examples.

use axum::response::Html;
use axum::routing::get;
use axum::{Router, serve};
use http::HeaderValue;
use keytally::backend::MemoryBackend;
use keytally::key::NewKey;
use keytally::limit::RateLimit;
use keytally::usage::{LogQuery, Status, UsageReader};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

use crate::browser::Browser;
use crate::journey::with_browser;
use crate::support::issue;

#[path = "../../examples/cors_inside.rs"]
#[allow(dead_code, reason = "an example has a main function")]
mod cors_inside;
#[path = "../../examples/cors_outside.rs"]
#[allow(dead_code, reason = "an example has a main function")]
mod cors_outside;
#[path = "../../examples/grpc_web.rs"]
#[allow(dead_code, reason = "an example has a main function")]
mod grpc_web;

/// Serves a router and returns its origin.
async fn start(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move { serve(listener, router).await });
    format!("http://{address}")
}

/// Opens a page of another origin than any API, and returns its origin.
async fn page(browser: &Browser) -> String {
    let page = Html("<!doctype html><title>An application</title>");
    let origin = start(Router::new().route("/", get(async move || page))).await;
    browser.client.goto(&origin).await.unwrap();
    origin
}

const FETCH: &str = "
    const [url, options, body] = arguments;
    if (body) options.body = new Uint8Array(body);
    const read = async (response) => ({
        status: response.status,
        headers: Object.fromEntries(response.headers),
        body: [...new Uint8Array(await response.arrayBuffer())],
    });
    return fetch(url, options).then(read, (error) => ({ error: String(error) }));
";

async fn fetch(browser: &Browser, url: &str, headers: Value) -> Value {
    let arguments = vec![json!(url), json!({ "headers": headers }), Value::Null];
    browser.ask(FETCH, arguments).await
}

async fn key(backend: &MemoryBackend) -> String {
    let new = NewKey::new("Single-page application").limit(RateLimit::per_hour(1));
    issue(backend, new).await.secret.expose().into()
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn with_cors_outside_cross_origin_scripts_can_read_rejections() {
    with_browser(async |browser: &Browser| {
        let origin: HeaderValue = page(browser).await.parse().unwrap();
        let backend = MemoryBackend::new();
        let key = key(&backend).await;
        let api = start(cors_outside::app(backend, origin)).await;
        let url = format!("{api}/v1/postings");
        let allowed = fetch(browser, &url, json!({ "x-api-key": key })).await;
        assert_eq!(allowed["status"], 200, "{allowed}");
        assert!(allowed["headers"]["x-request-id"].is_string(), "{allowed}");
        assert!(allowed["headers"]["ratelimit"].is_string(), "{allowed}");
        let limited = fetch(
            browser,
            &url,
            json!({ "authorization": format!("Bearer {key}") }),
        );
        let limited = limited.await;
        assert_eq!(limited["status"], 429, "{limited}");
        assert!(limited["headers"]["retry-after"].is_string(), "{limited}");
        for headers in [json!({}), json!({ "x-api-key": "wrong" })] {
            let rejected = fetch(browser, &url, headers).await;
            assert_eq!(rejected["status"], 401, "{rejected}");
            assert!(
                rejected["headers"]["www-authenticate"].is_string(),
                "{rejected}"
            );
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn with_cors_inside_only_admitted_requests_are_readable() {
    with_browser(async |browser: &Browser| {
        let origin: HeaderValue = page(browser).await.parse().unwrap();
        let backend = MemoryBackend::new();
        let key = key(&backend).await;
        let api = start(cors_inside::app(backend, origin)).await;
        let url = format!("{api}/v1/postings");
        let allowed = fetch(browser, &url, json!({ "x-api-key": key })).await;
        assert_eq!(allowed["status"], 200, "{allowed}");
        // Without a key, and rate limited.
        for headers in [json!({}), json!({ "x-api-key": key })] {
            let rejected = fetch(browser, &url, headers).await;
            assert!(
                rejected["error"]
                    .as_str()
                    .unwrap()
                    .contains("Failed to fetch"),
                "{rejected}"
            );
        }
    })
    .await;
}

/// The status in the trailers at the end of a gRPC-Web body, or in the headers.
fn grpc_status(response: &Value) -> String {
    if let Some(status) = response["headers"]["grpc-status"].as_str() {
        return status.into();
    }
    let body = response["body"].as_array().unwrap();
    let body: Vec<_> = body
        .iter()
        .map(|byte| byte.as_u64().unwrap() as u8)
        .collect();
    let text = String::from_utf8_lossy(&body);
    let (_, status) = text
        .split_once("grpc-status:")
        .unwrap_or_else(|| panic!("{response}"));
    status.trim_start().split("\r\n").next().unwrap().into()
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn cross_origin_scripts_can_call_grpc_web() {
    with_browser(async |browser: &Browser| {
        let origin: HeaderValue = page(browser).await.parse().unwrap();
        let backend = MemoryBackend::new();
        let new = NewKey::new("Single-page application").limit(RateLimit::per_hour(2));
        let key = issue(&backend, new).await.secret.expose().to_owned();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        tokio::spawn(grpc_web::serve(backend.clone(), origin, incoming));
        let url = format!("http://{address}/postings.v1.Postings/Get");
        let call = async |key: Option<&str>, id: u8| {
            let mut headers = json!({
                "content-type": "application/grpc-web+proto",
                "x-grpc-web": "1",
            });
            if let Some(key) = key {
                headers["authorization"] = format!("Bearer {key}").into();
            }
            let options = json!({ "method": "POST", "headers": headers });
            // A frame with a message of two bytes: field 1 is the id.
            let body = json!([0, 0, 0, 0, 2, 8, id]);
            let response = browser.ask(FETCH, vec![json!(url), options, body]).await;
            assert_eq!(response["status"], 200, "{response}");
            grpc_status(&response)
        };
        assert_eq!(call(Some(&key), 1).await, "0");
        assert_eq!(call(Some(&key), 0).await, "5");
        assert_eq!(call(Some(&key), 1).await, "8");
        assert_eq!(call(None, 1).await, "16");
        let logged = async || {
            let page = backend.requests(&LogQuery::default()).await.unwrap();
            let items = page.items.into_iter().rev();
            items.map(|event| event.status).collect::<Vec<_>>()
        };
        for _ in 0..100 {
            if logged().await.len() == 3 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert_eq!(logged().await, [0, 5, 8].map(Status::Grpc));
    })
    .await;
}

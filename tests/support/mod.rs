//! A protected axum service on a TCP socket, and a client for it.
#![allow(dead_code, unreachable_pub, reason = "each test uses what it needs")]

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, Issued, Issuer, NewKey};
use keytally::usage::{
    LogFilter, LogQuery, Recorder, Summary, SummaryQuery, SummarySpec, UsageEvent, UsageRange,
    UsageReader,
};
use keytally::{ApiKeyLayer, PageRequest};

pub struct Service {
    pub backend: MemoryBackend,
    pub recorder: Recorder,
    pub address: SocketAddr,
    pub client: Client<HttpConnector, Full<Bytes>>,
}

impl Service {
    /// Serves the routes behind the layer with its default settings.
    pub async fn plain(routes: Router) -> Self {
        Self::start(routes, |layer| layer).await
    }

    /// Serves the routes behind the layer as configured by `configure`.
    pub async fn start(routes: Router, configure: impl FnOnce(ApiKeyLayer) -> ApiKeyLayer) -> Self {
        let backend = MemoryBackend::new();
        let recorder = Recorder::new(backend.clone());
        let layer = ApiKeyLayer::new(backend.clone()).recorder(recorder.clone());
        let address = serve(routes.layer(configure(layer))).await;
        Self {
            backend,
            recorder,
            address,
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    pub async fn issue(&self, new: NewKey) -> Issued {
        issue(&self.backend, new).await
    }

    pub async fn key(&self) -> Issued {
        self.issue(NewKey::new("test").owner("tests")).await
    }

    pub async fn send(&self, request: http::request::Builder) -> Answer {
        self.send_body(request, "").await
    }

    pub async fn send_body(&self, request: http::request::Builder, body: &'static str) -> Answer {
        let mut request = request.body(Full::from(body)).unwrap();
        let path = request.uri().to_string();
        *request.uri_mut() = format!("http://{}{path}", self.address).parse().unwrap();
        Answer::of(self.client.request(request).await.unwrap()).await
    }

    /// Sends a `GET` request with a key.
    pub async fn get(&self, path: &str, secret: &str) -> Answer {
        self.send(get(path, secret)).await
    }

    /// All events so far, newest first.
    pub async fn events(&self) -> Vec<UsageEvent> {
        self.log(LogFilter::new()).await
    }

    pub async fn log(&self, filter: LogFilter) -> Vec<UsageEvent> {
        self.recorder.flush().await;
        let query = LogQuery::new(filter).limit(PageRequest::MAX_LIMIT);
        self.backend.requests(&query).await.unwrap().items
    }

    pub async fn summary(&self) -> Summary {
        self.recorder.flush().await;
        let query = SummaryQuery::new(UsageRange::new(), SummarySpec::new().by_key());
        self.backend.summary(&query).await.unwrap()
    }

    /// Waits until exactly this many requests are in flight.
    pub async fn until_open(&self, count: u64) {
        until(|| self.recorder.stats().in_flight == count).await;
    }
}

pub async fn issue(backend: &MemoryBackend, new: NewKey) -> Issued {
    let issuer = Issuer::new("acme_test").unwrap();
    issuer.issue(backend, new, Actor::SYSTEM).await.unwrap()
}

pub fn get(path: &str, secret: &str) -> http::request::Builder {
    Request::get(path).header("authorization", format!("Bearer {secret}"))
}

pub fn post(path: &str, secret: &str) -> http::request::Builder {
    get(path, secret).method(Method::POST)
}

/// Serves a router on a free port until the test ends.
pub async fn serve(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    address
}

/// Polls the condition until it is true; panics after ten seconds.
pub async fn until(condition: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("timed out waiting for a condition");
}

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub async fn of<B: http_body::Body<Error: std::fmt::Debug>>(response: Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

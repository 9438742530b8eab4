//! How this process speaks with the one under test, beside what its clients ask.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::server::Told;

#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Control {
    pub(crate) fn new(address: SocketAddr) -> Self {
        // A connection for each question: none is left open there.
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build_http();
        Self { address, client }
    }

    async fn ask(&self, request: http::request::Builder, path: &str) -> (StatusCode, Bytes) {
        let request = request.uri(format!("http://{}{path}", self.address));
        let request = request.body(Full::default()).unwrap();
        let answer = self.client.request(request).await.unwrap();
        let status = answer.status();
        (
            status,
            answer.into_body().collect().await.unwrap().to_bytes(),
        )
    }

    pub(crate) async fn post(&self, path: &str) -> StatusCode {
        self.ask(Request::post("/"), path).await.0
    }

    /// What the process tells about itself.
    pub(crate) async fn about(&self) -> Told {
        let (_, text) = self.ask(Request::get("/"), "/about").await;
        serde_json::from_slice(&text).unwrap()
    }

    /// The same with all connections to the database that it may have.
    pub(crate) async fn about_whole(&self) -> Told {
        let (_, text) = self.ask(Request::get("/"), "/about/whole").await;
        serde_json::from_slice(&text).unwrap()
    }
}

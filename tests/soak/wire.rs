//! The control connection to the process under test.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::status::ServerStatus;

#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Control {
    pub(crate) fn new(address: SocketAddr) -> Self {
        // A connection per request, so that none stays open.
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build_http();
        Self { address, client }
    }

    async fn request(&self, request: http::request::Builder, path: &str) -> (StatusCode, Bytes) {
        let request = request.uri(format!("http://{}{path}", self.address));
        let request = request.body(Full::default()).unwrap();
        let response = self.client.request(request).await.unwrap();
        let status = response.status();
        (
            status,
            response.into_body().collect().await.unwrap().to_bytes(),
        )
    }

    pub(crate) async fn post(&self, path: &str) -> StatusCode {
        self.request(Request::post("/"), path).await.0
    }

    /// The status of the process.
    pub(crate) async fn status(&self) -> ServerStatus {
        let (_, text) = self.request(Request::get("/"), "/about").await;
        serde_json::from_slice(&text).unwrap()
    }

    /// The status of the process while all its database connections are open.
    pub(crate) async fn whole_status(&self) -> ServerStatus {
        let (_, text) = self.request(Request::get("/"), "/about/whole").await;
        serde_json::from_slice(&text).unwrap()
    }
}

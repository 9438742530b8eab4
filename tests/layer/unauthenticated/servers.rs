//! The servers behind the layer: each counts every request that reaches it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::routing::any;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use keytally::ApiKeyLayer;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tower::util::MapRequestLayer;
use tower::{Layer, service_fn};

use super::Reached;
use super::postings::PostingsServer;

pub(crate) type Serve = fn(ApiKeyLayer, Reached) -> Pin<Box<dyn Future<Output = SocketAddr>>>;

pub(crate) const ALL: [(&str, Serve); 3] = [
    ("axum", |layer, reached| Box::pin(axum(layer, reached))),
    ("tonic", |layer, reached| Box::pin(tonic(layer, reached))),
    ("hyper", |layer, reached| Box::pin(hyper(layer, reached))),
];

/// Routes for any method, and a fallback.
async fn axum(layer: ApiKeyLayer, reached: Reached) -> SocketAddr {
    let count = move |request: axum::extract::Request| {
        reached.0.fetch_add(1, Ordering::SeqCst);
        request
    };
    let router = Router::new()
        .route("/postings.v1.Postings/{method}", any(async || "called"))
        .nest("/public", Router::new().fallback(async || "a file"))
        .fallback(async || "whatever")
        .layer(MapRequestLayer::new(count))
        .layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn tonic(layer: ApiKeyLayer, reached: Reached) -> SocketAddr {
    let count = move |request: Request<tonic::body::Body>| {
        reached.0.fetch_add(1, Ordering::SeqCst);
        request
    };
    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = Server::builder()
        .accept_http1(true)
        .layer(layer)
        .layer(MapRequestLayer::new(count))
        .add_service(PostingsServer);
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

/// Responds to every request with 200.
async fn hyper(layer: ApiKeyLayer, reached: Reached) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = layer.layer(service_fn(move |_: Request<hyper::body::Incoming>| {
        reached.0.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("called"))) }
    }));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let mut builder = Builder::new(TokioExecutor::new());
                builder.http2().enable_connect_protocol();
                let io = TokioIo::new(stream);
                let _ = builder.serve_connection_with_upgrades(io, service).await;
            });
        }
    });
    address
}

//! gRPC-Web for cross-origin browser clients: CORS outermost, then the translation to gRPC, then the API key
//! layer. Calls are recorded with their gRPC status, and scripts can read rejections.
//!
//! ```text
//! cargo run --example grpc_web
//! ```
//!
//! tonic handles calls regardless of the HTTP method: do not allow preflight requests to reach it.

mod postings;

use std::error::Error;
use std::future::Future;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method};
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, Issuer, NewKey};
use keytally::usage::Recorder;
use keytally::{ApiKeyLayer, RESPONSE_HEADERS};
use postings::PostingsServer;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_web::GrpcWebLayer;
use tower_http::cors::{AllowHeaders, CorsLayer};

/// The gRPC headers that scripts may read.
const GRPC_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
];

pub(crate) fn serve(
    backend: MemoryBackend,
    origin: HeaderValue,
    incoming: TcpIncoming,
) -> impl Future<Output = Result<(), tonic::transport::Error>> {
    let request_headers = ["x-grpc-web", "x-user-agent", "grpc-timeout", "x-api-key"];
    let request_headers = request_headers.map(HeaderName::from_static);
    let request_headers = request_headers
        .into_iter()
        .chain([AUTHORIZATION, CONTENT_TYPE]);
    let cors = CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::POST])
        .allow_headers(AllowHeaders::list(request_headers))
        .expose_headers(
            RESPONSE_HEADERS
                .into_iter()
                .chain(GRPC_HEADERS)
                .collect::<Vec<_>>(),
        );
    let recorder = Recorder::new(backend.clone());
    Server::builder()
        .accept_http1(true)
        // The first layer is the outermost.
        .layer(cors)
        .layer(GrpcWebLayer::new())
        .layer(ApiKeyLayer::new(backend).recorder(recorder))
        .add_service(PostingsServer)
        .serve_with_incoming(incoming)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = MemoryBackend::new();
    let new = NewKey::new("Single-page application");
    let issued = Issuer::new("acme_live")?
        .issue(&backend, new, Actor::SYSTEM)
        .await?;

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".into());
    let incoming = TcpIncoming::bind(format!("127.0.0.1:{port}").parse()?)?;
    println!("serving on http://{}", incoming.local_addr()?);
    println!("authorization: Bearer {}", issued.secret.expose());
    serve(
        backend,
        HeaderValue::from_static("http://localhost:5173"),
        incoming,
    )
    .await?;
    Ok(())
}

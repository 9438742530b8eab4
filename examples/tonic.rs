//! A gRPC server with keys, rate limits and usage accounting, and a client that prints the results.
//!
//! ```text
//! cargo run --example tonic
//! ```
//!
//! The messages and the service are in `postings/mod.rs`, written by hand to avoid a dependency on `protoc`.

mod postings;

use std::error::Error;
use std::time::Duration;

use keytally::backend::MemoryBackend;
use keytally::key::{Actor, Issuer, NewKey};
use keytally::limit::RateLimit;
use keytally::usage::{Recorder, SummaryQuery, SummarySpec, Totals, UsageRange, UsageReader};
use keytally::{ApiKeyLayer, RequireScope};
use postings::{GetRequest, ListRequest, PostingsClient, PostingsServer, WatchRequest};
use tokio_stream::StreamExt;
use tonic::metadata::errors::InvalidMetadataValue;
use tonic::service::LayerExt;
use tonic::transport::server::{TcpConnectInfo, TcpIncoming};
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = MemoryBackend::new();
    let recorder = Recorder::new(backend.clone());
    let layer = ApiKeyLayer::new(backend.clone())
        .recorder(recorder.clone())
        .peer_address(|head| {
            let connection = head.extensions().get::<TcpConnectInfo>()?;
            Some(connection.remote_addr()?.ip())
        });
    let postings = RequireScope::new("postings:read").named_layer(PostingsServer);

    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let address = incoming.local_addr()?;
    let server = Server::builder().layer(layer).add_service(postings);
    tokio::spawn(server.serve_with_incoming(incoming));
    println!("serving on {address}");

    let issuer = Issuer::new("acme_live")?;
    let reader = NewKey::new("Zapier integration")
        .scope("postings:read")
        .limit(RateLimit::per_hour(6));
    let reader = issuer.issue(&backend, reader, Actor::SYSTEM).await?;
    let writer = issuer
        .issue(&backend, NewKey::new("importer"), Actor::SYSTEM)
        .await?;
    let secret = reader.secret.expose();

    let channel = Channel::from_shared(format!("http://{address}"))?;
    let mut client = PostingsClient::new(channel.connect().await?);

    println!("\nGet with a key");
    let response = client.get(with_key(secret, GetRequest { id: 7 })?).await?;
    println!("  {}", response.get_ref().title);
    for name in ["ratelimit-policy", "ratelimit", "x-request-id"] {
        println!("  {name}: {:?}", response.metadata().get(name));
    }

    println!("\nGet an unknown posting");
    let result = client.get(with_key(secret, GetRequest { id: 0 })?).await;
    expect_status(result, Code::NotFound)?;

    println!("\nGet without a key");
    expect_status(
        client.get(GetRequest { id: 7 }).await,
        Code::Unauthenticated,
    )?;

    println!("\nGet with a key that lacks the scope");
    let request = with_key(writer.secret.expose(), GetRequest { id: 7 })?;
    expect_status(client.get(request).await, Code::PermissionDenied)?;

    for count in [3, 13] {
        println!("\nList {count} postings");
        let request = with_key(secret, ListRequest { count })?;
        let mut list = client.list(request).await?.into_inner();
        while let Some(posting) = list.next().await {
            match posting {
                Ok(posting) => println!("  {}", posting.title),
                Err(status) => println!("  {:?}: {}", status.code(), status.message()),
            }
        }
    }

    println!("\nWatch, then cancel");
    let request = with_key(secret, WatchRequest {})?;
    let mut watch = client.watch(request).await?.into_inner();
    if let Some(posting) = watch.message().await? {
        println!("  {}", posting.title);
    }
    println!("  open requests: {}", recorder.stats().in_flight);
    drop(watch);

    println!("\nGet until the rate limit is exceeded");
    client.get(with_key(secret, GetRequest { id: 8 })?).await?;
    let result = client.get(with_key(secret, GetRequest { id: 9 })?).await;
    expect_status(result, Code::ResourceExhausted)?;

    drop(client);
    let report = recorder.shutdown(Duration::from_secs(5)).await;
    println!("\n{report:?}");
    let range = UsageRange::new().key(reader.key.id);
    let query = SummaryQuery::new(range, SummarySpec::new());
    let summary = backend.summary(&query).await?;
    println!("Usage of {:?}:", reader.key.name);
    print("total", &summary.totals);
    for (endpoint, totals) in &summary.by_endpoint {
        print(endpoint, totals);
    }
    for (status, totals) in &summary.by_status {
        print(&status.to_string(), totals);
    }
    Ok(())
}

/// A request with a key in its metadata. A real client would use an interceptor.
fn with_key<T>(secret: &str, message: T) -> Result<Request<T>, InvalidMetadataValue> {
    let mut request = Request::new(message);
    let value = format!("Bearer {secret}").parse()?;
    request.metadata_mut().insert("authorization", value);
    Ok(request)
}

/// Prints the expected error status and, if present, the retry delay.
fn expect_status<T>(result: Result<T, Status>, code: Code) -> Result<(), Box<dyn Error>> {
    match result {
        Err(status) if status.code() == code => {
            println!("  {code:?}: {}", status.message());
            if let Some(wait) = status.metadata().get("grpc-retry-pushback-ms") {
                println!("  retry in {} ms", wait.to_str()?);
            }
            Ok(())
        }
        Err(status) => Err(status.into()),
        Ok(_) => Err(format!("expected {code:?}").into()),
    }
}

fn print(label: &str, totals: &Totals) {
    let (completed, failed) = (totals.completed(), totals.failed());
    let limited = totals.rate_limited();
    println!("  {label}: {completed} completed, {failed} failed, {limited} rate limited");
}

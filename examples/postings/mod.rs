//! A small gRPC service and its client, written by hand to avoid a dependency on `protoc`. Equivalent to the
//! code that `prost` and `tonic` generate from
//!
//! ```protobuf
//! package postings.v1;
//!
//! service Postings {
//!   rpc Get(GetRequest) returns (Posting);
//!   rpc List(ListRequest) returns (stream Posting);
//!   rpc Watch(WatchRequest) returns (stream Posting);
//! }
//! message GetRequest { uint64 id = 1; }
//! message ListRequest { uint64 count = 1; }
//! message WatchRequest {}
//! message Posting { uint64 id = 1; string title = 2; }
//! ```
//!
//! There is no posting 0, and a list of 13 fails after two postings.
#![allow(dead_code, reason = "each example and test uses only part of it")]

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use keytally::Caller;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Channel;
use tonic::{IntoRequest, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GetRequest {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ListRequest {
    #[prost(uint64, tag = "1")]
    pub(crate) count: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WatchRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Posting {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(string, tag = "2")]
    pub(crate) title: String,
}

impl Posting {
    fn new(id: u64) -> Self {
        let title = format!("Posting {id}");
        Self { id, title }
    }
}

/// The gRPC service.
#[derive(Clone, Debug)]
pub(crate) struct PostingsServer;

impl PostingsServer {
    /// Returns one posting, with the name of the caller: handlers find the [`Caller`] in the request extensions.
    async fn get(request: Request<GetRequest>) -> Result<Response<Posting>, Status> {
        let mut posting = match request.get_ref().id {
            0 => return Err(Status::not_found("no posting 0")),
            id => Posting::new(id),
        };
        if let Some(caller) = request.extensions().get::<Caller>() {
            posting.title += &format!(" for {}", caller.name);
        }
        Ok(Response::new(posting))
    }

    /// Streams the requested number of postings. The stream for 13 ends with the status `INTERNAL`.
    async fn list(
        request: Request<ListRequest>,
    ) -> Result<Response<impl Stream<Item = Result<Posting, Status>>>, Status> {
        let count = request.get_ref().count;
        let postings = (1..=count).map(move |id| match (count, id) {
            (13, 3..) => Err(Status::internal("out of postings")),
            _ => Ok(Posting::new(id)),
        });
        Ok(Response::new(tokio_stream::iter(postings)))
    }

    /// Streams the existing postings, then waits for new ones, which never arrive in this service.
    async fn watch(
        _: Request<WatchRequest>,
    ) -> Result<Response<impl Stream<Item = Result<Posting, Status>>>, Status> {
        let postings = tokio_stream::iter((1..=2).map(|id| Ok(Posting::new(id))));
        Ok(Response::new(postings.chain(tokio_stream::pending())))
    }
}

impl NamedService for PostingsServer {
    const NAME: &'static str = "postings.v1.Postings";
}

impl Service<http::Request<Body>> for PostingsServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/postings.v1.Postings/Get" => {
                    let mut grpc = grpc::<GetRequest>();
                    grpc.unary(service_fn(Self::get), request).await
                }
                "/postings.v1.Postings/List" => {
                    let mut grpc = grpc::<ListRequest>();
                    grpc.server_streaming(service_fn(Self::list), request).await
                }
                "/postings.v1.Postings/Watch" => {
                    let mut grpc = grpc::<WatchRequest>();
                    grpc.server_streaming(service_fn(Self::watch), request)
                        .await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

fn grpc<Q: prost::Message + Default + 'static>() -> tonic::server::Grpc<ProstCodec<Posting, Q>> {
    tonic::server::Grpc::new(ProstCodec::default())
}

/// The client. Its methods accept a plain message, or a [`Request`] with metadata.
#[derive(Clone, Debug)]
pub(crate) struct PostingsClient(tonic::client::Grpc<Channel>);

impl PostingsClient {
    pub(crate) fn new(channel: Channel) -> Self {
        Self(tonic::client::Grpc::new(channel))
    }

    pub(crate) async fn get(
        &mut self,
        request: impl IntoRequest<GetRequest>,
    ) -> Result<Response<Posting>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/postings.v1.Postings/Get");
        let codec = ProstCodec::default();
        self.0.unary(request.into_request(), path, codec).await
    }

    pub(crate) async fn list(
        &mut self,
        request: impl IntoRequest<ListRequest>,
    ) -> Result<Response<Streaming<Posting>>, Status> {
        self.stream("/postings.v1.Postings/List", request.into_request())
            .await
    }

    pub(crate) async fn watch(
        &mut self,
        request: impl IntoRequest<WatchRequest>,
    ) -> Result<Response<Streaming<Posting>>, Status> {
        self.stream("/postings.v1.Postings/Watch", request.into_request())
            .await
    }

    async fn stream<Q: prost::Message + 'static>(
        &mut self,
        path: &'static str,
        request: Request<Q>,
    ) -> Result<Response<Streaming<Posting>>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(path);
        let codec = ProstCodec::default();
        self.0.server_streaming(request, path, codec).await
    }

    async fn ready(&mut self) -> Result<(), Status> {
        let ready = self.0.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))
    }
}

//! Shared by the criterion benchmark and the binaries: the request, the inner
//! service, a driver for services, and the peers.

pub mod governor;
pub mod keytally;
pub mod tollgate;

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    net::SocketAddr,
    pin::pin,
    task::{Context, Poll, Waker},
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::Response,
    routing::get,
};
use http_body::Body as _;
use tower::Service;

pub const PATH: &str = "/v1/postings/42";
pub const ROUTE: &str = "/v1/postings/{id}";
/// The presented credential: 64 hexadecimal characters.
pub const TOKEN: &str = "4b6579746f6b656e2d666f722d7468652d70656572732d62656e63682d303031";

/// Builds the request of every case. The URI and the header value are
/// cloned, as a server slices them out of its read buffer without copying.
#[derive(Clone)]
pub struct Template {
    uri: Uri,
    authorization: HeaderValue,
    peer: SocketAddr,
}

impl Default for Template {
    fn default() -> Self {
        Self {
            uri: Uri::from_static(PATH),
            authorization: format!("Bearer {TOKEN}").parse().unwrap(),
            peer: SocketAddr::from(([127, 0, 0, 1], 40_000)),
        }
    }
}

impl Template {
    /// A template with another credential.
    pub fn presenting(secret: &str) -> Self {
        Self {
            authorization: format!("Bearer {secret}").parse().unwrap(),
            ..Self::default()
        }
    }

    /// A GET request with the peer address, as axum provides it.
    pub fn get(&self) -> Request {
        self.build(Method::GET, ConnectInfo(self.peer))
    }

    pub fn build<C: Clone + Send + Sync + 'static>(
        &self,
        method: Method,
        connection: ConnectInfo<C>,
    ) -> Request {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        *request.uri_mut() = self.uri.clone();
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, self.authorization.clone());
        request.extensions_mut().insert(connection);
        request
    }
}

/// Responds with `200 ok`, with a `content-type` header or without any headers.
#[derive(Clone, Copy)]
pub struct NoOp {
    pub content_type: bool,
}

impl Service<Request> for NoOp {
    type Response = Response;
    type Error = Infallible;
    type Future = Ready<Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        drop(request);
        let mut response = Response::new(Body::from("ok"));
        if self.content_type {
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        ready(Ok(response))
    }
}

/// The bare axum application, for both GET and POST.
pub fn bare_router() -> Router {
    Router::new().route(ROUTE, get(|| async { "ok" }).post(|| async { "ok" }))
}

/// Sends one request and reads the response to its end, without a runtime.
pub fn drive<S, B>(service: &mut S, request: Request) -> StatusCode
where
    S: Service<Request, Response = http::Response<B>, Error = Infallible>,
    B: http_body::Body<Error: std::fmt::Debug>,
{
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(service.poll_ready(cx).is_ready());
    let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(cx) else {
        panic!("the service did not respond immediately");
    };
    let (parts, body) = response.into_parts();
    let mut body = pin!(body);
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(cx) {
        black_box(frame.unwrap());
    }
    assert!(body.is_end_stream());
    black_box(parts).status
}

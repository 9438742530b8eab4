//! The service that the layer makes.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::ResponseBody;
use super::future::{Held, ResponseFuture};
use super::gate::Gate;
use super::step::Step;

/// A service behind an [`ApiKeyLayer`](super::ApiKeyLayer).
#[derive(Clone)]
pub struct ApiKeyService<S> {
    inner: S,
    gate: Arc<Gate>,
}

impl<S> ApiKeyService<S> {
    pub(super) fn new(inner: S, gate: Arc<Gate>) -> Self {
        Self { inner, gate }
    }

    /// The service behind the layer.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, B, R> Service<Request<B>> for ApiKeyService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    B: Body,
    R: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.gate.admit(&mut request) {
            Step::Call(ticket) => ResponseFuture::calling(self.inner.call(request), ticket),
            Step::Answer(answer) => {
                self.release();
                ResponseFuture::answered(answer)
            }
            Step::Wait(wait) => {
                self.release();
                let held = Held {
                    gate: self.gate.clone(),
                    service: self.inner.clone(),
                    request,
                };
                ResponseFuture::waiting(wait, held)
            }
        }
    }
}

impl<S: Clone> ApiKeyService<S> {
    /// Gives back what the inner service reserved when it was polled ready, such as a permit: a request that
    /// is not admitted yet, or never, holds nothing that admitted ones wait for.
    fn release(&mut self) {
        self.inner = self.inner.clone();
    }
}

impl<S: fmt::Debug> fmt::Debug for ApiKeyService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyService")
            .field("inner", &self.inner)
            .field("gate", &self.gate)
            .finish()
    }
}

//! [`RequireScope`]: routes that require a scope.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::admission::Admitted;
use super::body::ResponseBody;
use super::caller::Caller;
use super::future::ResponseFuture;
use super::rejection::{Rejection, Rejections};
use super::request_parts::RequestParts;
use crate::drain::DrainLimits;
use crate::usage::RejectionReason;

/// Layer that requires the caller's key to have a scope.
///
/// Other keys are rejected with 403, or `PERMISSION_DENIED` over gRPC, and requests without a [`Caller`] with 401.
/// Place it inside an [`ApiKeyLayer`](super::ApiKeyLayer), which records the rejections.
///
/// ```
/// # #[cfg(feature = "axum")] {
/// use axum::{Router, routing::get};
/// use keytally::RequireScope;
///
/// let admin: Router = Router::new()
///     .route("/v1/postings/purge", get(|| async { "gone" }))
///     .route_layer(RequireScope::new("postings:write"));
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a layer does nothing until it is applied to a service"]
pub struct RequireScope(Arc<Requirement>);

#[derive(Debug, Clone)]
struct Requirement {
    scope: Arc<str>,
    rejections: Rejections,
}

impl RequireScope {
    /// Creates a layer that requires this scope.
    pub fn new(scope: impl Into<Arc<str>>) -> Self {
        Self::with_rejections(scope, Rejections::default())
    }

    pub(super) fn with_rejections(scope: impl Into<Arc<str>>, rejections: Rejections) -> Self {
        let scope = scope.into();
        Self(Arc::new(Requirement { scope, rejections }))
    }

    /// Customizes the responses of rejected requests, like
    /// [`ApiKeyLayer::on_rejection`](super::ApiKeyLayer::on_rejection).
    pub fn on_rejection(
        mut self,
        customize: impl Fn(&Rejection, Response<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.0).rejections.customize = Some(Arc::new(customize));
        self
    }
}

impl<S> Layer<S> for RequireScope {
    type Service = RequireScopeService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireScopeService {
            inner,
            requirement: self.0.clone(),
        }
    }
}

/// The service of [`RequireScope`].
#[derive(Clone)]
pub struct RequireScopeService<S> {
    inner: S,
    requirement: Arc<Requirement>,
}

impl<S, B, R> Service<Request<B>> for RequireScopeService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    B: Body,
    R: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B>;

    /// Always ready, like [`ApiKeyService`](super::ApiKeyService).
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let scope = &self.requirement.scope;
        let rejection = match request.extensions().get::<Caller>() {
            Some(caller) if caller.has_scope(scope) => {
                let admitted = Admitted::Untracked(None);
                return ResponseFuture::admitted(&mut self.inner, request, admitted, None);
            }
            Some(caller) => Rejection {
                key: Some(caller.id),
                scope: Some(scope.clone()),
                ..Rejection::new(RejectionReason::Scope)
            },
            None => Rejection::new(RejectionReason::Missing),
        };
        let parts = RequestParts::of(&request);
        let response = self.requirement.rejections.response(rejection, parts);
        ResponseFuture::rejected(response, request, DrainLimits::default())
    }
}

impl<S: fmt::Debug> fmt::Debug for RequireScopeService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireScopeService")
            .field("inner", &self.inner)
            .field("scope", &self.requirement.scope)
            .finish()
    }
}

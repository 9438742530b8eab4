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
use super::caller::{Caller, is_admitted};
use super::future::ResponseFuture;
use super::path_rules::PathRules;
use super::rejection::{Rejection, Rejections, log_no_layer};
use super::request_parts::RequestParts;
use crate::drain::DrainLimits;
use crate::invalid_config::InvalidConfig;
use crate::usage::RejectionReason;

/// Layer that requires the caller's key to have a scope.
///
/// Other keys are rejected with 403, or `PERMISSION_DENIED` over gRPC, and requests without a verified key with 401.
/// Place it inside an [`ApiKeyLayer`](super::ApiKeyLayer), which records the rejections. Without one, requests are
/// answered with 500, or `INTERNAL` over gRPC, and an error is logged.
///
/// [`Key::has_scope`](crate::key::Key::has_scope) describes how scopes match.
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

/// What an [`InvalidConfig`] of a path names.
const FIELD: &str = "scopes by path";

#[derive(Debug, Clone)]
struct Requirement {
    /// The required scopes. `None` where no scope is required.
    scopes: PathRules<Option<Arc<str>>>,
    rejections: Rejections,
}

impl RequireScope {
    /// Creates a layer that requires this scope.
    pub fn new(scope: impl Into<Arc<str>>) -> Self {
        Self::of(PathRules::all(Some(scope.into())))
    }

    /// Creates a layer that requires a scope for each path, for tonic servers and other services without routes.
    ///
    /// `/a/b` applies to exactly this path, and `/a/*` to every path below `/a/`, but not to `/a/` itself. Case matters.
    /// The first pattern that matches applies. Other paths are rejected. A `*` does not match paths with an empty
    /// segment, a segment that begins with `..` or ends with a dot, or characters other than ASCII letters, digits, `-`,
    /// `.`, `_` and `~`, which servers may interpret differently. Inside axum's `Router::nest`, paths lack the prefix.
    ///
    /// ```
    /// use keytally::RequireScope;
    ///
    /// # fn main() -> Result<(), keytally::InvalidConfig> {
    /// let scopes = RequireScope::by_path([
    ///     ("/acme.v1.Postings/Purge", "postings:write"),
    ///     ("/acme.v1.Postings/*", "postings:read"),
    /// ])?
    /// .without_scope("/grpc.health.v1.Health/*")?;
    /// # drop(scopes);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] if a pattern does not begin with `/`, has a `*` anywhere but at its end after a `/`, or can never
    /// apply, because an earlier pattern matches the same paths.
    pub fn by_path<P, S>(scopes: impl IntoIterator<Item = (P, S)>) -> Result<Self, InvalidConfig>
    where
        P: Into<Box<str>>,
        S: Into<Arc<str>>,
    {
        let mut rules = PathRules::new();
        for (path, scope) in scopes {
            rules.add(FIELD, path.into(), Some(scope.into()))?;
        }
        Ok(Self::of(rules))
    }

    /// Requires no scope on this path, or on the paths below it. The surrounding [`ApiKeyLayer`](super::ApiKeyLayer)
    /// still requires a key, unless the path is [exempt](super::ApiKeyLayer::exempt) or anonymous requests are allowed.
    ///
    /// # Errors
    ///
    /// As [`by_path`](Self::by_path).
    pub fn without_scope(mut self, path: impl Into<Box<str>>) -> Result<Self, InvalidConfig> {
        let scopes = &mut Arc::make_mut(&mut self.0).scopes;
        scopes.add(FIELD, path.into(), None)?;
        Ok(self)
    }

    pub(super) fn with_rejections(mut self, rejections: &Rejections) -> Self {
        Arc::make_mut(&mut self.0).rejections = rejections.clone();
        self
    }

    fn of(scopes: PathRules<Option<Arc<str>>>) -> Self {
        let rejections = Rejections::default();
        Self(Arc::new(Requirement { scopes, rejections }))
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

macro_rules! from_text {
    ($($text:ty),*) => {$(
        impl From<$text> for RequireScope {
            fn from(scope: $text) -> Self {
                Self::new(scope)
            }
        }
    )*};
}

from_text!(&str, String, Arc<str>);

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
        let parts = RequestParts::of(&request);
        let rejections = &self.requirement.rejections;
        let path = parts.uri().path();
        let rule = self.requirement.scopes.get(path);
        let caller = parts.extensions().get::<Caller>();
        let is_allowed = match rule {
            Some(None) => true,
            Some(Some(scope)) => caller.is_some_and(|caller| caller.has_scope(scope)),
            None => false,
        };
        if is_allowed {
            let admitted = Admitted::Untracked(None);
            return ResponseFuture::admitted(&mut self.inner, request, admitted, None);
        }
        let response = match caller {
            Some(caller) => {
                let rejection = Rejection {
                    key: Some(caller.id),
                    scope: rule.cloned().flatten(),
                    ..Rejection::new(RejectionReason::Scope)
                };
                rejections.response(rejection, parts)
            }
            None if is_admitted(parts.extensions()) => {
                rejections.response(Rejection::new(RejectionReason::Missing), parts)
            }
            None => {
                log_no_layer(path);
                rejections.no_layer(parts)
            }
        };
        ResponseFuture::rejected(response, request, DrainLimits::default())
    }
}

impl<S: fmt::Debug> fmt::Debug for RequireScopeService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireScopeService")
            .field("inner", &self.inner)
            .field("scopes", &self.requirement.scopes)
            .finish()
    }
}

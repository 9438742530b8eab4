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
use super::exempt::matches;
use super::future::ResponseFuture;
use super::rejection::{Rejection, Rejections, log_no_layer};
use super::request_parts::RequestParts;
use crate::drain::DrainLimits;
use crate::usage::RejectionReason;

/// Layer that requires the caller's key to have a scope.
///
/// Other keys are rejected with 403, or `PERMISSION_DENIED` over gRPC, and anonymous requests with 401. Place it inside
/// an [`ApiKeyLayer`](super::ApiKeyLayer), which records the rejections. Without one, requests are answered with 500, or
/// `INTERNAL` over gRPC, and an error is logged.
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

#[derive(Debug, Clone)]
struct Requirement {
    rules: Vec<Rule>,
    rejections: Rejections,
}

/// The scope that is required on some paths.
#[derive(Debug, Clone)]
struct Rule {
    /// `None` for all paths.
    path: Option<Box<str>>,
    scope: Arc<str>,
}

impl RequireScope {
    /// Creates a layer that requires this scope.
    pub fn new(scope: impl Into<Arc<str>>) -> Self {
        Self::with_rejections(scope, Rejections::default())
    }

    /// Creates a layer that requires a scope for each path, for tonic servers and others without routes. Paths are
    /// patterns as in [`exempt`](super::ApiKeyLayer::exempt). The first one that matches applies; other paths require
    /// no scope.
    ///
    /// ```
    /// use keytally::RequireScope;
    ///
    /// let scopes = RequireScope::by_path([
    ///     ("/acme.v1.Postings/Purge", "postings:write"),
    ///     ("/acme.v1.Postings/*", "postings:read"),
    /// ]);
    /// # drop(scopes);
    /// ```
    pub fn by_path<P, S>(scopes: impl IntoIterator<Item = (P, S)>) -> Self
    where
        P: Into<Box<str>>,
        S: Into<Arc<str>>,
    {
        let rules = scopes.into_iter().map(|(path, scope)| Rule {
            path: Some(path.into()),
            scope: scope.into(),
        });
        Self::of(rules.collect(), Rejections::default())
    }

    pub(super) fn with_rejections(scope: impl Into<Arc<str>>, rejections: Rejections) -> Self {
        let scope = scope.into();
        Self::of(vec![Rule { path: None, scope }], rejections)
    }

    fn of(rules: Vec<Rule>, rejections: Rejections) -> Self {
        Self(Arc::new(Requirement { rules, rejections }))
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

impl Requirement {
    /// The scope that a path requires.
    fn scope(&self, path: &str) -> Option<&Arc<str>> {
        let applies = |rule: &&Rule| {
            let pattern = rule.path.as_deref();
            pattern.is_none_or(|pattern| matches(pattern, path))
        };
        self.rules.iter().find(applies).map(|rule| &rule.scope)
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
        let parts = RequestParts::of(&request);
        let rejections = &self.requirement.rejections;
        let scope = self.requirement.scope(parts.uri().path());
        let response = match (scope, parts.extensions().get::<Caller>()) {
            (Some(scope), Some(caller)) if !caller.has_scope(scope) => {
                let rejection = Rejection {
                    key: Some(caller.id),
                    scope: Some(scope.clone()),
                    ..Rejection::new(RejectionReason::Scope)
                };
                rejections.response(rejection, parts)
            }
            (Some(_), None) if is_admitted(parts.extensions()) => {
                rejections.response(Rejection::new(RejectionReason::Missing), parts)
            }
            (Some(_), None) => {
                log_no_layer(parts.uri().path());
                rejections.no_layer(parts)
            }
            (None, _) | (_, Some(_)) => {
                let admitted = Admitted::Untracked(None);
                return ResponseFuture::admitted(&mut self.inner, request, admitted, None);
            }
        };
        ResponseFuture::rejected(response, request, DrainLimits::default())
    }
}

impl<S: fmt::Debug> fmt::Debug for RequireScopeService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireScopeService")
            .field("inner", &self.inner)
            .field("rules", &self.requirement.rules)
            .finish()
    }
}

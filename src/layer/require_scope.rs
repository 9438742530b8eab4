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
use super::rejection::{Rejection, Rejections, log_no_layer};
use super::request_parts::RequestParts;
use crate::drain::DrainLimits;
use crate::invalid_config::InvalidConfig;
use crate::usage::RejectionReason;

/// Layer that requires the caller's key to have a scope.
///
/// Other keys are rejected with 403, or `PERMISSION_DENIED` over gRPC, and requests without a verified key with 401.
/// Place it inside an [`ApiKeyLayer`](super::ApiKeyLayer), which records the rejections. Without one, requests are answered with 500, or
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
    /// `None` if no scope is required.
    scope: Option<Arc<str>>,
}

impl Rule {
    fn new(path: Box<str>, scope: Option<Arc<str>>) -> Result<Self, InvalidConfig> {
        let literal = path.strip_suffix("/*");
        let is_valid = match literal {
            Some("") => true,
            Some(literal) => literal.starts_with('/') && is_plain(literal),
            None => path.starts_with('/') && !path.contains('*'),
        };
        if !is_valid {
            let reason =
                "a path must begin with `/`, and `*` must follow the last `/` of a plain path";
            return Err(InvalidConfig::new("scopes by path", reason));
        }
        let path = Some(path);
        Ok(Self { path, scope })
    }

    /// Whether this rule applies to all paths of another one.
    fn covers(&self, other: &Self) -> bool {
        let (Some(own), Some(other)) = (self.path.as_deref(), other.path.as_deref()) else {
            return self.path.is_none();
        };
        let below = own.strip_suffix('*');
        own == other || below.is_some_and(|prefix| other.starts_with(prefix))
    }

    fn applies_to(&self, path: &str) -> bool {
        let Some(pattern) = self.path.as_deref() else {
            return true;
        };
        match pattern.strip_suffix('*') {
            Some(prefix) => is_plain(path) && path.starts_with(prefix),
            None => path == pattern,
        }
    }
}

/// Whether servers interpret a path in the same way, apart from its case.
fn is_plain(path: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    let mut segments = path.split('/').skip(1);
    segments.all(|segment| {
        let is_dotted = segment.starts_with("..") || segment.ends_with('.');
        !segment.is_empty() && !is_dotted && segment.bytes().all(is_plain)
    })
}

impl RequireScope {
    /// Creates a layer that requires this scope.
    pub fn new(scope: impl Into<Arc<str>>) -> Self {
        Self::with_rejections(scope, Rejections::default())
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
        let mut layer = Self::of(Vec::new(), Rejections::default());
        for (path, scope) in scopes {
            layer.add(Rule::new(path.into(), Some(scope.into()))?)?;
        }
        Ok(layer)
    }

    fn add(&mut self, rule: Rule) -> Result<(), InvalidConfig> {
        let rules = &mut Arc::make_mut(&mut self.0).rules;
        if rules.iter().any(|earlier| earlier.covers(&rule)) {
            let reason = "an earlier path includes a later one";
            return Err(InvalidConfig::new("scopes by path", reason));
        }
        rules.push(rule);
        Ok(())
    }

    /// Requires no scope on this path, or on the paths below it. The surrounding [`ApiKeyLayer`](super::ApiKeyLayer)
    /// still requires a key, unless the path is [exempt](super::ApiKeyLayer::exempt) or anonymous requests are allowed.
    ///
    /// # Errors
    ///
    /// As [`by_path`](Self::by_path).
    pub fn without_scope(mut self, path: impl Into<Box<str>>) -> Result<Self, InvalidConfig> {
        self.add(Rule::new(path.into(), None)?)?;
        Ok(self)
    }

    pub(super) fn with_rejections(scope: impl Into<Arc<str>>, rejections: Rejections) -> Self {
        let scope = Some(scope.into());
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
        let mut rules = self.requirement.rules.iter();
        let rule = rules.find(|rule| rule.applies_to(path));
        let scope = rule.and_then(|rule| rule.scope.as_ref());
        let caller = parts.extensions().get::<Caller>();
        let is_allowed = match rule {
            Some(Rule { scope: None, .. }) => true,
            Some(Rule {
                scope: Some(scope), ..
            }) => caller.is_some_and(|caller| caller.has_scope(scope)),
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
                    scope: scope.cloned(),
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
            .field("rules", &self.requirement.rules)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_can_never_apply_are_invalid() {
        let by_path =
            |paths: &[&str]| RequireScope::by_path(paths.iter().map(|&path| (path, "read")));
        for paths in [
            &["/*"][..],
            &["/a/b", "/a/*", "/*"],
            &["/a.v1.B/C", "/a.v1.B/*", "/", "/a%20b"],
        ] {
            assert!(by_path(paths).is_ok(), "{paths:?}");
        }
        for paths in [
            &["a"][..],
            &["*"],
            &["/a*"],
            &["/*/a"],
            &["//*"],
            &["/a%20b/*"],
            &["/{id}/*"],
            &["/a/*", "/a/b"],
            &["/a/*", "/a/b/*"],
            &["/a", "/a"],
        ] {
            assert!(by_path(paths).is_err(), "{paths:?}");
        }
        let postings = by_path(&["/a/*"]).unwrap();
        assert!(postings.clone().without_scope("/b/*").is_ok());
        assert!(postings.without_scope("/a/b").is_err());
        assert!(RequireScope::new("read").without_scope("/a").is_err());
    }

    #[test]
    fn ambiguous_paths_match_no_wildcard() {
        let rule = Rule::new("/a/*".into(), None).unwrap();
        for path in ["/a/b", "/a/b/c.d", "/a/.hidden", "/a/1-2_3~4"] {
            assert!(rule.applies_to(path), "{path}");
        }
        for path in [
            "/a", "/a/", "/a//b", "/a/b/", "/a/.", "/a/..", "/a/..b", "/a/b.", "/a/b%2Ec",
            "/a/b;c", "/a/b:c", "/a/b\\c", "/ab", "a/b", "*", "",
        ] {
            assert!(!rule.applies_to(path), "{path}");
        }
    }
}

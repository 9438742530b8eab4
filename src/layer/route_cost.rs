//! [`RouteCost`]: the cost of requests to a route.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::admission::{Admitted, Resumed, RouteCharged, Step};
use super::body::ResponseBody;
use super::caller::{Caller, is_admitted};
use super::cost::{Cost, Revised};
use super::future::ResponseFuture;
use super::path_rules::PathRules;
use super::rejection::{Rejection, Rejections, log_no_layer, log_rejection};
use super::request_parts::RequestParts;
use crate::invalid_config::InvalidConfig;
use crate::limit::{AttachedLimits, Decision, LimitError, LimitResponse};
use crate::telemetry;
use crate::usage::RejectionReason;

/// Layer that sets the cost of requests to a route.
///
/// The rate limits of the key and its owner are charged this cost in place of that of the [`ApiKeyLayer`](super::ApiKeyLayer) around it,
/// and the recorded usage has it. Requests that exceed a limit are rejected with 429, or `RESOURCE_EXHAUSTED` over gRPC,
/// at no cost. A cost of 0 is free. Requests without a verified key pass. Without a surrounding layer, requests are
/// answered with 500, or `INTERNAL` over gRPC, and an error is logged.
///
/// The surrounding layer charges its own cost first, 1 by default. If that exceeds a limit, its rejection says when that cost
/// is allowed, and the request may be rejected again for the cost of the route; where `Retry-After` must suffice, set the
/// cost with [`ApiKeyLayer::cost`](super::ApiKeyLayer::cost). Inside another `RouteCost`, the inner one replaces its cost.
/// Place it inside a [`RequireScope`](super::RequireScope), so that requests that lack the scope do not pay for the route. [`Caller::charge`](super::Caller::charge) sets the recorded cost later, but not that of the
/// limits.
///
/// ```
/// # #[cfg(feature = "axum")] {
/// use axum::{Router, routing::get};
/// use keytally::RouteCost;
///
/// let api: Router = Router::new()
///     .route("/v1/export", get(|| async { "all postings" }))
///     .route_layer(RouteCost::new(50))
///     .route("/v1/postings", get(|| async { "ten postings" }));
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a layer does nothing until it is applied to a service"]
pub struct RouteCost {
    costs: Arc<PathRules<u32>>,
    rejections: Arc<Rejections>,
}

impl RouteCost {
    /// Creates a layer that sets this cost.
    pub fn new(cost: u32) -> Self {
        Self::of(PathRules::all(cost))
    }

    /// Creates a layer that sets a cost for each path, for tonic servers and other services without routes. Requests to
    /// other paths keep their cost.
    ///
    /// Paths are matched as in [`RequireScope::by_path`](super::RequireScope::by_path).
    ///
    /// ```
    /// use keytally::RouteCost;
    ///
    /// # fn main() -> Result<(), keytally::InvalidConfig> {
    /// let costs = RouteCost::by_path([
    ///     ("/acme.v1.Postings/Export", 50),
    ///     ("/grpc.health.v1.Health/*", 0),
    /// ])?;
    /// # drop(costs);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] if a pattern does not begin with `/`, has a `*` anywhere but at its end after a `/`, or can never
    /// apply, because an earlier pattern matches the same paths.
    pub fn by_path<P: Into<Box<str>>>(
        costs: impl IntoIterator<Item = (P, u32)>,
    ) -> Result<Self, InvalidConfig> {
        let mut rules = PathRules::new();
        for (path, cost) in costs {
            rules.add("costs by path", path.into(), cost)?;
        }
        Ok(Self::of(rules))
    }

    fn of(costs: PathRules<u32>) -> Self {
        Self {
            costs: Arc::new(costs),
            rejections: Arc::default(),
        }
    }

    pub(super) fn with_rejections(mut self, rejections: &Rejections) -> Self {
        self.rejections = Arc::new(rejections.clone());
        self
    }

    /// Customizes the responses of rejected requests, like
    /// [`ApiKeyLayer::on_rejection`](super::ApiKeyLayer::on_rejection).
    pub fn on_rejection(
        mut self,
        customize: impl Fn(&Rejection, Response<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.rejections).customize = Some(Arc::new(customize));
        self
    }

    /// The next step of a request.
    fn decide<B>(&self, request: &mut Request<B>) -> Step {
        let parts = RequestParts::of(request);
        let path = parts.uri().path();
        let Some(caller) = parts.extensions().get::<Caller>() else {
            if is_admitted(parts.extensions()) {
                return Step::Admit(Admitted::Untracked(None));
            }
            log_no_layer(path);
            return Step::Reject(self.rejections.no_layer(parts));
        };
        let cost = self.costs.get(path).filter(|cost| **cost != caller.charged);
        let attached = AttachedLimits::get(&caller.entry.limits, caller.admitted_by);
        let (Some(&cost), Some(attached)) = (cost, attached) else {
            return Step::Admit(Admitted::Untracked(None));
        };
        let charged_at = attached.settings.clock.now();
        let response = match &attached.handle {
            None => LimitResponse::Ready(Decision::default()),
            Some(handle) => handle.recharge(caller.charged, caller.charged_at, cost, charged_at),
        };
        let rejections = self.rejections.clone();
        let charged = move |decision| RouteCharged {
            decision,
            cost,
            charged_at,
            rejections,
        };
        match response {
            LimitResponse::Ready(decision) => charged(Ok(decision)).apply(request),
            LimitResponse::Pending(decision) => {
                let timeout = attached.settings.timeout;
                let wait = async move {
                    let decision = tokio::time::timeout(timeout, decision).await;
                    Resumed::RouteCharged(charged(decision.unwrap_or(Err(LimitError::Timeout))))
                };
                Step::Wait(Box::pin(wait), None)
            }
        }
    }
}

impl From<u32> for RouteCost {
    fn from(cost: u32) -> Self {
        Self::new(cost)
    }
}

impl RouteCharged {
    /// Admits or rejects the request.
    pub(super) fn apply<B>(self, request: &mut Request<B>) -> Step {
        let Some(caller) = request.extensions_mut().get_mut::<Caller>() else {
            return Step::Admit(Admitted::Untracked(None));
        };
        let attached = AttachedLimits::get(&caller.entry.limits, caller.admitted_by);
        let rejection = match &self.decision {
            Ok(decision) if decision.is_allowed() => None,
            Ok(decision) => Some(Rejection {
                retry_after_secs: decision.retry_after_secs(),
                violated: attached.map(|attached| attached.violated(decision)),
                ..Rejection::new(RejectionReason::RateLimited)
            }),
            Err(error) => {
                telemetry::error!(%error, "rate limit check failed");
                Some(Rejection::new(RejectionReason::LimiterUnavailable))
            }
        };
        let cost = if rejection.is_none() { self.cost } else { 0 };
        match self.decision {
            Ok(decision) => {
                let limits_id = caller.admitted_by;
                let revised = Revised {
                    limits_id,
                    decision,
                };
                caller.final_cost.revise(Cost(cost), revised);
            }
            Err(_) => caller.final_cost.set(Cost(cost)),
        }
        let Some(rejection) = rejection else {
            (caller.charged, caller.charged_at) = (cost, self.charged_at);
            return Step::Admit(Admitted::Untracked(None));
        };
        let key = Some(caller.id);
        log_rejection(rejection.reason, key);
        let rejection = Rejection { key, ..rejection };
        let parts = RequestParts::of(request);
        Step::Reject(self.rejections.response(rejection, parts))
    }
}

impl<S> Layer<S> for RouteCost {
    type Service = RouteCostService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RouteCostService {
            inner,
            cost: self.clone(),
        }
    }
}

/// The service of [`RouteCost`].
#[derive(Clone)]
pub struct RouteCostService<S> {
    inner: S,
    cost: RouteCost,
}

impl<S, B, R> Service<Request<B>> for RouteCostService<S>
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

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let step = self.cost.decide(&mut request);
        ResponseFuture::after(step, &mut self.inner, request, None)
    }
}

impl<S: fmt::Debug> fmt::Debug for RouteCostService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteCostService")
            .field("inner", &self.inner)
            .field("cost", &self.cost)
            .finish()
    }
}

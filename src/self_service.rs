//! The JSON API with which callers inspect their own key.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;

use crate::clock::Clock;
use crate::limit::{Decision, LimitResponse, Limiter, LocalLimiter, RateLimit, SubjectLimits};
use crate::usage::{Recorder, RejectionReason, SummaryQuery, SummarySpec, UsageRange, UsageReader};
use crate::web::{LimitsNow, Problem, Query, Summary, in_order, method_not_allowed, protect};
use crate::{ApiKeyLayer, Caller, Rejection, RequestParts, StoreFailure};

/// A JSON API for callers to inspect their own key: `GET /usage` returns its usage summary, and `GET /limits` the state
/// of its rate limits and those of its owner, whose names begin with `owner-`.
///
/// Requests are authenticated with the key. They consume none of its rate limits, are answered when these are
/// exhausted, and are not recorded as usage. Each key is limited to 2 requests per second, with bursts of 10.
/// Beyond that, it answers 429, with `self-service` as the [violated limit](Rejection::violated_limits).
///
/// ```
/// use axum::Router;
/// use axum::routing::get;
/// use keytally::backend::MemoryBackend;
/// use keytally::{ApiKeyLayer, SelfServiceApi};
///
/// let backend = MemoryBackend::new();
/// let layer = ApiKeyLayer::new(backend.clone());
/// let app: Router = Router::new()
///     .route("/v1/postings", get(|| async { "a baker" }))
///     .layer(layer.clone())
///     .nest("/me", SelfServiceApi::new(&layer, backend).into_router());
/// # drop(app);
/// ```
///
/// `GET /usage` takes the optional query parameters `from` (inclusive) and `to` (exclusive), RFC 3339 times. Without
/// them, it covers all usage that the backend retains.
///
/// The layer's [`on_rejection`](ApiKeyLayer::on_rejection) customizes the responses to rejected requests: invalid keys,
/// and too many requests to this API. Other errors are problem details (RFC 9457).
pub struct SelfServiceApi {
    layer: ApiKeyLayer,
    service: SelfService,
}

/// The state of the handlers.
#[derive(Clone)]
struct SelfService {
    /// The layer whose limiter holds the rate limits.
    layer: ApiKeyLayer,
    reader: Arc<dyn UsageReader>,
    limiter: Arc<LocalLimiter>,
}

/// The name of the API's own rate limit.
const LIMIT: &str = "self-service";

/// The maximum number of endpoints in a summary.
const TOP: usize = 100;

impl SelfServiceApi {
    /// Creates an API for the keys that the layer admits, with usage from `reader`.
    pub fn new(layer: &ApiKeyLayer, reader: impl UsageReader) -> Self {
        Self {
            layer: layer
                .clone()
                .recorder(Recorder::counting())
                .cost(|_| 0)
                // A request without a verified key has no usage to return.
                .on_store_failure(StoreFailure::Reject),
            service: SelfService {
                layer: layer.clone(),
                reader: Arc::new(reader),
                limiter: Arc::default(),
            },
        }
    }

    /// Builds the router. It includes the layer: mount it outside of the application's own.
    pub fn into_router<S: Clone + Send + Sync + 'static>(self) -> Router<S> {
        Router::new()
            .route("/usage", get(usage))
            .route("/limits", get(limits))
            .method_not_allowed_fallback(async || method_not_allowed())
            .layer(from_fn_with_state(self.service.clone(), throttle))
            .layer(self.layer)
            .layer(map_response(async |mut response: Response| {
                protect(response.headers_mut());
                response
            }))
            .with_state(self.service)
    }
}

impl std::fmt::Debug for SelfServiceApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelfServiceApi").finish_non_exhaustive()
    }
}

async fn throttle(
    State(service): State<SelfService>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    match service.acquire(&caller).await {
        Some(decision) if decision.is_allowed() => next.run(request).await,
        decision => {
            let retry_after = decision.and_then(|decision| decision.retry_after_secs());
            let rejection = Rejection {
                key: Some(caller.id),
                retry_after_secs: retry_after.or(Some(1)),
                violated: Some([Arc::from(LIMIT)].into()),
                ..Rejection::new(RejectionReason::RateLimited)
            };
            let parts = RequestParts::of(&request);
            service.layer.rejection(rejection, parts).map(Body::from)
        }
    }
}

impl SelfService {
    async fn acquire(&self, caller: &Caller) -> Option<Decision> {
        let limit = RateLimit::per_second(2).with_burst(10).with_name(LIMIT);
        let now = Clock::system().now();
        let limits = [limit];
        let subjects = [SubjectLimits::new(caller.lineage, &limits)];
        let allowance = self.limiter.attach(&subjects, now).ok()?;
        match allowance.acquire(1, now) {
            LimitResponse::Ready(decision) => Some(decision),
            LimitResponse::Pending(decision) => decision.await.ok(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Times {
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

async fn usage(
    State(service): State<SelfService>,
    caller: Caller,
    Query(times): Query<Times>,
) -> Result<Json<Summary>, Problem> {
    in_order(times.from, times.to)?;
    let mut range = UsageRange::new().key(caller.id);
    (range.from, range.to) = (times.from, times.to);
    let spec = SummarySpec::new().latency().latency_by_endpoint();
    let query = SummaryQuery::new(range, spec);
    let summary = service.reader.summary(&query).await?;
    Ok(Json(Summary::of(&summary, TOP)))
}

async fn limits(
    State(service): State<SelfService>,
    caller: Caller,
) -> Result<Json<LimitsNow>, Problem> {
    let statuses = service.layer.limit_statuses(&caller).await.map_err(|_| {
        let detail = "The rate limiter is unavailable. Try again later.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })?;
    Ok(Json(statuses.into()))
}

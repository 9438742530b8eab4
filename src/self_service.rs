//! What key holders may ask about their own key.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::RETRY_AFTER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::limit::{Decision, LimitResponse, Limiter, LocalLimiter, RateLimit};
use crate::usage::{Recorder, SummaryQuery, SummarySpec, UsageRange, UsageReader};
use crate::web::{Limit, Problem, Query, Summary, in_order, method_not_allowed, protect};
use crate::{ApiKeyLayer, Caller, StoreFailure};

/// A small JSON API for whoever holds a key, about that key alone: `GET /usage` sums up what it was
/// used for, and `GET /limits` tells where its rate limits stand.
///
/// Asking spends nothing of the key's limits, is possible when nothing is left of them, and is not
/// accounted. So that nobody asks the backend without end, each key may ask twice a second, or ten
/// times at once.
///
/// ```
/// use axum::Router;
/// use axum::routing::get;
/// use keytally::ApiKeyLayer;
/// use keytally::backend::MemoryBackend;
/// use keytally::SelfServiceApi;
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
/// `GET /usage` knows `from` and `to`, times of RFC 3339; without them it is about all that the backend
/// keeps. Errors are problem details (RFC 9457).
pub struct SelfServiceApi {
    layer: ApiKeyLayer,
    about: About,
}

/// What the handlers ask.
#[derive(Clone)]
struct About {
    /// The layer that spends what is told here.
    layer: ApiKeyLayer,
    reader: Arc<dyn UsageReader>,
    asking: Arc<LocalLimiter>,
}

/// Endpoints in a summary.
const TOP: usize = 100;

impl SelfServiceApi {
    /// About the keys that this layer lets in, and the usage that is read there.
    pub fn new(layer: &ApiKeyLayer, reader: impl UsageReader) -> Self {
        Self {
            layer: layer
                .clone()
                .recorder(Recorder::counting())
                .cost(|_| 0)
                // Whom the layer would let pass for once is nobody to tell about.
                .on_store_failure(StoreFailure::Refuse),
            about: About {
                layer: layer.clone(),
                reader: Arc::new(reader),
                asking: Arc::default(),
            },
        }
    }

    /// The routes, behind the layer: to be nested outside of it.
    pub fn into_router(self) -> Router {
        Router::new()
            .route("/usage", get(usage))
            .route("/limits", get(limits))
            .method_not_allowed_fallback(async || method_not_allowed())
            .layer(from_fn_with_state(self.about.clone(), throttle))
            .layer(self.layer)
            .layer(map_response(async |mut response: Response| {
                protect(response.headers_mut());
                response
            }))
            .with_state(self.about)
    }
}

impl std::fmt::Debug for SelfServiceApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelfServiceApi").finish_non_exhaustive()
    }
}

async fn throttle(
    State(about): State<About>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    match about.authenticate(&caller).await {
        Some(decision) if decision.is_allowed() => next.run(request).await,
        decision => {
            let wait = decision.and_then(|decision| decision.retry_after_secs());
            let detail = "You ask too often. Wait a little.";
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail);
            let wait = [(RETRY_AFTER, wait.unwrap_or(1).to_string())];
            (wait, problem).into_response()
        }
    }
}

impl About {
    async fn authenticate(&self, caller: &Caller) -> Option<Decision> {
        let limit = RateLimit::per_second(2).with_burst(10);
        let now = Clock::system().now();
        let allowance = self.asking.attach(caller.lineage, &[limit], now).ok()?;
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
    State(about): State<About>,
    caller: Caller,
    Query(times): Query<Times>,
) -> Result<Json<Summary>, Problem> {
    in_order(times.from, times.to)?;
    let mut range = UsageRange::new().key(caller.id);
    (range.from, range.to) = (times.from, times.to);
    let query = SummaryQuery::new(range, SummarySpec::new().latency());
    let summary = about.reader.summary(&query).await?;
    Ok(Json(Summary::of(&summary, TOP)))
}

#[derive(Serialize)]
struct Limits {
    limits: Vec<LimitNow>,
}

#[derive(Serialize)]
struct LimitNow {
    #[serde(flatten)]
    limit: Limit,
    /// How many requests may come now.
    remaining: u32,
    /// In how many seconds nothing will be spent of it.
    reset_seconds: u32,
}

async fn limits(State(about): State<About>, caller: Caller) -> Result<Json<Limits>, Problem> {
    let standings = about.layer.limit_statuses(&caller).await.map_err(|_| {
        let detail = "The limiter does not answer. Try again.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })?;
    let limits = standings.iter().map(|(limit, standing)| LimitNow {
        limit: limit.into(),
        remaining: standing.remaining,
        reset_seconds: standing.reset_secs,
    });
    Ok(Json(Limits {
        limits: limits.collect(),
    }))
}

//! The current status of rate limits.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::named_in_path::OwnerInPath;
use super::owners;
use crate::dashboard::state::Shared;
use crate::key::Policy;
use crate::layer::ApiKeyLayer;
use crate::limit::{LimitError, Subject, SubjectLimits};
use crate::telemetry;
use crate::web::schema::LimitsNow;
use crate::web::{KeyInPath, Problem};

fn layer(shared: &Shared) -> Result<&ApiKeyLayer, Problem> {
    let detail = "No layer is configured for this dashboard.";
    let layer = shared.layer.as_ref();
    layer.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, detail))
}

fn unavailable(error: LimitError) -> Problem {
    telemetry::warn!(
        error = &error as &dyn std::error::Error,
        "failed to read the status of rate limits"
    );
    let detail = "The rate limiter is unavailable. Try again later.";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
}

/// Returns the rate limits of a key and its owner with the remaining requests.
#[utoipa::path(
    get, path = "/keys/{id}/limits",
    operation_id = "get_key_limits",
    tag = "keys",
    params(KeyInPath),
    responses(
        (status = 200, description = "The limits", body = LimitsNow),
        Problem,
    ),
)]
pub(super) async fn of_key(
    State(shared): State<Arc<Shared>>,
    KeyInPath(id): KeyInPath,
) -> Result<Json<LimitsNow>, Problem> {
    let layer = layer(&shared)?;
    let key = shared
        .keys
        .get(id)
        .await?
        .ok_or_else(Problem::key_not_found)?;
    let statuses = layer.limit_statuses(&key).await.map_err(unavailable)?;
    Ok(Json(statuses.into()))
}

/// Returns the rate limits of an owner, which all its keys share, with the remaining requests.
#[utoipa::path(
    get, path = "/owners/{owner}/limits",
    operation_id = "get_owner_limits",
    tag = "owners",
    params(OwnerInPath),
    responses(
        (status = 200, description = "The limits", body = LimitsNow),
        Problem,
    ),
)]
pub(super) async fn of_owner(
    State(shared): State<Arc<Shared>>,
    OwnerInPath(id): OwnerInPath,
) -> Result<Json<LimitsNow>, Problem> {
    let layer = layer(&shared)?;
    let admin = owners::admin(&shared)?;
    let owner = admin.owner(&id).await?.ok_or_else(owners::not_found)?;
    let plan = match owner.plan.as_deref() {
        Some(plan) => admin.plan(plan).await?,
        None => None,
    };
    let policy = Policy::of(None, Some(&owner), plan.as_ref());
    let limits = SubjectLimits::new(Subject::Owner(&id), &policy.owner_limits);
    let statuses = layer
        .subject_statuses(&[limits])
        .await
        .map_err(unavailable)?;
    Ok(Json(statuses.into()))
}

/// The state of a limiter whose limits are shared between instances, as seen by this process.
#[derive(Serialize, ToSchema)]
pub(super) struct LimiterHealth {
    /// Whether the backend of the limiter is available.
    available: bool,
    /// The number of times that it has become unavailable since the process started.
    failures: u64,
}

/// Returns whether shared rate limits are available.
#[utoipa::path(
    get, path = "/limiter",
    operation_id = "get_limiter",
    tag = "usage",
    responses(
        (status = 200, description = "The state of the limiter", body = LimiterHealth),
        Problem,
    ),
)]
pub(super) async fn health(
    State(shared): State<Arc<Shared>>,
) -> Result<Json<LimiterHealth>, Problem> {
    let detail = "Rate limits are not shared between instances.";
    let none = || Problem::new(StatusCode::NOT_FOUND, detail);
    let health = layer(&shared)?.limiter_health().ok_or_else(none)?;
    Ok(Json(LimiterHealth {
        available: health.is_available,
        failures: health.failures,
    }))
}

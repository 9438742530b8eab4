//! Lists, reads and changes plans.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::named_in_path::PlanInPath;
use super::owners::admin;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::key::StoreError;
use crate::web::schema::{self, Plan};
use crate::web::{Body, Problem};

fn plan_not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "Plan not found.")
}

/// All plans.
#[derive(Serialize, ToSchema)]
pub(super) struct Plans {
    /// The plans, sorted by name.
    plans: Vec<Plan>,
}

/// Lists all plans, sorted by name.
#[utoipa::path(
    get, path = "/plans",
    operation_id = "list_plans",
    tag = "plans",
    responses(
        (status = 200, description = "The plans", body = Plans),
        Problem,
    ),
)]
pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Result<Json<Plans>, Problem> {
    let plans = admin(&shared)?.list_plans().await?;
    let plans = plans.into_iter().map(Plan::from).collect();
    Ok(Json(Plans { plans }))
}

/// Returns a plan.
#[utoipa::path(
    get, path = "/plans/{plan}",
    operation_id = "get_plan",
    tag = "plans",
    params(PlanInPath),
    responses(
        (status = 200, description = "The plan", body = Plan),
        Problem,
    ),
)]
pub(super) async fn read(
    State(shared): State<Arc<Shared>>,
    PlanInPath(name): PlanInPath,
) -> Result<Json<Plan>, Problem> {
    let plan = admin(&shared)?.plan(&name).await?;
    Ok(Json(plan.ok_or_else(plan_not_found)?.into()))
}

/// Creates or replaces a plan. The new limits apply to all keys and owners of the plan.
#[utoipa::path(
    put, path = "/plans/{plan}",
    operation_id = "set_plan",
    tag = "plans",
    params(PlanInPath),
    request_body = schema::NewPlan,
    responses(
        (status = 200, description = "The plan", body = Plan),
        Problem,
    ),
)]
pub(super) async fn set(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    PlanInPath(name): PlanInPath,
    Body(plan, _): Body<schema::NewPlan>,
) -> Result<Json<Plan>, Problem> {
    let plan = plan.into_plan(name, Timestamp::now())?;
    let set = admin(&shared)?.set_plan(plan, context.admin.actor());
    Ok(Json(set.await?.into()))
}

/// Deletes a plan. A plan that a key or an owner has cannot be deleted.
#[utoipa::path(
    delete, path = "/plans/{plan}",
    operation_id = "delete_plan",
    tag = "plans",
    params(PlanInPath),
    responses(
        (status = 204, description = "The plan was deleted"),
        Problem,
    ),
)]
pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    PlanInPath(name): PlanInPath,
) -> Result<StatusCode, Problem> {
    let deleted = admin(&shared)?.delete_plan(&name, context.admin.actor());
    match deleted.await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(StoreError::PlanNotFound(_)) => Err(plan_not_found()),
        Err(error) => Err(error.into()),
    }
}

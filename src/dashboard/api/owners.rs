//! Lists, reads and changes owners.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::named_in_path::OwnerInPath;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::key::{OwnerAdmin, OwnerQuery, OwnerStatus, OwnerUpdate, StoreError};
use crate::page::{PageRequest, PageToken};
use crate::web::Problem;
use crate::web::schema::{self, Owner, Page, names};
use crate::web::{Body, Query, at_most};

/// The owners and plans of the store. A 404 if it has none.
pub(super) fn admin(shared: &Shared) -> Result<&dyn OwnerAdmin, Problem> {
    let admin = shared.keys.owner_admin();
    admin.ok_or_else(|| StoreError::OwnersNotSupported.into())
}

/// Filters of owners, combined with AND.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Only owners whose id or name contains this text, case-insensitively.
    contains: Option<String>,
    /// Only owners with this plan.
    plan: Option<String>,
    /// Only owners with this status.
    #[param(inline, value_type = Option<names::OwnerStatus>)]
    status: Option<OwnerStatus>,
    /// The maximum number of owners to return. 50 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The page token: `next` of the previous page.
    #[param(value_type = Option<String>)]
    after: Option<PageToken>,
}

impl TryFrom<Wanted> for OwnerQuery {
    type Error = Problem;

    fn try_from(wanted: Wanted) -> Result<Self, Problem> {
        let mut query = Self::new();
        if let Some(limit) = at_most(PageRequest::MAX_LIMIT, "limit", wanted.limit)? {
            query.page.limit = limit;
        }
        query.contains = wanted.contains;
        query.plan = wanted.plan;
        query.status = wanted.status;
        query.page.after = wanted.after;
        Ok(query)
    }
}

/// Lists owners, newest first.
#[utoipa::path(
    get, path = "/owners",
    operation_id = "list_owners",
    tag = "owners",
    params(Wanted),
    responses(
        (status = 200, description = "A page of owners", body = Page<Owner>),
        Problem,
    ),
)]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Page<Owner>>, Problem> {
    let owners = admin(&shared)?.list_owners(&wanted.try_into()?).await?;
    Ok(Json(Page::of(owners, Owner::from)))
}

/// Returns an owner. An owner has a record once a key has named it or it has been updated.
#[utoipa::path(
    get, path = "/owners/{owner}",
    operation_id = "get_owner",
    tag = "owners",
    params(OwnerInPath),
    responses(
        (status = 200, description = "The owner", body = Owner),
        Problem,
    ),
)]
pub(super) async fn read(
    State(shared): State<Arc<Shared>>,
    OwnerInPath(id): OwnerInPath,
) -> Result<Json<Owner>, Problem> {
    let owner = admin(&shared)?.owner(&id).await?;
    Ok(Json(owner.ok_or_else(not_found)?.into()))
}

pub(super) fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "Owner not found.")
}

/// Updates fields of an owner. Creates its record if there is none.
#[utoipa::path(
    patch, path = "/owners/{owner}",
    operation_id = "update_owner",
    tag = "owners",
    params(OwnerInPath),
    request_body = schema::OwnerUpdate,
    responses(
        (status = 200, description = "The updated owner", body = Owner),
        Problem,
    ),
)]
pub(super) async fn update(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    OwnerInPath(id): OwnerInPath,
    Body(update, _): Body<schema::OwnerUpdate>,
) -> Result<Json<Owner>, Problem> {
    let update = OwnerUpdate::try_from(update)?;
    let updated = admin(&shared)?.update_owner(&id, update, context.admin.actor());
    Ok(Json(updated.await?.into()))
}

/// Suspends an owner. Requests with its keys are rejected until it is resumed; other instances may accept them for up
/// to 30 seconds.
#[utoipa::path(
    post, path = "/owners/{owner}/suspend",
    operation_id = "suspend_owner",
    tag = "owners",
    params(OwnerInPath),
    responses(
        (status = 200, description = "The updated owner", body = Owner),
        Problem,
    ),
)]
pub(super) async fn suspend(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    OwnerInPath(id): OwnerInPath,
) -> Result<Json<Owner>, Problem> {
    let suspended = admin(&shared)?.suspend_owner(&id, context.admin.actor());
    Ok(Json(suspended.await?.into()))
}

/// Resumes a suspended owner. Requests with its active keys are accepted again.
#[utoipa::path(
    post, path = "/owners/{owner}/resume",
    operation_id = "resume_owner",
    tag = "owners",
    params(OwnerInPath),
    responses(
        (status = 200, description = "The updated owner", body = Owner),
        Problem,
    ),
)]
pub(super) async fn resume(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    OwnerInPath(id): OwnerInPath,
) -> Result<Json<Owner>, Problem> {
    let resumed = admin(&shared)?.resume_owner(&id, context.admin.actor());
    Ok(Json(resumed.await?.into()))
}

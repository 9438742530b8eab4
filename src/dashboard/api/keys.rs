//! Keys: which there are, and what is changed about them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::key::{KeyAdmin, KeyQuery, KeyStatus, KeyUpdate};
use crate::page::PageToken;
use crate::web::Problem;
use crate::web::schema::{self, Key, Page, names};
use crate::web::{Body, KeyInPath, Query, at_most};

/// Which keys to list; all that is given has to hold.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// A part of the name, in any case.
    name: Option<String>,
    /// The whole owner.
    owner: Option<String>,
    /// Whether it works now.
    #[param(inline, value_type = Option<names::KeyStatus>)]
    status: Option<KeyStatus>,
    /// Made before this time, and not used from it on.
    #[param(value_type = Option<String>, format = DateTime)]
    unused_since: Option<Timestamp>,
    /// With an end before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    expires_before: Option<Timestamp>,
    /// How many at most; 50 unless told.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<PageToken>,
}

impl TryFrom<Wanted> for KeyQuery {
    type Error = Problem;

    fn try_from(wanted: Wanted) -> Result<Self, Problem> {
        let mut query = Self::new();
        if let Some(limit) = at_most(Self::MAX_LIMIT, "limit", wanted.limit)? {
            query.limit = limit;
        }
        query.name = wanted.name;
        query.owner = wanted.owner;
        query.status = wanted.status.map(|status| (status, Timestamp::now()));
        query.unused_since = wanted.unused_since;
        query.expires_before = wanted.expires_before;
        query.after = wanted.after;
        Ok(query)
    }
}

/// Lists keys, the newest first.
#[utoipa::path(
    get, path = "/keys",
    operation_id = "list_keys",
    tag = "keys",
    params(Wanted),
    responses(
        (status = 200, description = "A page of keys", body = Page<Key>),
        Problem,
    ),
)]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Page<Key>>, Problem> {
    let keys = shared.backend.list(&wanted.try_into()?).await?;
    Ok(Json(Page::of(keys, Key::from)))
}

/// Tells what is known of a key.
#[utoipa::path(
    get, path = "/keys/{id}",
    operation_id = "get_key",
    tag = "keys",
    params(KeyInPath),
    responses(
        (status = 200, description = "The key", body = Key),
        Problem,
    ),
)]
pub(super) async fn read(
    State(shared): State<Arc<Shared>>,
    KeyInPath(id): KeyInPath,
) -> Result<Json<Key>, Problem> {
    let key = shared.backend.get(id).await?;
    let key = key.ok_or_else(Problem::no_such_key)?;
    Ok(Json(key.into()))
}

/// Changes some of a key's fields.
#[utoipa::path(
    patch, path = "/keys/{id}",
    operation_id = "update_key",
    tag = "keys",
    params(KeyInPath),
    request_body = schema::KeyUpdate,
    responses(
        (status = 200, description = "The key as it became", body = Key),
        Problem,
    ),
)]
pub(super) async fn update(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    KeyInPath(id): KeyInPath,
    Body(update, _): Body<schema::KeyUpdate>,
) -> Result<Json<Key>, Problem> {
    let update = KeyUpdate::try_from(update)?;
    let key = visit.keys(&shared).update(id, update).await?;
    Ok(Json(key.into()))
}

/// Deletes a key for good: it stops working at once. What it was used for stays.
#[utoipa::path(
    delete, path = "/keys/{id}",
    operation_id = "delete_key",
    tag = "keys",
    params(KeyInPath),
    responses(
        (status = 204, description = "There is no such key any more"),
        Problem,
    ),
)]
pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    KeyInPath(id): KeyInPath,
) -> Result<StatusCode, Problem> {
    visit.keys(&shared).delete(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Switches a key off for now.
#[utoipa::path(
    post, path = "/keys/{id}/disable",
    operation_id = "disable_key",
    tag = "keys",
    params(KeyInPath),
    responses(
        (status = 200, description = "The key as it became", body = Key),
        Problem,
    ),
)]
pub(super) async fn disable(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    KeyInPath(id): KeyInPath,
) -> Result<Json<Key>, Problem> {
    let key = visit.keys(&shared).disable(id).await?;
    Ok(Json(key.into()))
}

/// Switches a key on again.
#[utoipa::path(
    post, path = "/keys/{id}/enable",
    operation_id = "enable_key",
    tag = "keys",
    params(KeyInPath),
    responses(
        (status = 200, description = "The key as it became", body = Key),
        Problem,
    ),
)]
pub(super) async fn enable(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    KeyInPath(id): KeyInPath,
) -> Result<Json<Key>, Problem> {
    let key = visit.keys(&shared).enable(id).await?;
    Ok(Json(key.into()))
}

/// Revokes a key for good, and keeps its record.
#[utoipa::path(
    post, path = "/keys/{id}/revoke",
    operation_id = "revoke_key",
    tag = "keys",
    params(KeyInPath),
    responses(
        (status = 200, description = "The key as it became", body = Key),
        Problem,
    ),
)]
pub(super) async fn revoke(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    KeyInPath(id): KeyInPath,
) -> Result<Json<Key>, Problem> {
    let key = visit.keys(&shared).revoke(id).await?;
    Ok(Json(key.into()))
}

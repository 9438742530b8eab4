//! Lists, reads and changes keys.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::dashboard::find::{self, Found};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::key::{KeyAdmin, KeyQuery, KeyStatus, KeyUpdate};
use crate::page::{PageRequest, PageToken};
use crate::web::Problem;
use crate::web::schema::{self, Key, Page, names};
use crate::web::{Body, KeyInPath, Query, at_most};

/// Filters of keys, combined with AND.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Only keys whose name contains this text, case-insensitively.
    name: Option<String>,
    /// Only keys whose name contains this text, case-insensitively, or whose hint or ID contains it.
    search: Option<String>,
    /// Only keys with exactly this owner.
    owner: Option<String>,
    /// Only keys whose owner contains this text, case-insensitively.
    owner_contains: Option<String>,
    /// Only keys with this plan of their own.
    plan: Option<String>,
    /// Only keys with this status.
    #[param(inline, value_type = Option<names::KeyStatus>)]
    status: Option<KeyStatus>,
    /// Only keys created before this time and not used since.
    #[param(value_type = Option<String>, format = DateTime)]
    unused_since: Option<Timestamp>,
    /// Only keys that expire before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    expires_before: Option<Timestamp>,
    /// Only keys that were imported, or only keys that were not.
    imported: Option<bool>,
    /// The maximum number of keys to return. 50 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The page token: `next` of the previous page.
    #[param(value_type = Option<String>)]
    after: Option<PageToken>,
}

impl TryFrom<Wanted> for KeyQuery {
    type Error = Problem;

    fn try_from(wanted: Wanted) -> Result<Self, Problem> {
        let mut query = Self::new();
        if let Some(limit) = at_most(PageRequest::MAX_LIMIT, "limit", wanted.limit)? {
            query.page.limit = limit;
        }
        query.name = wanted.name;
        query.search = wanted.search;
        query.owner = wanted.owner;
        query.owner_contains = wanted.owner_contains;
        query.plan = wanted.plan;
        query.status = wanted.status.map(|status| (status, Timestamp::now()));
        query.unused_since = wanted.unused_since;
        query.expires_before = wanted.expires_before;
        query.imported = wanted.imported;
        query.page.after = wanted.after;
        Ok(query)
    }
}

/// Lists keys, newest first.
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
    let keys = shared.keys.list(&wanted.try_into()?).await?;
    Ok(Json(Page::of(keys, Key::from)))
}

/// A text to find keys by.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Text {
    /// A secret, a text that contains one, a key ID, or a part of a name or hint.
    text: String,
}

/// The keys that were found.
#[derive(Serialize, ToSchema)]
pub(super) struct FoundKeys {
    /// The keys, at most 50. Empty if there are none.
    keys: Vec<Key>,
    /// Whether the text has the secret of the key.
    by_secret: bool,
}

/// Finds the key of a leaked secret, or keys by ID, name or hint. The secret is sent in the body, since URLs end up in
/// logs.
#[utoipa::path(
    post, path = "/keys/find",
    operation_id = "find_keys",
    tag = "keys",
    request_body = Text,
    responses(
        (status = 200, description = "The keys", body = FoundKeys),
        Problem,
    ),
)]
pub(super) async fn find(
    State(shared): State<Arc<Shared>>,
    Body(Text { text }, _): Body<Text>,
) -> Result<Json<FoundKeys>, Problem> {
    let (keys, by_secret) = match find::find(&shared, &text).await? {
        Found::Key { key, by_secret } => (vec![*key], by_secret),
        Found::Several { keys, .. } => (keys, false),
        Found::None { .. } => (Vec::new(), false),
    };
    let keys = keys.into_iter().map(Key::from).collect();
    Ok(Json(FoundKeys { keys, by_secret }))
}

/// Returns a key.
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
    let key = shared.keys.get(id).await?;
    let key = key.ok_or_else(Problem::key_not_found)?;
    Ok(Json(key.into()))
}

/// Updates fields of a key.
#[utoipa::path(
    patch, path = "/keys/{id}",
    operation_id = "update_key",
    tag = "keys",
    params(KeyInPath),
    request_body = schema::KeyUpdate,
    responses(
        (status = 200, description = "The updated key", body = Key),
        Problem,
    ),
)]
pub(super) async fn update(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(id): KeyInPath,
    Body(update, _): Body<schema::KeyUpdate>,
) -> Result<Json<Key>, Problem> {
    let update = KeyUpdate::try_from(update)?;
    let key = shared
        .keys
        .update(id, update, context.admin.actor())
        .await?;
    Ok(Json(key.into()))
}

/// Permanently deletes a key. Requests with it are rejected; other instances may accept it for up to 30 seconds. Its
/// usage data is kept.
#[utoipa::path(
    delete, path = "/keys/{id}",
    operation_id = "delete_key",
    tag = "keys",
    params(KeyInPath),
    responses(
        (status = 204, description = "The key was deleted"),
        Problem,
    ),
)]
pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(id): KeyInPath,
) -> Result<StatusCode, Problem> {
    shared.keys.delete(id, context.admin.actor()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Disables a key. Requests with it are rejected until it is enabled again.
#[utoipa::path(
    post, path = "/keys/{id}/disable",
    operation_id = "disable_key",
    tag = "keys",
    params(KeyInPath),
    responses(
        (status = 200, description = "The updated key", body = Key),
        Problem,
    ),
)]
pub(super) async fn disable(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(id): KeyInPath,
) -> Result<Json<Key>, Problem> {
    let key = shared.keys.disable(id, context.admin.actor()).await?;
    Ok(Json(key.into()))
}

/// Enables a disabled key.
#[utoipa::path(
    post, path = "/keys/{id}/enable",
    operation_id = "enable_key",
    tag = "keys",
    params(KeyInPath),
    responses(
        (status = 200, description = "The updated key", body = Key),
        Problem,
    ),
)]
pub(super) async fn enable(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(id): KeyInPath,
) -> Result<Json<Key>, Problem> {
    let key = shared.keys.enable(id, context.admin.actor()).await?;
    Ok(Json(key.into()))
}

/// Permanently revokes a key. Its record and usage data are kept.
#[utoipa::path(
    post, path = "/keys/{id}/revoke",
    operation_id = "revoke_key",
    tag = "keys",
    params(KeyInPath),
    responses(
        (status = 200, description = "The updated key", body = Key),
        Problem,
    ),
)]
pub(super) async fn revoke(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(id): KeyInPath,
) -> Result<Json<Key>, Problem> {
    let key = shared.keys.revoke(id, context.admin.actor()).await?;
    Ok(Json(key.into()))
}

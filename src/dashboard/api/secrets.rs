//! Endpoints that return secrets: creating, rotating and revealing keys.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::LOCATION;
use jiff::Timestamp;

use super::idempotency::IdempotencyKey;
use super::paths::PATH;
use crate::dashboard::idempotency::{IdempotencyError, RequestKey};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::key::{self, Issuer};
use crate::web::Problem;
use crate::web::schema::{self, Issued, Revealed};
use crate::web::{Body, KeyInPath};

/// Creates a key. The response contains its secret, which cannot be retrieved later unless the key is recoverable.
#[utoipa::path(
    post, path = "/keys",
    operation_id = "create_key",
    tag = "keys",
    params(IdempotencyKey),
    request_body = schema::NewKey,
    responses(
        (
            status = 201,
            description = "The key and its secret",
            body = Issued<'_>,
            headers(("location" = String, description = "The URL of the key")),
        ),
        Problem,
    ),
)]
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    IdempotencyKey(name): IdempotencyKey,
    Body(body, fingerprint): Body<schema::NewKey>,
) -> Result<Response, Problem> {
    let new = body.into_new(Timestamp::now())?;
    let (store, admin) = (shared.keys.clone(), context.admin.clone());
    let request_key = RequestKey::at("/keys", context.admin.name(), name.as_deref(), fingerprint);
    let issue = async move |issuer: Issuer| issuer.issue(&*store, new, admin.actor()).await;
    let issued = shared.issue_once(request_key, issue).await?;
    Ok(created(&context, &issued))
}

/// Rotates a key: creates a new key with the same settings. The old key expires after the grace period.
#[utoipa::path(
    post, path = "/keys/{id}/rotate",
    operation_id = "rotate_key",
    tag = "keys",
    params(KeyInPath, IdempotencyKey),
    request_body = schema::Rotation,
    responses(
        (
            status = 201,
            description = "The new key and its secret",
            body = Issued<'_>,
            headers(("location" = String, description = "The URL of the new key")),
        ),
        Problem,
    ),
)]
pub(super) async fn rotate(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(id): KeyInPath,
    IdempotencyKey(name): IdempotencyKey,
    Body(body, fingerprint): Body<schema::Rotation>,
) -> Result<Response, Problem> {
    let (store, admin) = (shared.keys.clone(), context.admin.clone());
    let path = format!("/keys/{id}/rotate");
    let request_key = RequestKey::at(&path, context.admin.name(), name.as_deref(), fingerprint);
    let rotate = async move |issuer: Issuer| {
        issuer
            .rotate(&*store, id, body.grace(), admin.actor())
            .await
    };
    let issued = shared.issue_once(request_key, rotate).await?;
    Ok(created(&context, &issued))
}

/// Reveals the secret of a recoverable key. Each reveal is recorded in the audit log.
#[utoipa::path(
    post, path = "/keys/{id}/reveal",
    operation_id = "reveal_secret",
    tag = "keys",
    params(KeyInPath),
    responses(
        (status = 200, description = "The secret", body = Revealed<'_>),
        Problem,
    ),
)]
pub(super) async fn reveal(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(id): KeyInPath,
) -> Result<Response, Problem> {
    let issuer = shared.issuer.as_ref().ok_or(IdempotencyError::NoIssuer)?;
    let secret = issuer
        .reveal(&*shared.keys, id, context.admin.actor())
        .await?;
    let not_stored = || {
        Problem::new(
            StatusCode::NOT_FOUND,
            "The secret of this key is not stored.",
        )
    };
    let secret = secret.ok_or_else(not_stored)?;
    Ok(Json(Revealed::from(&secret)).into_response())
}

fn created(context: &PageContext, issued: &key::Issued) -> Response {
    let url = context.at(&format!("{PATH}/keys/{}", issued.key.id));
    let body = Json(Issued::from(issued));
    (StatusCode::CREATED, [(LOCATION, url)], body).into_response()
}

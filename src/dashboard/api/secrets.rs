//! What makes and tells secrets: creating keys, rotating them, revealing what is kept.

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

/// Makes a key. Its secret is in the answer, and nowhere else.
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
            headers(("location" = String, description = "The key's address")),
        ),
        Problem,
    ),
)]
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    IdempotencyKey(name): IdempotencyKey,
    Body(body, fingerprint): Body<schema::NewKey>,
) -> Result<Response, Problem> {
    let new = body.into_new(Timestamp::now())?;
    let store = visit.keys(&shared);
    let asked = RequestKey::at("/keys", visit.admin.name(), name.as_deref(), fingerprint);
    let issue = async move |issuer: Issuer| issuer.issue(&*store, new).await;
    let issued = shared
        .idempotent_requests
        .once(asked, shared.issuer.clone(), shared.backend.clone(), issue)
        .await?;
    Ok(made(&visit, &issued))
}

/// Makes a new secret for a key, which takes its place under an id of its own.
#[utoipa::path(
    post, path = "/keys/{id}/rotate",
    operation_id = "rotate_key",
    tag = "keys",
    params(KeyInPath, IdempotencyKey),
    request_body = schema::Rotation,
    responses(
        (
            status = 201,
            description = "The key that took over, and its secret",
            body = Issued<'_>,
            headers(("location" = String, description = "The new key's address")),
        ),
        Problem,
    ),
)]
pub(super) async fn rotate(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    KeyInPath(id): KeyInPath,
    IdempotencyKey(name): IdempotencyKey,
    Body(body, fingerprint): Body<schema::Rotation>,
) -> Result<Response, Problem> {
    let store = visit.keys(&shared);
    let path = format!("/keys/{id}/rotate");
    let asked = RequestKey::at(&path, visit.admin.name(), name.as_deref(), fingerprint);
    let rotate = async move |issuer: Issuer| issuer.rotate(&*store, id, body.grace()).await;
    let issued = shared
        .idempotent_requests
        .once(asked, shared.issuer.clone(), shared.backend.clone(), rotate)
        .await?;
    Ok(made(&visit, &issued))
}

/// Tells the secret of a recoverable key once more; the audit has who asked.
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
    visit: PageContext,
    KeyInPath(id): KeyInPath,
) -> Result<Response, Problem> {
    let issuer = shared.issuer.as_ref().ok_or(IdempotencyError::NoIssuer)?;
    let secret = issuer.reveal(&*visit.keys(&shared), id).await?;
    let not_kept = || Problem::new(StatusCode::NOT_FOUND, "The secret of this key is not kept.");
    let secret = secret.ok_or_else(not_kept)?;
    Ok(Json(Revealed::from(&secret)).into_response())
}

fn made(visit: &PageContext, issued: &key::Issued) -> Response {
    let address = visit.at(&format!("{PATH}/keys/{}", issued.key.id));
    let body = Json(Issued::from(issued));
    (StatusCode::CREATED, [(LOCATION, address)], body).into_response()
}

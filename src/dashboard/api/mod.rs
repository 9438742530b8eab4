//! The JSON API, described by OpenAPI 3.1.
//!
//! Handlers are annotated with their description. Routes and document are built from the same list, so they cannot
//! diverge.

mod audit;
mod idempotency;
mod keys;
mod limits;
mod log;
mod named_in_path;
mod owners;
mod paths;
mod plans;
mod recorder;
mod secrets;
mod usage;

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json};
use http::StatusCode;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::server::ServerBuilder;
use utoipa::openapi::{OpenApi as Document, SecurityRequirement};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) use self::paths::{PATH, is_at};
use super::guard::Denied;
use super::page_context::PageContext;
use super::session::COOKIE_NAME;
use super::state::Shared;
use crate::web::{Problem, method_not_allowed, not_found};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "keytally",
        description = "Manage API keys and inspect their usage. Times are in RFC 3339 format. Errors are \
            problem details (RFC 9457) that name the invalid field.",
    ),
    tags(
        (name = "keys", description = "Manage API keys"),
        (name = "owners", description = "Manage owners"),
        (name = "plans", description = "Manage plans"),
        (name = "usage", description = "Usage summaries and the request log"),
        (name = "audit", description = "The audit log"),
    ),
    components(schemas(Problem)),
    modifiers(&Credentials),
)]
struct Described;

/// The security schemes of [`BearerToken`](crate::dashboard::BearerToken).
struct Credentials;

impl Modify for Credentials {
    fn modify(&self, document: &mut Document) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let session = ApiKey::Cookie(ApiKeyValue::new(COOKIE_NAME));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        components.add_security_scheme("session", SecurityScheme::ApiKey(session));
        let either = ["bearer", "session"].map(|name| SecurityRequirement::new(name, [""; 0]));
        document.security = Some(either.into());
    }
}

/// The routes below [`PATH`] and the document that describes them.
fn described() -> (Router<Arc<Shared>>, Document) {
    OpenApiRouter::with_openapi(Described::openapi())
        .routes(routes!(keys::list, secrets::create))
        .routes(routes!(keys::find))
        .routes(routes!(keys::read, keys::update, keys::delete))
        .routes(routes!(keys::disable))
        .routes(routes!(keys::enable))
        .routes(routes!(keys::revoke))
        .routes(routes!(secrets::rotate))
        .routes(routes!(secrets::reveal))
        .routes(routes!(limits::of_key))
        .routes(routes!(owners::list))
        .routes(routes!(owners::read, owners::update))
        .routes(routes!(owners::suspend))
        .routes(routes!(owners::resume))
        .routes(routes!(limits::of_owner))
        .routes(routes!(plans::list))
        .routes(routes!(plans::read, plans::set, plans::delete))
        .routes(routes!(usage::summary))
        .routes(routes!(usage::over_time))
        .routes(routes!(usage::by_owner))
        .routes(routes!(usage::export_by_owner))
        .routes(routes!(usage::find_spikes))
        .routes(routes!(log::requests))
        .routes(routes!(log::request))
        .routes(routes!(log::recorded))
        .routes(routes!(log::count))
        .routes(routes!(log::export))
        .routes(routes!(recorder::stats))
        .routes(routes!(recorder::rejections))
        .routes(routes!(recorder::backlog))
        .routes(routes!(limits::health))
        .routes(routes!(audit::entries))
        .split_for_parts()
}

/// The response to a request that the guard denies.
pub(super) fn denied(denied: Denied) -> Response {
    let status = match denied {
        Denied::Unauthenticated => StatusCode::UNAUTHORIZED,
        Denied::Forbidden => StatusCode::FORBIDDEN,
    };
    Problem::new(status, denied.to_string()).into_response()
}

/// The response to a cross-site request.
pub(super) fn cross_site_rejected() -> Response {
    let detail = "Cross-site requests are not allowed.";
    Problem::new(StatusCode::FORBIDDEN, detail).into_response()
}

pub(super) fn router() -> Router<Arc<Shared>> {
    let (router, document) = described();
    router
        .route("/openapi.json", get(openapi))
        .layer(Extension(Arc::new(document)))
        .fallback(async || not_found())
        .method_not_allowed_fallback(async || method_not_allowed())
}

async fn openapi(
    context: PageContext,
    Extension(document): Extension<Arc<Document>>,
) -> Json<Document> {
    let mut document = Document::clone(&document);
    // The base path depends on the request.
    let server = ServerBuilder::new().url(context.at(PATH)).build();
    document.servers = Some(vec![server]);
    Json(document)
}

/// The paths of all API routes, in axum's syntax.
#[cfg(test)]
pub(super) fn paths() -> Vec<String> {
    let document = described().1;
    let paths = document.paths.paths.into_keys();
    let paths = paths.chain(["/openapi.json".into()]);
    paths.map(|path| format!("{PATH}{path}")).collect()
}

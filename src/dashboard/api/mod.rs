//! All that the pages do, for programs: JSON over HTTP, described by OpenAPI 3.1.
//!
//! A handler's attributes are its description, and one list makes both the routes and the document, so
//! that neither can have what the other lacks.

mod audit;
mod idempotency;
mod keys;
mod log;
mod paths;
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
        description = "API keys and what they are used for. Times are RFC 3339; errors are problem \
            details (RFC 9457) that name the field.",
    ),
    tags(
        (name = "keys", description = "Keys, and what they may do"),
        (name = "usage", description = "What keys were used for"),
        (name = "audit", description = "Who did what to which key"),
    ),
    components(schemas(Problem)),
    modifiers(&Credentials),
)]
struct Described;

/// How callers show who they are, with the guard that is ready made.
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

/// The routes below [`PATH`], and what describes them.
fn described() -> (Router<Arc<Shared>>, Document) {
    OpenApiRouter::with_openapi(Described::openapi())
        .routes(routes!(keys::list, secrets::create))
        .routes(routes!(keys::read, keys::update, keys::delete))
        .routes(routes!(keys::disable))
        .routes(routes!(keys::enable))
        .routes(routes!(keys::revoke))
        .routes(routes!(secrets::rotate))
        .routes(routes!(secrets::reveal))
        .routes(routes!(usage::summary))
        .routes(routes!(usage::over_time))
        .routes(routes!(usage::find_spikes))
        .routes(routes!(log::requests))
        .routes(routes!(log::recorded))
        .routes(routes!(log::count))
        .routes(routes!(log::export))
        .routes(routes!(recorder::stats))
        .routes(routes!(audit::entries))
        .split_for_parts()
}

/// The answer to whom the guard does not let in.
pub(super) fn denied(denied: Denied) -> Response {
    let status = match denied {
        Denied::Unauthenticated => StatusCode::UNAUTHORIZED,
        Denied::Forbidden => StatusCode::FORBIDDEN,
    };
    Problem::new(status, denied.to_string()).into_response()
}

/// The answer to a browser that another site sent.
pub(super) fn of_another_site() -> Response {
    let detail = "Another site sent this.";
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
    visit: PageContext,
    Extension(document): Extension<Arc<Document>>,
) -> Json<Document> {
    let mut document = Document::clone(&document);
    // Only a request knows where the pages were nested.
    let server = ServerBuilder::new().url(visit.at(PATH)).build();
    document.servers = Some(vec![server]);
    Json(document)
}

/// The paths of the API as axum has them, for whoever walks all routes.
#[cfg(test)]
pub(super) fn paths() -> Vec<String> {
    let document = described().1;
    let paths = document.paths.paths.into_keys();
    let paths = paths.chain(["/openapi.json".into()]);
    paths.map(|path| format!("{PATH}{path}")).collect()
}

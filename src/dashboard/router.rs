//! Every route, and what all of them go through.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{any, get};
use http::StatusCode;

use super::Shared;
use super::api;
use super::guard::Denied;
use super::pages::{self, login};
use super::safety::{is_of_this_site, protect};
use super::visit::{Visit, base};

/// The largest form: a key's fields are far smaller.
const LARGEST_FORM: usize = 64 << 10;

/// All that is there without the guard.
const OPEN: [&str; 4] = [
    "/login",
    "/assets/style.css",
    "/assets/script.js",
    "/assets/icon.svg",
];

pub(super) fn router(shared: Arc<Shared>) -> Router {
    use pages::{
        assets, audit, change, delete, edit, generate, keys, log, overview, rotate, usage,
    };

    Router::new()
        .route("/", get(overview::overview))
        .route("/keys", get(keys::list))
        .route("/keys/new", get(generate::form).post(generate::generate))
        .route("/keys/{id}", get(usage::of_key))
        .route(
            "/keys/{id}/disable",
            get(change::form).post(change::disable),
        )
        .route("/keys/{id}/enable", get(change::form).post(change::enable))
        .route("/keys/{id}/edit", get(edit::form).post(edit::save))
        .route(
            "/keys/{id}/revoke",
            get(change::revoke_form).post(change::revoke),
        )
        .route("/keys/{id}/rotate", get(rotate::form).post(rotate::rotate))
        .route("/keys/{id}/delete", get(delete::form).post(delete::delete))
        .route("/log", get(log::of_all))
        .route("/log/{format}", get(log::export))
        .route("/audit", get(audit::page_of))
        .route("/login", get(login::form).post(login::sign_in))
        .route("/logout", get(login::out).post(login::sign_out))
        .route("/assets/style.css", get(assets::style))
        .route("/assets/script.js", get(assets::script))
        .route("/assets/icon.svg", get(assets::icon))
        .nest(api::PATH, api::router())
        // Axum takes the path with nothing but a slash behind it for another one.
        .route(&format!("{}/", api::PATH), any(async || api::nowhere()))
        .fallback(pages::nowhere)
        .layer(DefaultBodyLimit::max(LARGEST_FORM))
        // Around every route and the fallback: none can be added that it is not asked for.
        .layer(from_fn_with_state(shared.clone(), admit))
        .layer(from_fn(keep_safe))
        .with_state(shared)
}

/// Asks the guard, and puts the visit where the pages find it.
async fn admit(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    if OPEN.contains(&parts.uri.path()) {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let signed_in = shared
        .guard
        .login()
        .and(shared.signer.admin(&parts.headers));
    let admitted = match signed_in {
        Some(admin) => Ok(admin),
        None => shared.guard.admit(&parts).await,
    };
    match admitted {
        Ok(admin) => {
            let visit = Visit::new(&shared, &parts, admin);
            parts.extensions.insert(visit);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(denied) if api::is_at(parts.uri.path()) => api::denied(denied),
        Err(Denied::Unauthenticated) if shared.guard.login().is_some() => {
            login::ask(&parts, &base(&parts))
        }
        Err(Denied::Unauthenticated) => pages::stranger(StatusCode::UNAUTHORIZED),
        Err(Denied::Forbidden) => pages::stranger(StatusCode::FORBIDDEN),
    }
}

/// Refuses what another site sends, and tells browsers what not to do.
async fn keep_safe(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let mut response = if parts.method.is_safe() || is_of_this_site(&parts) {
        next.run(Request::from_parts(parts, body)).await
    } else if api::is_at(parts.uri.path()) {
        api::of_another_site()
    } else {
        pages::stranger(StatusCode::FORBIDDEN)
    };
    protect(response.headers_mut());
    response
}

//! The routes and their middleware.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodRouter, any, get, post};
use http::StatusCode;
use http::header::AUTHORIZATION;

use super::api;
use super::base_path::BasePath;
use super::csrf::is_same_origin;
use super::guard::Denied;
use super::next;
use super::page_context::PageContext;
use super::pages::{self, sign_in};
use super::secret_in_url;
use super::state::Shared;
use crate::drain::Drain;
use crate::telemetry;
use crate::web::{not_found, protect};

/// The maximum size of a request body. The fields of a key are far smaller.
const MAX_FORM_BYTES: usize = 64 << 10;

/// Routes that do not require authentication.
const OPEN: [&str; 4] = [
    "/sign-in",
    "/assets/style.css",
    "/assets/script.js",
    "/assets/icon.svg",
];

/// Every route outside of the API.
fn pages() -> Vec<(&'static str, MethodRouter<Arc<Shared>>)> {
    use pages::{
        assets, audit, bulk, delete, edit, find, generate, keys, log, overview, owner, owners,
        plans, request, reveal, rotate, status, usage,
    };

    vec![
        ("/", get(overview::overview)),
        ("/keys", get(keys::list)),
        ("/keys/new", get(generate::form).post(generate::generate)),
        ("/keys/find", get(find::form).post(find::find)),
        ("/keys/disable", get(bulk::form).post(bulk::disable)),
        ("/keys/enable", post(bulk::enable)),
        ("/keys/{id}", get(usage::of_key)),
        ("/keys/{id}/edit", get(edit::form).post(edit::save)),
        ("/keys/{id}/reveal", get(reveal::form).post(reveal::reveal)),
        ("/keys/{id}/rotate", get(rotate::form).post(rotate::rotate)),
        (
            "/keys/{id}/disable",
            get(status::form).post(status::disable),
        ),
        ("/keys/{id}/enable", get(status::form).post(status::enable)),
        (
            "/keys/{id}/revoke",
            get(status::revoke_form).post(status::revoke),
        ),
        ("/keys/{id}/delete", get(delete::form).post(delete::delete)),
        ("/owners", get(owners::list)),
        ("/owners/{owner}", get(owner::page_of)),
        (
            "/owners/{owner}/edit",
            get(owner::edit::form).post(owner::edit::save),
        ),
        (
            "/owners/{owner}/suspend",
            get(owner::status::suspend_form).post(owner::status::suspend),
        ),
        (
            "/owners/{owner}/resume",
            get(owner::status::resume_form).post(owner::status::resume),
        ),
        ("/owners/{owner}/csv", get(owner::export)),
        ("/plans", get(plans::list)),
        ("/plans/new", get(plans::new_form).post(plans::create)),
        ("/plans/edit", get(plans::edit_form).post(plans::edit)),
        ("/plans/delete", get(plans::delete_form).post(plans::delete)),
        ("/owners/{owner}/log/{format}", get(log::export_of_owner)),
        ("/billing/csv", get(owners::export)),
        ("/log", get(log::of_all)),
        ("/log/columns", get(log::columns).post(log::choose_columns)),
        ("/log/{format}", get(log::export)),
        ("/log/requests/{id}", get(request::page_of)),
        ("/audit", get(audit::page_of)),
        ("/sign-in", get(sign_in::form).post(sign_in::sign_in)),
        (
            "/sign-out",
            get(sign_in::sign_out_form).post(sign_in::sign_out),
        ),
        ("/assets/style.css", get(assets::style)),
        ("/assets/script.js", get(assets::script)),
        ("/assets/icon.svg", get(assets::icon)),
    ]
}

pub(super) fn router<S: Clone + Send + Sync + 'static>(shared: Arc<Shared>) -> Router<S> {
    let add = |router: Router<_>, (path, methods)| router.route(path, methods);
    let (open, guarded): (Vec<_>, Vec<_>) = pages()
        .into_iter()
        .partition(|(path, _)| OPEN.contains(path));
    let open = open.into_iter().fold(Router::new(), add);
    guarded
        .into_iter()
        .fold(Router::new(), add)
        .nest(api::PATH, api::router())
        // `nest` does not match the path with a trailing slash.
        .route(&format!("{}/", api::PATH), any(async || not_found()))
        .fallback(pages::not_found)
        // Covers all routes but the open ones, and the fallback, so that no new route can bypass the guard.
        .layer(from_fn_with_state(shared.clone(), authenticate))
        .merge(open)
        .layer(DefaultBodyLimit::max(MAX_FORM_BYTES))
        .layer(from_fn(secret_in_url::remove))
        .layer(from_fn(add_security_headers))
        .layer(from_fn_with_state(shared.clone(), insert_base_path))
        .with_state(shared)
}

/// Stores the base path in the request extensions.
async fn insert_base_path(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let base = shared.public_path.clone();
    let base = base.unwrap_or_else(|| BasePath::nested(&parts));
    request = Request::from_parts(parts, body);
    // Once for all routes: within the API, axum reports another nested path.
    request.extensions_mut().insert(base);
    next.run(request).await
}

/// Authenticates the request, and stores the [`PageContext`] in its extensions.
async fn authenticate(
    State(shared): State<Arc<Shared>>,
    base: BasePath,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let signed_in = shared
        .guard
        .sign_in_form()
        .and(shared.signer.admin(&parts.headers));
    let admitted = match signed_in {
        Some(admin) => Ok(admin),
        None => shared.guard.authenticate(&parts).await,
    };
    if admitted.is_err() && parts.headers.contains_key(AUTHORIZATION) {
        // Requests without credentials are no failed attempts.
        if let Some(requests) = shared.rejected_credentials.record() {
            telemetry::warn!(requests, "dashboard credentials rejected");
        }
    }
    let rejection = match admitted {
        Ok(admin) => {
            let context = PageContext::new(&shared, &parts, &base, admin);
            parts.extensions.insert(context);
            return next.run(Request::from_parts(parts, body)).await;
        }
        Err(denied) if api::is_at(parts.uri.path()) => api::denied(denied),
        Err(Denied::Unauthenticated) => {
            let url = match shared.guard.sign_in_form() {
                Some(_) => Some(sign_in::address(&base, next::of(&parts.uri))),
                None => shared.guard.sign_in_url().map(String::from),
            };
            match url {
                Some(url) => sign_in::redirect_to_sign_in(&parts, url),
                None => pages::access_denied(StatusCode::UNAUTHORIZED),
            }
        }
        Err(Denied::Forbidden) => pages::access_denied(StatusCode::FORBIDDEN),
    };
    Drain::before(Request::from_parts(parts, body), rejection).await
}

/// Rejects cross-site requests and adds the security headers.
async fn add_security_headers(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let mut response = if parts.method.is_safe() || is_same_origin(&parts) {
        next.run(Request::from_parts(parts, body)).await
    } else {
        let rejection = if api::is_at(parts.uri.path()) {
            api::cross_site_rejected()
        } else {
            pages::access_denied(StatusCode::FORBIDDEN)
        };
        Drain::before(Request::from_parts(parts, body), rejection).await
    };
    protect(response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use http::Method;
    use tower::ServiceExt;

    use super::*;
    use crate::async_trait;
    use crate::backend::MemoryBackend;
    use crate::dashboard::{Admin, BearerToken, Dashboard, Guard};
    use crate::key::{Actor, Issuer, NewKey};

    struct DenyEveryone;

    #[async_trait]
    impl Guard for DenyEveryone {
        async fn authenticate(&self, _: &http::request::Parts) -> Result<Admin, Denied> {
            Err(Denied::Forbidden)
        }
    }

    const METHODS: [Method; 7] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];

    async fn check_all_routes(guard: impl Guard, expected: StatusCode) {
        let backend = MemoryBackend::new();
        let issuer = Issuer::new("acme_live").unwrap();
        let new = NewKey::new("Confidential");
        let key = issuer
            .issue(&backend, new, Actor::SYSTEM)
            .await
            .unwrap()
            .key;
        let dashboard = Dashboard::new(backend, guard).issuer(issuer);
        let router = dashboard.into_router();
        let pages = pages().into_iter().map(|(path, _)| path.to_owned());
        let missing = ["/nowhere", "/api", "/api/", "/api/nowhere"].map(String::from);
        let mut checked = 0;
        for path in pages.chain(api::paths()).chain(missing) {
            if OPEN.contains(&&*path) {
                continue;
            }
            let path = path.replace("{id}", key.id.as_str());
            let path = path.replace("{format}", "csv").replace("{owner}", "acme");
            let path = path.replace("{plan}", "pro");
            for method in METHODS {
                let request = Request::builder().method(&method).uri(&path);
                let request = request.body(Body::empty()).unwrap();
                let response = router.clone().oneshot(request).await.unwrap();
                assert_eq!(response.status(), expected, "{method} {path}");
                let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
                let body = String::from_utf8_lossy(&body).into_owned();
                assert!(!body.contains(key.id.as_str()), "{method} {path}: {body}");
                assert!(!body.contains("Confidential"), "{method} {path}: {body}");
                checked += 1;
            }
        }
        assert!(checked > 200, "{checked}");
    }

    #[tokio::test]
    async fn no_route_bypasses_the_guard() {
        let token = BearerToken::new("a token of sixteen or more").unwrap();
        check_all_routes(token, StatusCode::UNAUTHORIZED).await;
        check_all_routes(DenyEveryone, StatusCode::FORBIDDEN).await;
    }

    #[test]
    fn open_routes_exist() {
        let paths: Vec<_> = pages().into_iter().map(|(path, _)| path).collect();
        for path in OPEN {
            assert!(paths.contains(&path), "{path}");
        }
    }
}

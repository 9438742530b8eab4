//! Sign-in and sign-out.

use std::sync::Arc;

use axum::Form;
use axum::extract::State;
use axum::extract::rejection::FormRejection;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use maud::html;

use super::posted_form::PostedForm;
use super::{access_denied, assets, html_document, not_found, page, redirect};
use crate::dashboard::base_path::BasePath;
use crate::dashboard::page_context::{PageContext, home};
use crate::dashboard::pages::components;
use crate::dashboard::state::Shared;
use crate::telemetry;
use crate::web::challenge;

/// Redirects browsers to the sign-in page; other clients receive a 401.
pub(in crate::dashboard) fn redirect_to_sign_in(parts: &Parts, address: String) -> Response {
    let accepts = parts
        .headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    if parts.method.is_safe() && accepts.is_some_and(|accept| accept.contains("text/html")) {
        redirect(address)
    } else {
        access_denied(StatusCode::UNAUTHORIZED)
    }
}

pub(in crate::dashboard) async fn form(
    State(shared): State<Arc<Shared>>,
    base: BasePath,
) -> Response {
    if shared.guard.sign_in_form().is_none() {
        return access_denied(StatusCode::NOT_FOUND);
    }
    shown(&base.0, None)
}

fn shown(base: &str, wrong: Option<&str>) -> Response {
    let content = html! {
        main #content .sign-in {
            p .brand { img src={ (base) (assets::ICON.address()) } width="18" height="18" alt=""; "keytally" }
            h1 { "Sign in" }
            @if let Some(wrong) = wrong { p .error role="alert" { (wrong) } }
            form .panel method="post" action={ (base) "/sign-in" } {
                p .field {
                    label for="secret" { "Admin token" }
                    input type="password" id="secret" name="secret" required autofocus
                        autocomplete="current-password";
                }
                button type="submit" .primary { "Sign in" }
            }
        }
    };
    html_document(base, "Sign in", &content)
}

pub(in crate::dashboard) async fn sign_in(
    State(shared): State<Arc<Shared>>,
    BasePath(base): BasePath,
    headers: HeaderMap,
    form: Result<Form<Vec<(String, String)>>, FormRejection>,
) -> Response {
    let Some(sign_in_form) = shared.guard.sign_in_form() else {
        return access_denied(StatusCode::NOT_FOUND);
    };
    let fields = form.map(|Form(fields)| fields).unwrap_or_default();
    let secret = fields.iter().find(|(name, _)| name == "secret");
    let Some(admin) = secret.and_then(|(_, secret)| sign_in_form.sign_in(secret.trim())) else {
        telemetry::warn!("dashboard sign-in failed");
        let form = shown(&base, Some("Invalid admin token."));
        let mut form = (StatusCode::UNAUTHORIZED, form).into_response();
        challenge(form.headers_mut());
        return form;
    };
    let cookie = shared.signer.session(&admin, &headers, &base);
    ([(SET_COOKIE, cookie)], redirect(home(&base))).into_response()
}

pub(in crate::dashboard) async fn sign_out_form(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
) -> Response {
    if shared.guard.sign_in_form().is_none() {
        return not_found(context).await;
    }
    let content = html! {
        h1 { "Sign out" }
        p { "You are signed in as " strong { (context.admin.name()) } "." }
        form method="post" action=(context.at("/sign-out")) {
            (components::token(&context))
            button type="submit" .primary { "Sign out" }
        }
    };
    page(&context, "Sign out", &content)
}

pub(in crate::dashboard) async fn sign_out(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    headers: HeaderMap,
    _: PostedForm,
) -> Response {
    if shared.guard.sign_in_form().is_none() {
        return not_found(context).await;
    }
    let cookie = shared.signer.sign_out(&headers, &context.base);
    ([(SET_COOKIE, cookie)], redirect(context.at("/sign-in"))).into_response()
}

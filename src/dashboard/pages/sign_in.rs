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
use crate::dashboard::form::FormFields;
use crate::dashboard::next::{self, NEXT};
use crate::dashboard::page_context::PageContext;
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

/// The URL of the sign-in page, which returns to `next`.
pub(in crate::dashboard) fn address(base: &BasePath, next: Option<&str>) -> String {
    let fields: FormFields = next
        .map(|next| (NEXT, next.to_owned()))
        .into_iter()
        .collect();
    let query = fields.query();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{}/sign-in{mark}{query}", base.0)
}

pub(in crate::dashboard) async fn form(
    State(shared): State<Arc<Shared>>,
    base: BasePath,
    fields: FormFields,
) -> Response {
    if shared.guard.sign_in_form().is_none() {
        return access_denied(StatusCode::NOT_FOUND);
    }
    shown(&base.0, fields.get(NEXT), None)
}

fn shown(base: &str, next: Option<&str>, wrong: Option<&str>) -> Response {
    let content = html! {
        main #content .sign-in {
            p .brand { img src={ (base) (assets::ICON.address()) } width="18" height="18" alt=""; "keytally" }
            h1 { "Sign in" }
            @if let Some(wrong) = wrong { p .error role="alert" { (wrong) } }
            form .panel method="post" action={ (base) "/sign-in" } {
                @if let Some(next) = next { input type="hidden" name=(NEXT) value=(next); }
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
    let fields = FormFields(form.map(|Form(fields)| fields).unwrap_or_default());
    let secret = fields.get("secret");
    let Some(admin) = secret.and_then(|secret| sign_in_form.sign_in(secret)) else {
        telemetry::warn!("dashboard sign-in failed");
        let form = shown(&base, fields.get(NEXT), Some("Invalid admin token."));
        let mut form = (StatusCode::UNAUTHORIZED, form).into_response();
        challenge(form.headers_mut());
        return form;
    };
    let cookie = shared.signer.session(&admin, &headers, &base);
    let to = next::url(&base, fields.get(NEXT));
    ([(SET_COOKIE, cookie)], redirect(to)).into_response()
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

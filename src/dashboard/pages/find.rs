//! "Find a key", the form at the top of every page. Secrets are sent in the body, never in a URL.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::SET_COOKIE;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use maud::{Markup, html};

use super::layout::{FIND, SECRET_FOUND};
use super::posted_form::PostedForm;
use super::{Failure, page, redirect};
use crate::dashboard::find::{self, Found};
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::session::{cookie, cookies};
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::key::{Key, KeyStatus};

/// The cookie with the id of the key whose secret was found, and its lifetime in seconds. A URL could be sent to an
/// administrator by anyone.
const COOKIE_NAME: &str = "keytally_secret_found";
const COOKIE_AGE: i64 = 300;

/// There is nothing to show without a text.
pub(in crate::dashboard) async fn form(context: PageContext) -> Response {
    redirect(context.at("/keys"))
}

pub(in crate::dashboard) async fn find(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    PostedForm(fields): PostedForm,
) -> Response {
    let Some(text) = fields.get(FIND) else {
        return form(context).await;
    };
    // The script has sent the id in place of the secret.
    let was_secret = fields.get(SECRET_FOUND).is_some();
    match find::find(&shared, text).await {
        Ok(Found::Key { key, by_secret }) => {
            let page = redirect(context.at(&format!("/keys/{}", key.id)));
            if !by_secret && !was_secret {
                return page;
            }
            let id = key.id.as_str();
            let cookie = cookie(COOKIE_NAME, id, COOKIE_AGE, context.is_local, &context.base);
            ([(SET_COOKIE, cookie)], page).into_response()
        }
        Ok(Found::Several { text, .. }) => {
            let fields: FormFields = [("name", text)].into_iter().collect();
            redirect(context.at(&format!("/keys?{}", fields.query())))
        }
        Ok(Found::None { id }) => not_found(&context, id),
        Err(error) => Failure::from(error).page(&context),
    }
}

fn not_found(context: &PageContext, id: Option<KeyId>) -> Response {
    let content = html! {
        h1 { "No API key found" }
        @if let Some(id) = id {
            p { "There is no key with the ID " code { (id) } ". It may have been deleted, or belong to another environment." }
            p {
                "Requests and changes are kept after a key is deleted: "
                a href=(context.at(&format!("/log?key={id}"))) { "Request log" } " · "
                a href=(context.at(&format!("/audit?key={id}"))) { "Audit log" }
            }
        } @else {
            p { "No key has this name, ID, hint or secret." }
        }
        p { a href=(context.at("/keys")) { "Back to API keys" } }
    };
    (
        StatusCode::NOT_FOUND,
        page(context, "No API key found", &content),
    )
        .into_response()
}

/// The warning on the page of a key whose secret was found a moment ago.
pub(super) fn warning(
    shared: &Shared,
    context: &PageContext,
    headers: &HeaderMap,
    key: &Key,
) -> Markup {
    let was_found = cookies(headers, COOKIE_NAME).any(|id| id == key.id.as_str());
    let status = key.status(Timestamp::now());
    let to = |action: &str| context.at(&format!("/keys/{}/{action}", key.id));
    html! {
        @if was_found {
            p .warning role="alert" {
                "This secret was pasted here. "
                @if status == KeyStatus::Active {
                    "If it has leaked: " a href=(to("disable")) { "Disable" }
                    @if shared.issuer.is_some() && key.replaced_by.is_none() { " · " a href=(to("rotate")) { "Rotate" } }
                } @else {
                    "The key is " (status) ": requests with it are rejected."
                }
            }
        }
    }
}

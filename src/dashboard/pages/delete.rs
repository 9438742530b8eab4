//! Deletes a key, confirmed by typing its name.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use maud::html;

use super::components::{self, Input, name};
use super::posted_form::PostedForm;
use super::{Failure, page, redirect};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::key_in_path::KeyInPath;
use crate::dashboard::state::Shared;
use crate::key::Key;

pub(in crate::dashboard) async fn form(
    context: PageContext,
    KeyInPath(key): KeyInPath,
) -> Response {
    shown(&context, &key, None)
}

fn shown(context: &PageContext, key: &Key, wrong: Option<&str>) -> Response {
    let input = Input::new("name", "Key name", "").wrong(wrong);
    let at = context.at(&format!("/keys/{}", key.id));
    let content = html! {
        p { a href=(at) { "Back to API key" } }
        h1 { "Delete " (name(&key.name)) "?" }
        @if wrong.is_some() { p .error .column role="alert" { "The key was not deleted." } }
        form .column .panel method="post" action={ (at) "/delete" } {
            (components::token(context))
            p .warning {
                "Requests with this key will be rejected. Other instances may accept it for up to 30 seconds. This cannot be undone. Its usage data is kept."
            }
            p { "To confirm, type the key's name: " strong { (name(&key.name)) } }
            (input.required())
            button type="submit" .danger { "Delete" }
            " " a .button href=(at) { "Cancel" }
        }
    };
    page(context, &format!("Delete {}", key.name), &content)
}

pub(in crate::dashboard) async fn delete(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(key): KeyInPath,
    PostedForm(fields): PostedForm,
) -> Response {
    // Surrounding whitespace is not visible on the page.
    if fields.get("name").unwrap_or_default() != key.name.trim() {
        let again = shown(&context, &key, Some("The name does not match."));
        return (StatusCode::UNPROCESSABLE_ENTITY, again).into_response();
    }
    match shared.keys.delete(key.id, context.admin.actor()).await {
        Ok(()) => redirect(context.at("/keys")),
        Err(error) => Failure::from(error).page(&context),
    }
}

//! Deletes a key, confirmed by typing its name.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use maud::html;

use super::components::{self, Input, name};
use super::confirmation::{back_field, back_link, key_facts};
use super::posted_form::PostedForm;
use super::{Failure, page, redirect_with};
use crate::dashboard::flash::{Done, Flash};
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::key_in_path::KeyInPath;
use crate::dashboard::return_path::ReturnPath;
use crate::dashboard::state::Shared;
use crate::key::Key;

pub(in crate::dashboard) async fn form(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(key): KeyInPath,
    fields: FormFields,
) -> Response {
    let wrong = FieldErrors::default();
    shown(&shared, &context, &key, &fields, &wrong).await
}

async fn shown(
    shared: &Shared,
    context: &PageContext,
    key: &Key,
    fields: &FormFields,
    wrong: &FieldErrors,
) -> Response {
    let back = fields.back().unwrap_or_else(|| ReturnPath::key(key.id));
    let input = Input::new("name", "Key name", "").checked(wrong);
    let content = html! {
        (back_link(context, &back))
        h1 { "Delete " (name(&key.name)) "?" }
        @if !wrong.is_empty() { p .error .column role="alert" { "The key was not deleted." } }
        form .column .panel method="post" action=(context.at(&format!("/keys/{}/delete", key.id))) {
            (components::token(context))
            (back_field(Some(&back)))
            p .warning {
                "Requests with this key will be rejected. Other instances may accept it for up to 30 seconds. This cannot be undone. Its usage data is kept."
            }
            (key_facts(shared, context, key).await)
            p { "To confirm, type the key's name: " strong { (name(&key.name)) } }
            (input.required())
            button type="submit" .danger { "Delete" }
            " " a .button href=(back.url(&context.base)) { "Cancel" }
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
        let mut wrong = FieldErrors::default();
        wrong.add("name", "The name does not match.");
        let again = shown(&shared, &context, &key, &fields, &wrong).await;
        return (StatusCode::UNPROCESSABLE_ENTITY, again).into_response();
    }
    match shared.keys.delete(key.id, context.admin.actor()).await {
        Ok(()) => {
            let back = fields.back().filter(|back| !back.is_of(key.id));
            let back = back.unwrap_or_else(ReturnPath::keys);
            let flash = Flash::one(Done::Deleted, &key);
            redirect_with(&shared, &context, &back, &flash)
        }
        Err(error) => Failure::from(error).page(&context),
    }
}

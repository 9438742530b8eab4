//! Deleting a key, for whoever knows its name.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use maud::{Markup, html};

use super::components::{self, Input, name};
use super::posted_form::PostedForm;
use super::{Failure, page, see};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::key_in_path::KeyInPath;
use crate::dashboard::state::Shared;
use crate::key::Key;

pub(in crate::dashboard) async fn form(visit: PageContext, KeyInPath(key): KeyInPath) -> Response {
    page(&visit, "Delete a key", &content(&visit, &key, None))
}

fn content(visit: &PageContext, key: &Key, wrong: Option<&str>) -> Markup {
    let input = Input::new("name", "The key's name", "").wrong(wrong);
    let at = visit.at(&format!("/keys/{}", key.id));
    html! {
        p { a href=(at) { "Back to the key" } }
        h1 { "Delete " (name(&key.name)) "?" }
        @if wrong.is_some() { p .error .column role="alert" { "Nothing was deleted." } }
        form .column .panel method="post" action={ (at) "/delete" } {
            (components::token(visit))
            p .warning {
                "Integrations that use it stop at once, and it cannot be undone. What it was used for stays in the usage."
            }
            p { "To delete it, type its name: " strong { (name(&key.name)) } }
            (input.required())
            button type="submit" .danger { "Delete" }
            " " a .button href=(at) { "Cancel" }
        }
    }
}

pub(in crate::dashboard) async fn delete(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    KeyInPath(key): KeyInPath,
    PostedForm(fields): PostedForm,
) -> Response {
    // Blanks around a name are not seen.
    if fields.get("name").unwrap_or_default() != key.name.trim() {
        let again = content(&visit, &key, Some("That is not its name."));
        let again = page(&visit, "Delete a key", &again);
        return (StatusCode::UNPROCESSABLE_ENTITY, again).into_response();
    }
    match visit.keys(&shared).delete(key.id).await {
        Ok(()) => see(visit.at("/keys")),
        Err(error) => Failure::from(error).page(&visit),
    }
}

//! Showing a secret again that was kept for that.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use maud::html;

use super::components::{self, copy, name};
use super::generate::no_issuer;
use super::posted_form::PostedForm;
use super::{Failure, page, refused};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::key_in_path::KeyInPath;
use crate::dashboard::state::Shared;
use crate::key::{Issuer, Key};

/// Whether there is something to show, and what to open it with.
pub(super) fn can(shared: &Shared, key: &Key) -> bool {
    key.recoverable && shared.issuer.as_ref().is_some_and(Issuer::has_vault)
}

/// A page in between: what only follows a link must not read secrets.
pub(in crate::dashboard) async fn form(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    KeyInPath(key): KeyInPath,
) -> Response {
    if !can(&shared, &key) {
        return not_kept(&visit);
    }
    let at = visit.at(&format!("/keys/{}", key.id));
    let content = html! {
        p { a href=(at) { "Back to the key" } }
        h1 { "Show the secret of " (name(&key.name)) "?" }
        form .column .panel method="post" action={ (at) "/reveal" } {
            (components::token(&visit))
            p { "Whoever sees it can use the key. The audit notes that you have seen it." }
            button type="submit" .primary { "Show" }
            " " a .button href=(at) { "Cancel" }
        }
    };
    page(&visit, "Show a secret", &content)
}

fn not_kept(visit: &PageContext) -> Response {
    let why = "The secret of this key is not kept. Rotate the key to get another.";
    refused(visit, StatusCode::NOT_FOUND, "Not kept", why)
}

pub(in crate::dashboard) async fn reveal(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    KeyInPath(key): KeyInPath,
    PostedForm(_): PostedForm,
) -> Response {
    let Some(issuer) = &shared.issuer else {
        return no_issuer(&visit);
    };
    let secret = match issuer.reveal(&*visit.keys(&shared), key.id).await {
        Ok(Some(secret)) => secret,
        Ok(None) => return not_kept(&visit),
        Err(error) => return Failure::from(error).page(&visit),
    };
    let secret = secret.expose();
    let content = html! {
        h1 { "The secret of " (name(&key.name)) }
        p .secret { code #secret { (secret) } " " (copy(secret, "the key")) }
        p .warning .column role="alert" { "Whoever has it can use the key. That it was shown is in the audit." }
        p { a href=(visit.at(&format!("/keys/{}", key.id))) { "Back to the key" } }
    };
    page(&visit, "A secret", &content)
}

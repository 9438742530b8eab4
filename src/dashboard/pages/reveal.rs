//! Reveals the secret of a recoverable key.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use maud::html;

use super::components::{self, name};
use super::generate::no_issuer;
use super::posted_form::PostedForm;
use super::secret::{curl, secret_box};
use super::{Failure, error_page, page};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::key_in_path::KeyInPath;
use crate::dashboard::state::Shared;
use crate::key::{Issuer, Key};

/// Whether the encrypted secret is stored and the issuer has a vault to decrypt it.
pub(super) fn can_reveal(shared: &Shared, key: &Key) -> bool {
    key.recoverable && shared.issuer.as_ref().is_some_and(Issuer::has_vault)
}

/// The confirmation page, so that following a link does not reveal a secret.
pub(in crate::dashboard) async fn form(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(key): KeyInPath,
) -> Response {
    if !can_reveal(&shared, &key) {
        return not_stored(&context);
    }
    let at = context.at(&format!("/keys/{}", key.id));
    let content = html! {
        p { a href=(at) { "Back to API key" } }
        h1 { "Reveal the secret of " (name(&key.name)) "?" }
        form .column .panel method="post" action={ (at) "/reveal" } {
            (components::token(&context))
            p { "Anyone with the secret can use the key. The audit log will record that you revealed it." }
            button type="submit" .primary { "Reveal" }
            " " a .button href=(at) { "Cancel" }
        }
    };
    page(
        &context,
        &format!("Reveal the secret of {}", key.name),
        &content,
    )
}

fn not_stored(context: &PageContext) -> Response {
    let why = "The secret of this key is not stored. Rotate the key to get a new one.";
    error_page(context, StatusCode::NOT_FOUND, "Secret not available", why)
}

pub(in crate::dashboard) async fn reveal(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(key): KeyInPath,
    headers: HeaderMap,
    PostedForm(_): PostedForm,
) -> Response {
    let Some(issuer) = &shared.issuer else {
        return no_issuer(&context);
    };
    let secret = match issuer
        .reveal(&*shared.keys, key.id, context.admin.actor())
        .await
    {
        Ok(Some(secret)) => secret,
        Ok(None) => return not_stored(&context),
        Err(error) => return Failure::from(error).page(&context),
    };
    let secret = secret.expose();
    let content = html! {
        h1 { "Secret of " (name(&key.name)) }
        (secret_box(secret))
        p .warning .column role="alert" { "Anyone with the secret can use the key. This reveal is recorded in the audit log." }
        (curl(&shared, &context, &headers, secret))
        p { a href=(context.at(&format!("/keys/{}", key.id))) { "Back to API key" } }
    };
    page(&context, &format!("Secret of {}", key.name), &content)
}

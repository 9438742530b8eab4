//! Disables, enables and revokes keys.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::html;

use super::components::{self, name};
use super::posted_form::PostedForm;
use super::{Failure, page, redirect};
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::key_in_path::KeyInPath;
use crate::dashboard::state::Shared;
use crate::key::{Key, StoreError};

/// The value of the `back` field that returns to the overview.
pub(super) const OVERVIEW: &str = "overview";

pub(in crate::dashboard) async fn form(
    context: PageContext,
    KeyInPath(key): KeyInPath,
    fields: FormFields,
) -> Response {
    let (action, label, what) = if key.disabled {
        let what = "Requests with this key will be accepted again. Other instances may reject it for up to 30 seconds.";
        ("enable", "Enable", what)
    } else {
        let what = "Requests with this key will be rejected until you enable it again.";
        ("disable", "Disable", what)
    };
    question(&context, &key, &fields, [action, label, what])
}

pub(in crate::dashboard) async fn revoke_form(
    context: PageContext,
    KeyInPath(key): KeyInPath,
    fields: FormFields,
) -> Response {
    let what = "Requests with this key will be rejected permanently. This cannot be undone. Its record and usage data are kept.";
    question(&context, &key, &fields, ["revoke", "Revoke", what])
}

fn question(
    context: &PageContext,
    key: &Key,
    fields: &FormFields,
    [action, label, what]: [&str; 3],
) -> Response {
    let at = context.at(&format!("/keys/{}", key.id));
    let content = html! {
        p { a href=(at) { "Back to API key" } }
        h1 { (label) " " (name(&key.name)) "?" }
        form .column .panel method="post" action={ (at) "/" (action) } {
            (components::token(context))
            p { (what) }
            @if let Some(back) = fields.get("back") { input type="hidden" name="back" value=(back); }
            button type="submit" class=(if action == "enable" { "primary" } else { "danger" }) { (label) }
            " " a .button href=(at) { "Cancel" }
        }
    };
    page(context, &format!("{label} {}", key.name), &content)
}

pub(in crate::dashboard) async fn disable(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(key): KeyInPath,
    PostedForm(fields): PostedForm,
) -> Response {
    done(
        &context,
        &fields,
        shared.keys.disable(key.id, context.admin.actor()).await,
    )
}

pub(in crate::dashboard) async fn enable(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(key): KeyInPath,
    PostedForm(fields): PostedForm,
) -> Response {
    done(
        &context,
        &fields,
        shared.keys.enable(key.id, context.admin.actor()).await,
    )
}

pub(in crate::dashboard) async fn revoke(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(key): KeyInPath,
    PostedForm(fields): PostedForm,
) -> Response {
    done(
        &context,
        &fields,
        shared.keys.revoke(key.id, context.admin.actor()).await,
    )
}

fn done(context: &PageContext, fields: &FormFields, changed: Result<Key, StoreError>) -> Response {
    match changed {
        Ok(_) if fields.get("back") == Some(OVERVIEW) => redirect(context.home()),
        Ok(_) => redirect(context.at("/keys")),
        Err(error) => Failure::from(error).page(context),
    }
}

//! Disables, enables and revokes keys.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::html;

use super::components::{self, name};
use super::confirmation::{back_field, back_link, key_facts};
use super::posted_form::PostedForm;
use super::{Failure, page, redirect_with};
use crate::dashboard::flash::{Done, Flash};
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::key_in_path::KeyInPath;
use crate::dashboard::return_path::ReturnPath;
use crate::dashboard::state::Shared;
use crate::key::{Key, StoreError};

pub(in crate::dashboard) async fn form(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(key): KeyInPath,
    fields: FormFields,
) -> Response {
    let question = if key.disabled {
        let what = "Requests with this key will be accepted again. Other instances may reject it for up to 30 seconds.";
        ["enable", "Enable", what]
    } else {
        let what = "Requests with this key will be rejected until you enable it again.";
        ["disable", "Disable", what]
    };
    ask(&shared, &context, &key, &fields, question).await
}

pub(in crate::dashboard) async fn revoke_form(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(key): KeyInPath,
    fields: FormFields,
) -> Response {
    let what = "Requests with this key will be rejected permanently. This cannot be undone. Its record and usage data are kept.";
    ask(&shared, &context, &key, &fields, ["revoke", "Revoke", what]).await
}

async fn ask(
    shared: &Shared,
    context: &PageContext,
    key: &Key,
    fields: &FormFields,
    [action, label, what]: [&str; 3],
) -> Response {
    let back = fields.back().unwrap_or_else(|| ReturnPath::key(key.id));
    let at = context.at(&format!("/keys/{}", key.id));
    let content = html! {
        (back_link(context, &back))
        h1 { (label) " " (name(&key.name)) "?" }
        form .column .panel method="post" action={ (at) "/" (action) } {
            (components::token(context))
            (back_field(Some(&back)))
            p { (what) }
            (key_facts(shared, context, key).await)
            p .actions {
                button type="submit" class=(if action == "enable" { "primary" } else { "danger" }) { (label) }
                a .button href=(back.url(&context.base)) { "Cancel" }
            }
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
    let changed = shared.keys.disable(key.id, context.admin.actor()).await;
    done(&shared, &context, &fields, Done::Disabled, changed)
}

pub(in crate::dashboard) async fn enable(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(key): KeyInPath,
    PostedForm(fields): PostedForm,
) -> Response {
    let changed = shared.keys.enable(key.id, context.admin.actor()).await;
    done(&shared, &context, &fields, Done::Enabled, changed)
}

pub(in crate::dashboard) async fn revoke(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(key): KeyInPath,
    PostedForm(fields): PostedForm,
) -> Response {
    let changed = shared.keys.revoke(key.id, context.admin.actor()).await;
    done(&shared, &context, &fields, Done::Revoked, changed)
}

fn done(
    shared: &Shared,
    context: &PageContext,
    fields: &FormFields,
    done: Done,
    changed: Result<Key, StoreError>,
) -> Response {
    match changed {
        Ok(key) => {
            let back = fields.back().unwrap_or_else(|| ReturnPath::key(key.id));
            redirect_with(shared, context, &back, &Flash::one(done, &key))
        }
        Err(error) => Failure::from(error).page(context),
    }
}

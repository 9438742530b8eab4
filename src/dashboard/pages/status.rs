//! Switching a key off and on, and ending it for good.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::components::{self, name};
use super::posted_form::PostedForm;
use super::{Failure, page, see};
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::key_in_path::KeyInPath;
use crate::dashboard::state::Shared;
use crate::key::{Key, StoreError};

/// The value of the field `back` for those who came from the overview.
pub(super) const OVERVIEW: &str = "overview";

pub(in crate::dashboard) async fn form(
    visit: PageContext,
    KeyInPath(key): KeyInPath,
    fields: FormFields,
) -> Response {
    let (action, label, what) = if key.disabled {
        let what = "Requests with it are served again at once.";
        ("enable", "Enable", what)
    } else {
        let what = "Requests with it are refused until it is enabled again.";
        ("disable", "Disable", what)
    };
    let content = question(&visit, &key, &fields, [action, label, what]);
    page(&visit, "Switch a key", &content)
}

pub(in crate::dashboard) async fn revoke_form(
    visit: PageContext,
    KeyInPath(key): KeyInPath,
    fields: FormFields,
) -> Response {
    let what = "Requests with it are refused for good: it cannot be undone. Its record and its usage stay.";
    let content = question(&visit, &key, &fields, ["revoke", "Revoke", what]);
    page(&visit, "Revoke a key", &content)
}

fn question(
    visit: &PageContext,
    key: &Key,
    fields: &FormFields,
    [action, label, what]: [&str; 3],
) -> Markup {
    let at = visit.at(&format!("/keys/{}", key.id));
    html! {
        p { a href=(at) { "Back to the key" } }
        h1 { (label) " " (name(&key.name)) "?" }
        form .column .panel method="post" action={ (at) "/" (action) } {
            (components::token(visit))
            p { (what) }
            @if let Some(back) = fields.get("back") { input type="hidden" name="back" value=(back); }
            button type="submit" class=(if action == "enable" { "primary" } else { "danger" }) { (label) }
            " " a .button href=(at) { "Cancel" }
        }
    }
}

pub(in crate::dashboard) async fn disable(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    KeyInPath(key): KeyInPath,
    PostedForm(fields): PostedForm,
) -> Response {
    done(&visit, &fields, visit.keys(&shared).disable(key.id).await)
}

pub(in crate::dashboard) async fn enable(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    KeyInPath(key): KeyInPath,
    PostedForm(fields): PostedForm,
) -> Response {
    done(&visit, &fields, visit.keys(&shared).enable(key.id).await)
}

pub(in crate::dashboard) async fn revoke(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    KeyInPath(key): KeyInPath,
    PostedForm(fields): PostedForm,
) -> Response {
    done(&visit, &fields, visit.keys(&shared).revoke(key.id).await)
}

fn done(visit: &PageContext, fields: &FormFields, changed: Result<Key, StoreError>) -> Response {
    match changed {
        Ok(_) if fields.get("back") == Some(OVERVIEW) => see(visit.home()),
        Ok(_) => see(visit.at("/keys")),
        Err(error) => Failure::from(error).page(visit),
    }
}

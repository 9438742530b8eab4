//! Disables and enables several keys.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use maud::html;

use super::components;
use super::confirmation::{back_field, back_link, facts_of_all};
use super::posted_form::PostedForm;
use super::{Failure, error_page, page, redirect_with};
use crate::dashboard::flash::{Done, Flash};
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::return_path::ReturnPath;
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::key::{Key, KeyQuery, KeyStatus, StoreError};

/// The maximum number of keys to change at once: more than a list shows.
const MAX_KEYS: usize = 100;

/// The confirmation page.
pub(in crate::dashboard) async fn form(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    fields: FormFields,
) -> Response {
    let keys = match chosen(&shared, &fields, KeyStatus::Active).await {
        Ok(keys) => keys,
        Err(failure) => return failure.page(&context),
    };
    let back = fields.back().unwrap_or_else(ReturnPath::keys);
    if keys.is_empty() {
        let why = "Select at least one active key in the list.";
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        return error_page(&context, status, "No active API keys selected", why);
    }
    let content = html! {
        (back_link(&context, &back))
        h1 { "Disable " (count(&keys)) "?" }
        form .panel method="post" action=(context.at("/keys/disable")) {
            (components::token(&context))
            (back_field(Some(&back)))
            @for key in &keys { input type="hidden" name="key" value=(key.id); }
            p { "Requests with these keys will be rejected until you enable them again." }
            (facts_of_all(&shared, &context, &keys).await)
            p .actions {
                button type="submit" .danger { "Disable " (count(&keys)) }
                a .button href=(back.url(&context.base)) { "Cancel" }
            }
        }
    };
    page(&context, "Disable API keys", &content)
}

fn count(keys: &[Key]) -> String {
    match keys.len() {
        1 => "1 API key".into(),
        many => format!("{many} API keys"),
    }
}

pub(in crate::dashboard) async fn disable(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    PostedForm(fields): PostedForm,
) -> Response {
    change(&shared, &context, &fields, Done::Disabled).await
}

/// Undoes [`disable`].
pub(in crate::dashboard) async fn enable(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    PostedForm(fields): PostedForm,
) -> Response {
    change(&shared, &context, &fields, Done::Enabled).await
}

async fn change(
    shared: &Shared,
    context: &PageContext,
    fields: &FormFields,
    done: Done,
) -> Response {
    let status = match done {
        Done::Enabled => KeyStatus::Disabled,
        _ => KeyStatus::Active,
    };
    let keys = match chosen(shared, fields, status).await {
        Ok(keys) => keys,
        Err(failure) => return failure.page(context),
    };
    let mut changed = Vec::new();
    for key in keys {
        let actor = context.admin.actor();
        let result = match done {
            Done::Enabled => shared.keys.enable(key.id, actor).await,
            _ => shared.keys.disable(key.id, actor).await,
        };
        match result {
            Ok(key) => changed.push(key),
            // Deleted in the meantime.
            Err(StoreError::NotFound(_)) => {}
            Err(error) => return Failure::from(error).page(context),
        }
    }
    let back = fields.back().unwrap_or_else(ReturnPath::keys);
    redirect_with(shared, context, &back, &Flash::many(done, &changed))
}

/// The keys in the form that have this status.
async fn chosen(
    shared: &Shared,
    fields: &FormFields,
    status: KeyStatus,
) -> Result<Vec<Key>, Failure> {
    let ids = fields.all("key").filter_map(|id| id.parse().ok());
    let ids: Vec<KeyId> = ids.take(MAX_KEYS).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let query = KeyQuery::new().ids(ids).status(status, Timestamp::now());
    Ok(shared.keys.list(&query.limit(MAX_KEYS)).await?.items)
}

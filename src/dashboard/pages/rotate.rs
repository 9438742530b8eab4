//! Rotates a key.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use maud::html;

use super::components::{self, Input, ONCE, name};
use super::confirmation::{back_field, back_link, key_facts};
use super::generate::no_issuer;
use super::lineage::Lineage;
use super::posted_form::PostedForm;
use super::secret::new_secret;
use super::{Failure, page};
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::idempotency::{IdempotencyError, RequestKey};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::key_in_path::KeyInPath;
use crate::dashboard::return_path::ReturnPath;
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::key::{IssueError, Issuer, Key, StoreError};

const HOUR: u64 = 3_600;

/// Grace periods for the old secret.
const GRACES: [(&str, &str, u64); 4] = [
    ("now", "None (expires immediately)", 0),
    ("1h", "1 hour", HOUR),
    ("24h", "24 hours", 24 * HOUR),
    ("7d", "7 days", 7 * 24 * HOUR),
];

pub(in crate::dashboard) async fn form(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(key): KeyInPath,
    fields: FormFields,
) -> Response {
    match Lineage::of(&shared, std::slice::from_ref(&key)).await {
        Ok(lineage) => match lineage.replacement(&key) {
            Some(new) => already_replaced(&context, &key, new.id, &new.hint),
            None => shown(&shared, &context, &key, &fields, &FieldErrors::default()).await,
        },
        Err(error) => Failure::from(error).page(&context),
    }
}

/// `hint` is that of the key with the id `new`.
fn already_replaced(context: &PageContext, key: &Key, new: KeyId, hint: &str) -> Response {
    let back = ReturnPath::key(key.id);
    let at = context.at(&format!("/keys/{new}"));
    let content = html! {
        (back_link(context, &back))
        h1 { "Already rotated" }
        p {
            (name(&key.name)) " was replaced by " a href=(&at) { code { (hint) } } ". "
            "A key can be rotated only once. Rotate the new key instead."
        }
        p { a .button href={ (at) "/rotate" } { "Rotate new key" } }
    };
    let page = page(context, "Already rotated", &content);
    (StatusCode::CONFLICT, page).into_response()
}

async fn shown(
    shared: &Shared,
    context: &PageContext,
    key: &Key,
    fields: &FormFields,
    wrong: &FieldErrors,
) -> Response {
    let hours = fields.get("hours").unwrap_or_default();
    let hours = Input::new("hours", "Hours", hours).checked(wrong);
    let graces = GRACES.map(|(value, text, _)| (value, text));
    let back = back_of(fields, key);
    let content = html! {
        (back_link(context, &back))
        h1 { "Rotate " (name(&key.name)) }
        @if !wrong.is_empty() { p .error .column role="alert" { "The key was not rotated." } }
        form .column .panel method="post" action=(context.at(&format!("/keys/{}/rotate", key.id))) {
            (components::token(context))
            (components::once())
            (back_field(Some(&back)))
            p { "Generates a new secret under a new key ID. All settings and the expiration time stay the same. The old key works until its grace period ends." }
            (key_facts(shared, context, key).await)
            .grace {
                (components::choice("grace", "Grace period", fields.get("grace").or(Some("24h")),
                    graces.into_iter().chain([("custom", "Custom")])))
                (hours.hint("Only for a custom grace period").text())
            }
            button type="submit" .primary { "Rotate" }
            " " a .button href=(back.url(&context.base)) { "Cancel" }
        }
    };
    page(context, &format!("Rotate {}", key.name), &content)
}

fn back_of(fields: &FormFields, key: &Key) -> ReturnPath {
    fields.back().unwrap_or_else(|| ReturnPath::key(key.id))
}

pub(in crate::dashboard) async fn rotate(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(key): KeyInPath,
    headers: HeaderMap,
    PostedForm(fields): PostedForm,
) -> Response {
    if shared.issuer.is_none() {
        return no_issuer(&context);
    }
    let grace = fields.get("grace");
    let seconds = match GRACES.iter().find(|(name, ..)| Some(*name) == grace) {
        Some(&(_, _, seconds)) => Some(seconds),
        None if grace == Some("custom") => fields
            .get("hours")
            .and_then(|hours| hours.parse::<u64>().ok())
            .and_then(|hours| hours.checked_mul(HOUR)),
        None => None,
    };
    let Some(seconds) = seconds else {
        let mut wrong = FieldErrors::default();
        wrong.add("hours", "Enter a whole number of hours.");
        let form = shown(&shared, &context, &key, &fields, &wrong).await;
        return (StatusCode::UNPROCESSABLE_ENTITY, form).into_response();
    };
    let grace = Duration::from_secs(seconds);
    let path = format!("/keys/{}/rotate", key.id);
    let request_key = RequestKey::at(
        &path,
        context.admin.name(),
        fields.get(ONCE),
        fields.fingerprint(),
    );
    let (store, admin) = (shared.keys.clone(), context.admin.clone());
    let rotate =
        async move |issuer: Issuer| issuer.rotate(&*store, key.id, grace, admin.actor()).await;
    match shared.issue_once(request_key, rotate).await {
        Ok(issued) => {
            let (title, back) = ("API key rotated", back_of(&fields, &key));
            new_secret(&shared, &context, &headers, &issued, title, &back)
        }
        Err(IdempotencyError::Failed(IssueError::Store(StoreError::Replaced {
            replaced_by,
            ..
        }))) => already_replaced(&context, &key, replaced_by, replaced_by.as_str()),
        Err(error) => Failure::from(error).page(&context),
    }
}

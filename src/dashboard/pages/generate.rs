//! Generating a key, and showing its secret once.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use jiff::Timestamp;
use maud::{Markup, html};

use super::components::{self, ONCE, copy, name};
use super::key_form::{self, Described};
use super::posted_form::PostedForm;
use super::{Failure, page, refused};
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::idempotency::{IdempotencyError, RequestKey};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::key::{IssueError, Issued, Issuer, StoreError};

/// The field of the box that says so.
const RECOVERABLE: &str = "recoverable";

pub(in crate::dashboard) async fn form(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
) -> Response {
    let Some(issuer) = &shared.issuer else {
        return no_issuer(&visit);
    };
    let content = content(
        issuer,
        &visit,
        &FormFields::default(),
        &FieldErrors::default(),
    );
    page(&visit, "Generate API key", &content)
}

pub(super) fn no_issuer(visit: &PageContext) -> Response {
    let why = "This service has not told the dashboard how keys are made.";
    refused(visit, StatusCode::NOT_FOUND, "Not here", why)
}

pub(in crate::dashboard) async fn generate(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    PostedForm(fields): PostedForm,
) -> Response {
    let Some(issuer) = &shared.issuer else {
        return no_issuer(&visit);
    };
    let described = match Described::read(&visit, &fields) {
        Ok(described) => described,
        Err(wrong) => return again(issuer, &visit, &fields, &wrong),
    };
    if described.is_over(Timestamp::now()) {
        let mut wrong = FieldErrors::default();
        wrong.add("expires", "This time is over.");
        return again(issuer, &visit, &fields, &wrong);
    }
    let keys = visit.keys(&shared);
    let mut new = described.into_new();
    if fields.get(RECOVERABLE).is_some() {
        new = new.recoverable();
    }
    let asked = RequestKey::at(
        "/keys/new",
        visit.admin.name(),
        fields.get(ONCE),
        fields.fingerprint(),
    );
    let issue = async move |issuer: Issuer| issuer.issue(&*keys, new).await;
    match shared
        .idempotent_requests
        .once(asked, shared.issuer.clone(), shared.backend.clone(), issue)
        .await
    {
        Ok(issued) => shown(&visit, &issued, "The key was generated"),
        Err(error) => {
            let field = match &error {
                IdempotencyError::Failed(
                    IssueError::Invalid(error) | IssueError::Store(StoreError::Invalid(error)),
                ) => key_form::field_of(error),
                _ => None,
            };
            match error.into() {
                Failure::Refused(why) => {
                    let mut wrong = FieldErrors::default();
                    wrong.add(field.unwrap_or_default(), why);
                    again(issuer, &visit, &fields, &wrong)
                }
                failure => failure.page(&visit),
            }
        }
    }
}

fn again(
    issuer: &Issuer,
    visit: &PageContext,
    fields: &FormFields,
    wrong: &FieldErrors,
) -> Response {
    let content = content(issuer, visit, fields, wrong);
    let page = page(visit, "Generate API key", &content);
    (StatusCode::UNPROCESSABLE_ENTITY, page).into_response()
}

fn content(
    issuer: &Issuer,
    visit: &PageContext,
    fields: &FormFields,
    wrong: &FieldErrors,
) -> Markup {
    html! {
        p { a href=(visit.at("/keys")) { "Back to API keys" } }
        h1 { "Generate API key" }
        (components::alert(wrong, ""))
        form .column .panel method="post" action=(visit.at("/keys/new")) {
            (components::once())
            (key_form::inputs(visit, fields, wrong))
            @if issuer.has_vault() { (recoverable(fields)) }
            button type="submit" .primary { "Generate" }
        }
    }
}

fn recoverable(fields: &FormFields) -> Markup {
    html! {
        p .field .check {
            input type="checkbox" id=(RECOVERABLE) name=(RECOVERABLE) value="yes"
                checked[fields.get(RECOVERABLE).is_some()] aria-describedby="recoverable-hint";
            label for=(RECOVERABLE) { "Keep the secret, encrypted" }
            small #recoverable-hint {
                "So that it can be copied again; the audit has who did. A secret that is shown once is the safer one."
            }
        }
    }
}

/// The secret, this once, unless it is kept.
pub(super) fn shown(visit: &PageContext, issued: &Issued, title: &str) -> Response {
    let secret = issued.secret.expose();
    let content = html! {
        h1 { (title) }
        p { strong { (name(&issued.key.name)) } }
        p .secret { code #secret { (secret) } " " (copy(secret, "the key")) }
        @if issued.key.recoverable {
            p .warning .column role="alert" { "Copy it now. It is kept encrypted, and each time that it is shown again is noted." }
        } @else {
            p .warning .column role="alert" {
                "Copy it now. It is shown this once and kept nowhere: whoever loses it needs another."
            }
        }
        p {
            a href=(visit.at(&format!("/keys/{}", issued.key.id))) { "Usage of this key" } " · "
            a href=(visit.at("/keys")) { "Back to API keys" }
        }
    };
    page(visit, title, &content)
}

//! Generating a key, and showing its secret once.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use maud::{Markup, html};

use super::key_form::{self, Described};
use super::parts::{self, copy, name};
use super::{Failure, page, refused};
use crate::dashboard::Shared;
use crate::dashboard::fields::{Fields, Posted, Wrong};
use crate::dashboard::visit::Visit;
use crate::key::{IssueError, Issued, StoreError};

pub(in crate::dashboard) async fn form(
    State(shared): State<Arc<Shared>>,
    visit: Visit,
) -> Response {
    if shared.issuer.is_none() {
        return no_issuer(&visit);
    }
    page(
        &visit,
        "Generate API key",
        &content(&visit, &Fields::default(), &Wrong::default()),
    )
}

pub(super) fn no_issuer(visit: &Visit) -> Response {
    let why = "This service has not told the dashboard how keys are made.";
    refused(visit, StatusCode::NOT_FOUND, "Not here", why)
}

pub(in crate::dashboard) async fn generate(
    State(shared): State<Arc<Shared>>,
    visit: Visit,
    Posted(fields): Posted,
) -> Response {
    let Some(issuer) = &shared.issuer else {
        return no_issuer(&visit);
    };
    let described = match Described::read(&visit, &fields) {
        Ok(described) => described,
        Err(wrong) => return again(&visit, &fields, &wrong),
    };
    let keys = visit.keys(&shared);
    match issuer.issue(&*keys, described.into_new()).await {
        Ok(issued) => shown(&visit, &issued, "The key was generated"),
        Err(error) => {
            let field = match &error {
                IssueError::Store(StoreError::Invalid(error)) => key_form::field_of(error),
                _ => None,
            };
            match error.into() {
                Failure::Refused(why) => {
                    let mut wrong = Wrong::default();
                    wrong.add(field.unwrap_or_default(), why);
                    again(&visit, &fields, &wrong)
                }
                failure => failure.page(&visit),
            }
        }
    }
}

fn again(visit: &Visit, fields: &Fields, wrong: &Wrong) -> Response {
    let page = page(visit, "Generate API key", &content(visit, fields, wrong));
    (StatusCode::UNPROCESSABLE_ENTITY, page).into_response()
}

fn content(visit: &Visit, fields: &Fields, wrong: &Wrong) -> Markup {
    html! {
        p { a href=(visit.at("/keys")) { "Back to API keys" } }
        h1 { "Generate API key" }
        (parts::alert(wrong, ""))
        form .column method="post" action=(visit.at("/keys/new")) {
            (key_form::inputs(visit, fields, wrong))
            button type="submit" .primary { "Generate" }
        }
    }
}

/// The secret, this once.
pub(super) fn shown(visit: &Visit, issued: &Issued, title: &str) -> Response {
    let secret = issued.secret.expose();
    let content = html! {
        h1 { (title) }
        p { strong { (name(&issued.key.name)) } }
        p .secret { code #secret { (secret) } " " (copy(secret, "the key")) }
        p .warning role="alert" {
            "Copy it now. It is shown this once and kept nowhere: whoever loses it needs another."
        }
        p {
            a href=(visit.at(&format!("/keys/{}", issued.key.id))) { "Usage of this key" } " · "
            a href=(visit.at("/keys")) { "Back to API keys" }
        }
    };
    page(visit, title, &content)
}

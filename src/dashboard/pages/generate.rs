//! The form to generate a key.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use maud::{Markup, html};

use super::components::{self, ONCE};
use super::key_form::{self, Combined, KeyFields};
use super::plans::{self, OF_OWNER, PLAN};
use super::posted_form::PostedForm;
use super::secret::new_secret;
use super::{Failure, error_page, page};
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::idempotency::{IdempotencyError, RequestKey};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::return_path::ReturnPath;
use crate::dashboard::state::Shared;
use crate::key::{IssueError, Issuer, StoreError};

/// The name of the checkbox.
const RECOVERABLE: &str = "recoverable";

pub(in crate::dashboard) async fn form(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
) -> Response {
    let Some(issuer) = &shared.issuer else {
        return no_issuer(&context);
    };
    let (fields, wrong) = (FormFields::default(), FieldErrors::default());
    shown(&shared, issuer, &context, &fields, &wrong).await
}

pub(super) fn no_issuer(context: &PageContext) -> Response {
    let why = "Configure an issuer for the dashboard to generate, rotate and reveal API keys.";
    error_page(context, StatusCode::NOT_FOUND, "No issuer configured", why)
}

pub(in crate::dashboard) async fn generate(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    headers: HeaderMap,
    PostedForm(fields): PostedForm,
) -> Response {
    let Some(issuer) = &shared.issuer else {
        return no_issuer(&context);
    };
    let described = match KeyFields::read(&context, &Combined::of(&context, &fields, None)) {
        Ok(described) => described,
        Err(wrong) => return again(&shared, issuer, &context, &fields, &wrong).await,
    };
    if described.is_over(Timestamp::now()) {
        let mut wrong = FieldErrors::default();
        wrong.add("expires", "Enter a time in the future.");
        return again(&shared, issuer, &context, &fields, &wrong).await;
    }
    let (store, admin) = (shared.keys.clone(), context.admin.clone());
    let mut new = described.into_new();
    if fields.get(RECOVERABLE).is_some() {
        new = new.recoverable();
    }
    let request_key = RequestKey::at(
        "/keys/new",
        context.admin.name(),
        fields.get(ONCE),
        fields.fingerprint(),
    );
    let issue = async move |issuer: Issuer| issuer.issue(&*store, new, admin.actor()).await;
    match shared.issue_once(request_key, issue).await {
        Ok(issued) => {
            let (title, back) = ("API key generated", ReturnPath::keys());
            new_secret(&shared, &context, &headers, &issued, title, &back)
        }
        Err(error) => {
            let field = match &error {
                IdempotencyError::Failed(
                    IssueError::Invalid(error) | IssueError::Store(StoreError::Invalid(error)),
                ) => key_form::field_of(error),
                IdempotencyError::Failed(IssueError::Store(StoreError::PlanNotFound(_))) => {
                    Some(PLAN)
                }
                _ => None,
            };
            match error.into() {
                Failure::Invalid(why) => {
                    let mut wrong = FieldErrors::default();
                    wrong.add(field.unwrap_or_default(), why);
                    again(&shared, issuer, &context, &fields, &wrong).await
                }
                failure => failure.page(&context),
            }
        }
    }
}

async fn again(
    shared: &Shared,
    issuer: &Issuer,
    context: &PageContext,
    fields: &FormFields,
    wrong: &FieldErrors,
) -> Response {
    let page = shown(shared, issuer, context, fields, wrong).await;
    (StatusCode::UNPROCESSABLE_ENTITY, page).into_response()
}

async fn shown(
    shared: &Shared,
    issuer: &Issuer,
    context: &PageContext,
    fields: &FormFields,
    wrong: &FieldErrors,
) -> Response {
    let plan = plans::choice(shared, fields, wrong, OF_OWNER).await;
    let content = html! {
        p { a href=(context.at("/keys")) { "Back to API keys" } }
        h1 { "Generate API key" }
        (components::alert(wrong, ""))
        form .column .panel method="post" action=(context.at("/keys/new")) {
            (components::once())
            (key_form::inputs(context, fields, wrong, true, &plan, issuer.has_vault().then(|| recoverable(fields))))
            button type="submit" .primary { "Generate" }
        }
    };
    page(context, "Generate API key", &content)
}

fn recoverable(fields: &FormFields) -> Markup {
    html! {
        p .field .check {
            input type="checkbox" id=(RECOVERABLE) name=(RECOVERABLE) value="yes"
                checked[fields.get(RECOVERABLE).is_some()] aria-describedby="recoverable-hint";
            label for=(RECOVERABLE) { "Store the secret, encrypted" }
            small #recoverable-hint {
                "Lets you reveal it again later; each reveal is recorded in the audit log. For best security, leave unchecked."
            }
        }
    }
}

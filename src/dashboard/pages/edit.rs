//! The form to edit a key.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use maud::html;

use super::components::{self, name};
use super::confirmation::{back_field, back_link};
use super::key_form::{self, Combined, KeyFields, fields_of};
use super::plans::{self, OF_OWNER, PLAN};
use super::posted_form::PostedForm;
use super::{Failure, page, previous, redirect, redirect_with};
use crate::dashboard::flash::{Done, Flash};
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::key_in_path::KeyInPath;
use crate::dashboard::return_path::ReturnPath;
use crate::dashboard::state::Shared;
use crate::key::{Key, KeyUpdate, StoreError};

pub(in crate::dashboard) async fn form(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(key): KeyInPath,
    asked: FormFields,
) -> Response {
    let (fields, back) = (fields_of(&context, &key), back_of(&asked, &key));
    let wrong = FieldErrors::default();
    shown(&shared, &context, &key, &back, &fields, &fields, &wrong).await
}

fn back_of(fields: &FormFields, key: &Key) -> ReturnPath {
    fields.back().unwrap_or_else(|| ReturnPath::key(key.id))
}

async fn shown(
    shared: &Shared,
    context: &PageContext,
    key: &Key,
    back: &ReturnPath,
    fields: &FormFields,
    was: &FormFields,
    wrong: &FieldErrors,
) -> Response {
    let plan = plans::choice(shared, fields, wrong, OF_OWNER).await;
    let at = context.at(&format!("/keys/{}", key.id));
    let content = html! {
        (back_link(context, back))
        h1 { "Edit " (name(&key.name)) }
        (components::alert(wrong, ""))
        form .column .panel method="post" action={ (at) "/edit" } {
            (back_field(Some(back)))
            (key_form::inputs(context, fields, wrong, false, &plan, None))
            (previous::inputs(was))
            button type="submit" .primary { "Save" }
            " " a .button href=(back.url(&context.base)) { "Cancel" }
        }
    };
    page(context, &format!("Edit {}", key.name), &content)
}

pub(in crate::dashboard) async fn save(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    KeyInPath(key): KeyInPath,
    PostedForm(fields): PostedForm,
) -> Response {
    let (now, back) = (fields_of(&context, &key), back_of(&fields, &key));
    let was = previous::of(&fields, &now);
    let combined = Combined::of(&context, &fields, was.get("expires"));
    let changed = |name: &str| combined.get(name) != was.get(name);
    let again = async |wrong: &FieldErrors| {
        let page = shown(&shared, &context, &key, &back, &fields, &was, wrong);
        (StatusCode::UNPROCESSABLE_ENTITY, page.await).into_response()
    };
    let described = match KeyFields::read(&context, &combined) {
        Ok(described) => described,
        Err(wrong) => return again(&wrong).await,
    };
    // Do not overwrite a concurrent change of the same field.
    if previous::is_outdated(&now, &was, changed) {
        let mut wrong = FieldErrors::default();
        wrong.add("", previous::CHANGED);
        let page = shown(&shared, &context, &key, &back, &now, &now, &wrong);
        return (StatusCode::CONFLICT, page.await).into_response();
    }
    let update = described.into_update(changed);
    if update == KeyUpdate::new() {
        return redirect(back.url(&context.base));
    }
    match shared
        .keys
        .update(key.id, update, context.admin.actor())
        .await
    {
        Ok(key) => {
            let flash = Flash::one(Done::Saved, &key);
            redirect_with(&shared, &context, &back, &flash)
        }
        Err(StoreError::Invalid(error)) => {
            let mut wrong = FieldErrors::default();
            let field = key_form::field_of(&error).unwrap_or_default();
            wrong.add(field, error.to_string());
            again(&wrong).await
        }
        Err(error @ StoreError::PlanNotFound(_)) => {
            let mut wrong = FieldErrors::default();
            wrong.add(PLAN, error.to_string());
            again(&wrong).await
        }
        Err(error) => Failure::from(error).page(&context),
    }
}

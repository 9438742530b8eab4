//! The form to edit a key.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use maud::html;

use super::components::{self, name};
use super::confirmation::{back_field, back_link};
use super::key_form::{self, Combined, KeyFields, fields_of};
use super::posted_form::PostedForm;
use super::{Failure, page, redirect, redirect_with};
use crate::dashboard::flash::{Done, Flash};
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::key_in_path::KeyInPath;
use crate::dashboard::return_path::ReturnPath;
use crate::dashboard::state::Shared;
use crate::key::{Key, KeyUpdate, StoreError};

/// Prefixes the hidden fields with the values when the form was rendered.
const PREVIOUS_PREFIX: &str = "was-";

pub(in crate::dashboard) async fn form(
    context: PageContext,
    KeyInPath(key): KeyInPath,
    asked: FormFields,
) -> Response {
    let (fields, back) = (fields_of(&context, &key), back_of(&asked, &key));
    let wrong = FieldErrors::default();
    shown(&context, &key, &back, &fields, &fields, &wrong)
}

fn back_of(fields: &FormFields, key: &Key) -> ReturnPath {
    fields.back().unwrap_or_else(|| ReturnPath::key(key.id))
}

fn shown(
    context: &PageContext,
    key: &Key,
    back: &ReturnPath,
    fields: &FormFields,
    was: &FormFields,
    wrong: &FieldErrors,
) -> Response {
    let at = context.at(&format!("/keys/{}", key.id));
    let content = html! {
        (back_link(context, back))
        h1 { "Edit " (name(&key.name)) }
        (components::alert(wrong, ""))
        form .column .panel method="post" action={ (at) "/edit" } {
            (back_field(Some(back)))
            (key_form::inputs(context, fields, wrong, false, None))
            @for (name, value) in was.iter() {
                input type="hidden" name={ (PREVIOUS_PREFIX) (name) } value=(value);
            }
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
    let was: Vec<_> = now.iter().map(|(name, _)| name).collect();
    let was = was.into_iter().map(|name| {
        let was = fields.get(&format!("{PREVIOUS_PREFIX}{name}"));
        (name, was.unwrap_or_default().to_owned())
    });
    let was: FormFields = was.collect();
    let combined = Combined::of(&context, &fields, was.get("expires"));
    let changed = |name: &str| combined.get(name) != was.get(name);
    let again = |wrong: &FieldErrors| {
        let page = shown(&context, &key, &back, &fields, &was, wrong);
        (StatusCode::UNPROCESSABLE_ENTITY, page).into_response()
    };
    let described = match KeyFields::read(&context, &combined) {
        Ok(described) => described,
        Err(wrong) => return again(&wrong),
    };
    // Do not overwrite a concurrent change of the same field.
    let mut names = now.iter().map(|(name, _)| name);
    if names.any(|name| changed(name) && was.get(name) != now.get(name)) {
        let mut wrong = FieldErrors::default();
        wrong.add(
            "",
            "The key was changed after you opened this form. Review the current values and make your changes again.",
        );
        let page = shown(&context, &key, &back, &now, &now, &wrong);
        return (StatusCode::CONFLICT, page).into_response();
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
            again(&wrong)
        }
        Err(error) => Failure::from(error).page(&context),
    }
}

//! The form to edit an owner.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use maud::html;

use super::record::Record;
use crate::dashboard::flash::{Done, Flash};
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::owner_path::owner_path;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::components::{self, Input, name, name_of_owner};
use crate::dashboard::pages::limit_fields::OF_OWNER;
use crate::dashboard::pages::owner_in_path::OwnerInPath;
use crate::dashboard::pages::plans::{self, PLAN};
use crate::dashboard::pages::posted_form::PostedForm;
use crate::dashboard::pages::{Failure, page, previous, redirect_with};
use crate::dashboard::return_path::ReturnPath;
use crate::dashboard::state::Shared;
use crate::key::{InvalidOwner, Owner, OwnerUpdate, StoreError};

/// The field with the name of the owner.
const NAME: &str = "name";

pub(in crate::dashboard) async fn form(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    OwnerInPath(owner): OwnerInPath,
) -> Response {
    let shown = async {
        let record = Record::read(&shared, &owner).await?;
        let record = record.ok_or(Failure::NotFound)?;
        let fields = fields_of(record.owner.as_ref());
        let wrong = FieldErrors::default();
        Ok(shown(&shared, &context, &owner, &fields, &fields, &wrong).await)
    };
    shown
        .await
        .unwrap_or_else(|failure: Failure| failure.page(&context))
}

fn fields_of(owner: Option<&Owner>) -> FormFields {
    let name = owner.and_then(|owner| owner.name.clone());
    let plan = owner.and_then(|owner| owner.plan.as_deref());
    let limits = owner.map(|owner| &owner.limits[..]).unwrap_or_default();
    [
        (NAME, name.unwrap_or_default()),
        (PLAN, plan.unwrap_or_default().to_owned()),
        OF_OWNER.of(limits),
    ]
    .into_iter()
    .collect()
}

async fn shown(
    shared: &Shared,
    context: &PageContext,
    owner: &str,
    fields: &FormFields,
    was: &FormFields,
    wrong: &FieldErrors,
) -> Response {
    let plan = plans::choice(shared, fields, wrong, "None").await;
    let at = context.at(&owner_path(owner));
    let display_name = fields.get(NAME).unwrap_or_default();
    let display_name = Input::new(NAME, "Name", display_name).checked(wrong);
    let content = html! {
        p { a href=(at) { "Back to owner" } }
        h1 { "Edit " (name(name_of_owner(owner))) }
        (components::alert(wrong, ""))
        form .column .panel method="post" action={ (at) "/edit" } {
            (components::token(context))
            (display_name.hint("For example, the name of the company").text())
            (plan)
            (OF_OWNER.inputs(fields, wrong))
            (previous::inputs(was))
            button type="submit" .primary { "Save" }
            " " a .button href=(at) { "Cancel" }
        }
    };
    let title = format!("Edit {}", name_of_owner(owner));
    page(context, &title, &content)
}

pub(in crate::dashboard) async fn save(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    OwnerInPath(owner): OwnerInPath,
    PostedForm(fields): PostedForm,
) -> Response {
    let saved = save_fields(&shared, &context, &owner, &fields);
    saved.await.unwrap_or_else(|failure| failure.page(&context))
}

async fn save_fields(
    shared: &Shared,
    context: &PageContext,
    owner: &str,
    fields: &FormFields,
) -> Result<Response, Failure> {
    let record = Record::read(shared, owner).await?;
    let record = record.ok_or(Failure::NotFound)?;
    let now = fields_of(record.owner.as_ref());
    let was = previous::of(fields, &now);
    let limits = OF_OWNER.text_of(fields);
    let submitted = fields.with([(OF_OWNER.name, &*limits)]);
    let changed = |name: &str| submitted.get(name) != was.get(name);
    let again = async |status: StatusCode, fields: &FormFields, wrong: FieldErrors| {
        let page = shown(shared, context, owner, fields, &was, &wrong).await;
        Ok((status, page).into_response())
    };
    let mut wrong = FieldErrors::default();
    let limits = wrong.take(OF_OWNER.name, OF_OWNER.read(fields).map(Some));
    if !wrong.is_empty() {
        return again(StatusCode::UNPROCESSABLE_ENTITY, fields, wrong).await;
    }
    if previous::is_outdated(&now, &was, changed) {
        wrong.add("", previous::CHANGED);
        let page = shown(shared, context, owner, &now, &now, &wrong).await;
        return Ok((StatusCode::CONFLICT, page).into_response());
    }
    let mut update = OwnerUpdate::new();
    if changed(NAME) {
        update = update.name(submitted.get(NAME));
    }
    if changed(PLAN) {
        update = update.plan(submitted.get(PLAN));
    }
    if changed(OF_OWNER.name) {
        update = update.limits(limits.unwrap_or_default());
    }
    let updated = record
        .admin
        .update_owner(owner, update, context.admin.actor());
    let (field, why) = match updated.await {
        Ok(_) => {
            let back = ReturnPath::owner(owner);
            let flash = Flash::named(Done::Saved, owner);
            return Ok(redirect_with(shared, context, &back, &flash));
        }
        Err(StoreError::InvalidOwner(error)) => {
            let field = match error {
                InvalidOwner::Name => NAME,
                InvalidOwner::Plan => PLAN,
                InvalidOwner::Limits(_) => OF_OWNER.name,
                _ => "",
            };
            (field, error.to_string())
        }
        Err(error @ StoreError::PlanNotFound(_)) => (PLAN, error.to_string()),
        Err(error) => return Err(error.into()),
    };
    wrong.add(field, why);
    again(StatusCode::UNPROCESSABLE_ENTITY, fields, wrong).await
}

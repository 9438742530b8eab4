//! The list of plans, and forms to create, edit and delete them.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use jiff::Timestamp;
use maud::{Markup, html};

use super::components::{self, Input, caption, choice_or, name, name_of_owner, none};
use super::limit_fields::{OF_PLAN_KEYS, OF_PLAN_OWNERS};
use super::posted_form::PostedForm;
use super::{Failure, limit_text, page, previous, redirect_with};
use crate::dashboard::flash::{Done, Flash};
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::owner_path::owner_path;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::return_path::ReturnPath;
use crate::dashboard::state::Shared;
use crate::key::{InvalidPlan, KeyQuery, OwnerAdmin, OwnerQuery, Plan, StoreError};
use crate::limit::RateLimit;
use crate::telemetry;

/// The field with the name of a new plan, and the query parameter with the name of an existing one.
const NAME: &str = "name";
pub(super) const PLAN: &str = "plan";

/// The choice of no plan for a key.
pub(super) const OF_OWNER: &str = "Plan of the owner";

/// The maximum number of owners and keys listed for a plan.
const ROWS: usize = 50;

fn admin(shared: &Shared) -> Result<&dyn OwnerAdmin, Failure> {
    shared.keys.owner_admin().ok_or(Failure::NotFound)
}

/// The URL of a page for a plan.
fn at(context: &PageContext, path: &str, plan: &str) -> String {
    let query: FormFields = [(PLAN, plan.to_owned())].into_iter().collect();
    format!("{}?{}", context.at(path), query.query())
}

/// The name of a plan as a link to its form; a dash without a plan.
pub(super) fn link(context: &PageContext, plan: Option<&str>) -> Markup {
    html! {
        @match plan {
            Some(plan) => a href=(at(context, "/plans/edit", plan)) { (name(plan)) },
            None => (none()),
        }
    }
}

/// Limits in words, or this text if there are none.
pub(super) fn limits(limits: &[RateLimit], otherwise: &str) -> Markup {
    html! {
        @if limits.is_empty() { (otherwise) }
        @for limit in limits { div { (limit_text::describe(limit)) } }
    }
}

/// The select of a form with all plans. A hidden field keeps the plan if there are none, or they cannot be read.
pub(super) async fn choice(
    shared: &Shared,
    fields: &FormFields,
    wrong: &FieldErrors,
    none: &str,
) -> Markup {
    let plans = match shared.keys.owner_admin() {
        Some(admin) => admin.list_plans().await,
        None => Ok(Vec::new()),
    };
    let plans = plans.unwrap_or_else(|error| {
        let error: &dyn std::error::Error = &error;
        telemetry::error!(error, "plans unavailable");
        Vec::new()
    });
    let chosen = fields.get(PLAN);
    if plans.is_empty() {
        return html! { input type="hidden" name=(PLAN) value=(chosen.unwrap_or_default()); };
    }
    let plans = plans.iter().map(|plan| (&*plan.name, &*plan.name));
    let plans = [("", none)].into_iter().chain(plans);
    choice_or(PLAN, "Plan", chosen, plans, wrong.get(PLAN))
}

pub(in crate::dashboard) async fn list(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
) -> Response {
    let listed = async {
        let plans = admin(&shared)?.list_plans().await?;
        Ok::<_, Failure>(html! {
            p { a href=(context.at("/owners")) { "Back to owners" } }
            .head {
                h1 { "Plans" }
                p { a .button .primary href=(context.at("/plans/new")) { "New plan" } }
            }
            @if plans.is_empty() {
                p .empty { "No plans yet. A plan has rate limits for API keys and owners." }
            } @else {
                .scroll .panel tabindex="0" role="region" aria-label="Plans" { table .stacked {
                    (caption("Plans by name"))
                    thead { tr {
                        @for head in ["Plan", "Each key", "All keys of an owner"] { th scope="col" { (head) } }
                    } }
                    tbody { @for plan in &plans { tr {
                        th scope="row" { (link(&context, Some(&plan.name))) }
                        td data-label="Each key" { (limits(&plan.key_limits, "Service defaults")) }
                        td data-label="All keys of an owner" { (limits(&plan.owner_limits, "None")) }
                    } } }
                } }
            }
        })
    };
    match listed.await {
        Ok(content) => page(&context, "Plans", &content),
        Err(failure) => failure.page(&context),
    }
}

pub(in crate::dashboard) async fn new_form(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
) -> Response {
    if let Err(failure) = admin(&shared) {
        return failure.page(&context);
    }
    let (fields, wrong) = (FormFields::default(), FieldErrors::default());
    shown(&context, None, &fields, &wrong, None)
}

pub(in crate::dashboard) async fn edit_form(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    fields: FormFields,
) -> Response {
    let found = async {
        let plan = named(&shared, &fields).await?;
        let users = Users::read(&shared, &plan.name).await?;
        let fields = fields_of(&plan);
        let wrong = FieldErrors::default();
        let users = users.section(&context);
        Ok::<_, Failure>(shown(&context, Some(&plan), &fields, &wrong, Some(&users)))
    };
    found.await.unwrap_or_else(|failure| failure.page(&context))
}

fn fields_of(plan: &Plan) -> FormFields {
    let fields = [
        OF_PLAN_KEYS.of(&plan.key_limits),
        OF_PLAN_OWNERS.of(&plan.owner_limits),
    ];
    fields.into_iter().collect()
}

/// The plan in the query.
async fn named(shared: &Shared, fields: &FormFields) -> Result<Plan, Failure> {
    let plan = admin(shared)?
        .plan(fields.get(PLAN).unwrap_or_default())
        .await?;
    plan.ok_or_else(|| Failure::Invalid("There is no such plan.".into()))
}

fn shown(
    context: &PageContext,
    plan: Option<&Plan>,
    fields: &FormFields,
    wrong: &FieldErrors,
    users: Option<&Markup>,
) -> Response {
    let title = match plan {
        Some(plan) => format!("Plan {}", plan.name),
        None => "New plan".into(),
    };
    let action = match plan {
        Some(plan) => at(context, "/plans/edit", &plan.name),
        None => context.at("/plans/new"),
    };
    let content = html! {
        p { a href=(context.at("/plans")) { "Back to plans" } }
        h1 { @match plan { Some(plan) => { "Plan " (name(&plan.name)) } None => "New plan" } }
        (components::alert(wrong, ""))
        form .column .panel method="post" action=(action) {
            (components::token(context))
            @if plan.is_none() {
                (Input::new(NAME, "Name", fields.get(NAME).unwrap_or_default())
                    .hint("For example, free or pro").checked(wrong).required())
            }
            (OF_PLAN_KEYS.inputs(fields, wrong))
            (OF_PLAN_OWNERS.inputs(fields, wrong))
            @if let Some(plan) = plan { (previous::inputs(&fields_of(plan))) }
            button type="submit" .primary { @if plan.is_some() { "Save" } @else { "Create" } }
            " " a .button href=(context.at("/plans")) { "Cancel" }
            @if let Some(plan) = plan {
                " " a .button .danger href=(at(context, "/plans/delete", &plan.name)) { "Delete" }
            }
        }
        @if let Some(users) = users { (users) }
    };
    page(context, &title, &content)
}

pub(in crate::dashboard) async fn create(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    PostedForm(fields): PostedForm,
) -> Response {
    let created = async {
        let mut wrong = FieldErrors::default();
        let new_name = fields.get(NAME).unwrap_or_default();
        if new_name.is_empty() {
            wrong.add(NAME, "Enter a name.");
        } else if admin(&shared)?.plan(new_name).await?.is_some() {
            wrong.add(NAME, "There is already a plan with this name.");
        }
        let plan = Plan::new(new_name, Timestamp::now());
        save(&shared, &context, plan, None, &fields, wrong).await
    };
    created
        .await
        .unwrap_or_else(|failure| failure.page(&context))
}

pub(in crate::dashboard) async fn edit(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    query: FormFields,
    PostedForm(fields): PostedForm,
) -> Response {
    let edited = async {
        let plan = named(&shared, &query).await?;
        let (known, mut wrong) = (plan.clone(), FieldErrors::default());
        // Both fields are replaced, so do not overwrite a concurrent change of either.
        let now = fields_of(&plan);
        if previous::is_outdated(&now, &previous::of(&fields, &now), |_| true) {
            wrong.add("", previous::CHANGED);
            let page = shown(&context, Some(&plan), &now, &wrong, None);
            return Ok((StatusCode::CONFLICT, page).into_response());
        }
        save(&shared, &context, plan, Some(&known), &fields, wrong).await
    };
    edited
        .await
        .unwrap_or_else(|failure| failure.page(&context))
}

/// Saves a plan with the limits in these fields. `known` is the plan as it was, if it exists.
async fn save(
    shared: &Shared,
    context: &PageContext,
    mut plan: Plan,
    known: Option<&Plan>,
    fields: &FormFields,
    mut wrong: FieldErrors,
) -> Result<Response, Failure> {
    let limits = OF_PLAN_KEYS.read(fields).map(Some);
    let limits = wrong.take(OF_PLAN_KEYS.name, limits);
    plan.key_limits = limits.unwrap_or_default();
    let limits = OF_PLAN_OWNERS.read(fields).map(Some);
    let limits = wrong.take(OF_PLAN_OWNERS.name, limits);
    plan.owner_limits = limits.unwrap_or_default();
    if wrong.is_empty() {
        let saved = admin(shared)?.set_plan(plan, context.admin.actor()).await;
        match saved {
            Ok(plan) => {
                let flash = Flash::named(Done::Saved, &plan.name);
                return Ok(redirect_with(shared, context, &ReturnPath::plans(), &flash));
            }
            Err(StoreError::InvalidPlan(error)) => {
                let field = match error {
                    InvalidPlan::Name => NAME,
                    InvalidPlan::KeyLimits(_) => OF_PLAN_KEYS.name,
                    InvalidPlan::OwnerLimits(_) => OF_PLAN_OWNERS.name,
                    _ => "",
                };
                wrong.add(field, error.to_string());
            }
            Err(error) => return Err(error.into()),
        }
    }
    let page = shown(context, known, fields, &wrong, None);
    Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response())
}

pub(in crate::dashboard) async fn delete_form(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    fields: FormFields,
) -> Response {
    let asked = async {
        let plan = named(&shared, &fields).await?;
        let users = Users::read(&shared, &plan.name).await?;
        Ok::<_, Failure>((plan, users))
    };
    let (plan, users) = match asked.await {
        Ok(asked) => asked,
        Err(failure) => return failure.page(&context),
    };
    let edit = at(&context, "/plans/edit", &plan.name);
    let content = html! {
        p { a href=(edit) { "Back to plan" } }
        h1 { "Delete plan " (name(&plan.name)) "?" }
        @if users.is_none() {
            form .column .panel method="post" action=(at(&context, "/plans/delete", &plan.name)) {
                (components::token(&context))
                p { "No owner and no API key has this plan. This cannot be undone." }
                p .actions {
                    button type="submit" .danger { "Delete" }
                    a .button href=(edit) { "Cancel" }
                }
            }
        } @else {
            p .warning { "Owners or API keys have this plan. Change their plan first." }
            (users.section(&context))
        }
    };
    page(&context, &format!("Delete plan {}", plan.name), &content)
}

pub(in crate::dashboard) async fn delete(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    query: FormFields,
    _: PostedForm,
) -> Response {
    let deleted = async {
        let plan = named(&shared, &query).await?;
        let actor = context.admin.actor();
        admin(&shared)?.delete_plan(&plan.name, actor).await?;
        let flash = Flash::named(Done::Deleted, &plan.name);
        Ok::<_, Failure>(redirect_with(
            &shared,
            &context,
            &ReturnPath::plans(),
            &flash,
        ))
    };
    deleted
        .await
        .unwrap_or_else(|failure| failure.page(&context))
}

/// Owners with a plan, and keys with the plan of their own.
struct Users {
    owners: Vec<String>,
    keys: Vec<(String, String)>,
    is_whole: bool,
}

impl Users {
    async fn read(shared: &Shared, plan: &str) -> Result<Self, Failure> {
        let query = OwnerQuery::new().plan(plan).limit(ROWS);
        let owners = admin(shared)?.list_owners(&query).await?;
        let keys = shared
            .keys
            .list(&KeyQuery::new().plan(plan).limit(ROWS))
            .await?;
        Ok(Self {
            is_whole: owners.next.is_none() && keys.next.is_none(),
            owners: owners
                .items
                .into_iter()
                .map(|it| it.id.to_string())
                .collect(),
            keys: keys
                .items
                .into_iter()
                .map(|it| (it.id.to_string(), it.name))
                .collect(),
        })
    }

    fn is_none(&self) -> bool {
        self.owners.is_empty() && self.keys.is_empty()
    }

    fn section(&self, context: &PageContext) -> Markup {
        html! {
            section .panel aria-label="Used by" {
                h2 { "Used by" }
                @if self.is_none() { p .empty { "No owner and no API key has this plan." } }
                @else { ul {
                    @for id in &self.owners {
                        li { "Owner " a href=(context.at(&owner_path(id))) { (name(name_of_owner(id))) } }
                    }
                    @for (id, key) in &self.keys {
                        li { "API key " a href=(context.at(&format!("/keys/{id}"))) { (name(key)) } }
                    }
                } }
                @if !self.is_whole { p .rule { "Only the newest are shown." } }
            }
        }
    }
}

//! The audit log.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::components::{self, Input, caption, line_or_none, line_to, none, time};
use super::{Failure, audit_changes, page, plans};
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::key::{AuditAction, AuditEntry, AuditQuery, AuditState, AuditSubject};
use crate::page::Page;

const FILTERS: [&str; 5] = ["actor", "key", "owner", "plan", "action"];

pub(in crate::dashboard) async fn page_of(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    fields: FormFields,
) -> Response {
    let mut query = AuditQuery::new().limit(50);
    if let Some(actor) = fields.get("actor") {
        query = query.actor(actor);
    }
    query.owner = fields.get("owner").map(str::to_owned);
    query.plan = fields.get("plan").map(str::to_owned);
    let mut wrong = FieldErrors::default();
    let key = fields.get("key").map(str::parse).transpose();
    query.key = wrong.take("key", key.map_err(|_| "Enter a valid key ID."));
    let action = fields.get("action").map(str::parse).transpose();
    query.action = wrong.take(
        "action",
        action.map_err(|_| "Choose an action from the list."),
    );
    let after = fields.get("after").map(str::parse).transpose();
    query.page.after = wrong.take(
        "after",
        after.map_err(|_| "Invalid page token. Start again from the first page."),
    );
    let entries = match shared.keys.audit_log() {
        Some(log) if wrong.is_empty() => log.audit_entries(&query).await.map(Some),
        Some(_) => Ok(Some(Page::empty())),
        None => Ok(None),
    };
    match entries {
        Ok(entries) => page(
            &context,
            "Audit log",
            &content(&context, &fields, entries.as_ref(), &wrong),
        ),
        Err(error) => Failure::from(error).page(&context),
    }
}

fn content(
    context: &PageContext,
    fields: &FormFields,
    entries: Option<&Page<AuditEntry>>,
    wrong: &FieldErrors,
) -> Markup {
    let filtered = fields.has_any(&FILTERS);
    let kept = fields.only(&FILTERS);
    let to = |place: &str| {
        let query = kept.with([("after", place)]).query();
        format!("{}?{query}", context.at("/audit"))
    };
    let field = |name, label| {
        let value = fields.get(name).unwrap_or_default();
        Input::new(name, label, value).checked(wrong)
    };
    let actions = AuditAction::ALL.map(|action| (action.as_str(), action.as_str()));
    html! {
        h1 { "Audit log" }
        form .filters method="get" action=(context.at("/audit")) role="search" aria-label="Filter audit log" {
            (components::alert(wrong, "after"))
            (field("actor", "Actor").in_url())
            (field("key", "Key ID").in_url())
            (field("owner", "Owner").in_url())
            (field("plan", "Plan").in_url())
            (components::choice_or("action", "Action", fields.get("action"),
                [("", "Any")].into_iter().chain(actions), wrong.get("action")))
            button type="submit" { "Apply" }
            @if filtered { a .button href=(context.at("/audit")) { "Clear filters" } }
        }
        @match entries {
            None => p .empty { "This store does not keep an audit log." }
            Some(_) if !wrong.is_empty() => {}
            Some(entries) if entries.items.is_empty() => p .empty {
                @if filtered { "No entries match your filters. " a href=(context.at("/audit")) { "Clear filters" } }
                @else { "No entries yet. Changes to API keys, owners and plans will appear here." }
            }
            Some(entries) => {
                .scroll .panel tabindex="0" role="region" aria-label="Audit log" { table .stacked {
                    (caption("Audit log, newest first"))
                    thead { tr {
                        @for name in ["Time", "Actor", "Action", "Subject", "Key ID", "Changes"] { th scope="col" { (name) } }
                    } }
                    tbody { @for entry in &entries.items { (row(context, entry)) } }
                } }
                (components::pages("Audit log pages", &[
                    ("Newest", fields.get("after").map(|_| to(""))),
                    ("Older", entries.next.as_ref().map(|next| to(&next.to_string()))),
                ]))
            }
        }
    }
}

fn row(context: &PageContext, entry: &AuditEntry) -> Markup {
    let state = entry.after.as_ref().or(entry.before.as_ref());
    let name = state.and_then(AuditState::as_key).map(|key| &*key.name);
    let subject = match &entry.subject {
        AuditSubject::Key(id) => {
            let at = context.at(&format!("/keys/{id}"));
            html! { @match name { Some(name) => (line_to(&at, name)), None => a href=(at) { (none()) } } }
        }
        AuditSubject::Owner(owner) => html! { "Owner " (components::owner(context, Some(owner))) },
        AuditSubject::Plan(plan) => html! { "Plan " (plans::link(context, Some(plan))) },
    };
    html! {
        tr {
            td data-label="Time" { (time(context, entry.time)) }
            td data-label="Actor" { (line_or_none(entry.actor.as_deref())) }
            td data-label="Action" { (entry.action.as_str()) }
            td data-label="Subject" { (subject) }
            td data-label="Key ID" { @match entry.subject.key() { Some(id) => code { (id) }, None => (none()) } }
            td .changes data-label="Changes" { (audit_changes::list(context, entry)) }
        }
    }
}

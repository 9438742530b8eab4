//! Who did what to which key.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::components::{self, Input, caption, line_or_none, line_to, none, time};
use super::{Failure, page};
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::key::{AuditAction, AuditEntry, AuditQuery};
use crate::page::Page;

const FILTERS: [&str; 3] = ["actor", "key", "action"];

pub(in crate::dashboard) async fn page_of(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    fields: FormFields,
) -> Response {
    let mut query = AuditQuery::new().limit(50);
    if let Some(actor) = fields.get("actor") {
        query = query.actor(actor);
    }
    let mut wrong = FieldErrors::default();
    let key = fields.get("key").map(str::parse).transpose();
    query.key = wrong.take("key", key.map_err(|_| "This is not the id of a key."));
    let action = fields.get("action").map(str::parse).transpose();
    query.action = wrong.take("action", action.map_err(|_| "Nobody can do that to a key."));
    let after = fields.get("after").map(str::parse).transpose();
    query.after = wrong.take(
        "after",
        after.map_err(|_| "There is no such place in the list."),
    );
    let entries = if wrong.is_empty() {
        shared.backend.audit(&query).await
    } else {
        Ok(Some(Page {
            items: Vec::new(),
            next: None,
        }))
    };
    match entries {
        Ok(entries) => page(
            &visit,
            "Audit",
            &content(&visit, &fields, entries.as_ref(), &wrong),
        ),
        Err(error) => Failure::from(error).page(&visit),
    }
}

fn content(
    visit: &PageContext,
    fields: &FormFields,
    entries: Option<&Page<AuditEntry>>,
    wrong: &FieldErrors,
) -> Markup {
    let filtered = fields.has_any(&FILTERS);
    let kept = fields.only(&FILTERS);
    let to = |place: &str| {
        let query = kept.with([("after", place)]).query();
        format!("{}?{query}", visit.at("/audit"))
    };
    let field = |name, label| {
        let value = fields.get(name).unwrap_or_default();
        Input::new(name, label, value).wrong(wrong.get(name))
    };
    let actions = AuditAction::ALL.map(|action| (action.as_str(), action.as_str()));
    html! {
        h1 { "Audit" }
        form .filters method="get" action=(visit.at("/audit")) role="search" aria-label="Filter the audit" {
            (components::alert(wrong, "after"))
            (field("actor", "Who").text())
            (field("key", "Key id").text())
            (components::choice_or("action", "What", fields.get("action"),
                [("", "any")].into_iter().chain(actions), wrong.get("action")))
            button type="submit" { "Apply" }
            @if filtered { a .button href=(visit.at("/audit")) { "Clear filters" } }
        }
        @match entries {
            None => p .empty { "This store does not keep who did what." }
            Some(_) if !wrong.is_empty() => {}
            Some(entries) if entries.items.is_empty() => p .empty {
                @if filtered { "Nothing that was done matches. " a href=(visit.at("/audit")) { "Clear filters" } }
                @else { "Nothing was done to keys yet. Whatever is done to them from now on is told here." }
            }
            Some(entries) => {
                .scroll .panel tabindex="0" role="region" aria-label="Changes" { table .stacked {
                    (caption("What was done to keys, newest first"))
                    thead { tr { @for name in ["When", "Who", "What", "Key", "Key id"] { th scope="col" { (name) } } } }
                    tbody { @for entry in &entries.items { (row(visit, entry)) } }
                } }
                (components::pages("Pages of the audit", &[
                    ("Newest", fields.get("after").map(|_| to(""))),
                    ("Older", entries.next.as_ref().map(|next| to(&next.to_string()))),
                ]))
            }
        }
    }
}

fn row(visit: &PageContext, entry: &AuditEntry) -> Markup {
    let called = entry
        .after
        .as_ref()
        .or(entry.before.as_ref())
        .map(|key| &*key.name);
    let at = visit.at(&format!("/keys/{}", entry.key));
    html! {
        tr {
            td data-label="When" { (time(visit, entry.time)) }
            td data-label="Who" { (line_or_none(entry.actor.as_deref())) }
            td data-label="What" { (entry.action.as_str()) }
            td data-label="Key" { @match called { Some(called) => (line_to(&at, called)), None => a href=(at) { (none()) } } }
            td data-label="Key id" { code { (entry.key) } }
        }
    }
}

//! Who did what to which key.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::parts::{self, Input, time};
use super::{Failure, page};
use crate::dashboard::Shared;
use crate::dashboard::fields::Fields;
use crate::dashboard::visit::Visit;
use crate::key::{AuditAction, AuditEntry, AuditQuery};
use crate::page::Page;

pub(in crate::dashboard) async fn page_of(
    State(shared): State<Arc<Shared>>,
    visit: Visit,
    fields: Fields,
) -> Response {
    let mut query = AuditQuery::new().limit(50);
    if let Some(actor) = fields.get("actor") {
        query = query.actor(actor);
    }
    query.key = fields.get("key").and_then(|key| key.parse().ok());
    query.action = fields.get("action").and_then(|action| action.parse().ok());
    query.after = fields.get("after").and_then(|token| token.parse().ok());
    match shared.backend.audit(&query).await {
        Ok(entries) => page(&visit, "Audit", &content(&visit, &fields, entries.as_ref())),
        Err(error) => Failure::from(error).page(&visit),
    }
}

fn content(visit: &Visit, fields: &Fields, entries: Option<&Page<AuditEntry>>) -> Markup {
    let field = |name, label| Input {
        name,
        label,
        hint: "",
        value: fields.get(name).unwrap_or_default(),
    };
    let actions = AuditAction::ALL.map(|action| (action.as_str(), action.as_str()));
    html! {
        h1 { "Audit" }
        form .filters method="get" action=(visit.at("/audit")) role="search" {
            (field("actor", "Who").text())
            (field("key", "Key id").text())
            (parts::choice("action", "What", fields.get("action"), [("", "any")].into_iter().chain(actions)))
            button type="submit" { "Apply" }
            a .button href=(visit.at("/audit")) { "Clear filters" }
        }
        @match entries {
            None => p .empty { "This store does not keep who did what." }
            Some(entries) if entries.items.is_empty() => p .empty { "Nothing was done to keys yet that matches." }
            Some(entries) => {
                .scroll { table {
                    thead { tr { @for name in ["When", "Who", "What", "Key"] { th scope="col" { (name) } } } }
                    tbody { @for entry in &entries.items { (row(visit, entry)) } }
                } }
                @if let Some(next) = &entries.next {
                    nav .pages aria-label="Pages of the audit" {
                        a href={ (visit.at("/audit?")) (fields.with("after", &next.to_string())) } { "Older" }
                    }
                }
            }
        }
    }
}

fn row(visit: &Visit, entry: &AuditEntry) -> Markup {
    let name = entry
        .after
        .as_ref()
        .or(entry.before.as_ref())
        .map(|key| &*key.name);
    html! {
        tr {
            td { (time(visit, entry.time)) }
            td { (entry.actor.as_deref().unwrap_or("–")) }
            td { (entry.action.as_str()) }
            td { a href=(visit.at(&format!("/keys/{}", entry.key))) { (name.unwrap_or("–")) } " " code { (entry.key) } }
        }
    }
}

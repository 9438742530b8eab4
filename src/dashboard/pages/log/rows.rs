//! The log as a table.

use std::time::Duration;

use maud::{Markup, html};

use crate::dashboard::charts;
use crate::dashboard::pages::parts::{caption, clipped, milliseconds, name, time};
use crate::dashboard::visit::Visit;
use crate::key::Key;
use crate::usage::{Cause, Outcome, UsageEvent};

/// The columns: their names, and whether they are shown before anybody chose.
const COLUMNS: [(&str, bool); 14] = [
    ("Request id", true),
    ("Time", true),
    (KEY, true),
    ("Method", true),
    ("Endpoint", true),
    ("Status", true),
    ("Code", true),
    ("Path", false),
    ("Resource id", false),
    ("Latency", false),
    ("Request bytes", false),
    ("Response bytes", false),
    ("Client address", false),
    ("Cause", false),
];

const KEY: &str = "Key";

/// Requests, and their keys where they are not all of one.
pub(super) fn table(visit: &Visit, events: &[UsageEvent], keys: Option<&[Key]>) -> Markup {
    let columns = COLUMNS.into_iter();
    let columns = columns.filter(|(column, _)| *column != KEY || keys.is_some());
    // Each kind of table has columns of its own to be chosen.
    let kind = if keys.is_some() { "all" } else { "key" };
    html! {
        .scroll tabindex="0" role="region" aria-label="Requests" { table .log data-columns=(kind) {
            (caption("Requests, newest first"))
            thead { tr {
                @for (column, usual) in columns { th scope="col" class=[(!usual).then_some("extra")] { (column) } }
            } }
            tbody { @for event in events { (row(visit, event, keys)) } }
        } }
    }
}

fn row(visit: &Visit, event: &UsageEvent, keys: Option<&[Key]>) -> Markup {
    let (outcome, class) = match event.outcome {
        Outcome::Completed => ("completed", "completed"),
        Outcome::RateLimited => ("rate limited", "limited"),
        Outcome::Failed => ("failed", "failed"),
    };
    html! {
        tr {
            td { code .clip title=[long_id(event)] { (clipped(&event.wire_id())) } }
            td { (time(visit, event.time)) }
            @if let Some(keys) = keys { td { (key_of(visit, event, keys)) } }
            td { (event.method.as_str()) }
            td { (clipped(&event.endpoint)) }
            td { span class={ "badge " (class) } { (outcome) } }
            td { (event.status) }
            td .extra { (clipped(&event.path)) }
            td .extra { (clipped(event.resource_id.as_deref().unwrap_or("–"))) }
            td .extra { (milliseconds(Duration::from_micros(event.latency_us))) }
            td .extra { (charts::count(event.request_bytes)) }
            td .extra { (charts::count(event.response_bytes)) }
            td .extra { @if let Some(address) = event.client_address { (address) } @else { "–" } }
            td .extra { (cause(event)) }
        }
    }
}

/// Ids of others than ours may not be seen whole.
fn long_id(event: &UsageEvent) -> Option<&str> {
    event.request_id.as_deref().filter(|id| id.len() > 36)
}

fn key_of(visit: &Visit, event: &UsageEvent, keys: &[Key]) -> Markup {
    html! {
        @if let Some(id) = event.key {
            @match keys.iter().find(|key| key.id == id) {
                Some(key) => a href=(visit.at(&format!("/keys/{id}"))) { (name(&key.name)) },
                None => code { (id) }
            }
        } @else { "–" }
    }
}

/// Why it failed, and why it was refused.
fn cause(event: &UsageEvent) -> String {
    let cause = event.cause.map_or("–", Cause::as_str);
    match event.refusal {
        Some(refusal) => format!("{cause}: {refusal}"),
        None => cause.into(),
    }
}

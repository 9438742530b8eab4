//! The log as a table.

use std::time::Duration;

use maud::{Markup, html};

use crate::dashboard::charts;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::components::{caption, clipped, line_to, milliseconds, none, time};
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
pub(super) fn table(visit: &PageContext, events: &[UsageEvent], keys: Option<&[Key]>) -> Markup {
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

fn row(visit: &PageContext, event: &UsageEvent, keys: Option<&[Key]>) -> Markup {
    let (outcome, class) = match event.outcome {
        Outcome::Completed => ("completed", "completed"),
        Outcome::RateLimited => ("rate limited", "limited"),
        Outcome::Failed => ("failed", "failed"),
    };
    html! {
        tr {
            td .id { code { (clipped(&event.wire_id())) } }
            td .when { (time(visit, event.time)) }
            @if let Some(keys) = keys { td .key { (key_of(visit, event, keys)) } }
            td .method { (event.method.as_str()) }
            td .endpoint { (clipped(&event.endpoint)) }
            td .status { span class={ "badge " (class) } { (outcome) } }
            td .code { (event.status) }
            td .extra data-label="Path" { (clipped(&event.path)) }
            td .extra data-label="Resource id" {
                @match event.resource_id.as_deref() { Some(id) => (clipped(id)), None => (none()) }
            }
            td .extra data-label="Latency" { (milliseconds(Duration::from_micros(event.latency_us))) }
            td .extra data-label="Request bytes" { (charts::count(event.request_bytes)) }
            td .extra data-label="Response bytes" { (charts::count(event.response_bytes)) }
            td .extra data-label="Client address" { @if let Some(address) = event.client_ip { (address) } @else { (none()) } }
            td .extra data-label="Cause" { (cause(event)) }
        }
    }
}

fn key_of(visit: &PageContext, event: &UsageEvent, keys: &[Key]) -> Markup {
    html! {
        @if let Some(id) = event.key {
            @match keys.iter().find(|key| key.id == id) {
                Some(key) => (line_to(&visit.at(&format!("/keys/{id}")), &key.name)),
                None => code { (id) }
            }
        } @else { (none()) }
    }
}

/// Why it failed, or why it was refused.
fn cause(event: &UsageEvent) -> Markup {
    let cause = event.cause.map(Cause::as_str);
    html! {
        @match (cause, event.rejection_reason) {
            (Some(cause), Some(refusal)) => { (cause) ": " (refusal) },
            (Some(cause), None) => (cause),
            (None, Some(refusal)) => (refusal),
            (None, None) => (none()),
        }
    }
}

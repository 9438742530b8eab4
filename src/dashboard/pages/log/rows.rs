//! The table of the request log.

use std::time::Duration;

use maud::{Markup, html};

use crate::dashboard::charts;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::causes;
use crate::dashboard::pages::components::{caption, clipped, line_to, milliseconds, none, time};
use crate::key::Key;
use crate::usage::{Outcome, UsageEvent};

/// The columns: their names, and whether they are shown by default.
const COLUMNS: [(&str, bool); 14] = [
    ("Request ID", true),
    ("Time", true),
    (KEY, true),
    ("Method", true),
    ("Endpoint", true),
    ("Status", true),
    ("Code", true),
    ("Cause", true),
    ("Path", false),
    ("Resource ID", false),
    ("Latency", false),
    ("Request bytes", false),
    ("Response bytes", false),
    ("Client IP", false),
];

const KEY: &str = "Key";

/// A table of requests, with a column for the key unless all have the same.
pub(super) fn table(context: &PageContext, events: &[UsageEvent], keys: Option<&[Key]>) -> Markup {
    let columns = COLUMNS.into_iter();
    let columns = columns.filter(|(column, _)| *column != KEY || keys.is_some());
    // The script remembers the chosen columns for each kind of table.
    let kind = if keys.is_some() { "all" } else { "key" };
    html! {
        .scroll tabindex="0" role="region" aria-label="Requests" { table .log data-columns=(kind) {
            (caption("Requests, newest first"))
            thead { tr {
                @for (column, usual) in columns { th scope="col" class=[(!usual).then_some("extra")] { (column) } }
            } }
            tbody { @for event in events { (row(context, event, keys)) } }
        } }
    }
}

fn row(context: &PageContext, event: &UsageEvent, keys: Option<&[Key]>) -> Markup {
    let (outcome, class) = match event.outcome {
        Outcome::Completed => ("completed", "completed"),
        Outcome::RateLimited => ("rate limited", "limited"),
        Outcome::Failed => ("failed", "failed"),
    };
    html! {
        tr {
            td .id { code { (clipped(&event.request_id_or_id())) } }
            td .when { (time(context, event.time)) }
            @if let Some(keys) = keys { td .key { (key_of(context, event, keys)) } }
            td .method { (event.method.as_str()) }
            td .endpoint { (clipped(&event.endpoint)) }
            td .status { span class={ "badge " (class) } { (outcome) } }
            td .code { (event.status) }
            td .cause { @match causes::of_event(event) { Some(cause) => (cause), None => (none()) } }
            td .extra data-label="Path" { (clipped(&event.path)) }
            td .extra data-label="Resource ID" {
                @match event.resource_id.as_deref() { Some(id) => (clipped(id)), None => (none()) }
            }
            td .extra data-label="Latency" { (milliseconds(Duration::from_micros(event.latency_us))) }
            td .extra data-label="Request bytes" { (charts::count(event.request_bytes)) }
            td .extra data-label="Response bytes" { (charts::count(event.response_bytes)) }
            td .extra data-label="Client IP" { @if let Some(address) = event.client_ip { (address) } @else { (none()) } }
        }
    }
}

fn key_of(context: &PageContext, event: &UsageEvent, keys: &[Key]) -> Markup {
    html! {
        @if let Some(id) = event.key {
            @match keys.iter().find(|key| key.id == id) {
                Some(key) => (line_to(&context.at(&format!("/keys/{id}")), &key.name)),
                None => code { (id) }
            }
        } @else { (none()) }
    }
}

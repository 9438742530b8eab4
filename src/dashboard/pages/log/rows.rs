//! The table of the request log.

use std::time::Duration;

use maud::{Markup, html};

use crate::dashboard::charts;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::causes;
use crate::dashboard::pages::components::{
    caption, clipped, line_to, milliseconds, none, owner, time,
};
use crate::key::Key;
use crate::usage::{Outcome, UsageEvent};

/// A request, with the keys of the page to show their names.
pub(super) struct Row<'a> {
    context: &'a PageContext,
    event: &'a UsageEvent,
    keys: &'a [Key],
}

/// A column of the table.
pub(super) struct Column {
    /// The name in the form and the cookie, and the class of usual columns.
    pub(super) id: &'static str,
    /// The heading.
    pub(super) name: &'static str,
    /// Whether it is shown by default.
    pub(super) is_usual: bool,
    cell: fn(&Row<'_>) -> Markup,
}

const fn usual(id: &'static str, name: &'static str, cell: fn(&Row<'_>) -> Markup) -> Column {
    Column {
        id,
        name,
        is_usual: true,
        cell,
    }
}

const fn extra(id: &'static str, name: &'static str, cell: fn(&Row<'_>) -> Markup) -> Column {
    Column {
        id,
        name,
        is_usual: false,
        cell,
    }
}

pub(super) const COLUMNS: [Column; 15] = [
    usual("id", "Request ID", |row| {
        html! { code { (clipped(&row.event.request_id_or_id())) } }
    }),
    usual("when", "Time", |row| time(row.context, row.event.time)),
    usual("key", "Key", key),
    usual(
        "method",
        "Method",
        |row| html! { (row.event.method.as_str()) },
    ),
    usual("endpoint", "Endpoint", |row| clipped(&row.event.endpoint)),
    usual("status", "Status", outcome),
    usual("code", "Code", |row| html! { (row.event.status) }),
    usual("cause", "Cause", |row| match causes::of_event(row.event) {
        Some(cause) => html! { (cause) },
        None => none(),
    }),
    extra("owner", "Owner", |row| {
        owner(row.context, row.event.owner.as_deref())
    }),
    extra("path", "Path", |row| clipped(&row.event.path)),
    extra("resource", "Resource ID", |row| {
        match row.event.resource_id.as_deref() {
            Some(id) => clipped(id),
            None => none(),
        }
    }),
    extra("latency", "Latency", |row| {
        html! { (milliseconds(Duration::from_micros(row.event.latency_us))) }
    }),
    extra("request-bytes", "Request bytes", |row| {
        html! { (charts::count(row.event.request_bytes)) }
    }),
    extra("response-bytes", "Response bytes", |row| {
        html! { (charts::count(row.event.response_bytes)) }
    }),
    extra("client", "Client IP", |row| match row.event.client_ip {
        Some(address) => html! { (address) },
        None => none(),
    }),
];

/// A table of requests with these columns, each shown or hidden.
pub(super) fn table(
    context: &PageContext,
    events: &[UsageEvent],
    keys: &[Key],
    columns: &[(&Column, bool)],
) -> Markup {
    html! {
        .scroll tabindex="0" role="region" aria-label="Requests" { table .log {
            (caption("Requests, newest first"))
            thead { tr {
                @for (column, is_shown) in columns { th scope="col" hidden[!is_shown] { (column.name) } }
            } }
            tbody { @for event in events {
                @let row = Row { context, event, keys };
                tr { @for (column, is_shown) in columns {
                    @let class = if column.is_usual { column.id } else { "extra" };
                    // The script adds the label when it shows the cell.
                    @let label = (*is_shown && !column.is_usual).then_some(column.name);
                    td class=(class) data-label=[label] hidden[!is_shown] { ((column.cell)(&row)) }
                } }
            } }
        } }
    }
}

fn key(row: &Row<'_>) -> Markup {
    let Some(id) = row.event.key else {
        return none();
    };
    match row.keys.iter().find(|key| key.id == id) {
        Some(key) => line_to(&row.context.at(&format!("/keys/{id}")), &key.name),
        None => html! { code { (id) } },
    }
}

fn outcome(row: &Row<'_>) -> Markup {
    let (name, class) = match row.event.outcome {
        Outcome::Completed => ("completed", "completed"),
        Outcome::RateLimited => ("rate limited", "limited"),
        Outcome::Failed => ("failed", "failed"),
    };
    html! { span class={ "badge " (class) } { (name) } }
}

//! The table of the request log.

use std::borrow::Cow;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use crate::dashboard::charts;
use crate::dashboard::owner_path::linked_path;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::breakdowns::Links;
use crate::dashboard::pages::causes;
use crate::dashboard::pages::components::{
    caption, clip, clipped, line, milliseconds, name_of_owner, none, precise_time,
};
use crate::key::Key;
use crate::usage::{Granularity, Outcome, UsageEvent};

/// The maximum length in bytes of values that are linked.
const MAX_LINKED: usize = 200;

/// The requests of a page.
pub(super) struct Requests<'a> {
    pub(super) context: &'a PageContext,
    /// The keys of the requests, to show their names.
    pub(super) keys: &'a [Key],
    /// Links that add filters.
    pub(super) links: &'a Links,
    /// Whether the log can be filtered by owner.
    pub(super) has_owner_field: bool,
}

/// A row of the table.
pub(super) struct Row<'a> {
    requests: &'a Requests<'a>,
    event: &'a UsageEvent,
}

impl Row<'_> {
    /// A value as a link that filters by it, unless no filter has this value, since fields are trimmed, or it is long.
    fn filter(&self, name: &str, value: &str, shown: &Markup) -> Markup {
        if value.is_empty() || value.trim() != value || value.len() > MAX_LINKED {
            return shown.clone();
        }
        html! { a href=(self.requests.links.with([(name, value)])) { (shown) } }
    }

    /// [`Self::filter`] for text from clients.
    fn filter_text(&self, name: &str, value: &str) -> Markup {
        self.filter(name, value, &clipped(value))
    }
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
    usual("id", "Request ID", id),
    usual("when", "Time", when),
    usual("key", "Key", key),
    usual("method", "Method", |row| {
        let method = row.event.method.as_str();
        row.filter("method", method, &html! { (method) })
    }),
    usual("endpoint", "Endpoint", |row| {
        row.filter_text("endpoint", &row.event.endpoint)
    }),
    usual("status", "Status", |row| {
        let outcome = row.event.outcome;
        row.filter("outcome", outcome.as_str(), &badge_of(outcome))
    }),
    usual("code", "Code", |row| {
        let code = row.event.status.to_string();
        row.filter("code", &code, &html! { (code) })
    }),
    usual("cause", "Cause", cause),
    extra("owner", "Owner", owner),
    extra("path", "Path", |row| clipped(&row.event.path)),
    extra("resource", "Resource ID", |row| {
        match row.event.resource_id.as_deref() {
            Some(id) => row.filter_text("resource", id),
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
        Some(ip) => row.filter_text("client", &ip.to_string()),
        None => none(),
    }),
];

impl Requests<'_> {
    /// A table of requests with these columns, each shown or hidden.
    pub(super) fn table(&self, events: &[UsageEvent], columns: &[(&Column, bool)]) -> Markup {
        html! {
            .scroll tabindex="0" role="region" aria-label="Requests" { table .log {
                (caption("Requests, newest first"))
                thead { tr {
                    @for (column, is_shown) in columns { th scope="col" hidden[!is_shown] { (column.name) } }
                } }
                tbody { @for event in events {
                    @let row = Row { requests: self, event };
                    // The script tells rows apart by their ids.
                    tr data-row=(event.id) { @for (column, is_shown) in columns {
                        @let class = if column.is_usual { column.id } else { "extra" };
                        // The script adds the label when it shows the cell.
                        @let label = (*is_shown && !column.is_usual).then_some(column.name);
                        td class=(class) data-label=[label] hidden[!is_shown] { ((column.cell)(&row)) }
                    } }
                } }
            } }
        }
    }
}

/// The request id as a link to the page of the request.
fn id(row: &Row<'_>) -> Markup {
    let id = row.event.request_id_or_id();
    let page = row
        .requests
        .context
        .at(&format!("/log/requests/{}", row.event.id));
    html! {
        a href=(page) title=(clip(&id)) { code { bdi { (shortened(&id)) } } }
        // Without the icons, which would be half of the row.
        button type="button" .copy data-copy=(id) aria-label="Copy request ID" hidden { span {} }
    }
}

/// The number of characters of an id that is shown in full, and of the ends of others.
const SHORT: usize = 13;
const ENDS: (usize, usize) = (8, 4);

/// The beginning and the end of an id.
fn shortened(id: &str) -> Cow<'_, str> {
    let count = id.chars().count();
    if count <= SHORT {
        return id.into();
    }
    let start: String = id.chars().take(ENDS.0).collect();
    let end: String = id.chars().skip(count - ENDS.1).collect();
    format!("{start}…{end}").into()
}

/// The time as a link to the requests of the same minute.
fn when(row: &Row<'_>) -> Markup {
    let time = row.event.time;
    let (since, until) = minute_of(time);
    let href = row
        .requests
        .links
        .with([("since", &*since), ("until", &until)]);
    html! { a href=(href) { (precise_time(row.requests.context, time)) } }
}

/// The start and the end of the minute of a time.
pub(in crate::dashboard::pages) fn minute_of(time: Timestamp) -> (String, String) {
    let start = Granularity::Minute.floor(time);
    let end = start.saturating_add(SignedDuration::from_mins(1));
    (start.to_string(), end.unwrap_or(Timestamp::MAX).to_string())
}

fn key(row: &Row<'_>) -> Markup {
    let Some(id) = row.event.key else {
        return none();
    };
    match row.requests.keys.iter().find(|key| key.id == id) {
        Some(key) => html! {
            (row.filter("key", id.as_str(), &line(&key.name)))
            (open(&row.requests.context.at(&format!("/keys/{id}")), &format!("API key {}", key.name)))
        },
        None => row.filter("key", id.as_str(), &html! { code { (id) } }),
    }
}

fn owner(row: &Row<'_>) -> Markup {
    let Some(owner) = row.event.owner.as_deref() else {
        return none();
    };
    let name = name_of_owner(owner);
    if !row.requests.has_owner_field {
        return clipped(name);
    }
    html! {
        (row.filter("owner", owner, &clipped(name)))
        @if let Some(path) = linked_path(owner) {
            (open(&row.requests.context.at(&path), &format!("Owner {}", clip(name))))
        }
    }
}

/// A link to the page of what the cell names.
fn open(href: &str, label: &str) -> Markup {
    html! { a .open href=(href) aria-label=(label) {} }
}

fn cause(row: &Row<'_>) -> Markup {
    let Some(cause) = causes::of_event(row.event) else {
        return none();
    };
    let shown = html! { (cause) };
    match causes::filter_of(row.event) {
        Some(name) => row.filter(causes::FIELD, name, &shown),
        None => shown,
    }
}

/// The outcome as a badge.
pub(in crate::dashboard::pages) fn badge_of(outcome: Outcome) -> Markup {
    let class = match outcome {
        Outcome::Completed => "completed",
        Outcome::RateLimited => "limited",
        Outcome::Failed => "failed",
    };
    html! { span class={ "badge " (class) } { (causes::label_of_outcome(outcome).to_lowercase()) } }
}

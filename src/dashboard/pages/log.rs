//! The request log: a table under a key's usage, and its export.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use maud::{Markup, html};

use super::parts::{self, Input, time};
use super::usage::{Picked, milliseconds};
use super::{Failure, nowhere};
use crate::dashboard::Shared;
use crate::dashboard::charts;
use crate::dashboard::fields::Fields;
use crate::dashboard::visit::Visit;
use crate::key::Key;
use crate::usage::{
    Cause, Count, Export, LogFilter, LogQuery, Method, Outcome, Status, StatusClass, UsageEvent,
};

const STATUSES: [(&str, &str); 4] = [
    ("", "any"),
    ("completed", "Completed"),
    ("failed", "Failed"),
    ("rate_limited", "Rate limited"),
];

/// The names of the fields that filter the log.
const FILTERS: [&str; 6] = [
    "resource", "outcome", "method", "endpoint", "code", "request",
];

/// What of the log a page is about, or the field that says what cannot be.
fn filter(picked: &Picked, fields: &Fields) -> Result<LogFilter, &'static str> {
    let mut filter = LogFilter::new()
        .from(picked.range.start)
        .to(picked.range.end);
    let text = |name| fields.get(name).map(String::from);
    filter.resource_id = text("resource");
    filter.request_id = text("request");
    filter.endpoint = text("endpoint");
    if let Some(method) = fields.get("method") {
        let method: Method = method
            .parse()
            .map_err(|_| "There is no such HTTP method.")?;
        filter.method = Some(method);
    }
    if let Some(outcome) = fields.get("outcome") {
        let known = [Outcome::Completed, Outcome::Failed, Outcome::RateLimited];
        let known = known.into_iter().find(|it| it.as_str() == outcome);
        filter.outcome = Some(known.ok_or("There is no such status.")?);
    }
    if let Some(code) = fields.get("code") {
        match StatusClass::ALL
            .into_iter()
            .find(|class| class.as_str() == code)
        {
            Some(class) => filter.status_class = Some(class),
            None => {
                let status = code.parse::<Status>();
                let wrong = "A response status is a code such as 404, or a class such as 4xx.";
                filter.status = Some(status.map_err(|_| wrong)?);
            }
        }
    }
    Ok(filter)
}

pub(super) async fn table(
    shared: &Shared,
    visit: &Visit,
    key: &Key,
    picked: &Picked,
    fields: &Fields,
) -> Result<Markup, Failure> {
    let (filter, wrong) = match filter(picked, fields) {
        Ok(filter) => (filter.key(key.id), None),
        Err(wrong) => {
            let all = LogFilter::new().key(key.id);
            (
                all.from(picked.range.start).to(picked.range.end),
                Some(wrong),
            )
        }
    };
    let mut query = LogQuery::new(filter.clone()).limit(50);
    query.after = fields.get("after").and_then(|token| token.parse().ok());
    let requests = shared.backend.requests(&query).await?;
    let count = shared.backend.count(&filter).await?;
    let at = visit.at(&format!("/keys/{}", key.id));
    let export = |format: &str| {
        let kept = fields.without(&["after"]);
        let kept = kept.with("key", key.id.as_str());
        format!("{}?{kept}", visit.at(&format!("/log/{format}")))
    };
    Ok(html! {
        section #log .panel aria-label="Request log" {
            .head {
                h2 { "Request log" }
                p { (found(count)) }
                p {
                    a .button href=(export("csv")) { "Export CSV" } " "
                    a .button href=(export("jsonl")) { "Export JSON lines" }
                }
            }
            @if let Some(wrong) = wrong { p .error role="alert" { (wrong) } }
            (filters(&at, picked, fields))
            @if requests.items.is_empty() {
                p .empty {
                    @if FILTERS.iter().any(|name| fields.get(name).is_some()) { "No request matches." }
                    @else { "No requests in this time. Call the service with this key, then reload the page." }
                }
            } @else { (rows(visit, &requests.items)) }
            nav .pages aria-label="Pages of requests" {
                @if fields.get("after").is_some() {
                    a href={ (at) "?" (fields.with("after", "")) "#log" } { "Newest" }
                }
                @if let Some(next) = &requests.next {
                    a href={ (at) "?" (fields.with("after", &next.to_string())) "#log" } { "Older" }
                }
            }
        }
    })
}

fn found(count: Count) -> String {
    match count {
        Count::Exactly(1) => "1 request".into(),
        Count::Exactly(n) => format!("{} requests", charts::count(n)),
        Count::MoreThan(n) => format!("more than {} requests", charts::count(n)),
    }
}

fn filters(at: &str, picked: &Picked, fields: &Fields) -> Markup {
    let field = |name, label, hint| Input {
        name,
        label,
        hint,
        value: fields.get(name).unwrap_or_default(),
    };
    let methods = Method::ALL.map(|method| (method.as_str(), method.as_str()));
    html! {
        form .filters method="get" action={ (at) "#log" } role="search" aria-label="Filter the log" {
            input type="hidden" name="range" value=(picked.name);
            @for name in ["from", "to"] {
                @if let Some(value) = fields.get(name) { input type="hidden" name=(name) value=(value); }
            }
            (field("resource", "Resource id", "").text())
            (parts::choice("outcome", "Status", fields.get("outcome"), STATUSES))
            (parts::choice("method", "HTTP method", fields.get("method"), [("", "any")].into_iter().chain(methods)))
            (field("endpoint", "API endpoint", "").text())
            (field("code", "Response status", "404 or 4xx").text())
            (field("request", "Request id", "").text())
            button type="submit" { "Apply" }
            a .button href={ (at) "?range=" (picked.name) "#log" } { "Clear filters" }
        }
    }
}

/// The columns: their names, and whether they are shown before anybody chose.
const COLUMNS: [(&str, bool); 13] = [
    ("Request id", true),
    ("Time", true),
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

fn rows(visit: &Visit, events: &[UsageEvent]) -> Markup {
    html! {
        .scroll role="region" aria-label="Requests" tabindex="0" { table .log data-columns {
            thead { tr {
                @for (name, usual) in COLUMNS {
                    th scope="col" .extra[!usual] { (name) }
                }
            } }
            tbody { @for event in events { (row(visit, event)) } }
        } }
    }
}

fn row(visit: &Visit, event: &UsageEvent) -> Markup {
    let (name, class) = match event.outcome {
        Outcome::Completed => ("completed", "completed"),
        Outcome::RateLimited => ("rate limited", "limited"),
        Outcome::Failed => ("failed", "failed"),
    };
    let latency = std::time::Duration::from_micros(event.latency_us);
    html! {
        tr {
            td { code title=(event.wire_id()) { (event.wire_id()) } }
            td { (time(visit, event.time)) }
            td { (event.method.as_str()) }
            td { (event.endpoint) }
            td { span class={ "badge " (class) } { (name) } }
            td { (event.status) }
            td .extra { (event.path) }
            td .extra { (event.resource_id.as_deref().unwrap_or("–")) }
            td .extra { (milliseconds(latency)) }
            td .extra { (charts::count(event.request_bytes)) }
            td .extra { (charts::count(event.response_bytes)) }
            td .extra { @if let Some(address) = event.client_address { (address) } @else { "–" } }
            td .extra { (event.cause.map_or("–", Cause::as_str)) }
        }
    }
}

pub(in crate::dashboard) async fn export(
    State(shared): State<Arc<Shared>>,
    visit: Visit,
    Path(format): Path<String>,
    fields: Fields,
) -> Response {
    let picked = Picked::of(&visit, &fields, jiff::Timestamp::now());
    let mut filter = match filter(&picked, &fields) {
        Ok(filter) => filter,
        Err(wrong) => return Failure::Refused(wrong.into()).page(&visit),
    };
    if let Some(key) = fields.get("key") {
        let Ok(key) = key.parse() else {
            return Failure::NotFound.page(&visit);
        };
        filter.key = Some(key);
    }
    let reader = shared.backend.clone();
    let (export, name) = match &*format {
        "csv" => (Export::csv(reader, filter), "requests.csv"),
        "jsonl" => (Export::json_lines(reader, filter), "requests.jsonl"),
        _ => return nowhere(visit).await,
    };
    let headers = [
        (CONTENT_TYPE, export.content_type().to_owned()),
        (
            CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        ),
    ];
    (StatusCode::OK, headers, Body::from_stream(export)).into_response()
}

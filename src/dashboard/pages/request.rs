//! The page of a request.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use jiff::tz::TimeZone;
use maud::{Markup, html};

use super::breakdowns::Links;
use super::components::{copy, copy_as, line_to, milliseconds, name, none, owner, precise_time};
use super::log::{badge_of, minute_of};
use super::{Failure, causes, error_page, page};
use crate::dashboard::charts;
use crate::dashboard::event::{self, EventId};
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::key::Key;
use crate::usage::UsageEvent;
use crate::web::schema::Request;

pub(in crate::dashboard) async fn page_of(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    path: Result<Path<EventId>, PathRejection>,
) -> Response {
    let Ok(Path(EventId { id })) = path else {
        return not_found(&context);
    };
    let read = async || -> Result<Option<Shown>, Failure> {
        let Some(event) = event::read(&*shared.usage, id).await? else {
            return Ok(None);
        };
        let key = match event.key {
            Some(id) => shared.keys.get(id).await?,
            None => None,
        };
        Ok(Some(Shown { event, key }))
    };
    match read().await {
        Ok(Some(shown)) => page(&context, &shown.title(), &shown.content(&context)),
        Ok(None) => not_found(&context),
        Err(failure) => failure.page(&context),
    }
}

fn not_found(context: &PageContext) -> Response {
    let why = "It may have been deleted from the request log, which is kept for a limited time.";
    error_page(context, StatusCode::NOT_FOUND, "Request not found", why)
}

/// A request and its key, if it still exists.
struct Shown {
    event: UsageEvent,
    key: Option<Key>,
}

impl Shown {
    fn title(&self) -> String {
        let UsageEvent {
            method, endpoint, ..
        } = &self.event;
        format!("{method} {endpoint}")
    }

    fn content(&self, context: &PageContext) -> Markup {
        let event = &self.event;
        let json = serde_json::to_string_pretty(&Request::from(event.clone()));
        let json = json.unwrap_or_default();
        html! {
            p { a href=(context.at("/log")) { "Back to request log" } }
            .head {
                h1 { (name(&self.title())) " " (badge_of(event.outcome)) }
                p .buttons { (copy_as(&json, "Copy as JSON", "Copy as JSON")) }
            }
            @if let Some(cause) = causes::of_event(event) {
                p .warning {
                    strong { (cause) "." } " "
                    @if let Some(why) = causes::explanation(event) { (why) }
                }
            }
            section .panel aria-label="Request" {
                dl .facts {
                    @for (term, fact) in self.facts(context) { div { dt { (term) } dd { (fact) } } }
                }
                (self.related(context))
            }
            details .panel {
                summary { "JSON" }
                pre tabindex="0" role="region" aria-label="JSON" { code { (json) } }
            }
        }
    }

    fn facts(&self, context: &PageContext) -> Vec<(&'static str, Markup)> {
        let event = &self.event;
        let (id, request_id) = (event.id.to_string(), event.request_id_or_id());
        let text = |text: Option<&str>| text.map_or_else(none, name);
        let number = |number: u64| html! { (charts::count(number)) };
        let utc = event.time.to_zoned_datetime(TimeZone::UTC);
        let key = match (&self.key, event.key) {
            (Some(key), _) => {
                let page = context.at(&format!("/keys/{}", key.id));
                html! { (line_to(&page, &key.name)) code { (key.hint) } }
            }
            (None, Some(id)) => html! { code { (id) } " (deleted)" },
            (None, None) => none(),
        };
        vec![
            ("Time", precise_time(context, event.time)),
            (
                "Time in UTC",
                html! { (utc.strftime("%Y-%m-%d %H:%M:%S%.6f UTC")) },
            ),
            (
                "Status",
                html! { (causes::label_of_outcome(event.outcome)) },
            ),
            (
                "Response status",
                html! { (causes::status_label(event.status)) },
            ),
            (
                "Latency",
                html! { (milliseconds(Duration::from_micros(event.latency_us))) },
            ),
            ("API key", key),
            ("Owner", owner(context, event.owner.as_deref())),
            ("HTTP method", html! { (event.method) }),
            ("API endpoint", text(Some(&event.endpoint))),
            ("Path", text(Some(&event.path))),
            ("Resource ID", text(event.resource_id.as_deref())),
            (
                "Client IP",
                text(event.client_ip.map(|ip| ip.to_string()).as_deref()),
            ),
            ("Request bytes", number(event.request_bytes)),
            ("Response bytes", number(event.response_bytes)),
            ("Cost", number(event.cost.into())),
            (
                "Billable",
                html! { @if event.billable { "Yes" } @else { "No" } },
            ),
            (
                "Request ID",
                html! { code { (name(&request_id)) } " " (copy(&request_id, "request ID")) },
            ),
            (
                "Event ID",
                html! { code { (id) } " " (copy(&id, "event ID")) },
            ),
        ]
    }

    /// Links to requests that have something in common with this one.
    fn related(&self, context: &PageContext) -> Markup {
        let event = &self.event;
        let links = Links {
            at: context.at("/log"),
            kept: FormFields::default(),
        };
        let client = event.client_ip.map(|ip| ip.to_string());
        let (since, until) = minute_of(event.time);
        html! {
            nav .actions aria-label="Related requests" {
                @if let Some(id) = event.resource_id.as_deref() {
                    a .button href=(links.with([("resource", id)])) { "Same resource" }
                }
                @if let Some(client) = &client {
                    a .button href=(links.with([("client", &**client)])) { "Same client" }
                }
                a .button href=(links.with([("since", &*since), ("until", &until)])) { "Same minute" }
                @if let Some(key) = event.key {
                    a .button href=(links.with([("key", key.as_str())])) { "Same key" }
                }
            }
        }
    }
}

//! The request log: under a key's usage, and over all keys on a page of its own.

mod export;
mod filter;
mod rows;
mod turning;

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

pub(in crate::dashboard) use self::export::export;
pub(super) use self::filter::FILTERS;
use self::filter::{FIELDS, Filtered};
use super::parts::{self, Input, name};
use super::range::Picked;
use super::{Failure, page};
use crate::dashboard::Shared;
use crate::dashboard::charts;
use crate::dashboard::fields::{Fields, Wrong};
use crate::dashboard::visit::Visit;
use crate::key::{Key, KeyQuery};
use crate::page::Page;
use crate::usage::{Count, LogQuery, Method, ReadError, UsageEvent};

/// What another range of time leaves of the filters: all but times.
pub(super) const KEPT: [&str; 6] = [
    "resource", "outcome", "method", "endpoint", "code", "request",
];

const OUTCOMES: [(&str, &str); 4] = [
    ("", "any"),
    ("completed", "Completed"),
    ("failed", "Failed"),
    ("rate_limited", "Rate limited"),
];

/// A log, and the page that it is on.
pub(super) struct Log<'a> {
    /// The page's address.
    pub(super) at: String,
    /// The key that the page is about.
    pub(super) key: Option<&'a Key>,
    /// The range that the page is about; the log's own times go before it.
    pub(super) picked: Option<&'a Picked>,
}

pub(in crate::dashboard) async fn of_all(
    State(shared): State<Arc<Shared>>,
    visit: Visit,
    fields: Fields,
) -> Response {
    let log = Log {
        at: visit.at("/log"),
        key: None,
        picked: None,
    };
    match log.section(&shared, &visit, &fields).await {
        Ok(section) => page(
            &visit,
            "Request log",
            &html! { h1 { "Request log" } (section) },
        ),
        Err(failure) => failure.page(&visit),
    }
}

impl Log<'_> {
    pub(super) async fn section(
        &self,
        shared: &Shared,
        visit: &Visit,
        fields: &Fields,
    ) -> Result<Markup, Failure> {
        let key = self.key.map(|key| key.id);
        let mut filtered = Filtered::read(visit, fields, key, self.picked);
        let found = page_of(shared, &mut filtered).await?;
        let keys = match &found {
            Some((requests, _)) if self.key.is_none() => keys_of(shared, &requests.items).await?,
            _ => Vec::new(),
        };
        // Links tell the times that were meant, so that they always show the same rows.
        let fixed = fields.only(&FIELDS).with([
            (
                "since",
                &*filtered
                    .since
                    .map(|time| time.to_string())
                    .unwrap_or_default(),
            ),
            ("until", &filtered.until.to_string()),
        ]);
        let fixed = match self.picked {
            Some(picked) => fixed.with([
                ("range", "custom"),
                ("from", &*picked.range.start.to_string()),
                ("to", &picked.range.end.to_string()),
            ]),
            None => fixed,
        };
        Ok(html! {
            section #log .panel aria-label="Request log" {
                .head {
                    h2 { @if self.picked.is_some() { "Request log" } @else { "Requests" } }
                    @if let Some((_, count)) = &found {
                        p { (number_of(*count)) }
                        p { (self.exports(visit, &fixed)) }
                    }
                }
                (self.filters(visit, fields, &filtered.wrong))
                @if let Some((requests, _)) = &found { (self.found(visit, fields, &fixed, requests, &keys)) }
            }
        })
    }

    fn found(
        &self,
        visit: &Visit,
        fields: &Fields,
        fixed: &Fields,
        requests: &Page<UsageEvent>,
        keys: &[Key],
    ) -> Markup {
        let href = |turned: Fields| format!("{}?{}#log", self.at, turned.query());
        html! {
            @if requests.items.is_empty() {
                p .empty {
                    @if fields.has_any(&FILTERS) {
                        "No request matches. " a href=(self.cleared(fields)) { "Clear filters" }
                    } @else if self.picked.is_some() {
                        "No requests in this time. Pick a longer one, or call the service with this key and reload the page."
                    } @else {
                        "No requests yet. Call the service with a key, then reload the page."
                    }
                }
            } @else {
                (rows::table(visit, &requests.items, self.key.is_none().then_some(keys)))
            }
            (parts::pages("Pages of requests", &[
                ("Newest", turning::newest(fixed, fields).map(href)),
                ("Newer", turning::newer(fixed, fields).map(href)),
                ("Older", turning::older(fixed, fields, requests.next.as_ref()).map(href)),
            ]))
        }
    }

    fn exports(&self, visit: &Visit, fixed: &Fields) -> Markup {
        let of_key = self.key.map(|key| fixed.with([("key", key.id.as_str())]));
        let query = of_key.as_ref().unwrap_or(fixed).only(&FILTERS).query();
        let export = |format: &str| format!("{}?{query}", visit.at(&format!("/log/{format}")));
        html! {
            a .button href=(export("csv")) { "Export CSV" } " "
            a .button href=(export("jsonl")) { "Export JSON lines" } " "
            a href={ (self.at) "?" (fixed.query()) "#log" } { "Link to these rows" }
        }
    }

    /// The page without any filter of the log's.
    fn cleared(&self, fields: &Fields) -> String {
        let kept = fields.only(&["range", "from", "to"]);
        // The zone belongs to times, and these may be left.
        let zone = if kept.has_any(&["from", "to"]) {
            fields.get("zone")
        } else {
            None
        };
        let kept = kept.with([("zone", zone.unwrap_or_default())]);
        format!("{}?{}#log", self.at, kept.query())
    }

    fn filters(&self, visit: &Visit, fields: &Fields, wrong: &Wrong) -> Markup {
        let text = |name, label, hint| {
            let input = Input::new(name, label, fields.get(name).unwrap_or_default());
            input.hint(hint).wrong(wrong.get(name)).text()
        };
        let moment = |name, label, hint| {
            let time = fields.time(visit, name).ok().flatten();
            let value = time.map(|time| visit.field(time)).unwrap_or_default();
            let input = Input::new(name, label, &value);
            input.hint(hint).wrong(wrong.get(name)).moment()
        };
        let choice = |name, label, choices: &[(&str, &str)]| {
            parts::choice_or(
                name,
                label,
                fields.get(name),
                choices.iter().copied(),
                wrong.get(name),
            )
        };
        let methods = Method::ALL.map(|method| (method.as_str(), method.as_str()));
        let methods: Vec<_> = [("", "any")].into_iter().chain(methods).collect();
        // Times of the page's range are told in full, since the form tells its own in this zone.
        let range = |name| fields.time(visit, name).ok().flatten();
        html! {
            form .filters .many method="get" action={ (self.at) "#log" } role="search" aria-label="Filter the log" {
                (parts::alert(wrong, "after"))
                @if let Some(range) = fields.get("range").filter(|_| self.picked.is_some()) {
                    input type="hidden" name="range" value=(range);
                }
                @for name in ["from", "to"] {
                    @if let Some(time) = range(name).filter(|_| self.picked.is_some()) {
                        input type="hidden" name=(name) value=(time);
                    }
                }
                input type="hidden" name="zone" value=(visit.zone_name());
                (text("resource", "Resource id", ""))
                @match self.key {
                    Some(key) => p .field {
                        span .label { "API key" }
                        span { (name(&key.name)) " " a href=(visit.at("/log")) { "All keys" } }
                    },
                    None => {
                        (text("key", "API key", "Its id"))
                        (text("owner", "Owner", ""))
                    }
                }
                (moment("since", "Date from", if self.picked.is_some() { "Empty: as above" } else { "" }))
                (moment("until", "Date to", ""))
                (choice("outcome", "Status", &OUTCOMES))
                (choice("method", "HTTP method", &methods))
                (text("endpoint", "API endpoint", ""))
                (text("code", "Response status", "404 or 4xx"))
                (text("request", "Request id", ""))
                p .buttons {
                    button type="submit" .primary { "Apply" }
                    a .button href=(self.cleared(fields)) { "Clear filters" }
                }
            }
        }
    }
}

/// A page of requests and how many there are. What cannot be understood shows nothing, rather than what
/// was not asked for.
async fn page_of(
    shared: &Shared,
    filtered: &mut Filtered,
) -> Result<Option<(Page<UsageEvent>, Count)>, Failure> {
    if !filtered.wrong.is_empty() {
        return Ok(None);
    }
    let mut query = LogQuery::new(filtered.filter.clone()).limit(50);
    query.after = filtered.after.take();
    match shared.backend.requests(&query).await {
        Ok(requests) => {
            let count = shared.backend.count(&query.filter).await?;
            Ok(Some((requests, count)))
        }
        Err(ReadError::Page(_)) => {
            filtered.wrong.add("after", filter::NO_PLACE);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The keys of requests, by which they are named; those that are gone are not among them.
async fn keys_of(shared: &Shared, events: &[UsageEvent]) -> Result<Vec<Key>, Failure> {
    let mut ids: Vec<_> = events.iter().filter_map(|event| event.key).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let query = KeyQuery::new().limit(ids.len()).ids(ids);
    Ok(shared.backend.list(&query).await?.items)
}

fn number_of(count: Count) -> String {
    match count {
        Count::Exactly(1) => "1 request".into(),
        Count::Exactly(n) => format!("{} requests", charts::count(n)),
        Count::MoreThan(n) => format!("more than {} requests", charts::count(n)),
    }
}

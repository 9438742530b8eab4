//! The request log: under a key's usage, and over all keys on a page of its own.

mod export;
mod filter;
mod form;
mod pagination;
mod rows;

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

pub(in crate::dashboard) use self::export::export;
pub(super) use self::filter::FILTERS;
use self::filter::{FIELDS, Filtered};
use super::components;
use super::range::{CUSTOM, Picked};
use super::{Failure, page};
use crate::dashboard::charts;
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::key::{Key, KeyQuery};
use crate::page::Page;
use crate::usage::{Count, LogQuery, ReadError, UsageEvent};

/// What another range of time leaves of the filters: all but times.
pub(super) const KEPT: [&str; 6] = [
    "resource", "outcome", "method", "endpoint", "code", "request",
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
    visit: PageContext,
    fields: FormFields,
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
        visit: &PageContext,
        fields: &FormFields,
    ) -> Result<Markup, Failure> {
        let key = self.key.map(|key| key.id);
        let mut filtered = Filtered::read(visit, fields, key, self.picked);
        let found = page_of(shared, &mut filtered).await?;
        let keys = match &found {
            Some((requests, _)) if self.key.is_none() => keys_of(shared, &requests.items).await?,
            _ => Vec::new(),
        };
        let fixed = self.fixed(fields, &filtered);
        Ok(html! {
            section #log .panel aria-label="Request log" {
                .head {
                    h2 { @if self.picked.is_some() { "Request log" } @else { "Requests" } }
                    @if let Some((_, count)) = &found {
                        p { (number_of(*count)) }
                        p { (self.exports(visit, &fixed)) }
                    }
                }
                (self.form(visit, fields, &filtered.wrong))
                @if let Some((requests, _)) = &found { (self.found(visit, fields, &fixed, requests, &keys)) }
            }
        })
    }

    /// What links say: the times that were meant, so that they always show the same rows.
    fn fixed(&self, fields: &FormFields, filtered: &Filtered) -> FormFields {
        let since = filtered.since.map(|time| time.to_string());
        let fixed = fields.only(&FIELDS).with([
            ("since", &*since.unwrap_or_default()),
            ("until", &filtered.until.to_string()),
        ]);
        let Some(Picked { range, .. }) = self.picked else {
            return fixed;
        };
        fixed.with([
            ("range", CUSTOM),
            ("from", &*range.start.to_string()),
            ("to", &range.end.to_string()),
        ])
    }

    fn found(
        &self,
        visit: &PageContext,
        fields: &FormFields,
        fixed: &FormFields,
        requests: &Page<UsageEvent>,
        keys: &[Key],
    ) -> Markup {
        let href = |turned: FormFields| format!("{}?{}#log", self.at, turned.query());
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
            (components::pages("Pages of requests", &[
                ("Newest", pagination::newest(fixed, fields).map(href)),
                ("Newer", pagination::newer(fixed, fields).map(href)),
                ("Older", pagination::older(fixed, fields, requests.next.as_ref()).map(href)),
            ]))
        }
    }

    fn exports(&self, visit: &PageContext, fixed: &FormFields) -> Markup {
        let of_key = self.key.map(|key| fixed.with([("key", key.id.as_str())]));
        let query = of_key.as_ref().unwrap_or(fixed).only(&FILTERS).query();
        let export = |format: &str| format!("{}?{query}", visit.at(&format!("/log/{format}")));
        html! {
            a .button href=(export("csv")) { "Export CSV" } " "
            a .button href=(export("jsonl")) { "Export JSON lines" } " "
            a href={ (self.at) "?" (fixed.query()) "#log" } { "Link to these rows" }
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

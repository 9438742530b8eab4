//! The request log: a section of a key's page, and a page for all keys.

mod chips;
mod columns;
mod export;
mod filter;
mod form;
mod key_filter;
mod pagination;
mod rows;

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use jiff::SignedDuration;
use maud::{Markup, html};

pub(super) use self::columns::{Columns, Table};
pub(in crate::dashboard) use self::columns::{choose as choose_columns, form as columns};
pub(in crate::dashboard) use self::export::{export, export_of_owner};
pub(super) use self::filter::{FIELDS, FILTERS, PAGE_TOKENS};
use self::filter::{Filtered, Suggestions};
use self::key_filter::KeyChoices;
pub(super) use self::key_filter::leaving;
pub(super) use self::rows::{badge_of, minute_of};
use super::Failure;
use super::breakdowns::{self, Links, STATUSES};
use super::components;
use super::live::Live;
use super::owner_field;
use super::range::{self, CUSTOM, TimeRange};
use crate::dashboard::charts;
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::join::join;
use crate::key::Key;
use crate::page::Page;
use crate::usage::{
    Count, LogQuery, Outcome, ReadError, Summary, SummaryQuery, SummarySpec, UsageEvent, UsageRange,
};

/// The fields that a change of the time range keeps: all but the times.
pub(super) const KEPT: [&str; 9] = [
    "resource", "outcome", "cause", "method", "endpoint", "code", "client", "request", STATUSES,
];

/// The fields that the presets of the log keep.
const KEPT_BY_PRESETS: [&str; 10] = [
    "key", "owner", "resource", "outcome", "cause", "method", "endpoint", "code", "client",
    "request",
];

/// The number of requests on the page of the log, and on pages with a log.
const ROWS: usize = 50;
const FEWER_ROWS: usize = 20;

/// The maximum number of endpoints to suggest.
const SUGGESTED: usize = 200;

/// A request log and the page that it is part of.
pub(super) struct Log<'a> {
    /// The URL of the page.
    pub(super) at: String,
    /// The key of the page; `None` for all keys.
    pub(super) key: Option<&'a Key>,
    /// The owner of the page; `None` for all owners.
    pub(super) owner: Option<&'a str>,
    /// The time range of the page. The log's own time fields override it.
    pub(super) picked: Option<&'a TimeRange>,
    pub(super) columns: Columns,
}

pub(in crate::dashboard) async fn of_all(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    headers: HeaderMap,
    fields: FormFields,
) -> Response {
    let log = Log {
        at: context.at("/log"),
        key: None,
        owner: None,
        picked: None,
        columns: Columns::of(Table::AllKeys, &headers),
    };
    let (is_current, title) = (is_current(&fields), "Request log");
    let content = async |live: &Live| {
        let section = log.section(&shared, &context, &fields).await?;
        Ok(html! {
            .head { h1 { (title) } (live.switch()) }
            (section)
        })
    };
    Live::page(&shared, &context, &headers, is_current, title, content).await
}

/// Whether the log shows the newest requests.
pub(super) fn is_current(fields: &FormFields) -> bool {
    !fields.has_any(&["until"]) && !fields.has_any(&PAGE_TOKENS)
}

impl Log<'_> {
    pub(super) async fn section(
        &self,
        shared: &Shared,
        context: &PageContext,
        fields: &FormFields,
    ) -> Result<Markup, Failure> {
        let key = self.key.map(|key| key.id);
        let choices = KeyChoices::read(shared, self.owner).await?;
        let resolved = match key {
            Some(_) => Ok(fields.with([("key", "")])),
            None => choices.resolve(shared, fields).await?,
        };
        let fields = resolved.as_ref().unwrap_or(fields);
        let preset = self.preset(context, fields).map(|(range, _)| range);
        let picked = self.picked.or(preset.as_ref());
        let mut filtered = Filtered::read(context, fields, key, self.owner, picked);
        filtered.resolve(shared).await?;
        if let Err(why) = &resolved {
            filtered.wrong.replace("key", *why);
        }
        let chosen = key.as_ref().map(KeyId::as_str).or(fields.get("key"));
        let chosen = chosen.unwrap_or_default();
        let field = choices.field(shared, chosen, filtered.wrong.get("key"));
        let field = field.await?;
        let rows = if self.picked.is_some() {
            FEWER_ROWS
        } else {
            ROWS
        };
        let found = page_of(shared, &mut filtered, rows).await?;
        let keys = match &found {
            Some((requests, _)) if self.key.is_none() => {
                choices.of(shared, &requests.items).await?
            }
            _ => Vec::new(),
        };
        let suggested = Suggestions {
            owners: match self.has_owner_field() {
                true => owner_field::suggested(shared).await?,
                false => Vec::new(),
            },
            endpoints: shared.usage.endpoints(SUGGESTED).await?,
        };
        let usage = self.usage(shared, context, &filtered).await?;
        let fixed = self.fixed(fields, &filtered);
        let links = Links {
            at: self.at.clone(),
            kept: fixed.clone(),
        };
        let chips = self.active(
            context,
            fields,
            &filtered.wrong,
            choices.label_of(chosen).as_deref(),
        );
        let summary = html! {
            "Filters" @if !chips.is_empty() { " (" (chips.len()) ")" }
        };
        let form = self.form(context, fields, &filtered.wrong, &field, &suggested);
        Ok(html! {
            section #log .panel aria-label="Request log" {
                .head data-live="count" {
                    h2 { @if self.picked.is_some() { "Request log" } @else { "Requests" } }
                    @if let Some((_, count)) = &found {
                        p { (number_of(*count)) }
                        p { (self.exports(context, &fixed)) }
                    }
                }
                @if self.picked.is_none() { (self.presets(context, fields)) }
                (self.chips(&chips))
                @if let Some(Usage { summary, chart: Some(range), .. }) = &usage {
                    (breakdowns::chart(context, range, summary, &links))
                }
                (components::folded(&summary, !filtered.wrong.is_empty(), &form))
                @if let Some(Usage { summary, has_causes: true, .. }) = &usage {
                    (breakdowns::exactness(summary.exact))
                    (breakdowns::failures_line(summary, &links))
                }
                @if let Some((requests, _)) = &found {
                    div data-live="requests" { (self.found(context, fields, &fixed, requests, &keys)) }
                }
            }
        })
    }

    /// The time range of the `range` field, on the page of the log.
    fn preset(
        &self,
        context: &PageContext,
        fields: &FormFields,
    ) -> Option<(TimeRange, &'static str)> {
        match self.picked {
            Some(_) => None,
            None => TimeRange::preset(context, fields),
        }
    }

    /// Links to time ranges, in place of the times of the filter.
    fn presets(&self, context: &PageContext, fields: &FormFields) -> Markup {
        let kept = fields.only(&KEPT_BY_PRESETS);
        let is_chosen = !fields.has_any(&["since", "until"]);
        let preset = self.preset(context, fields).filter(|_| is_chosen);
        let current = preset.and_then(|_| fields.get("range"));
        range::presets(&self.at, &kept, current, "#log")
    }

    /// Whether the filter has a field for the owner.
    fn has_owner_field(&self) -> bool {
        self.key.is_none() && self.owner.is_none()
    }

    /// The usage of short ranges, to find the minute of a request, and of the filtered key or owner, to show why its
    /// requests failed. `None` if other fields, which rollups do not have, narrow the log further, and on pages that
    /// show it above the log.
    async fn usage(
        &self,
        shared: &Shared,
        context: &PageContext,
        filtered: &Filtered,
    ) -> Result<Option<Usage>, Failure> {
        let filter = &filtered.filter;
        let is_narrowed = !filter.methods.is_empty()
            || filter.endpoint.is_some()
            || filter.endpoint_contains.is_some()
            || filter.client_ip.is_some()
            || filter.resource_id.is_some()
            || filter.request_id.is_some()
            || filter.owner_contains.is_some()
            || filter.outcomes.iter().any(|it| *it != Outcome::Failed);
        let has_causes = filter.key.is_some() || filter.owner.is_some();
        let is_of_some = filter.cause.is_some()
            || filter.rejection_reason.is_some()
            || !filter.statuses.is_empty()
            || !filter.outcomes.is_empty();
        let range = filtered.since.map(|since| since..filtered.until);
        let chart = range.filter(|it| !is_of_some && is_charted(it.end.duration_since(it.start)));
        let is_shown = has_causes || chart.is_some();
        if self.picked.is_some() || !is_shown || is_narrowed || !filtered.wrong.is_empty() {
            return Ok(None);
        }
        let mut range = UsageRange::new();
        (range.key, range.owner) = (filter.key, filter.owner.clone());
        (range.from, range.to) = (filter.from, filter.to);
        let mut spec = SummarySpec::new();
        if let Some(chart) = &chart {
            spec = spec.over_range(chart.clone(), context.zone.clone());
        }
        let summary = shared
            .usage
            .summary(&SummaryQuery::new(range, spec))
            .await?;
        Ok(Some(Usage {
            summary,
            has_causes,
            chart: chart.map(TimeRange::between),
        }))
    }

    /// The fields for links, with absolute times so that a link always shows the same rows.
    fn fixed(&self, fields: &FormFields, filtered: &Filtered) -> FormFields {
        let since = filtered.since.map(|time| time.to_string());
        let fixed = fields.only(&FIELDS).with([
            ("since", &*since.unwrap_or_default()),
            ("until", &filtered.until.to_string()),
        ]);
        let Some(TimeRange { range, .. }) = self.picked else {
            return fixed.with([("range", ""), ("from", ""), ("to", "")]);
        };
        fixed.with([
            ("range", CUSTOM),
            ("from", &*range.start.to_string()),
            ("to", &range.end.to_string()),
        ])
    }

    fn found(
        &self,
        context: &PageContext,
        fields: &FormFields,
        fixed: &FormFields,
        requests: &Page<UsageEvent>,
        keys: &[Key],
    ) -> Markup {
        let href = |fields: FormFields| format!("{}?{}#log", self.at, fields.query());
        html! {
            @if requests.items.is_empty() {
                p .empty {
                    @if fields.has_any(&FILTERS) {
                        "No requests match your filters. " a href=(self.cleared(fields)) { "Clear filters" }
                    } @else if self.picked.is_some() {
                        "No requests in this period. Choose a longer one, or send a request with "
                        @if self.key.is_some() { "this key" } @else { "one of the keys" } " and reload the page."
                    } @else {
                        "No requests yet. Send a request with an API key, then reload the page."
                    }
                }
            } @else {
                (self.columns.form(context, fields))
                @let links = Links { at: self.at.clone(), kept: fields.only(&FIELDS) };
                @let table = rows::Requests {
                    context, keys, links: &links, has_owner_field: self.has_owner_field(),
                };
                (table.table(&requests.items, &self.columns.all))
            }
            (components::pages("Request log pages", &[
                ("Newest", pagination::newest(fixed, fields).map(href)),
                ("Newer", pagination::newer(fixed, fields).map(href)),
                ("Older", pagination::older(fixed, fields, requests.next.as_ref()).map(href)),
            ]))
        }
    }

    fn exports(&self, context: &PageContext, fixed: &FormFields) -> Markup {
        let of_key = self.key.map(|key| fixed.with([("key", key.id.as_str())]));
        let query = of_key.as_ref().unwrap_or(fixed).only(&FILTERS).query();
        let at = match self.owner {
            Some(_) => format!("{}/log", self.at),
            None => context.at("/log"),
        };
        let export = |format: &str| format!("{at}/{format}?{query}");
        html! {
            a .button href=(export("csv")) { "Export CSV" } " "
            a .button href=(export("jsonl")) { "Export JSON Lines" } " "
            a href={ (self.at) "?" (fixed.query()) "#log" } { "Link to these rows" }
        }
    }
}

/// The usage that a log shows above its rows.
struct Usage {
    summary: Summary,
    /// Whether it is of a key or an owner.
    has_causes: bool,
    /// The range of the chart.
    chart: Option<TimeRange>,
}

/// Whether the log shows a chart of a range: more than a minute, and at most six hours.
fn is_charted(length: SignedDuration) -> bool {
    SignedDuration::from_mins(1) < length && length <= SignedDuration::from_mins(6 * 60 + 1)
}

/// A page of requests and their count. `None` for an invalid filter, rather than unfiltered requests.
async fn page_of(
    shared: &Shared,
    filtered: &mut Filtered,
    rows: usize,
) -> Result<Option<(Page<UsageEvent>, Count)>, Failure> {
    if !filtered.wrong.is_empty() {
        return Ok(None);
    }
    let mut query = LogQuery::new(filtered.filter.clone()).limit(rows);
    query.page.after = filtered.after.take();
    let (requests, count) = (
        shared.usage.requests(&query),
        shared.usage.count(&query.filter),
    );
    let (requests, count) = join(requests, count).await;
    match requests {
        Ok(requests) => Ok(Some((requests, count?))),
        Err(ReadError::Page(_)) => {
            filtered.wrong.add("after", filter::INVALID_PAGE_TOKEN);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn number_of(count: Count) -> String {
    match count {
        Count::Exactly(1) => "1 request".into(),
        Count::Exactly(n) => format!("{} requests", charts::count(n)),
        Count::MoreThan(n) => format!("more than {} requests", charts::count(n)),
    }
}

//! Usage summaries as cards and charts, linked to the matching requests in the log.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::causes::{self, FailureCause};
use super::components::{line_to, milliseconds};
use super::range::TimeRange;
use crate::dashboard::charts::{self, Bar, Line, Lines, Slice, Times};
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::usage::summary::{TimeBucket, Totals, top_by};
use crate::usage::{LatencyQuantiles, Outcome, Status, StatusClass, Summary};

/// The number of endpoints, causes and owners shown.
const TOP: usize = 10;

/// The field that selects response statuses by code, the default, or by class.
pub(super) const STATUSES: &str = "statuses";

/// The value of [`STATUSES`] for classes.
const CLASSES: &str = "classes";

/// Builds links to a page.
pub(super) struct Links {
    /// The URL of the page.
    pub(super) at: String,
    /// The fields that links keep.
    pub(super) kept: FormFields,
}

impl Links {
    /// The page's log with additional filters. Empty values remove filters.
    pub(super) fn with<'a>(&self, filters: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
        self.to("log", filters)
    }

    /// An element of the page.
    fn to<'a>(&self, id: &str, fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
        format!("{}?{}#{id}", self.at, self.kept.with(fields).query())
    }

    /// Whether the log is filtered by a cause.
    fn is_at(&self, cause: &FailureCause) -> bool {
        let code = self.kept.get("code").unwrap_or_default();
        let filter = self.kept.get(causes::FIELD).zip(Some(code));
        let own = cause.filter.as_ref();
        filter.is_some() && filter == own.map(|(name, code)| (*name, &**code))
    }

    fn of_cause(&self, cause: &FailureCause) -> Option<String> {
        let (name, code) = cause.filter.as_ref()?;
        Some(self.with([
            ("outcome", Outcome::Failed.as_str()),
            (causes::FIELD, name),
            ("code", code),
        ]))
    }
}

/// Cards with the number of requests by outcome, compared to the previous period, and the cost if it is wanted.
pub(super) fn cards(totals: &Totals, before: &Totals, links: &Links, has_cost: bool) -> Markup {
    let all = totals.total();
    let card = |name: &str, class: &str, outcome: &str, count: u64, earlier: u64| {
        html! {
            div class={ "card " (class) } {
                h2 { (name) }
                p .number { a href=(links.with([("outcome", outcome), (causes::FIELD, "")])) { (charts::count(count)) } }
                p .more {
                    @if !outcome.is_empty() { (charts::share(count, all)) " · " }
                    (charts::change(count, earlier)) " vs. previous period"
                }
            }
        }
    };
    let (completed, earlier) = (totals.completed(), before.completed());
    let (failed, failed_before) = (totals.failed(), before.failed());
    let (limited, limited_before) = (totals.rate_limited(), before.rate_limited());
    html! {
        section .cards aria-label="Totals" {
            (card("Total requests", "total", "", all, before.total()))
            (card("Completed", "completed", "completed", completed, earlier))
            (card("Failed", "failed", "failed", failed, failed_before))
            (card("Rate limited", "limited", "rate_limited", limited, limited_before))
            @if has_cost {
                div .card .cost {
                    h2 { "Billable cost" }
                    p .number { (charts::count(totals.billable_cost())) }
                    p .more { "of a cost of " (charts::count(totals.cost())) }
                }
            }
        }
    }
}

/// A notice if a summary is not exact.
pub(super) fn exactness(is_exact: bool) -> Markup {
    html! {
        @if !is_exact {
            p .warning {
                "Totals are approximate: older usage is stored per 15 minutes or per hour. "
                "A bucket that crosses the start or end of the range is counted where it starts."
            }
        }
    }
}

/// The chart of requests over time.
pub(super) fn chart(
    context: &PageContext,
    picked: &TimeRange,
    summary: &Summary,
    links: &Links,
) -> Markup {
    let title = "Requests over time";
    html! {
        section .panel aria-label=(title) {
            @match picked.buckets(summary.over_time.as_ref()) {
                Some(buckets) => (charted(context, &buckets, Some(links), |times| {
                    charts::over_time("over-time", title, &buckets, times)
                })),
                None => p .empty { "This range is too long to chart. Choose a shorter one." }
            }
        }
    }
}

/// Requests by method and by status, and why they failed. `links` lead to the log, and those of `page`
/// back to this page.
pub(super) fn panels(summary: &Summary, links: &Links, page: &Links) -> Markup {
    let methods = summary.by_method.iter().enumerate();
    let methods = methods.map(|(n, (method, totals))| Slice {
        label: method.as_str().into(),
        count: totals.total(),
        class: COLOURS[n % COLOURS.len()],
        href: Some(links.with([("method", method.as_str())])),
    });
    html! {
        .panels {
            section .panel aria-label="By HTTP method" {
                (charts::donut("methods", "By HTTP method", &methods.collect::<Vec<_>>(), None))
            }
            (statuses(summary, links, page))
            (failures(summary, links))
        }
    }
}

fn statuses(summary: &Summary, links: &Links, page: &Links) -> Markup {
    let by_class = page.kept.get(STATUSES) == Some(CLASSES);
    let href = |code: &str| Some(links.with([("code", code), (causes::FIELD, "")]));
    let slices = if by_class {
        let classes = summary.by_status_class();
        let slice = |(class, totals): (&StatusClass, &Totals)| Slice {
            label: class.to_string(),
            count: totals.total(),
            class: shades(*class)[0],
            href: href(class.as_str()),
        };
        classes.iter().map(slice).collect()
    } else {
        let shades = shades_of(summary);
        let slice = |((status, totals), class): ((&Status, &Totals), _)| Slice {
            label: causes::status_label(*status),
            count: totals.total(),
            class,
            href: href(&status.to_string()),
        };
        let statuses = summary.by_status.iter().zip(shades);
        statuses.map(slice).collect::<Vec<_>>()
    };
    let views = [("Codes", "", !by_class), ("Classes", CLASSES, by_class)];
    let switch = html! {
        nav .ranges aria-label="Group responses by" {
            @for (label, view, is_current) in views {
                a href=(page.to("by-status", [(STATUSES, view)])) aria-current=[is_current.then_some("true")] { (label) }
            }
        }
    };
    html! {
        section #by-status .panel aria-label="By response status" {
            (charts::donut("statuses", "By response status", &slices, Some(switch)))
        }
    }
}

/// The causes of failed requests.
fn failures(summary: &Summary, links: &Links) -> Markup {
    let causes = causes::of_summary(summary);
    let bar = |cause: &FailureCause| Bar {
        label: cause.label.clone(),
        count: cause.count,
        href: links.of_cause(cause),
    };
    let failed = summary.totals.failed();
    let title = "Why requests failed";
    html! {
        section .panel aria-label=(title) {
            @if failed == 0 {
                h2 { (title) }
                p .empty { "No failed requests in this period." }
            } @else {
                (charts::bars(title, "Cause", &top(&causes, bar), failed))
            }
        }
    }
}

/// The causes of failed requests as a line of text, above the log of a key or an owner.
pub(super) fn failures_line(summary: &Summary, links: &Links) -> Markup {
    let causes = causes::of_summary(summary);
    html! {
        @if !causes.is_empty() {
            h3 #causes { "Why requests failed" }
            ul .causes aria-labelledby="causes" {
                @for cause in &causes {
                    li {
                        @let text = html! { (cause.label) " " b { (charts::count(cause.count)) } };
                        @match links.of_cause(cause) {
                            Some(href) => a href=(href) aria-current=[links.is_at(cause).then_some("true")] { (text) },
                            None => span { (text) },
                        }
                    }
                }
            }
        }
    }
}

/// The owners with the most failed requests.
pub(super) fn failing_owners(summary: &Summary, links: &Links) -> Markup {
    let owners = summary.by_owner.iter().flatten();
    let owners = owners.filter(|(_, totals)| totals.failed() > 0);
    let owners = top_by(owners, TOP, Totals::failed);
    let failed = Outcome::Failed.as_str();
    let bars = owners.iter().map(|(owner, totals)| Bar {
        label: owner.to_string(),
        count: totals.failed(),
        href: Some(links.with([("owner", &***owner), ("outcome", failed)])),
    });
    let title = "Failed requests by owner";
    html! {
        section .panel aria-label=(title) {
            @if owners.is_empty() {
                h2 { (title) }
                p .empty { "No failed requests of keys with an owner in this period." }
            } @else {
                (charts::bars(title, "Owner", &bars.collect::<Vec<_>>(), summary.totals.failed()))
            }
        }
    }
}

/// Bars of the first causes, and one for all others.
fn top(causes: &[FailureCause], bar: impl Fn(&FailureCause) -> Bar) -> Vec<Bar> {
    let (shown, rest) = causes.split_at(causes.len().min(TOP));
    let mut bars: Vec<_> = shown.iter().map(bar).collect();
    if !rest.is_empty() {
        bars.push(Bar {
            label: format!("Other ({})", rest.len()),
            count: rest.iter().map(|cause| cause.count).sum(),
            href: None,
        });
    }
    bars
}

/// The endpoints with the most requests, and their latency.
pub(super) fn endpoints(summary: &Summary, links: &Links) -> Markup {
    let endpoints = summary.top_endpoints(TOP);
    let all = summary.totals.total();
    let latencies = summary.latency_by_endpoint.as_ref();
    let quantile = |endpoint: &Arc<str>, q: f64| {
        let latency = latencies.and_then(|latencies| latencies.get(endpoint));
        let latency = latency.and_then(|latency| latency.quantile(q));
        latency.map_or_else(String::new, milliseconds)
    };
    html! {
        section .panel aria-labelledby="endpoints" {
            h2 #endpoints { "Top endpoints" }
            @if endpoints.is_empty() {
                p .empty { "No requests in this period." }
            } @else {
                table .stacked .amounts aria-labelledby="endpoints" {
                    thead { tr {
                        th scope="col" { "Endpoint" }
                        @for head in ["Requests", "Share"].into_iter().chain(QUANTILES.map(|(name, _)| name)) {
                            th .number scope="col" { (head) }
                        }
                    } }
                    tbody { @for (endpoint, totals) in endpoints { tr {
                        th scope="row" { (line_to(&links.with([("endpoint", &**endpoint)]), endpoint)) }
                        td .number data-label="Requests" { (charts::count(totals.total())) }
                        td .number data-label="Share" { (charts::share(totals.total(), all)) }
                        @for (name, q) in QUANTILES {
                            td .number data-label=(name) { (quantile(endpoint, q)) }
                        }
                    } } }
                }
            }
        }
    }
}

/// Latency quantiles: name, and share of the requests that are at most as slow.
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)];

/// The latency over time. Its buckets have no links, which those of the requests have.
pub(super) fn latency(context: &PageContext, picked: &TimeRange, summary: &Summary) -> Markup {
    let Some(buckets) = picked.buckets(summary.over_time.as_ref()) else {
        return html! {};
    };
    let line = |class, name, q, of: fn(&LatencyQuantiles) -> Option<u64>| {
        let values = buckets
            .iter()
            .map(|bucket| bucket.latency.as_ref().and_then(of));
        let whole = summary.latency.as_ref().and_then(|it| it.quantile(q));
        Line {
            class,
            name,
            values: values.collect(),
            whole: whole.and_then(|it| it.as_micros().try_into().ok()),
        }
    };
    let lines = Lines {
        id: "latency",
        title: "Latency",
        buckets: &buckets,
        lines: &[
            line("c3", "p99", 0.99, |it| it.p99_us),
            line("c2", "p95", 0.95, |it| it.p95_us),
            line("c1", "p50", 0.5, |it| it.p50_us),
        ],
        value: &|micros| milliseconds(Duration::from_micros(micros)),
        short: &charts::time,
    };
    html! {
        section .panel aria-label="Latency" {
            (charted(context, &buckets, None, |times| lines.chart(times)))
        }
    }
}

/// A chart of these buckets, each linked to its requests if they are in the log.
pub(super) fn charted(
    context: &PageContext,
    buckets: &[TimeBucket],
    links: Option<&Links>,
    chart: impl FnOnce(&Times<'_>) -> Markup,
) -> Markup {
    let on_clock =
        |time: Timestamp, format: &str| context.zone.to_datetime(time).strftime(format).to_string();
    let days = buckets
        .first()
        .is_some_and(|it| it.end.duration_since(it.start) > A_DAY / 2);
    let tick = |time: Timestamp| {
        let midnight = on_clock(time, "%H:%M") == "00:00";
        on_clock(time, if days || midnight { "%-d %b" } else { "%H:%M" })
    };
    let span = |bucket: &TimeBucket| {
        if days {
            on_clock(bucket.start, "%a %-d %b %Y")
        } else {
            let end = on_clock(bucket.end, "%H:%M");
            format!("{}–{end}", on_clock(bucket.start, "%-d %b %H:%M"))
        }
    };
    let href = |bucket: &TimeBucket| {
        let (since, until) = (bucket.start.to_string(), bucket.end.to_string());
        Some(links?.with([("since", &*since), ("until", &until)]))
    };
    let times = Times {
        zone: &context.zone,
        tick: &tick,
        span: &span,
        href: &href,
    };
    chart(&times)
}

const A_DAY: SignedDuration = SignedDuration::from_hours(24);

const COLOURS: [&str; 6] = ["c1", "c2", "c3", "c4", "c5", "c6"];

/// The CSS classes for the colours of statuses, from the most frequent to the least frequent one of their class. 4xx
/// includes both failed and rate-limited requests, so it has no outcome's colour.
fn shades(class: StatusClass) -> &'static [&'static str] {
    match class {
        StatusClass::Success => &["completed", "success2", "success3"],
        StatusClass::Redirection => &["c2", "redirect2", "redirect3"],
        StatusClass::ClientError => &[
            "client1", "client2", "client3", "client4", "client5", "client6",
        ],
        StatusClass::ServerError => &["failed", "server2", "server3", "server4"],
        StatusClass::Informational => &["c1"],
        StatusClass::None => &["c6"],
    }
}

/// The CSS classes for the colours of the statuses of a summary, in its order.
fn shades_of(summary: &Summary) -> Vec<&'static str> {
    let mut by_count: Vec<_> = summary.by_status.iter().enumerate().collect();
    by_count.sort_by_key(|(_, (_, totals))| Reverse(totals.total()));
    let mut colours = vec![""; by_count.len()];
    let mut used = BTreeMap::<_, usize>::new();
    for (place, (&status, _)) in by_count {
        colours[place] = match status {
            // What the layer responds with to requests above a rate limit.
            Status::Http(429) | Status::Grpc(8) => "limited",
            _ => {
                let shades = shades(status.class());
                let shade = used.entry(status.class()).or_default();
                *shade += 1;
                shades[(*shade - 1) % shades.len()]
            }
        };
    }
    colours
}

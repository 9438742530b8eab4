//! Usage summaries as cards and charts, linked to the matching requests in the log.

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::components::milliseconds;
use super::range::TimeRange;
use crate::dashboard::charts::{self, Bar, Slice, Times};
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::usage::Summary;
use crate::usage::summary::{TimeBucket, Totals};

/// The number of endpoints shown.
const TOP: usize = 10;

/// The maximum number of columns over time: more than two years of days, and wider than any screen.
const MOST_COLUMNS: usize = 800;

/// Builds links to the request log.
pub(super) struct Links {
    /// The URL of the page with the log.
    pub(super) at: String,
    /// The fields that links keep.
    pub(super) kept: FormFields,
}

impl Links {
    /// The log with additional filters.
    pub(super) fn with<'a>(&self, filters: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
        format!("{}?{}#log", self.at, self.kept.with(filters).query())
    }
}

/// Cards with the number of requests by outcome, compared to the previous period.
pub(super) fn cards(totals: &Totals, before: &Totals, links: &Links) -> Markup {
    let all = totals.total();
    let card = |name: &str, class: &str, outcome: &str, count: u64, earlier: u64| {
        html! {
            div class={ "card " (class) } {
                h2 { (name) }
                p .number { a href=(links.with([("outcome", outcome)])) { (charts::count(count)) } }
                p .more {
                    @if !outcome.is_empty() { (charts::share(count, all)) " · " }
                    span title="vs. previous period" {
                        (charts::change(count, earlier)) span .unseen { " vs. previous period" }
                    }
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
        }
    }
}

/// A notice if a summary is not exact.
pub(super) fn exactness(summary: &Summary) -> Markup {
    html! {
        @if !summary.exact {
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
    let buckets = summary.over_time.as_ref();
    let buckets = buckets.and_then(|it| it.filled(picked.range.clone(), Timestamp::now()).ok());
    let buckets = buckets.filter(|it| it.len() <= MOST_COLUMNS);
    html! {
        section .panel aria-label="Requests over time" {
            @match buckets {
                Some(buckets) => (over_time(context, &buckets, links)),
                None => p .empty { "This range is too long to chart. Choose a shorter one." }
            }
        }
    }
}

/// Requests by method and by status, and their latency.
pub(super) fn panels(summary: &Summary, links: &Links) -> Markup {
    let methods = summary.by_method.iter().enumerate();
    let methods = methods.map(|(n, (method, totals))| Slice {
        label: method.as_str().into(),
        count: totals.total(),
        class: COLOURS[n % COLOURS.len()],
        href: Some(links.with([("method", method.as_str())])),
    });
    let statuses = summary.by_status_class();
    let statuses = statuses.iter().map(|(class, totals)| Slice {
        label: class.to_string(),
        count: totals.total(),
        class: class_of(class.as_str()),
        href: Some(links.with([("code", class.as_str())])),
    });
    html! {
        .panels {
            section .panel aria-label="By HTTP method" {
                (charts::donut("methods", "By HTTP method", &methods.collect::<Vec<_>>()))
            }
            section .panel aria-label="By response status" {
                (charts::donut("statuses", "By response status", &statuses.collect::<Vec<_>>()))
            }
            (latencies(summary))
        }
    }
}

/// The endpoints with the most requests.
pub(super) fn endpoints(summary: &Summary, links: &Links) -> Markup {
    let endpoints = summary.top_endpoints(TOP).into_iter();
    let endpoints = endpoints.map(|(endpoint, totals)| Bar {
        label: endpoint.to_string(),
        count: totals.total(),
        href: Some(links.with([("endpoint", &**endpoint)])),
    });
    let all = summary.totals.total();
    html! {
        section .panel aria-label="Top endpoints" {
            (charts::bars("Top endpoints", "Endpoint", &endpoints.collect::<Vec<_>>(), all))
        }
    }
}

fn over_time(context: &PageContext, buckets: &[TimeBucket], links: &Links) -> Markup {
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
        Some(links.with([("since", &*since), ("until", &until)]))
    };
    let times = Times {
        zone: &context.zone,
        tick: &tick,
        span: &span,
        href: &href,
    };
    charts::over_time("over-time", "Requests over time", buckets, &times)
}

const A_DAY: SignedDuration = SignedDuration::from_hours(24);

const COLOURS: [&str; 6] = ["c1", "c2", "c3", "c4", "c5", "c6"];

/// The class of a status. 4xx includes both failed and rate-limited requests, so it has no outcome's colour.
fn class_of(status: &str) -> &'static str {
    match status {
        "2xx" => "completed",
        "3xx" => "c2",
        "4xx" => "c5",
        "5xx" => "failed",
        _ => "other",
    }
}

fn latencies(summary: &Summary) -> Markup {
    let quantiles = summary.latency.as_ref().filter(|it| !it.is_empty());
    html! {
        section .panel aria-label="Latency" {
            h2 { "Latency" }
            @match quantiles {
                None => p .empty { "No requests in this period." }
                Some(latency) => dl .latency {
                    @for (name, q) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
                        div {
                            dt { (name) }
                            dd { (latency.quantile(q).map_or_else(String::new, milliseconds)) }
                        }
                    }
                }
            }
        }
    }
}

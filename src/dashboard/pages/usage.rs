//! What a key was used for: cards, breakdowns and, under them, the request log.

use std::ops::Range;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::generate::moment;
use super::parts::{Input, badge, copy};
use super::{Failure, log, page};
use crate::dashboard::Shared;
use crate::dashboard::charts::{self, Bar, Slice, Times};
use crate::dashboard::fields::Fields;
use crate::dashboard::key_in_path::KeyInPath;
use crate::dashboard::visit::Visit;
use crate::key::Key;
use crate::usage::summary::{TimeBucket, Totals};
use crate::usage::{Summary, SummaryQuery, SummarySpec, UsageRange};

const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// Ranges to pick: what the address says, what the page says, and how many seconds.
const RANGES: [(&str, &str, i64); 6] = [
    ("15m", "15 minutes", 15 * MINUTE),
    ("1h", "1 hour", HOUR),
    ("6h", "6 hours", 6 * HOUR),
    ("24h", "24 hours", DAY),
    ("7d", "7 days", 7 * DAY),
    ("30d", "30 days", 30 * DAY),
];

const USUAL: &str = "24h";

/// Endpoints that are shown.
const TOP: usize = 10;

/// The range of time that a page is about, and the one before it of the same length.
pub(super) struct Picked {
    pub(super) name: &'static str,
    pub(super) range: Range<Timestamp>,
    before: Range<Timestamp>,
}

impl Picked {
    pub(super) fn of(visit: &Visit, fields: &Fields, now: Timestamp) -> Self {
        let own = |name| fields.get(name).and_then(|text| moment(visit, text));
        if fields.get("range") == Some("custom")
            && let (Some(from), to) = (own("from"), own("to").unwrap_or(now))
            && from < to
        {
            return Self::new("custom", from..to);
        }
        let wanted = fields.get("range").unwrap_or(USUAL);
        let picked = RANGES.iter().find(|(name, ..)| *name == wanted);
        let (name, _, seconds) = *picked.unwrap_or(&RANGES[3]);
        let from = now.saturating_sub(SignedDuration::from_secs(seconds));
        Self::new(name, from.unwrap_or(Timestamp::MIN)..now)
    }

    fn new(name: &'static str, range: Range<Timestamp>) -> Self {
        let length = range.end.duration_since(range.start);
        let start = range.start.saturating_sub(length).unwrap_or(Timestamp::MIN);
        let before = start..range.start;
        Self {
            name,
            range,
            before,
        }
    }
}

pub(in crate::dashboard) async fn of_key(
    State(shared): State<Arc<Shared>>,
    visit: Visit,
    KeyInPath(key): KeyInPath,
    fields: Fields,
) -> Response {
    match shown(&shared, &visit, &key, &fields).await {
        Ok(content) => page(&visit, "Usage", &content),
        Err(failure) => failure.page(&visit),
    }
}

async fn shown(
    shared: &Shared,
    visit: &Visit,
    key: &Key,
    fields: &Fields,
) -> Result<Markup, Failure> {
    let picked = Picked::of(visit, fields, Timestamp::now());
    let range = |times: &Range<Timestamp>| {
        UsageRange::new()
            .key(key.id)
            .from(times.start)
            .to(times.end)
    };
    let spec = SummarySpec::new()
        .latency()
        .over_range(picked.range.clone(), visit.zone.clone());
    let now = SummaryQuery::new(range(&picked.range), spec);
    let before = SummaryQuery::new(range(&picked.before), SummarySpec::new());
    let summary = shared.backend.summary(&now).await?;
    let before = shared.backend.summary(&before).await?.totals;
    let log = log::table(shared, visit, key, &picked, fields).await?;
    Ok(html! {
        p { a href=(visit.at("/keys")) { "Back to API keys" } }
        .head {
            h1 { (key.name) " " (badge(key)) }
            p { code { (key.id) } " " (copy(key.id.as_str(), "the key's id")) }
        }
        (ranges(visit, key, &picked, fields))
        (cards(&summary.totals, &before))
        (breakdowns(visit, key, &picked, fields, &summary))
        (log)
    })
}

fn ranges(visit: &Visit, key: &Key, picked: &Picked, fields: &Fields) -> Markup {
    let at = visit.at(&format!("/keys/{}", key.id));
    let kept = fields.without(&["from", "to", "after"]);
    let value = |name| fields.get(name).unwrap_or_default();
    html! {
        nav .ranges aria-label="Range of time" {
            @for (name, text, _) in RANGES {
                a href={ (at) "?" (kept.with("range", name)) }
                    aria-current=[(picked.name == name).then_some("true")] { (text) }
            }
        }
        details .custom open[picked.name == "custom"] {
            summary { "Another range" }
            form .filters method="get" action=(at) {
                input type="hidden" name="range" value="custom";
                (Input { name: "from", label: "From", hint: "", value: value("from") }.moment())
                (Input { name: "to", label: "To", hint: "", value: value("to") }.moment())
                button type="submit" { "Show" }
            }
        }
    }
}

fn cards(totals: &Totals, before: &Totals) -> Markup {
    let all = totals.total();
    let cards = [
        ("Total requests", "total", all, before.total()),
        (
            "Completed",
            "completed",
            totals.completed(),
            before.completed(),
        ),
        ("Failed", "failed", totals.failed(), before.failed()),
        (
            "Rate limited",
            "limited",
            totals.rate_limited(),
            before.rate_limited(),
        ),
    ];
    html! {
        section .cards aria-label="Totals" {
            @for (name, class, count, earlier) in cards {
                div class={ "card " (class) } {
                    h2 { (name) }
                    p .number { (charts::count(count)) }
                    p .more {
                        @if class != "total" { (charts::share(count, all)) " · " }
                        span title="against the range before" { (charts::change(count, earlier)) }
                    }
                }
            }
        }
    }
}

fn breakdowns(
    visit: &Visit,
    key: &Key,
    picked: &Picked,
    fields: &Fields,
    summary: &Summary,
) -> Markup {
    // A slice, a bar or an endpoint filters the log below.
    let at = visit.at(&format!("/keys/{}", key.id));
    let fields = fields.without(&["after"]);
    let filtered = |name: &str, value: &str| Some(format!("{at}?{}#log", fields.with(name, value)));
    let methods = summary
        .by_method
        .iter()
        .enumerate()
        .map(|(n, (method, totals))| Slice {
            label: method.as_str().into(),
            count: totals.total(),
            class: COLOURS[n % COLOURS.len()],
            href: filtered("method", method.as_str()),
        });
    let statuses = summary.by_status_class();
    let statuses = statuses.iter().map(|(class, totals)| Slice {
        label: class.to_string(),
        count: totals.total(),
        class: class_of(class.as_str()),
        href: filtered("code", class.as_str()),
    });
    let endpoints = summary
        .top_endpoints(TOP)
        .into_iter()
        .map(|(endpoint, totals)| Bar {
            label: endpoint.to_string(),
            count: totals.total(),
            href: filtered("endpoint", endpoint),
        });
    let buckets = summary.over_time.as_ref();
    let buckets = buckets.and_then(|it| it.filled(picked.range.clone(), Timestamp::now()).ok());
    html! {
        section .panel {
            @match buckets {
                Some(buckets) => (over_time(visit, &buckets)),
                None => p .empty { "The range is too long for a chart." }
            }
        }
        .panels {
            section .panel {
                (charts::donut("methods", "By HTTP method", &methods.collect::<Vec<_>>()))
            }
            section .panel {
                (charts::donut("statuses", "By response status", &statuses.collect::<Vec<_>>()))
            }
            (latencies(summary))
        }
        section .panel {
            (charts::bars("Top endpoints", "Endpoint", &endpoints.collect::<Vec<_>>(), summary.totals.total()))
        }
    }
}

fn over_time(visit: &Visit, buckets: &[TimeBucket]) -> Markup {
    let on_clock =
        |time: Timestamp, format: &str| visit.zone.to_datetime(time).strftime(format).to_string();
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
    let times = Times {
        zone: &visit.zone,
        tick: &tick,
        span: &span,
    };
    charts::over_time("over-time", "Over time", buckets, &times)
}

const A_DAY: SignedDuration = SignedDuration::from_hours(24);

const COLOURS: [&str; 6] = ["c1", "c2", "c3", "c4", "c5", "c6"];

fn class_of(status: &str) -> &'static str {
    match status {
        "2xx" => "completed",
        "3xx" => "c2",
        "4xx" => "limited",
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
                None => p .empty { "No requests in this time." }
                Some(latency) => dl .latency {
                    @for (name, q) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
                        dt { (name) }
                        dd { (latency.quantile(q).map_or_else(String::new, milliseconds)) }
                    }
                }
            }
        }
    }
}

pub(super) fn milliseconds(time: std::time::Duration) -> String {
    let millis = time.as_secs_f64() * 1_000.0;
    if millis < 10.0 {
        format!("{millis:.2} ms")
    } else {
        format!("{millis:.0} ms")
    }
}

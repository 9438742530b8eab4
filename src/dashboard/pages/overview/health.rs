//! The state of recording, merging and shared rate limits.

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use crate::dashboard::charts;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::components::time;
use crate::limit::LimiterHealth;
use crate::usage::{MergeBacklog, RecorderStats};

/// The age of the oldest record from which merging is considered behind.
const BEHIND: SignedDuration = SignedDuration::from_mins(5);

/// The statistics of the recorder in this process, and how far merging is behind.
pub(super) fn section(
    context: &PageContext,
    stats: Option<&RecorderStats>,
    backlog: Option<&MergeBacklog>,
    limiter: Option<LimiterHealth>,
) -> Markup {
    html! {
        section .panel aria-labelledby="health" {
            h2 #health { "Recorder" }
            @match stats {
                None => p .empty { "No recorder configured. Pass one to the dashboard to see its statistics." },
                Some(stats) => (numbers(context, stats)),
            }
            @if let Some(backlog) = backlog { (merging(context, backlog)) }
        }
        @if let Some(limiter) = limiter { (shared_limits(limiter)) }
    }
}

fn shared_limits(limiter: LimiterHealth) -> Markup {
    let state = match limiter.is_available {
        true => "Available",
        false => "Unavailable",
    };
    html! {
        section .panel aria-labelledby="limiter" {
            h2 #limiter { "Shared rate limits" }
            dl .facts .row {
                (fact("Backend", html! { (state) }, !limiter.is_available))
                (fact("Outages", html! { (charts::count(limiter.failures)) }, false))
            }
            p .rule {
                "For this process, since it started. "
                @if !limiter.is_available {
                    "Requests are handled by the configured fallback until the backend is available again."
                }
            }
        }
    }
}

fn numbers(context: &PageContext, stats: &RecorderStats) -> Markup {
    let numbers = [
        ("Written", stats.written),
        ("Queued", stats.queued),
        ("Spooled", stats.spooled),
        ("Lost", stats.lost + stats.unrecovered),
        ("Retries", stats.retries),
        ("In-flight requests", stats.in_flight),
    ];
    html! {
        dl .facts .row {
            @for (label, count) in numbers {
                (fact(label, html! { (charts::count(count)) }, label == "Lost" && count > 0))
            }
            (fact("Last written", html! {
                @match stats.last_written_at { Some(at) => (time(context, at)), None => "Never" }
            }, false))
        }
        p .rule { "For this process, since it started." }
    }
}

fn merging(context: &PageContext, backlog: &MergeBacklog) -> Markup {
    let oldest = backlog.oldest_at;
    let is_behind = oldest.is_some_and(|at| Timestamp::now().duration_since(at) > BEHIND);
    let is_damaged = backlog.unreadable > 0;
    html! {
        dl .facts .row {
            (fact("Unmerged records", html! { (charts::count(backlog.records)) }, is_behind))
            (fact("Oldest unmerged", html! {
                @match oldest { Some(at) => (time(context, at)), None => "None" }
            }, is_behind))
            @if is_damaged {
                (fact("Unreadable records", html! { (charts::count(backlog.unreadable)) }, true))
            }
        }
        p .rule {
            "For all processes. "
            @if is_behind {
                "Merging is behind: totals are correct, but pages become slower. Processes that record usage merge it; \
                 check that one is running, and its log. "
            }
            @if is_damaged {
                "Totals do not include the requests of unreadable records: they are damaged, or from a later version \
                 of keytally."
            }
        }
    }
}

fn fact(label: &str, value: Markup, is_failed: bool) -> Markup {
    html! {
        div { dt { (label) } dd class=[is_failed.then_some("failed")] { (value) } }
    }
}

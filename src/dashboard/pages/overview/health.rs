//! The state of the recorder.

use maud::{Markup, html};

use crate::dashboard::charts;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::components::time;
use crate::usage::RecorderStats;

/// The statistics of the recorder in this process.
pub(super) fn section(context: &PageContext, stats: Option<&RecorderStats>) -> Markup {
    html! {
        section .panel aria-labelledby="health" {
            h2 #health { "Recorder" }
            @match stats {
                None => p .empty { "No recorder configured. Pass one to the dashboard to see its statistics." },
                Some(stats) => (numbers(context, stats)),
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
                div { dt { (label) } dd class=[(label == "Lost" && count > 0).then_some("failed")] { (charts::count(count)) } }
            }
            div {
                dt { "Last written" }
                dd { @match stats.last_written_at { Some(at) => (time(context, at)), None => "Never" } }
            }
        }
        p .rule { "For this process, since it started." }
    }
}

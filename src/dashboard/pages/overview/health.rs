//! Whether usage is being written.

use maud::{Markup, html};

use crate::dashboard::charts;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::components::time;
use crate::usage::RecorderStats;

/// What the recorder of this process has to write, and what it has lost.
pub(super) fn section(visit: &PageContext, stats: Option<&RecorderStats>) -> Markup {
    html! {
        section .panel aria-labelledby="health" {
            h2 #health { "Recorder" }
            @match stats {
                None => p .empty { "This service has not told the dashboard of its recorder." },
                Some(stats) => (numbers(visit, stats)),
            }
        }
    }
}

fn numbers(visit: &PageContext, stats: &RecorderStats) -> Markup {
    let numbers = [
        ("Written", stats.written),
        ("In the queue", stats.queued),
        ("In the spool", stats.spooled),
        ("Lost", stats.lost + stats.unrecovered),
        ("Tries that failed", stats.retries),
        ("Requests under way", stats.open),
    ];
    html! {
        dl .facts .row {
            @for (what, count) in numbers {
                div { dt { (what) } dd class=[(what == "Lost" && count > 0).then_some("failed")] { (charts::count(count)) } }
            }
            div {
                dt { "Last success" }
                dd { @match stats.last_written { Some(at) => (time(visit, at)), None => "none yet" } }
            }
        }
        p .rule { "Of this process, since it started." }
    }
}

//! Tables of keys on the overview.

use maud::{Markup, html};

use crate::dashboard::charts;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::components::{date, line_to, owner};
use crate::dashboard::pages::top::{link, named};
use crate::dashboard::return_path::ReturnPath;
use crate::key::Key;
use crate::page::Page;
use crate::usage::Outcome;
use crate::usage::summary::Spike;

/// Days without a request after which a key counts as unused.
pub(in crate::dashboard::pages) const UNUSED_DAYS: i64 = 90;

/// Days before expiry in which a key counts as expiring soon.
pub(in crate::dashboard::pages) const EXPIRING_DAYS: i64 = 30;

/// The maximum number of rows of a table.
pub(in crate::dashboard::pages) const ROWS: usize = 10;

pub(super) fn spikes(context: &PageContext, spikes: &[Spike], keys: &[Key]) -> Markup {
    let share = |part, all| html! { (charts::count(part)) " of " (charts::count(all)) " (" (charts::share(part, all)) ")" };
    let key = |spike: &Spike| {
        html! {
            @match spike.key {
                Some(id) => {
                    @match named(keys, id) {
                        Some(key) => (line_to(&link(context, id, keys), &key.name)),
                        None => a href=(link(context, id, keys)) { code { (id) } },
                    }
                }
                None => "No key",
            }
        }
    };
    html! {
        section .panel aria-labelledby="spikes" {
            h2 #spikes { "Keys doing worse than in the previous period" }
            @if spikes.is_empty() {
                p .empty { "No key has more failed or rate-limited requests than in the previous period." }
            } @else {
                .scroll { table .stacked aria-labelledby="spikes" {
                    thead { tr { @for head in ["Key", "Outcome", "This period", "Previous period"] { th scope="col" { (head) } } } }
                    tbody { @for spike in spikes { tr {
                        th scope="row" { (key(spike)) }
                        td data-label="Outcome" {
                            @if spike.outcome == Outcome::RateLimited { span .badge .limited { "rate limited" } }
                            @else { span .badge .failed { "failed" } }
                        }
                        td data-label="This period" { (share(spike.count(), spike.current.total())) }
                        td data-label="Previous period" { (share(spike.previous_count(), spike.previous.total())) }
                    } } }
                } }
            }
            p .rule {
                "Keys with at least " (Spike::MIN_REQUESTS) " requests that failed or were rate limited, if their share is at least "
                (Spike::MIN_FACTOR) " times that of the previous period and at least " (Spike::MIN_PERCENTAGE_POINTS)
                " percentage points higher. Keys with fewer than " (Spike::MIN_PREVIOUS_REQUESTS)
                " requests in the previous period, such as new keys, are left out."
            }
        }
    }
}

pub(super) fn unused(context: &PageContext, keys: &Page<Key>) -> Markup {
    let rows = html! {
        @for key in &keys.items {
            @let at = context.at(&format!("/keys/{}", key.id));
            tr {
                th scope="row" { (line_to(&at, &key.name)) }
                td data-label="Owner" { (owner(context, key.owner.as_deref())) }
                td data-label="Last accepted" { @if let Some(used) = key.last_accepted_at { (date(context, used)) } @else { strong .never { "Never" } } }
                td {
                    @let back = context.back_here(&ReturnPath::key(key.id));
                    a href={ (at) "/disable" (back) } aria-label={ "Disable " (key.name) } { "Disable" }
                }
            }
        }
    };
    let more = keys.next.is_some().then(|| context.at("/keys?show=unused"));
    let nothing = format!("No active key has been unused for {UNUSED_DAYS} days.");
    let title = format!("Unused for {UNUSED_DAYS} days");
    let heads = ["Key", "Owner", "Last accepted"];
    table(
        "unused",
        &title,
        heads,
        &nothing,
        &rows,
        keys.items.is_empty(),
        more,
    )
}

pub(super) fn expiring(context: &PageContext, keys: &Page<Key>) -> Markup {
    let shown = keys.items.iter().take(ROWS);
    let rows = html! {
        @for key in shown {
            @let at = context.at(&format!("/keys/{}", key.id));
            tr {
                th scope="row" { (line_to(&at, &key.name)) }
                td data-label="Owner" { (owner(context, key.owner.as_deref())) }
                td data-label="Expires" { @if let Some(end) = key.expires_at { (date(context, end)) } }
                td { a href={ (at) "/edit" } aria-label={ "Edit " (key.name) } { "Edit" } }
            }
        }
    };
    let more = keys.next.is_some() || keys.items.len() > ROWS;
    let more = more.then(|| context.at("/keys?show=expiring"));
    let nothing = format!("No active keys expire in the next {EXPIRING_DAYS} days.");
    let title = format!("Expiring within {EXPIRING_DAYS} days");
    let heads = ["Key", "Owner", "Expires"];
    table(
        "expiring",
        &title,
        heads,
        &nothing,
        &rows,
        keys.items.is_empty(),
        more,
    )
}

/// A section with a table whose last column has actions.
fn table(
    id: &str,
    title: &str,
    heads: [&str; 3],
    nothing: &str,
    rows: &Markup,
    empty: bool,
    more: Option<String>,
) -> Markup {
    html! {
        section .panel aria-labelledby=(id) {
            h2 id=(id) { (title) }
            @if empty {
                p .empty { (nothing) }
            } @else {
                .scroll { table .stacked aria-labelledby=(id) {
                    thead { tr {
                        @for head in heads { th scope="col" { (head) } }
                        th scope="col" { span .unseen { "Actions" } }
                    } }
                    tbody { (rows) }
                } }
            }
            @if let Some(more) = more { p { a href=(more) { "Show all" } } }
        }
    }
}

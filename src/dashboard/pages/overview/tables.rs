//! Keys that want attention.

use maud::{Markup, html};

use crate::dashboard::charts::{self, Bar};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::components::{date, line_or_none, line_to};
use crate::dashboard::pages::status::OVERVIEW;
use crate::id::KeyId;
use crate::key::Key;
use crate::page::Page;
use crate::usage::Outcome;
use crate::usage::summary::{Spike, Totals};

/// Days after which a key that nobody used is called unused.
pub(in crate::dashboard::pages) const UNUSED_DAYS: i64 = 90;

/// Days before its end in which a key is said to expire soon.
pub(in crate::dashboard::pages) const EXPIRING_DAYS: i64 = 30;

/// The most rows of a table.
pub(in crate::dashboard::pages) const ROWS: usize = 10;

pub(super) fn busiest(
    visit: &PageContext,
    busiest: &[(Option<KeyId>, Totals)],
    keys: &[Key],
    all: u64,
) -> Markup {
    let rows = busiest.iter().map(|(id, totals)| Bar {
        label: match (id, id.and_then(|id| named(keys, id))) {
            (_, Some(key)) => key.name.clone(),
            (Some(id), None) => format!("{id} (deleted)"),
            (None, _) => "Without a key".into(),
        },
        count: totals.total(),
        href: id.map(|id| link(visit, id, keys)),
    });
    html! {
        section .panel aria-label="Keys by traffic" {
            (charts::bars("Keys by traffic", "Key", &rows.collect::<Vec<_>>(), all))
        }
    }
}

fn named(keys: &[Key], id: KeyId) -> Option<&Key> {
    keys.iter().find(|key| key.id == id)
}

/// A key's page; what one that was deleted did is in the log alone.
fn link(visit: &PageContext, id: KeyId, keys: &[Key]) -> String {
    match named(keys, id) {
        Some(_) => visit.at(&format!("/keys/{id}")),
        None => visit.at(&format!("/log?key={id}")),
    }
}

pub(super) fn spikes(visit: &PageContext, spikes: &[Spike], keys: &[Key]) -> Markup {
    let share = |part, all| html! { (charts::count(part)) " of " (charts::count(all)) " (" (charts::share(part, all)) ")" };
    let key = |spike: &Spike| {
        html! {
            @match spike.key {
                Some(id) => {
                    @match named(keys, id) {
                        Some(key) => (line_to(&link(visit, id, keys), &key.name)),
                        None => a href=(link(visit, id, keys)) { code { (id) } },
                    }
                }
                None => "Without a key",
            }
        }
    };
    html! {
        section .panel aria-labelledby="spikes" {
            h2 #spikes { "More failures or refusals than before" }
            @if spikes.is_empty() {
                p .empty { "No key fares worse than in the range before." }
            } @else {
                .scroll { table .stacked aria-labelledby="spikes" {
                    thead { tr { @for head in ["Key", "What", "Now", "Before"] { th scope="col" { (head) } } } }
                    tbody { @for spike in spikes { tr {
                        th scope="row" { (key(spike)) }
                        td data-label="What" {
                            @if spike.outcome == Outcome::RateLimited { span .badge .limited { "rate limited" } }
                            @else { span .badge .failed { "failed" } }
                        }
                        td data-label="Now" { (share(spike.count(), spike.now.total())) }
                        td data-label="Before" { (share(spike.count_before(), spike.before.total())) }
                    } } }
                } }
            }
            p .rule {
                "Shown are keys of which at least " (Spike::LEAST) " requests failed, or were refused by a rate limit, if their share is at least "
                (Spike::FACTOR) " times that of the range before and at least " (Spike::POINTS) " percentage points above it."
            }
        }
    }
}

pub(super) fn unused(visit: &PageContext, keys: &Page<Key>) -> Markup {
    let rows = html! {
        @for key in &keys.items {
            @let at = visit.at(&format!("/keys/{}", key.id));
            tr {
                th scope="row" { (line_to(&at, &key.name)) }
                td data-label="Owner" { (line_or_none(key.owner.as_deref())) }
                td data-label="Last used" { @if let Some(used) = key.last_used_at { (date(visit, used)) } @else { strong .never { "never" } } }
                td { a href={ (at) "/disable?back=" (OVERVIEW) } aria-label={ "Disable " (key.name) } { "Disable" } }
            }
        }
    };
    let more = keys.next.is_some().then(|| visit.at("/keys?show=unused"));
    let nothing = format!(
        "Every key that works is younger than {UNUSED_DAYS} days, or was used in that time."
    );
    let title = format!("Not used for {UNUSED_DAYS} days");
    let heads = ["Key", "Owner", "Last used"];
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

pub(super) fn expiring(visit: &PageContext, keys: &Page<Key>) -> Markup {
    let shown = keys.items.iter().take(ROWS);
    let rows = html! {
        @for key in shown {
            @let at = visit.at(&format!("/keys/{}", key.id));
            tr {
                th scope="row" { (line_to(&at, &key.name)) }
                td data-label="Owner" { (line_or_none(key.owner.as_deref())) }
                td data-label="Expires" { @if let Some(end) = key.expires_at { (date(visit, end)) } }
                td { a href={ (at) "/edit" } aria-label={ "Edit " (key.name) } { "Edit" } }
            }
        }
    };
    let more = keys.next.is_some() || keys.items.len() > ROWS;
    let more = more.then(|| visit.at("/keys?show=expiring"));
    let nothing = format!("No key ends in the next {EXPIRING_DAYS} days.");
    let title = format!("Expiring in {EXPIRING_DAYS} days");
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

/// A section with a table, whose last column is of what can be done.
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

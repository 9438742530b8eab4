//! Requests that were rejected without an event, most of them before their key was known.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use maud::{Markup, html};

use super::tables::ROWS;
use crate::dashboard::charts::{self, Part, Stack};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::breakdowns::{Links, charted};
use crate::dashboard::pages::causes;
use crate::dashboard::pages::components::{line_to, time};
use crate::dashboard::pages::range::TimeRange;
use crate::dashboard::pages::top::named;
use crate::id::KeyId;
use crate::key::Key;
use crate::usage::summary::{OverTime, TimeBucket};
use crate::usage::{Outcome, RejectedSender, RejectionReason, Rejections};

const TITLE: &str = "Rejected without a valid key";

/// The CSS classes of the most frequent reasons, and of all others.
const CLASSES: [&str; 6] = ["c1", "c2", "c3", "c4", "c5", "c6"];
const OTHER: &str = "other";

/// The rejections of a range over time, by reason and by sender. `keys` are those that exist.
pub(super) fn section(
    context: &PageContext,
    picked: &TimeRange,
    rejections: &Rejections,
    over_time: Option<&OverTime>,
    keys: &[Key],
    links: &Links,
) -> Markup {
    html! {
        section .panel #rejected aria-label=(TITLE) {
            @match picked.buckets(over_time) {
                Some(buckets) if !rejections.over_time.is_empty() => {
                    (chart(context, &buckets, rejections, links))
                    @if let Some((ips, ids)) = rejections.client_ips.as_ref().zip(rejections.keys.as_ref()) {
                        .panels .wide { (client_ips(context, ips)) (key_ids(context, ids, keys)) }
                    }
                }
                _ => {
                    h2 { (TITLE) }
                    p .empty { "No such requests in this period." }
                }
            }
            p .rule {
                "For this process, since it started. These requests are not in the request log: most have no key, an \
                 unknown key or a wrong secret. "
                @if rejections.client_ips.is_none() {
                    "Client IPs and keys are not kept. To list them here, set " code { "rejected_senders" }
                    " of the recorder."
                } @else {
                    "Client IPs and keys are kept for 24 hours."
                }
            }
        }
    }
}

fn chart(
    context: &PageContext,
    buckets: &[TimeBucket],
    rejections: &Rejections,
    links: &Links,
) -> Markup {
    let mut totals = BTreeMap::<RejectionReason, u64>::new();
    for (reason, count) in rejections.over_time.iter().flat_map(|it| &it.by_reason) {
        *totals.entry(*reason).or_default() += count;
    }
    let mut reasons: Vec<_> = totals.into_iter().collect();
    reasons.sort_by_key(|(_, count)| Reverse(*count));
    let place = |reason: &RejectionReason| {
        let place = reasons.iter().position(|(it, _)| it == reason);
        place.unwrap_or(CLASSES.len()).min(CLASSES.len())
    };
    let shown = reasons.iter().zip(CLASSES);
    let parts = shown.map(|((reason, _), class)| Part {
        class,
        name: causes::of_rejection(*reason).into(),
        href: logged(*reason, links),
    });
    let mut parts: Vec<_> = parts.collect();
    if reasons.len() > CLASSES.len() {
        parts.push(Part {
            class: OTHER,
            name: "Other".into(),
            href: None,
        });
    }
    let mut counts = vec![vec![0; parts.len()]; buckets.len()];
    for rejected in &rejections.over_time {
        let bucket = buckets.partition_point(|bucket| bucket.end <= rejected.start);
        if let Some(counts) = counts.get_mut(bucket) {
            for (reason, count) in &rejected.by_reason {
                counts[place(reason)] += count;
            }
        }
    }
    let stack = Stack {
        id: "rejections",
        title: TITLE,
        by: "reason",
        parts: &parts,
        buckets,
        counts: &counts,
        amounts: &|counts| charts::requests(counts.iter().sum()),
    };
    charted(context, buckets, None, |times| stack.chart(times))
}

/// The log of requests that were rejected for the same reason, with known keys.
fn logged(reason: RejectionReason, links: &Links) -> Option<String> {
    use RejectionReason::{ClientIp, Disabled, Expired, OwnerSuspended, Revoked};

    let is_of_known_key = matches!(
        reason,
        ClientIp | Disabled | Expired | OwnerSuspended | Revoked
    );
    is_of_known_key.then(|| {
        let outcome = Outcome::Failed.as_str();
        links.with([("outcome", outcome), (causes::FIELD, reason.as_str())])
    })
}

fn client_ips(context: &PageContext, ips: &[RejectedSender<IpAddr>]) -> Markup {
    senders(context, "rejected-ips", "Client IP", ips, |ip| match ip {
        IpAddr::V4(ip) => html! { code { (ip) } },
        IpAddr::V6(ip) => html! { code { (ip) "/64" } },
    })
}

fn key_ids(context: &PageContext, ids: &[RejectedSender<KeyId>], keys: &[Key]) -> Markup {
    senders(context, "rejected-keys", "Key in the request", ids, |id| {
        let url = context.at(&format!("/keys/{id}"));
        match named(keys, *id) {
            Some(key) => html! { (line_to(&url, &key.name)) " " code { (key.hint) } },
            None => html! { code { (id) } },
        }
    })
}

fn senders<T>(
    context: &PageContext,
    id: &str,
    head: &str,
    senders: &[RejectedSender<T>],
    label: impl Fn(&T) -> Markup,
) -> Markup {
    html! {
        @if !senders.is_empty() {
            .scroll tabindex="0" role="region" aria-label=(head) { table .stacked id=(id) {
                thead { tr {
                    @for head in [head, "Rejected", "Last reason", "Last request"] { th scope="col" { (head) } }
                } }
                tbody { @for sender in senders.iter().take(ROWS) { tr {
                    th scope="row" { (label(&sender.sender)) }
                    td .number data-label="Rejected" { (charts::count(sender.count)) }
                    td data-label="Last reason" { (causes::of_rejection(sender.last_reason)) }
                    td data-label="Last request" { (time(context, sender.last_at)) }
                } } }
            } }
        }
    }
}

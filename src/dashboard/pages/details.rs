//! What a key is, above what it was used for, and what can be done to it.

use jiff::Timestamp;
use maud::{Markup, html};

use super::components::{minute, name_or_none};
use super::{limit_text, reveal};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::key::{Key, KeyStatus};

pub(super) fn of_key(shared: &Shared, visit: &PageContext, key: &Key) -> Markup {
    let list = |items: Vec<String>, none: &str| {
        html! {
            @if items.is_empty() { (none) }
            @for (n, item) in items.iter().enumerate() {
                @if n > 0 { " " }
                code { (item) }
            }
        }
    };
    let limits = key.limits.iter().map(limit_text::of);
    let addresses = key.addresses.iter().map(|it| it.to_string());
    let moment = |time_of: Option<Timestamp>, none: &str| {
        html! { @match time_of { Some(it) => (minute(visit, it)), None => (none) } }
    };
    let facts = [
        ("Owner", name_or_none(key.owner.as_deref())),
        ("Environment", name_or_none(key.environment.as_deref())),
        ("Scopes", list(key.scopes.clone(), "none")),
        ("Limits", list(limits.collect(), "the service's own")),
        ("Addresses", list(addresses.collect(), "from everywhere")),
        ("Created", moment(Some(key.created_at), "")),
        ("Expires", moment(key.expires_at, "never")),
        ("Last used", moment(key.last_used_at, "never")),
        (
            "Secret",
            html! { @if key.recoverable { "kept, encrypted" } @else { "not kept" } },
        ),
    ];
    html! {
        section .panel aria-label="The key" {
            dl .facts {
                @for (term, fact) in facts { div { dt { (term) } dd { (fact) } } }
                @if let Some(revoked) = key.revoked_at { div { dt { "Revoked" } dd { (minute(visit, revoked)) } } }
                @if let Some(old) = key.rotated_from {
                    div { dt { "Took over from" } dd { a href=(visit.at(&format!("/keys/{old}"))) { code { (old) } } } }
                }
            }
            p .actions { (actions(shared, visit, key)) }
        }
    }
}

fn actions(shared: &Shared, visit: &PageContext, key: &Key) -> Markup {
    let status = key.status(Timestamp::now());
    let active = status == KeyStatus::Active;
    let actions = [
        ("edit", "Edit", true),
        ("rotate", "Rotate", active && shared.issuer.is_some()),
        ("reveal", "Show the secret", reveal::can(shared, key)),
        ("disable", "Disable", active),
        ("enable", "Enable", status == KeyStatus::Disabled),
        ("revoke", "Revoke", status != KeyStatus::Revoked),
        ("delete", "Delete", true),
    ];
    let at = visit.at(&format!("/keys/{}", key.id));
    html! {
        @for (action, label, _) in actions.iter().filter(|(.., can)| *can) {
            a .button .danger[matches!(*action, "revoke" | "delete")] href={ (at) "/" (action) } { (label) } " "
        }
        a .button href=(visit.at(&format!("/audit?key={}", key.id))) { "Audit of this key" }
    }
}

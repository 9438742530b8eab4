//! The details of a key and the actions on it, above its usage.

use jiff::Timestamp;
use maud::{Markup, html};

use super::components::{folded, minute, name_or_none, none, owner};
use super::lineage::Lineage;
use super::{plans, reveal};
use crate::dashboard::charts;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::return_path::ReturnPath;
use crate::dashboard::state::Shared;
use crate::key::{Key, KeyStatus, Policy};

pub(super) fn of_key(
    shared: &Shared,
    context: &PageContext,
    key: &Key,
    policy: &Policy,
    lineage: &Lineage,
) -> Markup {
    let list = |items: Vec<String>, none: &str| {
        html! {
            @if items.is_empty() { (none) }
            @for (n, item) in items.iter().enumerate() {
                @if n > 0 { " " }
                code { (item) }
            }
        }
    };
    let addresses = key.addresses.iter().map(|it| it.to_string());
    let moment = |time_of: Option<Timestamp>, none: &str| {
        html! { @match time_of { Some(it) => (minute(context, it)), None => (none) } }
    };
    let facts = [
        ("Owner", owner(context, key.owner.as_deref())),
        ("Environment", name_or_none(key.environment.as_deref())),
        ("Scopes", list(key.scopes.clone(), "None")),
        ("Plan", plans::link(context, key.plan.as_deref())),
        (
            "Rate limits",
            match &key.limits[..] {
                [] => plans::limits(&policy.key_limits, "Service defaults"),
                own => plans::limits(own, ""),
            },
        ),
        (
            "Shared by the owner's keys",
            match &policy.owner_limits[..] {
                [] => none(),
                limits => plans::limits(limits, ""),
            },
        ),
        ("Allowed IPs", list(addresses.collect(), "Any")),
        ("Created", moment(Some(key.created_at), "")),
        ("Expires", moment(key.expires_at, "Never")),
        ("Last accepted", moment(key.last_accepted_at, "Never")),
        (
            "Rejected since",
            html! { (charts::count(key.rejected_since)) },
        ),
        (
            "Secret",
            html! {
                @if key.recoverable { "Stored, encrypted" }
                @else if key.imported { "Imported from another system" }
                @else { "Not stored" }
            },
        ),
    ];
    html! {
        section .panel aria-label="API key details" {
            (folded(&html! { "Details" }, false, &html! { dl .facts {
                @for (term, fact) in facts { div { dt { (term) } dd { (fact) } } }
                @if let Some(revoked) = key.revoked_at { div { dt { "Revoked" } dd { (minute(context, revoked)) } } }
            } }))
            p .actions { (actions(shared, context, key, lineage)) }
        }
    }
}

fn actions(shared: &Shared, context: &PageContext, key: &Key, lineage: &Lineage) -> Markup {
    let status = key.status(Timestamp::now());
    let active = status == KeyStatus::Active;
    let actions = [
        ("edit", "Edit", true),
        ("rotate", "Rotate", lineage.can_rotate(shared, key)),
        ("reveal", "Reveal secret", reveal::can_reveal(shared, key)),
        ("disable", "Disable", active),
        ("enable", "Enable", status == KeyStatus::Disabled),
        ("revoke", "Revoke", status != KeyStatus::Revoked),
        ("delete", "Delete", true),
    ];
    let at = context.at(&format!("/keys/{}", key.id));
    let back = context.back_here(&ReturnPath::key(key.id));
    html! {
        @for (action, label, _) in actions.iter().filter(|(.., can)| *can) {
            a .button .danger[matches!(*action, "revoke" | "delete")] href={ (at) "/" (action) (back) } { (label) } " "
        }
        a .button href=(context.at(&format!("/audit?key={}", key.id))) { "View audit log" }
    }
}

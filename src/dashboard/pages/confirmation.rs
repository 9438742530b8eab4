//! The facts of keys on pages that confirm a change.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::components::{last_accepted, minute, name, name_or_none};
use crate::dashboard::charts;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::return_path::ReturnPath;
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::key::Key;
use crate::telemetry;
use crate::usage::UsageRange;

/// The requests of each key in the last 24 hours. `None` if the usage cannot be read, since keys must be changeable
/// nevertheless.
pub(super) struct Recent(Option<BTreeMap<KeyId, u64>>);

impl Recent {
    pub(super) async fn read(shared: &Shared, keys: &[Key]) -> Self {
        let now = Timestamp::now();
        let since = now.saturating_sub(SignedDuration::from_hours(24));
        let mut range = UsageRange::new().from(since.unwrap_or(now)).to(now);
        if let [key] = keys {
            range = range.key(key.id);
        }
        match shared.usage.totals_by_key(&range).await {
            Ok(totals) => {
                let totals = totals
                    .iter()
                    .filter_map(|(id, it)| Some(((*id)?, it.total())));
                Self(Some(totals.collect()))
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                telemetry::error!(error, "usage unavailable");
                Self(None)
            }
        }
    }

    fn of(&self, key: &Key) -> Markup {
        let count = self.0.as_ref().map(|all| all.get(&key.id).copied());
        html! {
            @match count {
                Some(count) => (charts::count(count.unwrap_or_default())),
                None => "Not available",
            }
        }
    }
}

/// The facts that identify a key, to prevent changes of another one.
pub(super) async fn key_facts(shared: &Shared, context: &PageContext, key: &Key) -> Markup {
    let recent = Recent::read(shared, std::slice::from_ref(key)).await;
    let facts = [
        ("Key", html! { code { (key.hint) } }),
        ("Owner", name_or_none(key.owner.as_deref())),
        ("Created", minute(context, key.created_at)),
        ("Last accepted", last_accepted(context, key)),
        ("Requests in 24 hours", recent.of(key)),
    ];
    html! {
        dl .facts { @for (term, fact) in facts { div { dt { (term) } dd { (fact) } } } }
    }
}

/// [`key_facts`] of several keys.
pub(super) async fn facts_of_all(shared: &Shared, context: &PageContext, keys: &[Key]) -> Markup {
    let recent = Recent::read(shared, keys).await;
    let heads = [
        "Name",
        "Key",
        "Owner",
        "Created",
        "Last accepted",
        "Requests in 24 hours",
    ];
    html! {
        .scroll { table .stacked .tight aria-label="API keys" {
            thead { tr { @for head in heads { th scope="col" { (head) } } } }
            tbody { @for key in keys { tr {
                th scope="row" { (name(&key.name)) }
                td data-label="Key" { code { (key.hint) } }
                td data-label="Owner" { (name_or_none(key.owner.as_deref())) }
                td data-label="Created" { (minute(context, key.created_at)) }
                td data-label="Last accepted" { (last_accepted(context, key)) }
                td data-label="Requests in 24 hours" { (recent.of(key)) }
            } } }
        } }
    }
}

/// The hidden field with the page to return to.
pub(super) fn back_field(back: Option<&ReturnPath>) -> Markup {
    html! {
        @if let Some(back) = back { input type="hidden" name="back" value=(back.value()); }
    }
}

/// The link above a form, to the page that it returns to.
pub(super) fn back_link(context: &PageContext, back: &ReturnPath) -> Markup {
    html! { p { a href=(back.url(&context.base)) { (back.label()) } } }
}

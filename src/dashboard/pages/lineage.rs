//! Rotation: the key that a key replaces, and the key that replaced it.

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::components::minute;
use super::keys_by_id::keys_with;
use crate::dashboard::charts;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::return_path::ReturnPath;
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::key::{Key, KeyStatus, StoreError};
use crate::telemetry;
use crate::usage::UsageRange;

/// The keys that others replace, and those that replaced them, as far as they still exist.
#[derive(Default)]
pub(super) struct Lineage(Vec<Key>);

impl Lineage {
    pub(super) async fn of(shared: &Shared, keys: &[Key]) -> Result<Self, StoreError> {
        let ids = keys
            .iter()
            .flat_map(|key| [key.rotated_from, key.replaced_by]);
        Ok(Self(keys_with(shared, ids.flatten().collect()).await?))
    }

    fn find(&self, id: Option<KeyId>) -> Option<&Key> {
        self.0.iter().find(|key| Some(key.id) == id)
    }

    /// The key that replaced a key, unless it was deleted.
    pub(super) fn replacement(&self, key: &Key) -> Option<&Key> {
        self.find(key.replaced_by)
    }

    pub(super) fn can_rotate(&self, shared: &Shared, key: &Key) -> bool {
        let is_active = key.status(Timestamp::now()) == KeyStatus::Active;
        is_active && shared.issuer.is_some() && self.replacement(key).is_none()
    }

    /// Links to both, for a row of a list.
    pub(super) fn links(&self, context: &PageContext, key: &Key) -> Markup {
        let links = [
            ("Replaces ", key.rotated_from),
            ("Replaced by ", key.replaced_by),
        ];
        html! {
            @for (text, id) in links {
                @if let Some(id) = id { small { (text) (self.link(context, id)) } }
            }
        }
    }

    fn link(&self, context: &PageContext, id: KeyId) -> Markup {
        html! {
            @match self.find(Some(id)) {
                Some(key) => a href=(context.at(&format!("/keys/{id}"))) { code { (key.hint) } },
                None => { code { (id) } " (deleted)" }
            }
        }
    }

    /// The sections on the page of a key.
    pub(super) async fn sections(
        &self,
        shared: &Shared,
        context: &PageContext,
        key: &Key,
    ) -> Markup {
        html! {
            @if let Some(new) = key.replaced_by {
                (self.section(shared, context, ("Replaced by", new), [Some(key), self.find(Some(new))]).await)
            }
            @if let Some(old) = key.rotated_from {
                (self.section(shared, context, ("Replaces", old), [self.find(Some(old)), Some(key)]).await)
            }
        }
    }

    async fn section(
        &self,
        shared: &Shared,
        context: &PageContext,
        (label, other): (&str, KeyId),
        [old, new]: [Option<&Key>; 2],
    ) -> Markup {
        let recent = match old {
            Some(old) => requests_in_an_hour(shared, old.id).await,
            None => None,
        };
        let now = Timestamp::now();
        html! {
            section .panel .lineage aria-label=(label) {
                dl .facts {
                    div { dt { (label) } dd { (self.link(context, other)) } }
                    @if let Some(old) = old {
                        div { dt { "Old secret" } dd { (requests(recent)) } }
                        div { dt { "Old secret last accepted" } dd { (moment(context, old.last_accepted_at, "Never")) } }
                        @if let Some(end) = old.revoked_at.or(old.expires_at) {
                            @let ended = end <= now || old.revoked_at.is_some();
                            div {
                                dt { @if ended { "Old secret ended" } @else { "Old secret ends" } }
                                dd { @if ended { (minute(context, end)) } @else { (remaining(end, now)) } }
                            }
                        }
                    }
                    @if let Some(new) = new {
                        div { dt { "New secret first accepted" } dd { (first_accepted(context, new)) } }
                    }
                }
                @if let Some(old) = old.filter(|old| is_usable(old, now)) {
                    @let back = context.back_here(&ReturnPath::key(old.id));
                    p .actions {
                        a .button .danger href={ (context.at(&format!("/keys/{}/revoke", old.id))) (back) } { "End it now" }
                    }
                }
            }
        }
    }
}

fn is_usable(key: &Key, now: Timestamp) -> bool {
    matches!(key.status(now), KeyStatus::Active | KeyStatus::Disabled)
}

fn requests(recent: Option<u64>) -> Markup {
    html! {
        @match recent {
            Some(1) => "1 request in the last hour",
            Some(count) => { (charts::count(count)) " requests in the last hour" }
            None => "Not available",
        }
    }
}

fn first_accepted(context: &PageContext, key: &Key) -> Markup {
    let none = match key.last_accepted_at {
        Some(_) => "Unknown",
        None => "Not yet",
    };
    moment(context, key.first_accepted_at, none)
}

fn moment(context: &PageContext, time: Option<Timestamp>, none: &str) -> Markup {
    html! { @match time { Some(time) => (minute(context, time)), None => (none) } }
}

/// The number of requests of a key in the last hour. `None` if the usage cannot be read.
async fn requests_in_an_hour(shared: &Shared, key: KeyId) -> Option<u64> {
    let now = Timestamp::now();
    let since = now.saturating_sub(SignedDuration::from_hours(1)).ok()?;
    let range = UsageRange::new().key(key).from(since).to(now);
    match shared.usage.totals_by_key(&range).await {
        Ok(totals) => Some(totals.values().map(|totals| totals.total()).sum()),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            telemetry::error!(error, "usage unavailable");
            None
        }
    }
}

/// When the secret of a replaced key ends, for the list.
pub(super) fn end(key: &Key) -> Markup {
    let now = Timestamp::now();
    let end = key
        .expires_at
        .filter(|_| key.replaced_by.is_some() && is_usable(key, now));
    html! { @if let Some(end) = end { small { "ends " (remaining(end, now)) } } }
}

/// The time until a later time: `in 58 min`.
fn remaining(end: Timestamp, now: Timestamp) -> Markup {
    let seconds = end.duration_since(now).as_secs().max(0);
    let text = match (seconds + 30) / 60 {
        0 => "in less than a minute".into(),
        minutes @ ..120 => format!("in {minutes} min"),
        minutes => match (minutes + 30) / 60 {
            hours @ ..48 => format!("in {hours} h"),
            hours => format!("in {} days", (hours + 12) / 24),
        },
    };
    html! { span title=(end) { (text) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_time_is_rounded() {
        let now = Timestamp::UNIX_EPOCH;
        for (seconds, expected) in [
            (-5, "in less than a minute"),
            (29, "in less than a minute"),
            (30, "in 1 min"),
            (3_599, "in 60 min"),
            (7_199, "in 2 h"),
            (24 * 3_600 - 1, "in 24 h"),
            (7 * 24 * 3_600 - 1, "in 7 days"),
        ] {
            let end = now + SignedDuration::from_secs(seconds);
            let shown = remaining(end, now).into_string();
            assert!(shown.ends_with(&format!(">{expected}</span>")), "{shown}");
        }
    }
}

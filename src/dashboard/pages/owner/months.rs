//! The usage of an owner in this month and the last one, by key.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use maud::{Markup, html};

use crate::dashboard::billing::{self, OwnerMonth};
use crate::dashboard::charts;
use crate::dashboard::form::FormFields;
use crate::dashboard::month::Month;
use crate::dashboard::page_context::{PageContext, zone_named};
use crate::dashboard::pages::components::{badge, caption, last_accepted, line_to, none};
use crate::dashboard::pages::keys_by_id::keys_with;
use crate::dashboard::pages::owner_in_path::OwnerInPath;
use crate::dashboard::pages::owners::{amount_heads, amounts, download, month_of};
use crate::dashboard::pages::{Failure, breakdowns, top};
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::key::{Key, KeyQuery};
use crate::page::PageRequest;
use crate::usage::Totals;

/// The field with the time zone of the months. The browser's by default.
pub(super) const MONTH_ZONE: &str = "month_zone";

/// The maximum number of keys in a table.
const ROWS: usize = 20;

/// Exports the usage of each of the owner's keys in a month.
pub(in crate::dashboard) async fn export(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    OwnerInPath(owner): OwnerInPath,
    fields: FormFields,
) -> Response {
    let file = async {
        let month = month_of(&context, &fields)?;
        let usage = OwnerMonth::read(&shared.usage, &month, &owner).await?;
        let ids = usage.by_key.keys().copied().flatten();
        let keys = keys_with(&shared, ids.collect()).await?;
        let keys: BTreeMap<_, _> = keys.into_iter().map(|key| (key.id, key)).collect();
        Ok::<_, Failure>(billing::file_by_key(&month, &owner, &usage, &keys))
    };
    file.await.unwrap_or_else(|failure| failure.page(&context))
}

/// The usage of an owner in this month and the last one.
pub(super) struct Months {
    /// This month first.
    months: [(Month, OwnerMonth); 2],
    /// The owner's keys, and others in the tables that still exist.
    pub(super) keys: Vec<Key>,
    /// The owner's current keys.
    current: Vec<KeyId>,
}

impl Months {
    /// Also reads the keys with these ids.
    pub(super) async fn read(
        shared: &Shared,
        context: &PageContext,
        owner: &str,
        fields: &FormFields,
        others: impl Iterator<Item = KeyId>,
    ) -> Result<Self, Failure> {
        let zone = fields.get(MONTH_ZONE).map(zone_named);
        let zone = zone.and_then(Result::ok);
        let zone = zone.unwrap_or_else(|| context.zone.clone());
        let month = Month::of(Timestamp::now(), &zone);
        let last = month.previous();
        let usage = [
            OwnerMonth::read(&shared.usage, &month, owner).await?,
            OwnerMonth::read(&shared.usage, &last, owner).await?,
        ];
        let query = KeyQuery::new().owner(owner).limit(PageRequest::MAX_LIMIT);
        let mut keys = shared.keys.list(&query).await?.items;
        let current: Vec<_> = keys.iter().map(|key| key.id).collect();
        let mut missing: BTreeSet<_> = others.collect();
        for usage in &usage {
            missing.extend(usage.top_keys(ROWS));
        }
        missing.retain(|id| !current.contains(id));
        keys.extend(keys_with(shared, missing.into_iter().collect()).await?);
        let [now, before] = usage;
        Ok(Self {
            months: [(month, now), (last, before)],
            keys,
            current,
        })
    }

    /// Links to the files of both months.
    pub(super) fn downloads(&self, at: &str) -> Markup {
        html! {
            p {
                @for (month, _) in self.months.iter().rev() {
                    (download(&format!("{at}/csv"), month, &format!("{} CSV", month.title())))
                }
            }
        }
    }

    /// `at` is the URL of the page.
    pub(super) fn section(&self, context: &PageContext, at: &str, fields: &FormFields) -> Markup {
        let zone = self.months[0].0.zone_name();
        let other = match zone {
            "UTC" => context.zone_name(),
            _ => "UTC",
        };
        let switch = fields.with([(MONTH_ZONE, other)]).query();
        html! {
            section #months .panel aria-labelledby="usage-by-month" {
                .head {
                    h2 #usage-by-month { "Usage by month" }
                    p {
                        "Calendar months in " (zone) "."
                        @if other != zone { " " a href={ (at) "?" (switch) "#months" } { "Use " (other) } }
                    }
                }
                @for (month, usage) in &self.months { (self.table(context, month, usage)) }
            }
        }
    }

    fn table(&self, context: &PageContext, month: &Month, usage: &OwnerMonth) -> Markup {
        let mut by_key = usage.by_key.clone();
        for id in &self.current {
            by_key.entry(Some(*id)).or_default();
        }
        let mut rows: Vec<(Option<KeyId>, Totals)> = by_key.into_iter().collect();
        rows.sort_by_cached_key(|(_, totals)| Reverse(totals.total()));
        let more = rows.len().saturating_sub(ROWS);
        rows.truncate(ROWS);
        let is_current = month.range().contains(&Timestamp::now());
        html! {
            h3 { (month.title()) @if is_current { " to date" } }
            (breakdowns::exactness(usage.is_exact))
            .scroll tabindex="0" role="region" aria-label=(month.title()) { table .stacked .amounts {
                (caption(&format!("Usage in {} by key", month.title())))
                thead { tr {
                    th scope="col" { "Key" }
                    th .number scope="col" { "Requests" }
                    (amount_heads())
                    @if is_current { th scope="col" { "Last accepted" } }
                } }
                tbody { @for (id, totals) in &rows { tr {
                    th scope="row" { (self.key(context, *id)) }
                    td .number data-label="Requests" { (charts::count(totals.total())) }
                    (amounts(totals))
                    @if is_current { td data-label="Last accepted" { (self.last_accepted(context, *id)) } }
                } } }
                tfoot { tr {
                    th scope="row" { "Total" }
                    td .number data-label="Requests" { (charts::count(usage.totals.total())) }
                    (amounts(&usage.totals))
                    @if is_current { td {} }
                } }
            } }
            @if more > 0 {
                p .rule { "And " (charts::count(more as u64)) " more keys. The file has every key with requests." }
            }
        }
    }

    fn last_accepted(&self, context: &PageContext, id: Option<KeyId>) -> Markup {
        let key = id.and_then(|id| top::named(&self.keys, id));
        html! { @match key { Some(key) => (last_accepted(context, key)), None => (none()) } }
    }

    fn key(&self, context: &PageContext, id: Option<KeyId>) -> Markup {
        html! {
            @match (id, id.and_then(|id| top::named(&self.keys, id))) {
                (Some(id), Some(key)) => {
                    span .with-badge {
                        (line_to(&top::link(context, id, &self.keys), &key.name))
                        code { (key.hint) }
                        (badge(key))
                    }
                }
                (Some(id), None) => a href=(top::link(context, id, &self.keys)) { code { (id) } " (deleted)" },
                (None, _) => "No key",
            }
        }
    }
}

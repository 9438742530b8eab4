//! The list of owners, and a file with the usage of all of them in a month.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use jiff::Timestamp;
use maud::{Markup, html};

use super::Failure;
use super::breakdowns;
use super::components::{caption, line, owner};
use super::live::Live;
use super::owner::badge;
use super::owner_field::{self, owner_field};
use super::plans;
use super::range::{self, TimeRange};
use crate::dashboard::form::FormFields;
use crate::dashboard::month::Month;
use crate::dashboard::page_context::{PageContext, zone_named};
use crate::dashboard::state::Shared;
use crate::dashboard::{billing, charts};
use crate::key::{Owner, OwnerAdmin, OwnerQuery};
use crate::page::PageRequest;
use crate::text::contains_ignoring_case;
use crate::usage::{Summary, SummaryQuery, SummarySpec, Totals, UsageRange};

/// The maximum number of rows.
const ROWS: usize = 50;

pub(in crate::dashboard) async fn list(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    headers: HeaderMap,
    fields: FormFields,
) -> Response {
    let picked = TimeRange::of(&context, &fields);
    let is_current = picked.is_current();
    let content = async |live: &Live| {
        let owners = Owners::read(&shared, &picked, &fields).await?;
        Ok(owners.content(&context, &picked, &fields, live))
    };
    Live::page(&shared, &context, &headers, is_current, "Owners", content).await
}

/// Exports the usage of each owner in a month.
pub(in crate::dashboard) async fn export(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    fields: FormFields,
) -> Response {
    let file = async {
        let month = month_of(&context, &fields)?;
        let summary = billing::by_owner(&shared.usage, &month).await?;
        Ok::<_, Failure>(billing::file_by_owner(&month, &summary, true))
    };
    file.await.unwrap_or_else(|failure| failure.page(&context))
}

/// The month of a file: the fields `month` and `zone`.
pub(super) fn month_of(context: &PageContext, fields: &FormFields) -> Result<Month, Failure> {
    let zone = fields.get("zone").map(zone_named).transpose();
    let zone = zone.map_err(|error| Failure::Invalid(error.to_string()))?;
    let zone = zone.unwrap_or_else(|| context.zone.clone());
    let month = fields.get("month").unwrap_or_default();
    let wrong = || Failure::Invalid("Enter a month such as 2026-10.".into());
    Month::parse(month, zone).ok_or_else(wrong)
}

/// A link to download the usage of a month. `at` is the URL of the file.
pub(super) fn download(at: &str, month: &Month, text: &str) -> Markup {
    let fields: FormFields = [
        ("month", month.to_string()),
        ("zone", month.zone_name().to_owned()),
    ]
    .into_iter()
    .collect();
    html! { a .button href={ (at) "?" (fields.query()) } { (text) } }
}

/// The data of the page.
struct Owners {
    summary: Summary,
    /// Those that match the filter: by the number of requests, then those of keys without any.
    rows: Vec<(Arc<str>, Totals)>,
    /// The records of those that are shown, by id. `None` if the store has no owners.
    records: Option<HashMap<Arc<str>, Owner>>,
    suggested: Vec<String>,
}

impl Owners {
    async fn read(
        shared: &Shared,
        picked: &TimeRange,
        fields: &FormFields,
    ) -> Result<Self, Failure> {
        let times = &picked.range;
        let range = UsageRange::new().from(times.start).to(times.end);
        let query = SummaryQuery::new(range, SummarySpec::new().by_owner());
        let mut summary = shared.usage.summary(&query).await?;
        let part = fields.get("owner").unwrap_or_default();
        let mut owners = summary.by_owner.take().unwrap_or_default();
        let mut records = Records::read(shared, part).await?;
        let is_found = |owner: &Arc<str>| {
            let record = records
                .as_ref()
                .and_then(|records| records.by_id.get(owner));
            record.is_some() || contains_ignoring_case(owner, part)
        };
        owners.retain(|owner, _| is_found(owner));
        // Those without requests are shown last.
        if owners.len() <= ROWS {
            let others = match &records {
                Some(records) => records.by_id.keys().cloned().collect(),
                None => shared
                    .keys
                    .owners(part, 2 * ROWS)
                    .await?
                    .into_iter()
                    .map(Arc::from)
                    .collect::<Vec<_>>(),
            };
            for owner in others {
                owners.entry(owner).or_default();
            }
        }
        let mut rows: Vec<_> = owners.into_iter().collect();
        rows.sort_by_cached_key(|(_, totals)| Reverse(totals.total()));
        if let Some(records) = &mut records {
            let shown = rows.iter().take(ROWS).map(|(id, _)| id);
            records.complete(shown).await?;
        }
        Ok(Self {
            summary,
            rows,
            records: records.map(|records| records.by_id),
            suggested: owner_field::suggested(shared).await?,
        })
    }

    fn content(
        &self,
        context: &PageContext,
        picked: &TimeRange,
        fields: &FormFields,
        live: &Live,
    ) -> Markup {
        let at = context.at("/owners");
        let kept = fields.only(&range::FIELDS);
        let is_filtered = fields.get("owner").is_some();
        html! {
            .head {
                h1 { "Owners" }
                (live.switch())
                (downloads(context))
                @if self.records.is_some() {
                    p { a .button href=(context.at("/plans")) { "Plans" } }
                }
            }
            (picked.choice(context, &at, fields, &["owner"]))
            form .filters method="get" action=(at) role="search" aria-label="Filter owners" {
                @for (name, value) in kept.iter() { input type="hidden" name=(name) value=(value); }
                (owner_field(fields, &self.suggested))
                button type="submit" { "Apply" }
                @if is_filtered { a .button href={ (at) "?" (kept.query()) } { "Clear filters" } }
            }
            div data-live="usage" {
                (breakdowns::exactness(self.summary.exact))
                @if self.rows.is_empty() {
                    p .empty {
                        @if is_filtered { "No owners match your filter." }
                        @else { "No owners yet. Set the owner of an API key to see its usage here." }
                    }
                } @else {
                    (self.table(context))
                }
            }
        }
    }

    fn table(&self, context: &PageContext) -> Markup {
        let shown = &self.rows[..self.rows.len().min(ROWS)];
        let totals: Totals = self.rows.iter().map(|(_, totals)| totals).sum();
        let all = self.summary.totals.total();
        html! {
            .scroll .panel tabindex="0" role="region" aria-label="Owners" { table .stacked .amounts {
                (caption("Owners by requests"))
                thead { tr {
                    th scope="col" { "Owner" }
                    @if self.records.is_some() { th scope="col" { "Plan" } }
                    @for head in ["Requests", "Share"] { th .number scope="col" { (head) } }
                    (amount_heads())
                } }
                tbody { @for (name, totals) in shown { tr {
                    @let record = self.records.as_ref().and_then(|records| records.get(name));
                    th scope="row" {
                        (owner(context, Some(name)))
                        @if record.is_some_and(Owner::is_suspended) { (badge(true)) }
                        @if let Some(called) = record.and_then(|owner| owner.name.as_deref()) {
                            small { (line(called)) }
                        }
                    }
                    @if self.records.is_some() {
                        @let plan = record.and_then(|owner| owner.plan.as_deref());
                        td data-label="Plan" { (plans::link(context, plan)) }
                    }
                    td .number data-label="Requests" { (charts::count(totals.total())) }
                    td .number data-label="Share" { (charts::share(totals.total(), all)) }
                    (amounts(totals))
                } } }
                tfoot { tr {
                    th scope="row" colspan=[self.records.is_some().then_some(2)] { "Total" }
                    td .number data-label="Requests" { (charts::count(totals.total())) }
                    td .number data-label="Share" { (charts::share(totals.total(), all)) }
                    (amounts(&totals))
                } }
            } }
            @if shown.len() < self.rows.len() {
                p .rule {
                    "The " (ROWS) " owners with the most requests. Filter by owner to find others; files have all of them."
                }
            }
        }
    }
}

/// The records of owners whose id or name contains a text.
struct Records<'a> {
    admin: &'a dyn OwnerAdmin,
    by_id: HashMap<Arc<str>, Owner>,
    /// Whether there are more.
    has_more: bool,
}

impl<'a> Records<'a> {
    /// `None` if the store has no owners.
    async fn read(shared: &'a Shared, part: &str) -> Result<Option<Self>, Failure> {
        let Some(admin) = shared.keys.owner_admin() else {
            return Ok(None);
        };
        let query = OwnerQuery::new().contains(part);
        let page = admin
            .list_owners(&query.limit(PageRequest::MAX_LIMIT))
            .await?;
        let by_id = page.items.into_iter();
        Ok(Some(Self {
            admin,
            by_id: by_id.map(|owner| (owner.id.clone(), owner)).collect(),
            has_more: page.next.is_some(),
        }))
    }

    /// Adds the records of these owners.
    async fn complete(&mut self, ids: impl Iterator<Item = &Arc<str>>) -> Result<(), Failure> {
        let ids = ids.filter(|id| self.has_more && !self.by_id.contains_key(*id));
        let ids: Vec<_> = ids.cloned().collect();
        if !ids.is_empty() {
            let query = OwnerQuery::new().limit(ids.len()).ids(ids);
            let page = self.admin.list_owners(&query).await?;
            let found = page.items.into_iter();
            self.by_id
                .extend(found.map(|owner| (owner.id.clone(), owner)));
        }
        Ok(())
    }
}

/// The heads of [`amounts`].
pub(super) fn amount_heads() -> Markup {
    html! { @for (head, _) in AMOUNTS { th .number scope="col" { (head) } } }
}

/// The numbers on a bill, as cells of a table.
pub(super) fn amounts(totals: &Totals) -> Markup {
    html! {
        @for (head, amount) in AMOUNTS {
            td .number data-label=(head) { (charts::count(amount(totals))) }
        }
    }
}

type Amount = (&'static str, fn(&Totals) -> u64);

const AMOUNTS: [Amount; 5] = [
    ("Completed", Totals::completed),
    ("Failed", Totals::failed),
    ("Rate limited", Totals::rate_limited),
    ("Cost", Totals::cost),
    ("Billable cost", Totals::billable_cost),
];

/// Links to the usage of all owners in this month and the last one.
fn downloads(context: &PageContext) -> Markup {
    let this = Month::of(Timestamp::now(), &context.zone);
    html! {
        p {
            "Monthly usage, " (this.zone_name()) ":"
            @for month in [&this.previous(), &this] {
                (download(&context.at("/billing/csv"), month, &format!("{} CSV", month.title())))
            }
        }
    }
}

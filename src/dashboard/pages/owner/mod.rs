//! The page of an owner: usage by key and month, and the request log.

pub(in crate::dashboard) mod edit;
mod months;
mod record;
pub(in crate::dashboard) mod status;

use std::ops::Range;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use jiff::Timestamp;
use maud::{Markup, html};

pub(in crate::dashboard) use self::months::export;
use self::months::{MONTH_ZONE, Months};
use self::record::Record;
pub(super) use self::record::badge;
use super::breakdowns::{self, Links, STATUSES};
use super::components::{name, name_of_owner};
use super::live::Live;
use super::log::{self, Columns, Log, Table};
use super::owner_in_path::OwnerInPath;
use super::range::{self, TimeRange};
use super::{Failure, limits_now, top};
use crate::dashboard::form::FormFields;
use crate::dashboard::owner_path::owner_path;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::usage::{SummaryQuery, SummarySpec, UsageRange};

/// The number of keys in the chart.
const TOP: usize = 10;

pub(in crate::dashboard) async fn page_of(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    OwnerInPath(owner): OwnerInPath,
    headers: HeaderMap,
    fields: FormFields,
) -> Response {
    let picked = TimeRange::of(&context, &fields);
    let is_current = picked.is_current() && log::is_current(&fields);
    let title = name_of_owner(&owner);
    let content = async |live: &Live| {
        let columns = Columns::of(Table::AllKeys, &headers);
        shown(&shared, &context, &owner, &fields, &picked, columns, live).await
    };
    Live::page(&shared, &context, &headers, is_current, title, content).await
}

async fn shown(
    shared: &Shared,
    context: &PageContext,
    owner: &str,
    fields: &FormFields,
    picked: &TimeRange,
    columns: Columns,
    live: &Live,
) -> Result<Markup, Failure> {
    let record = Record::read(shared, owner).await?;
    let range = |times: &Range<Timestamp>| {
        let range = UsageRange::new().owner(owner);
        range.from(times.start).to(times.end)
    };
    let spec = SummarySpec::new().by_key().latency();
    let spec = spec.latency_by_endpoint().latency_over_time();
    let spec = spec.over_range(picked.range.clone(), context.zone.clone());
    let now = SummaryQuery::new(range(&picked.range), spec);
    let summary = shared.usage.summary(&now).await?;
    let before = shared.usage.totals_by_key(&range(&picked.before)).await?;
    let before = before.values().sum();
    let busiest = summary.top_keys(TOP).into_iter();
    let busiest: Vec<_> = busiest.map(|(id, totals)| (id, totals.clone())).collect();
    let ids = busiest.iter().filter_map(|(id, _)| *id);
    let months = Months::read(shared, context, owner, fields, ids).await?;
    let at = context.at(&owner_path(owner));
    let log = Log {
        at: at.clone(),
        key: None,
        owner: Some(owner),
        picked: Some(picked),
        columns,
    };
    let log = log.section(shared, context, fields).await?;
    // Links in cards and charts add filters to the log below.
    let links = Links {
        kept: fields.only(&[&range::FIELDS[..], &log::FILTERS, &[STATUSES, MONTH_ZONE]].concat()),
        at,
    };
    let page = Links {
        kept: fields.only(&[&log::FIELDS[..], &log::PAGE_TOKENS, &[MONTH_ZONE]].concat()),
        at: links.at.clone(),
    };
    let range = fields.only(&range::FIELDS);
    let kept = [&log::KEPT[..], &[MONTH_ZONE]].concat();
    Ok(html! {
        p { a href=(context.at("/owners")) { "Back to owners" } }
        .head {
            h1 {
                (name(name_of_owner(owner)))
                @if record.as_ref().is_some_and(Record::is_suspended) { " " (badge(true)) }
            }
            (live.switch())
            (months.downloads(&links.at))
        }
        @if let Some(record) = record {
            (record.section(context, owner))
            (limits_now::of_owner(shared, owner, &record.limits()).await)
        }
        (picked.choice(context, &links.at, fields, &kept))
        div data-live="usage" {
            (breakdowns::exactness(summary.exact))
            (breakdowns::cards(&summary.totals, &before, &links, true))
            (breakdowns::chart(context, picked, &summary, &links))
            (breakdowns::latency(context, picked, &summary))
            (months.section(context, &links.at, fields))
            (breakdowns::panels(&summary, &links, &page))
            (top::keys(context, &busiest, &months.keys, summary.totals.total(), &range))
            (breakdowns::endpoints(&summary, &links))
        }
        (log)
    })
}

//! The page of a key: details, usage and request log.

use std::ops::Range;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use jiff::Timestamp;
use maud::{Markup, html};

use super::breakdowns::{self, Links, STATUSES};
use super::components::{badge, copy, folded, name};
use super::lineage::Lineage;
use super::live::Live;
use super::log::{self, Columns, Log, Table};
use super::range::{self, TimeRange};
use super::{Failure, details, find, limits_now, redirect};
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::key_in_path::RecordInPath;
use crate::dashboard::state::Shared;
use crate::key::KeyRecord;
use crate::usage::{SummaryQuery, SummarySpec, UsageRange};

pub(in crate::dashboard) async fn of_key(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    RecordInPath(record): RecordInPath,
    headers: HeaderMap,
    fields: FormFields,
) -> Response {
    let key = &record.key;
    if let Some(url) = log::leaving(&context, key, &fields) {
        return redirect(url);
    }
    let picked = TimeRange::of(&context, &fields);
    let is_current = picked.is_current() && log::is_current(&fields);
    let content = async |live: &Live| {
        shown(&shared, &context, &record, &headers, &fields, &picked, live).await
    };
    Live::page(&shared, &context, &headers, is_current, &key.name, content).await
}

async fn shown(
    shared: &Shared,
    context: &PageContext,
    record: &KeyRecord,
    headers: &HeaderMap,
    fields: &FormFields,
    picked: &TimeRange,
    live: &Live,
) -> Result<Markup, Failure> {
    let (key, policy) = (&record.key, &record.policy);
    let lineage = Lineage::of(shared, std::slice::from_ref(key)).await?;
    let range = |times: &Range<Timestamp>| {
        let range = UsageRange::new().key(key.id);
        range.from(times.start).to(times.end)
    };
    let spec = SummarySpec::new()
        .latency()
        .latency_by_endpoint()
        .latency_over_time()
        .over_range(picked.range.clone(), context.zone.clone());
    let now = SummaryQuery::new(range(&picked.range), spec);
    let summary = shared.usage.summary(&now).await?;
    let before = shared.usage.totals_by_key(&range(&picked.before)).await?;
    let before = before.values().sum();
    let at = context.at(&format!("/keys/{}", key.id));
    let log = Log {
        at: at.clone(),
        key: Some(key),
        owner: None,
        picked: Some(picked),
        columns: Columns::of(Table::OneKey, headers),
    };
    let log = log.section(shared, context, fields).await?;
    // Links in cards and charts add filters to the log below.
    let links = Links {
        kept: fields.only(&[&range::FIELDS[..], &log::FILTERS, &[STATUSES]].concat()),
        at,
    };
    let page = Links {
        kept: fields.only(&[&log::FIELDS[..], &log::PAGE_TOKENS].concat()),
        at: links.at.clone(),
    };
    Ok(html! {
        p { a href=(context.at("/keys")) { "Back to API keys" } }
        (find::warning(shared, context, headers, key))
        .head {
            h1 {
                (name(&key.name)) " " (badge(key))
                @if policy.is_owner_suspended { " " span .badge.disabled { "owner suspended" } }
            }
            (live.switch())
            p { code { (key.id) } " " (copy(key.id.as_str(), "key ID")) }
        }
        (details::of_key(shared, context, key, policy, &lineage))
        (limits_now::of_key(shared, key).await)
        (lineage.sections(shared, context, key).await)
        (picked.choice(context, &links.at, fields, &log::KEPT))
        div data-live="usage" {
            (breakdowns::exactness(summary.exact))
            (breakdowns::cards(&summary.totals, &before, &links, true))
            (breakdowns::chart(context, picked, &summary, &links))
            (folded(&html! { "Breakdowns" }, false, &html! {
                (breakdowns::latency(context, picked, &summary))
                (breakdowns::panels(&summary, &links, &page))
                (breakdowns::endpoints(&summary, &links))
            }))
        }
        (log)
    })
}

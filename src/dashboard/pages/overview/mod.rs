//! The overview: usage of all keys, and the keys that need attention.

mod health;
mod rejected;
mod tables;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use self::tables::ROWS;
pub(super) use self::tables::{EXPIRING_DAYS, UNUSED_DAYS};
use super::breakdowns::{self, Links, STATUSES};
use super::live::Live;
use super::range::{self, TimeRange};
use super::{Failure, top};
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::join::join;
use crate::key::{Key, KeyQuery, KeyStatus};
use crate::page::Page;
use crate::usage::summary::{Spike, Totals, spikes};
use crate::usage::{
    Granularity, MergeBacklog, Rejections, Summary, SummaryQuery, SummarySpec, UsageRange,
};

/// The number of top keys and owners. They fit above the fold of a window of 1,280 by 800 pixels.
const TOP: usize = 5;

/// The maximum number of keys that are sorted by expiry.
const EXPIRING: usize = 200;

type ByKey = BTreeMap<Option<KeyId>, Totals>;

pub(in crate::dashboard) async fn overview(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    headers: HeaderMap,
    fields: FormFields,
) -> Response {
    let picked = TimeRange::of(&context, &fields);
    let is_current = picked.is_current();
    let content = async |live: &Live| {
        let overview = Overview::read(&shared, &context, &picked).await?;
        Ok(overview.content(&shared, &context, &picked, &fields, live))
    };
    Live::page(&shared, &context, &headers, is_current, "Overview", content).await
}

/// Active keys without recent use.
pub(super) fn unused(now: Timestamp) -> KeyQuery {
    let since = now.saturating_sub(SignedDuration::from_hours(24 * UNUSED_DAYS));
    let query = KeyQuery::new().status(KeyStatus::Active, now);
    query.unused_since(since.unwrap_or(Timestamp::MIN))
}

/// Active keys that expire soon.
pub(super) fn expiring(now: Timestamp) -> KeyQuery {
    let end = now.saturating_add(SignedDuration::from_hours(24 * EXPIRING_DAYS));
    let query = KeyQuery::new().status(KeyStatus::Active, now);
    query.expires_before(end.unwrap_or(Timestamp::MAX))
}

/// The data of the page.
struct Overview {
    summary: Summary,
    before: Totals,
    /// The keys with the most requests.
    busiest: Vec<(Option<KeyId>, Totals)>,
    spikes: Vec<Spike>,
    unused: Page<Key>,
    /// Sorted by expiry.
    expiring: Page<Key>,
    /// The keys in `busiest` and `spikes` that still exist.
    named: Vec<Key>,
    has_keys: bool,
    /// `None` without a recorder.
    rejections: Option<Rejections>,
    backlog: Option<MergeBacklog>,
}

impl Overview {
    /// Queries the store at most seven times, after the query of its revision.
    async fn read(
        shared: &Shared,
        context: &PageContext,
        picked: &TimeRange,
    ) -> Result<Self, Failure> {
        let (keys, usage, now) = (&shared.keys, &shared.usage, Timestamp::now());
        let range = &picked.range;
        let spec = SummarySpec::new().by_key().by_owner().latency();
        let spec = spec.latency_by_endpoint().latency_over_time();
        // Of all keys, there are far fewer rollups by hour than by minute.
        let is_long = range.end.duration_since(range.start) > SignedDuration::from_hours(12);
        let width = match Granularity::for_range(range.clone()) {
            Granularity::QuarterHour if is_long => Granularity::Hour,
            width => width,
        };
        let spec = spec.over_time(width, context.zone.clone());
        let of = |range: &Range<Timestamp>| UsageRange::new().from(range.start).to(range.end);
        let query = SummaryQuery::new(of(range), spec);
        let query_before = SummaryQuery::new(of(&picked.before), SummarySpec::new().by_key());
        let (unused, expiring) = (unused(now).limit(ROWS), expiring(now).limit(EXPIRING));
        let others = async {
            let before = usage.summary(&query_before).await?;
            let backlog = usage.merge_backlog().await?;
            let (unused, expiring) = (keys.list(&unused).await?, keys.list(&expiring).await?);
            Ok::<_, Failure>((before, backlog, unused, expiring))
        };
        let (summary, others) = join(usage.summary(&query), others).await;
        let (summary, (before, backlog, unused, mut expiring)) = (summary?, others?);
        let none = ByKey::new();
        let by_key = summary.by_key.as_ref().unwrap_or(&none);
        let by_key_before = before.by_key.as_ref().unwrap_or(&none);
        let mut spikes = spikes(by_key, by_key_before);
        spikes.truncate(ROWS);
        let busiest = summary.top_keys(TOP).into_iter();
        let busiest: Vec<_> = busiest.map(|(id, totals)| (id, totals.clone())).collect();
        expiring.items.sort_by_key(|key| key.expires_at);
        let mut ids: Vec<_> = busiest.iter().filter_map(|(id, _)| *id).collect();
        ids.extend(spikes.iter().filter_map(|spike| spike.key));
        let recorder = shared.recorder.as_ref();
        let rejections = recorder.map(|it| it.rejections(picked.range.clone()));
        let rejected = rejections.iter().flat_map(|it| it.keys.iter().flatten());
        ids.extend(rejected.take(ROWS).map(|sender| sender.sender));
        let named = match ids.len() {
            0 => Vec::new(),
            many => {
                keys.list(&KeyQuery::new().ids(ids).limit(many))
                    .await?
                    .items
            }
        };
        let seen = [&unused.items, &expiring.items, &named];
        let has_keys = seen.iter().any(|keys| !keys.is_empty())
            || !keys.list(&KeyQuery::new().limit(1)).await?.items.is_empty();
        Ok(Self {
            backlog,
            before: before.totals,
            busiest,
            spikes,
            unused,
            expiring,
            named,
            has_keys,
            rejections,
            summary,
        })
    }

    fn content(
        &self,
        shared: &Shared,
        context: &PageContext,
        picked: &TimeRange,
        fields: &FormFields,
        live: &Live,
    ) -> Markup {
        let (home, all) = (context.home(), self.summary.totals.total());
        let range = fields.only(&range::FIELDS);
        let (since, until) = (picked.range.start.to_string(), picked.range.end.to_string());
        let kept = FormFields::default().with([("since", &*since), ("until", &until)]);
        let links = Links {
            at: context.at("/log"),
            kept,
        };
        let this = Links {
            at: home.clone(),
            kept: fields.only(&[&range::FIELDS[..], &[STATUSES]].concat()),
        };
        html! {
            .head {
                h1 { "Overview" }
                (live.switch())
                @if shared.issuer.is_some() {
                    a .button .primary href=(context.at("/keys/new")) { "Generate API key" }
                }
            }
            @if !self.has_keys { (first_steps(shared, context)) }
            (picked.choice(context, &home, fields, &[STATUSES]))
            div data-live="usage" {
            (breakdowns::exactness(self.summary.exact))
            (breakdowns::cards(&self.summary.totals, &self.before, &links, false))
            .panels .wide {
                (top::keys(context, &self.busiest, &self.named, all, &range))
                (top::owners(context, &self.summary.top_owners(TOP), all, &range))
            }
            (breakdowns::chart(context, picked, &self.summary, &links))
            (breakdowns::latency(context, picked, &self.summary))
            (tables::spikes(context, &self.spikes, &self.named))
            (breakdowns::endpoints(&self.summary, &links))
            (breakdowns::failing_owners(&self.summary, &links))
            (breakdowns::panels(&self.summary, &links, &this))
            @if let Some(rejections) = &self.rejections {
                @let over_time = self.summary.over_time.as_ref();
                (rejected::section(context, picked, rejections, over_time, &self.named, &links))
            }
            .panels .wide {
                (tables::expiring(context, &self.expiring))
                (tables::unused(context, &self.unused))
            }
            (health::section(
                context,
                shared.recorder.as_ref().map(|it| it.stats()).as_ref(),
                self.backlog.as_ref(),
                shared.layer.as_ref().and_then(|layer| layer.limiter_health()),
            ))
            }
        }
    }
}

/// Instructions if there are no keys.
fn first_steps(shared: &Shared, context: &PageContext) -> Markup {
    html! {
        section .panel aria-label="Get started" {
            h2 { "No API keys yet" }
            @if shared.issuer.is_some() {
                p { a href=(context.at("/keys/new")) { "Generate an API key" }
                    " and send a request with it. Its usage will appear here." }
            } @else {
                p { "Usage will appear here once the service issues API keys." }
            }
        }
    }
}

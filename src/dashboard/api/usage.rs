//! Usage summaries.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::dashboard::billing;
use crate::dashboard::month::Month;
use crate::dashboard::page_context::zone_named;
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::usage::summary::{TooManyBuckets, candidates, spikes};
use crate::usage::{Granularity, SummaryQuery, SummarySpec, UsageRange, UsageReader};
use crate::web::Problem;
use crate::web::schema::{MonthByOwner, OverTime, Spikes, Summary, names};
use crate::web::{Query, at_most, in_order};

/// The default maximum number of endpoints, keys and owners in a summary.
const TOP: usize = 10;

const MAX_TOP: usize = 1_000;

/// Filters of a summary, combined with AND.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Only requests with this key.
    #[param(inline, value_type = Option<names::KeyId>)]
    key: Option<KeyId>,
    /// Only requests with keys of this owner.
    owner: Option<String>,
    /// Only requests that started at or after this time.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Only requests that started before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// The maximum number of endpoints, keys and owners. 10 by default.
    #[param(minimum = 1, maximum = 1000)]
    top: Option<usize>,
}

/// Summarizes usage: totals, breakdowns, top endpoints, keys and owners, and latency.
#[utoipa::path(
    get, path = "/usage",
    operation_id = "summarize_usage",
    tag = "usage",
    params(Wanted),
    responses(
        (status = 200, description = "The summary", body = Summary),
        Problem,
    ),
)]
pub(super) async fn summary(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Summary>, Problem> {
    in_order(wanted.from, wanted.to)?;
    let top = at_most(MAX_TOP, "top", wanted.top)?.unwrap_or(TOP);
    let mut spec = SummarySpec::new().latency().latency_by_endpoint();
    if wanted.key.is_none() {
        spec = spec.by_key().by_owner();
    }
    let mut range = UsageRange::new();
    range.key = wanted.key;
    range.owner = wanted.owner;
    (range.from, range.to) = (wanted.from, wanted.to);
    let query = SummaryQuery::new(range, spec);
    let summary = shared.usage.summary(&query).await?;
    Ok(Json(Summary::of(&summary, top)))
}

/// Filters of a summary over time, combined with AND.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WantedOverTime {
    /// Only requests with this key.
    #[param(inline, value_type = Option<names::KeyId>)]
    key: Option<KeyId>,
    /// Only requests with keys of this owner.
    owner: Option<String>,
    /// The start of the range, inclusive.
    #[param(value_type = String, format = DateTime)]
    from: Timestamp,
    /// The end of the range, exclusive. The current time by default.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// The width of a time bucket. By default, selected for the length of the range.
    #[param(inline, value_type = Option<names::Granularity>)]
    width: Option<Granularity>,
    /// The IANA time zone for bucket boundaries. UTC by default.
    #[param(example = "Europe/Berlin")]
    zone: Option<String>,
}

/// Summarizes usage by time bucket, for charts.
#[utoipa::path(
    get, path = "/usage/over-time",
    operation_id = "summarize_usage_over_time",
    tag = "usage",
    params(WantedOverTime),
    responses(
        (status = 200, description = "The summary", body = OverTime),
        Problem,
    ),
)]
pub(super) async fn over_time(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<WantedOverTime>,
) -> Result<Json<OverTime>, Problem> {
    in_order(Some(wanted.from), wanted.to)?;
    let now = Timestamp::now();
    let times = wanted.from..wanted.to.unwrap_or(now);
    let name = wanted.zone.unwrap_or_else(|| "UTC".into());
    let zone = zone_named(&name);
    let zone = zone.map_err(|error| Problem::parameter("zone", error.to_string()))?;
    let width = wanted
        .width
        .unwrap_or_else(|| Granularity::for_range(times.clone()));
    let mut range = UsageRange::new().from(times.start).to(times.end);
    range.key = wanted.key;
    range.owner = wanted.owner;
    let spec = SummarySpec::new()
        .over_time(width, zone.clone())
        .latency_over_time();
    // Check the number of buckets before reading any usage.
    let empty = spec.empty().over_time.ok_or_else(Problem::internal)?;
    let too_many = |error: TooManyBuckets| Problem::parameter("width", error.to_string());
    empty.filled(times.clone(), now).map_err(too_many)?;
    let summary = shared
        .usage
        .summary(&SummaryQuery::new(range, spec))
        .await?;
    let over_time = summary.over_time.ok_or_else(Problem::internal)?;
    let buckets = over_time.filled(times, now).map_err(too_many)?;
    Ok(Json(OverTime::new(width, name, buckets, summary.exact)))
}

/// A calendar month.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WantedMonth {
    /// The month.
    #[param(pattern = "^[0-9]{4}-(0[1-9]|1[0-2])$", example = "2026-10")]
    month: String,
    /// The IANA time zone in which the month starts and ends. UTC by default.
    #[param(example = "Europe/Berlin")]
    zone: Option<String>,
}

impl WantedMonth {
    fn month(&self) -> Result<Month, Problem> {
        let zone = zone_named(self.zone.as_deref().unwrap_or("UTC"));
        let zone = zone.map_err(|error| Problem::parameter("zone", error.to_string()))?;
        let month = Month::parse(&self.month, zone);
        month.ok_or_else(|| Problem::parameter("month", "Must be a month such as `2026-10`."))
    }
}

/// Returns the usage of each owner in a calendar month, to bill them.
#[utoipa::path(
    get, path = "/usage/by-owner",
    operation_id = "summarize_usage_by_owner",
    tag = "usage",
    params(WantedMonth),
    responses(
        (status = 200, description = "The usage of each owner", body = MonthByOwner),
        Problem,
    ),
)]
pub(super) async fn by_owner(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<WantedMonth>,
) -> Result<Json<MonthByOwner>, Problem> {
    let month = wanted.month()?;
    let summary = billing::by_owner(&shared.usage, &month).await?;
    let (name, zone) = (month.to_string(), month.zone_name().to_owned());
    Ok(Json(MonthByOwner::new(name, zone, month.range(), summary)))
}

/// Exports the usage of each owner in a calendar month as a CSV file.
#[utoipa::path(
    get, path = "/usage/by-owner/csv",
    operation_id = "export_usage_by_owner",
    tag = "usage",
    params(WantedMonth),
    responses(
        (status = 200, description = "The file", body = String, content_type = "text/csv"),
        Problem,
    ),
)]
pub(super) async fn export_by_owner(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<WantedMonth>,
) -> Result<Response, Problem> {
    let month = wanted.month()?;
    let summary = billing::by_owner(&shared.usage, &month).await?;
    Ok(billing::file_by_owner(&month, &summary, false))
}

/// The period to compare with the previous one.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WantedSpikes {
    /// The start of the period. It is compared with the period of the same length before it.
    #[param(value_type = String, format = DateTime)]
    from: Timestamp,
    /// The end of the period. The current time by default.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
}

/// Finds keys with a spike in failed or rate-limited requests compared to the previous period: at least 20 requests,
/// with a share at least 2 times that of the previous period and at least 5 percentage points higher. Keys with fewer
/// than 5 requests in the previous period are left out.
#[utoipa::path(
    get, path = "/usage/spikes",
    operation_id = "find_spikes",
    tag = "usage",
    params(WantedSpikes),
    responses(
        (status = 200, description = "The keys with spikes", body = Spikes),
        Problem,
    ),
)]
pub(super) async fn find_spikes(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<WantedSpikes>,
) -> Result<Json<Spikes>, Problem> {
    in_order(Some(wanted.from), wanted.to)?;
    let (from, to) = (wanted.from, wanted.to.unwrap_or_else(Timestamp::now));
    let before = from.saturating_sub(to.duration_since(from));
    let before = before.unwrap_or(Timestamp::MIN);
    let range = |from, to| UsageRange::new().from(from).to(to);
    let now = shared.usage.totals_by_key(&range(from, to)).await?;
    let (before, keys) = (range(before, from), candidates(&now));
    let before = shared.usage.totals_of_keys(&before, &keys).await?;
    let found = spikes(&now, &before);
    Ok(Json(found.into()))
}

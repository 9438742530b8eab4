//! What keys were used for, summed up.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::dashboard::page_context::zone_named;
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::usage::summary::{TooManyBuckets, spikes};
use crate::usage::{Granularity, SummaryQuery, SummarySpec, UsageRange, UsageReader};
use crate::web::Problem;
use crate::web::schema::{OverTime, Spikes, Summary, names};
use crate::web::{Query, at_most, in_order};

/// Endpoints and keys in a summary, unless told.
const TOP: usize = 10;

const LARGEST_TOP: usize = 1_000;

/// The requests to sum up; all that is given has to hold.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Those with this key.
    #[param(inline, value_type = Option<names::KeyId>)]
    key: Option<KeyId>,
    /// Those of this owner's keys.
    owner: Option<String>,
    /// Those from then on.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Those before then.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// How many endpoints and keys at most; 10 unless told.
    #[param(minimum = 1, maximum = 1000)]
    top: Option<usize>,
}

/// Sums requests up: totals, breakdowns, top endpoints and keys, latency.
#[utoipa::path(
    get, path = "/usage",
    operation_id = "summarize_usage",
    tag = "usage",
    params(Wanted),
    responses(
        (status = 200, description = "The sums", body = Summary),
        Problem,
    ),
)]
pub(super) async fn summary(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Summary>, Problem> {
    in_order(wanted.from, wanted.to)?;
    let top = at_most(LARGEST_TOP, "top", wanted.top)?.unwrap_or(TOP);
    let mut spec = SummarySpec::new().latency();
    if wanted.key.is_none() {
        spec = spec.by_key();
    }
    let mut range = UsageRange::new();
    range.key = wanted.key;
    range.owner = wanted.owner;
    (range.from, range.to) = (wanted.from, wanted.to);
    let query = SummaryQuery::new(range, spec);
    let summary = shared.backend.summary(&query).await?;
    Ok(Json(Summary::of(&summary, top)))
}

/// The requests to sum up over time; all that is given has to hold.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WantedOverTime {
    /// Those with this key.
    #[param(inline, value_type = Option<names::KeyId>)]
    key: Option<KeyId>,
    /// Those of this owner's keys.
    owner: Option<String>,
    /// Those from then on.
    #[param(value_type = String, format = DateTime)]
    from: Timestamp,
    /// Those before then; now unless told.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// How wide a bucket is; what fits the time unless told.
    #[param(inline, value_type = Option<names::Granularity>)]
    width: Option<Granularity>,
    /// The time zone whose days and hours are meant, by its IANA name; UTC unless told.
    #[param(example = "Europe/Berlin")]
    zone: Option<String>,
}

/// Sums requests up by bucket of time, for a chart.
#[utoipa::path(
    get, path = "/usage/over-time",
    operation_id = "summarize_usage_over_time",
    tag = "usage",
    params(WantedOverTime),
    responses(
        (status = 200, description = "The sums", body = OverTime),
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
        .unwrap_or_else(|| Granularity::fitting(times.clone()));
    let mut range = UsageRange::new().from(times.start).to(times.end);
    range.key = wanted.key;
    range.owner = wanted.owner;
    let spec = SummarySpec::new().over_time(width, zone.clone());
    // First the frame, so that nothing is read for one that is too large.
    let frame = spec.empty().over_time.ok_or_else(Problem::broken)?;
    let too_many = |error: TooManyBuckets| Problem::parameter("width", error.to_string());
    frame.filled(times.clone(), now).map_err(too_many)?;
    let summary = shared
        .backend
        .summary(&SummaryQuery::new(range, spec))
        .await?;
    let found = summary.over_time.ok_or_else(Problem::broken)?;
    let buckets = found.filled(times, now).map_err(too_many)?;
    Ok(Json(OverTime::new(width, name, buckets, summary.exact)))
}

/// The time to compare with that before it.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WantedSpikes {
    /// Its beginning. As long a time before it is what it is compared with.
    #[param(value_type = String, format = DateTime)]
    from: Timestamp,
    /// Its end; now unless told.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
}

/// Finds the keys of which many more requests failed, or were refused by a rate limit, than before: at
/// least 20, of a share at least 2 times that of before and at least 5 percentage points above it.
#[utoipa::path(
    get, path = "/usage/spikes",
    operation_id = "find_spikes",
    tag = "usage",
    params(WantedSpikes),
    responses(
        (status = 200, description = "The keys", body = Spikes),
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
    let before = shared.backend.totals_by_key(&range(before, from)).await?;
    let now = shared.backend.totals_by_key(&range(from, to)).await?;
    let found = spikes(&now, &before);
    Ok(Json(found.into()))
}

//! Usage summaries.

use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::names;
use crate::id::KeyId;
use crate::usage::summary::{self, TimeBucket};
use crate::usage::{
    Cause, Granularity, LatencyHistogram, LatencyQuantiles, Method, Outcome, RejectionReason,
    Status, StatusClass,
};

/// Totals over requests.
#[derive(Serialize, ToSchema)]
pub(crate) struct Totals {
    /// The number of requests.
    total: u64,
    /// Requests that completed successfully.
    completed: u64,
    /// Requests that failed, for any cause.
    failed: u64,
    /// Requests rejected by a rate limit.
    rate_limited: u64,
    /// Failed requests by cause.
    failures: Failures,
    /// The total cost.
    cost: u64,
    /// The number of billable requests.
    billable: u64,
    /// The total cost of the billable requests.
    billable_cost: u64,
    /// The total size of the request bodies in bytes.
    request_bytes: u64,
    /// The total size of the response bodies in bytes.
    response_bytes: u64,
}

/// Failed requests by cause.
#[derive(Serialize, ToSchema)]
pub(crate) struct Failures {
    /// Rejected by the layer, for example for an invalid key.
    rejected: u64,
    /// The response has a client error status.
    client_error: u64,
    /// The response has a server error status.
    server_error: u64,
    /// The client disconnected before the end of the response.
    cancelled: u64,
    /// Unknown cause.
    other: u64,
}

impl From<&summary::Totals> for Totals {
    fn from(totals: &summary::Totals) -> Self {
        Self {
            total: totals.total(),
            completed: totals.completed(),
            failed: totals.failed(),
            rate_limited: totals.rate_limited(),
            failures: Failures {
                rejected: totals.failed_by(Cause::Rejected),
                client_error: totals.failed_by(Cause::ClientError),
                server_error: totals.failed_by(Cause::ServerError),
                cancelled: totals.failed_by(Cause::Cancelled),
                other: totals.failed_by(None),
            },
            cost: totals.cost(),
            billable: totals.billable(),
            billable_cost: totals.billable_cost(),
            request_bytes: totals.request_bytes(),
            response_bytes: totals.response_bytes(),
        }
    }
}

macro_rules! rows {
    ($($(#[$doc:meta])* $row:ident { $(#[$field_doc:meta])* $name:ident: $type:ty })*) => {$(
        $(#[$doc])*
        #[derive(Serialize, ToSchema)]
        pub(crate) struct $row {
            $(#[$field_doc])*
            $name: $type,
            /// The totals.
            totals: Totals,
        }

        impl From<($type, &summary::Totals)> for $row {
            fn from(($name, totals): ($type, &summary::Totals)) -> Self {
                Self { $name, totals: totals.into() }
            }
        }
    )*};
}

rows! {
    /// Requests with this method.
    MethodRow {
        /// The HTTP method.
        #[schema(value_type = names::Method)]
        method: Method
    }
    /// Requests with this response status.
    StatusRow {
        /// The status of the response: an HTTP or gRPC code, or `none`.
        #[schema(value_type = names::Status)]
        status: Status
    }
    /// Requests with a response status of this class.
    StatusClassRow {
        /// The class of the status.
        #[schema(value_type = names::StatusClass)]
        class: StatusClass
    }
    /// Requests that were rejected for this reason.
    RejectionReasonRow {
        /// The rejection reason.
        #[schema(value_type = names::RejectionReason)]
        reason: RejectionReason
    }
    /// Requests with keys of this owner.
    OwnerRow {
        /// The owner.
        #[schema(value_type = String)]
        owner: Arc<str>
    }
    /// Requests with this key.
    KeyRow {
        /// The key id; `null` for requests without a key.
        #[schema(value_type = Option<names::KeyId>)]
        key: Option<KeyId>
    }
}

/// Requests to this endpoint.
#[derive(Serialize, ToSchema)]
pub(crate) struct EndpointRow {
    /// The endpoint.
    #[schema(value_type = String)]
    endpoint: Arc<str>,
    /// The totals.
    totals: Totals,
    /// The latency of the requests.
    latency: Latency,
}

/// A usage summary.
#[derive(Serialize, ToSchema)]
pub(crate) struct Summary {
    /// Totals over all requests.
    totals: Totals,
    /// Totals by HTTP method.
    by_method: Vec<MethodRow>,
    /// Totals by response status.
    by_status: Vec<StatusRow>,
    /// Totals by class of the response status.
    by_status_class: Vec<StatusClassRow>,
    /// Totals by rejection reason, of requests that were rejected.
    by_rejection_reason: Vec<RejectionReasonRow>,
    /// The endpoints with the most requests, in descending order.
    top_endpoints: Vec<EndpointRow>,
    /// The keys with the most requests, in descending order. Empty if the summary is for one key.
    top_keys: Vec<KeyRow>,
    /// The owners with the most requests, in descending order. Empty if the summary is for one key.
    top_owners: Vec<OwnerRow>,
    /// The latency of the requests.
    latency: Latency,
    /// Whether the summary covers exactly the range. If `false`, a rollup (of a minute, or of 15 minutes or an hour for
    /// older usage) crosses the start or end of the range, and is counted where it starts.
    exact: bool,
}

impl Summary {
    /// A summary with at most `top` endpoints, keys and owners.
    pub(crate) fn of(summary: &summary::Summary, top: usize) -> Self {
        fn rows<'a, N, R: From<(N, &'a summary::Totals)>>(
            all: impl IntoIterator<Item = (N, &'a summary::Totals)>,
        ) -> Vec<R> {
            all.into_iter().map(R::from).collect()
        }
        let classes = summary.by_status_class();
        let latencies = summary.latency_by_endpoint.as_ref();
        let endpoints = summary.top_endpoints(top).into_iter();
        let endpoints = endpoints.map(|(endpoint, totals)| EndpointRow {
            endpoint: endpoint.clone(),
            totals: totals.into(),
            latency: latencies
                .and_then(|latencies| latencies.get(endpoint))
                .map(LatencyHistogram::quantiles)
                .unwrap_or_default()
                .into(),
        });
        let keys = summary.top_keys(top);
        let owners = summary.top_owners(top).into_iter();
        let reasons = summary.by_rejection_reason.iter();
        let latency = summary.latency.as_ref().map(LatencyHistogram::quantiles);
        Self {
            totals: (&summary.totals).into(),
            by_method: rows(summary.by_method.iter().map(|(name, it)| (*name, it))),
            by_status: rows(summary.by_status.iter().map(|(name, it)| (*name, it))),
            by_status_class: rows(classes.iter().map(|(name, it)| (*name, it))),
            by_rejection_reason: rows(reasons.map(|(name, it)| (*name, it))),
            top_endpoints: endpoints.collect(),
            top_keys: rows(keys),
            top_owners: rows(owners.map(|(name, it)| (name.clone(), it))),
            latency: latency.unwrap_or_default().into(),
            exact: summary.exact,
        }
    }
}

/// Usage by owner in a calendar month.
#[derive(Serialize, ToSchema)]
pub(crate) struct MonthByOwner {
    /// The month.
    #[schema(example = "2026-10")]
    month: String,
    /// The time zone of the month.
    zone: String,
    /// The start of the month.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    /// The end of the month, exclusive.
    #[schema(value_type = String, format = DateTime)]
    to: Timestamp,
    /// Totals over all requests, including those without an owner.
    totals: Totals,
    /// Totals by owner, sorted by name.
    owners: Vec<OwnerRow>,
    /// Whether the totals cover exactly the month. If `false`, a stored rollup crosses its start or end, and is counted
    /// where it starts.
    exact: bool,
}

impl MonthByOwner {
    pub(crate) fn new(
        month: String,
        zone: String,
        range: Range<Timestamp>,
        summary: summary::Summary,
    ) -> Self {
        let owners = summary.by_owner.into_iter().flatten();
        Self {
            month,
            zone,
            from: range.start,
            to: range.end,
            totals: (&summary.totals).into(),
            owners: owners
                .map(|(owner, totals)| OwnerRow::from((owner, &totals)))
                .collect(),
            exact: summary.exact,
        }
    }
}

/// Latency quantiles in microseconds, with a relative error of at most 6%; `null` without requests.
#[derive(Serialize, ToSchema)]
pub(crate) struct Latency {
    /// The median.
    p50_us: Option<u64>,
    /// The 95th percentile.
    p95_us: Option<u64>,
    /// The 99th percentile.
    p99_us: Option<u64>,
}

impl From<LatencyQuantiles> for Latency {
    fn from(quantiles: LatencyQuantiles) -> Self {
        Self {
            p50_us: quantiles.p50_us,
            p95_us: quantiles.p95_us,
            p99_us: quantiles.p99_us,
        }
    }
}

/// A usage summary by time bucket, including empty buckets.
#[derive(Serialize, ToSchema)]
pub(crate) struct OverTime {
    /// The width of a bucket.
    #[schema(value_type = names::Granularity)]
    width: Granularity,
    /// The time zone of the bucket boundaries.
    zone: String,
    /// The buckets, oldest first.
    buckets: Vec<Bucket>,
    /// Whether every bucket covers exactly its time. If `false`, a stored rollup crosses a bucket boundary or an end of
    /// the range, and is counted where it starts.
    exact: bool,
}

impl OverTime {
    pub(crate) fn new(
        width: Granularity,
        zone: String,
        buckets: Vec<TimeBucket>,
        exact: bool,
    ) -> Self {
        Self {
            exact,
            width,
            zone,
            buckets: buckets.into_iter().map(Bucket::from).collect(),
        }
    }
}

/// A time bucket.
#[derive(Serialize, ToSchema)]
pub(crate) struct Bucket {
    /// The start, inclusive.
    #[schema(value_type = String, format = DateTime)]
    start: Timestamp,
    /// The end, exclusive.
    #[schema(value_type = String, format = DateTime)]
    end: Timestamp,
    /// Whether the bucket has not ended yet.
    is_partial: bool,
    /// The totals of the bucket.
    totals: Totals,
    /// The latency of its requests.
    latency: Latency,
}

impl From<TimeBucket> for Bucket {
    fn from(bucket: TimeBucket) -> Self {
        Self {
            start: bucket.start,
            end: bucket.end,
            is_partial: bucket.is_partial,
            totals: (&bucket.totals).into(),
            latency: bucket.latency.unwrap_or_default().into(),
        }
    }
}

/// A key with a spike in failed or rate-limited requests.
#[derive(Serialize, ToSchema)]
pub(crate) struct Spike {
    /// The key id; `null` for requests without a key.
    #[schema(value_type = Option<names::KeyId>)]
    key: Option<KeyId>,
    /// The outcome that spiked.
    #[schema(value_type = names::Outcome)]
    outcome: Outcome,
    /// The totals of the period.
    now: Totals,
    /// The totals of the previous period.
    before: Totals,
}

impl From<summary::Spike> for Spike {
    fn from(spike: summary::Spike) -> Self {
        Self {
            key: spike.key,
            outcome: spike.outcome,
            now: (&spike.current).into(),
            before: (&spike.previous).into(),
        }
    }
}

/// Keys with a spike in failed or rate-limited requests.
#[derive(Serialize, ToSchema)]
pub(crate) struct Spikes {
    /// The keys with spikes.
    spikes: Vec<Spike>,
}

impl From<Vec<summary::Spike>> for Spikes {
    fn from(spikes: Vec<summary::Spike>) -> Self {
        Self {
            spikes: spikes.into_iter().map(Spike::from).collect(),
        }
    }
}

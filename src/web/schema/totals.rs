//! Usage, summed up.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::names;
use crate::id::KeyId;
use crate::usage::summary::{self, TimeBucket};
use crate::usage::{
    Cause, Granularity, LatencyHistogram, LatencyQuantiles, Method, Outcome, Status, StatusClass,
};

/// Sums over requests.
#[derive(Serialize, ToSchema)]
pub(crate) struct Totals {
    /// All requests.
    total: u64,
    /// Those that the service answered as asked.
    completed: u64,
    /// Those that failed, for whatever cause.
    failed: u64,
    /// Those that a rate limit refused.
    rate_limited: u64,
    /// The failed ones by cause.
    failures: Failures,
    /// What they cost of the keys' limits.
    cost: u64,
    /// Bytes of their bodies.
    request_bytes: u64,
    /// Bytes of the answers' bodies.
    response_bytes: u64,
}

/// Failed requests by cause.
#[derive(Serialize, ToSchema)]
pub(crate) struct Failures {
    /// The layer refused them.
    refused: u64,
    /// The answer says that the client was wrong.
    client_error: u64,
    /// The answer says that the service was wrong.
    server_error: u64,
    /// The client left before the end of the answer.
    cancelled: u64,
    /// Of no known cause.
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
                refused: totals.failed_by(Cause::Refused),
                client_error: totals.failed_by(Cause::ClientError),
                server_error: totals.failed_by(Cause::ServerError),
                cancelled: totals.failed_by(Cause::Cancelled),
                other: totals.failed_by(None),
            },
            cost: totals.cost(),
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
            /// Their sums.
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
    /// Requests of a method.
    MethodRow {
        /// The HTTP method.
        #[schema(value_type = names::Method)]
        method: Method
    }
    /// Requests that were answered with a code.
    StatusRow {
        /// The code of the answer: of HTTP, of gRPC, or none.
        #[schema(value_type = names::Status)]
        status: Status
    }
    /// Requests whose answers are of a class.
    StatusClassRow {
        /// The class.
        #[schema(value_type = names::StatusClass)]
        class: StatusClass
    }
    /// Requests of an endpoint.
    EndpointRow {
        /// The endpoint.
        #[schema(value_type = String)]
        endpoint: Arc<str>
    }
    /// Requests with a key.
    KeyRow {
        /// The key; `null` for requests without one.
        #[schema(value_type = Option<names::KeyId>)]
        key: Option<KeyId>
    }
}

/// What requests come to.
#[derive(Serialize, ToSchema)]
pub(crate) struct Summary {
    /// Of all of them.
    totals: Totals,
    /// By HTTP method.
    by_method: Vec<MethodRow>,
    /// By the code of the answer.
    by_status: Vec<StatusRow>,
    /// By the class of the answer's code.
    by_status_class: Vec<StatusClassRow>,
    /// The endpoints with the most requests, those first.
    top_endpoints: Vec<EndpointRow>,
    /// The keys with the most requests, those first; none where one key was asked for.
    top_keys: Vec<KeyRow>,
    /// How long the requests took.
    latency: Latency,
    /// Whether these are exactly the requests of the range. If not, its ends lie within minutes, or within hours where
    /// minutes are no longer kept: those are counted where they start.
    exact: bool,
}

impl Summary {
    /// With this many endpoints and keys.
    pub(crate) fn of(summary: &summary::Summary, top: usize) -> Self {
        fn rows<'a, N, R: From<(N, &'a summary::Totals)>>(
            all: impl IntoIterator<Item = (N, &'a summary::Totals)>,
        ) -> Vec<R> {
            all.into_iter().map(R::from).collect()
        }
        let classes = summary.by_status_class();
        let endpoints = summary.top_endpoints(top).into_iter();
        let keys = summary.top_keys(top);
        let latency = summary.latency.as_ref().map(LatencyHistogram::quantiles);
        Self {
            totals: (&summary.totals).into(),
            by_method: rows(summary.by_method.iter().map(|(name, it)| (*name, it))),
            by_status: rows(summary.by_status.iter().map(|(name, it)| (*name, it))),
            by_status_class: rows(classes.iter().map(|(name, it)| (*name, it))),
            top_endpoints: rows(endpoints.map(|(name, it)| (name.clone(), it))),
            top_keys: rows(keys),
            latency: latency.unwrap_or_default().into(),
            exact: summary.exact,
        }
    }
}

/// How long requests took, in microseconds; `null` where there were none. At most 6 % off.
#[derive(Serialize, ToSchema)]
pub(crate) struct Latency {
    /// Half of them took no longer.
    p50_us: Option<u64>,
    /// 95 in 100 took no longer.
    p95_us: Option<u64>,
    /// 99 in 100 took no longer.
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

/// Requests by bucket of time, those without any included.
#[derive(Serialize, ToSchema)]
pub(crate) struct OverTime {
    /// How wide a bucket is.
    #[schema(value_type = names::Granularity)]
    width: Granularity,
    /// The time zone whose days and hours they are.
    zone: String,
    /// The buckets, the earliest first.
    buckets: Vec<Bucket>,
    /// Whether these are exactly the requests of each bucket. If not, the range's ends or the zone's hours lie within
    /// minutes or hours that are kept as one: those are counted where they start.
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

/// Requests of some time.
#[derive(Serialize, ToSchema)]
pub(crate) struct Bucket {
    /// Its first instant.
    #[schema(value_type = String, format = DateTime)]
    start: Timestamp,
    /// The first instant after it.
    #[schema(value_type = String, format = DateTime)]
    end: Timestamp,
    /// Whether more may come.
    unfinished: bool,
    /// Its sums.
    totals: Totals,
}

impl From<TimeBucket> for Bucket {
    fn from(bucket: TimeBucket) -> Self {
        Self {
            start: bucket.start,
            end: bucket.end,
            unfinished: bucket.unfinished,
            totals: (&bucket.totals).into(),
        }
    }
}

/// A key of which many more requests failed, or were refused by a rate limit, than before.
#[derive(Serialize, ToSchema)]
pub(crate) struct Spike {
    /// The key; `null` for requests without one.
    #[schema(value_type = Option<names::KeyId>)]
    key: Option<KeyId>,
    /// What came of the requests.
    #[schema(value_type = names::Outcome)]
    outcome: Outcome,
    /// The sums of the time.
    now: Totals,
    /// The sums of the time before.
    before: Totals,
}

impl From<summary::Spike> for Spike {
    fn from(spike: summary::Spike) -> Self {
        Self {
            key: spike.key,
            outcome: spike.outcome,
            now: (&spike.now).into(),
            before: (&spike.before).into(),
        }
    }
}

/// Keys of which many more requests failed, or were refused by a rate limit, than before.
#[derive(Serialize, ToSchema)]
pub(crate) struct Spikes {
    /// The keys.
    spikes: Vec<Spike>,
}

impl From<Vec<summary::Spike>> for Spikes {
    fn from(spikes: Vec<summary::Spike>) -> Self {
        Self {
            spikes: spikes.into_iter().map(Spike::from).collect(),
        }
    }
}

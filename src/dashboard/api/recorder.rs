//! The state of recording and merging.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::usage::{self, Granularity, RejectedSender, RejectionReason};
use crate::web::schema::names;
use crate::web::{Problem, Query, in_order};

/// Statistics of the recorder in this process since it started.
#[derive(Serialize, ToSchema)]
pub(super) struct RecorderStats {
    /// Events accepted by the recorder.
    accepted: u64,
    /// Events written.
    written: u64,
    /// Events lost: they were not written and never will be.
    lost: u64,
    /// Events waiting to be written.
    queued: u64,
    /// Size of the queued events in bytes.
    queued_bytes: u64,
    /// Events in the spool that will be written later.
    spooled: u64,
    /// Events spooled by earlier processes that have been written.
    recovered: u64,
    /// Events spooled by earlier processes that were lost.
    unrecovered: u64,
    /// The time of the last successful write; `null` before the first one.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_written_at: Option<Timestamp>,
    /// Requests in flight.
    in_flight: u64,
    /// Failed writes that were retried.
    retries: u64,
}

impl From<usage::RecorderStats> for RecorderStats {
    fn from(stats: usage::RecorderStats) -> Self {
        Self {
            accepted: stats.accepted,
            written: stats.written,
            lost: stats.lost,
            queued: stats.queued,
            queued_bytes: stats.queued_bytes,
            spooled: stats.spooled,
            recovered: stats.recovered,
            unrecovered: stats.unrecovered,
            last_written_at: stats.last_written_at,
            in_flight: stats.in_flight,
            retries: stats.retries,
        }
    }
}

/// Returns recorder statistics, including queued and lost events.
#[utoipa::path(
    get, path = "/recorder",
    operation_id = "get_recorder",
    tag = "usage",
    responses(
        (status = 200, description = "The statistics", body = RecorderStats),
        Problem,
    ),
)]
pub(super) async fn stats(
    State(shared): State<Arc<Shared>>,
) -> Result<Json<RecorderStats>, Problem> {
    let recorder = shared.recorder.as_ref().ok_or_else(no_recorder)?;
    Ok(Json(recorder.stats().into()))
}

fn no_recorder() -> Problem {
    let detail = "No recorder is configured for this dashboard.";
    Problem::new(StatusCode::NOT_FOUND, detail)
}

/// Filters of rejections, combined with AND.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WantedRejections {
    /// Only rejections at or after this time.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Only rejections before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
}

/// Rejections that are not recorded as events, in this process since it started.
#[derive(Serialize, ToSchema)]
pub(super) struct Rejections {
    /// The rejections by minute, and by hour for older ones. Without empty buckets.
    buckets: Vec<RejectionBucket>,
    /// The client IPs with the most rejections, in descending order; an IPv6 /64 network counts as one. `null` if the
    /// recorder does not keep them.
    client_ips: Option<Vec<RejectedClient>>,
    /// The key ids in the credentials with the most rejections, in descending order. `null` if the recorder does not
    /// keep them.
    keys: Option<Vec<RejectedKey>>,
}

/// The rejections of a minute or an hour.
#[derive(Serialize, ToSchema)]
pub(super) struct RejectionBucket {
    /// The start of the bucket.
    #[schema(value_type = String, format = DateTime)]
    start: Timestamp,
    /// The width of the bucket.
    #[schema(value_type = names::Granularity)]
    width: Granularity,
    /// The number of rejections by reason.
    rejections: Vec<RejectionCount>,
}

/// The rejections for a reason.
#[derive(Serialize, ToSchema)]
pub(super) struct RejectionCount {
    /// The rejection reason.
    #[schema(value_type = names::RejectionReason)]
    reason: RejectionReason,
    /// The number of rejections.
    count: u64,
}

macro_rules! senders {
    ($($(#[$doc:meta])* $row:ident { $(#[$field_doc:meta])* $name:ident: $type:ty })*) => {$(
        $(#[$doc])*
        #[derive(Serialize, ToSchema)]
        pub(super) struct $row {
            $(#[$field_doc])*
            $name: $type,
            /// The number of rejections, at least.
            count: u64,
            /// The reason of the last one.
            #[schema(value_type = names::RejectionReason)]
            last_reason: RejectionReason,
            /// The time of the last one.
            #[schema(value_type = String, format = DateTime)]
            last_at: Timestamp,
        }

        impl From<RejectedSender<$type>> for $row {
            fn from(sender: RejectedSender<$type>) -> Self {
                Self {
                    $name: sender.sender,
                    count: sender.count,
                    last_reason: sender.last_reason,
                    last_at: sender.last_at,
                }
            }
        }
    )*};
}

senders! {
    /// A client whose requests were rejected.
    RejectedClient {
        /// The client IP, or the first one of an IPv6 /64 network.
        #[schema(value_type = String)]
        client_ip: IpAddr
    }
    /// A key id in the credentials of rejected requests.
    RejectedKey {
        /// The key id. There may be no such key.
        #[schema(value_type = names::KeyId)]
        key: KeyId
    }
}

impl From<usage::Rejections> for Rejections {
    fn from(rejections: usage::Rejections) -> Self {
        let buckets = rejections.over_time.into_iter();
        let buckets = buckets.map(|bucket| RejectionBucket {
            start: bucket.start,
            width: bucket.granularity,
            rejections: bucket
                .by_reason
                .into_iter()
                .map(|(reason, count)| RejectionCount { reason, count })
                .collect(),
        });
        let client_ips = rejections.client_ips;
        let keys = rejections.keys;
        Self {
            buckets: buckets.collect(),
            client_ips: client_ips.map(|it| it.into_iter().map(Into::into).collect()),
            keys: keys.map(|it| it.into_iter().map(Into::into).collect()),
        }
    }
}

/// Returns rejections that are not recorded as events, over time and by sender.
#[utoipa::path(
    get, path = "/recorder/rejections",
    operation_id = "list_rejections",
    tag = "usage",
    params(WantedRejections),
    responses(
        (status = 200, description = "The rejections", body = Rejections),
        Problem,
    ),
)]
pub(super) async fn rejections(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<WantedRejections>,
) -> Result<Json<Rejections>, Problem> {
    in_order(wanted.from, wanted.to)?;
    let recorder = shared.recorder.as_ref().ok_or_else(no_recorder)?;
    let from = wanted.from.unwrap_or(Timestamp::MIN);
    let to = wanted.to.unwrap_or(Timestamp::MAX);
    Ok(Json(recorder.rejections(from..to).into()))
}

/// Written usage that is not merged yet. Summaries include it, except for unreadable records.
#[derive(Serialize, ToSchema)]
pub(super) struct MergeBacklog {
    /// Records to merge, each with the rollups of a batch or more.
    records: u64,
    /// When the oldest of them was written, or was prepared for merging; `null` if there are none. This is less than
    /// two minutes ago as long as a process writes usage and merging keeps up.
    #[schema(value_type = Option<String>, format = DateTime)]
    oldest_at: Option<Timestamp>,
    /// Records that cannot be merged: they are damaged, or from a later version of the crate. Summaries do not include
    /// their requests.
    unreadable: u64,
}

/// Returns how far the merging of usage is behind.
#[utoipa::path(
    get, path = "/merge-backlog",
    operation_id = "get_merge_backlog",
    tag = "usage",
    responses(
        (status = 200, description = "The backlog", body = MergeBacklog),
        Problem,
    ),
)]
pub(super) async fn backlog(
    State(shared): State<Arc<Shared>>,
) -> Result<Json<MergeBacklog>, Problem> {
    let none = || Problem::new(StatusCode::NOT_FOUND, "The backend does not merge usage.");
    let backlog = shared.usage.merge_backlog().await?.ok_or_else(none)?;
    Ok(Json(MergeBacklog {
        records: backlog.records,
        oldest_at: backlog.oldest_at,
        unreadable: backlog.unreadable,
    }))
}

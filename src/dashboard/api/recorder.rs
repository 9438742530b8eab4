//! The state of recording and merging.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::dashboard::state::Shared;
use crate::usage;
use crate::web::Problem;

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
    let none = || {
        Problem::new(
            StatusCode::NOT_FOUND,
            "No recorder is configured for this dashboard.",
        )
    };
    let recorder = shared.recorder.as_ref().ok_or_else(none)?;
    Ok(Json(recorder.stats().into()))
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

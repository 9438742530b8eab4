//! What the recorder of this process has to write.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::dashboard::state::Shared;
use crate::usage::RecorderStats;
use crate::web::Problem;

/// What the recorder of this process has seen since it was made.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// Events handed to it.
    accepted: u64,
    /// Events that were written.
    written: u64,
    /// Events that were not written and never will be.
    lost: u64,
    /// Events that wait to be written.
    queued: u64,
    /// Bytes that they take.
    queued_bytes: u64,
    /// Events that are in the spool and will be written from there.
    spooled: u64,
    /// Events of earlier processes that were in the spool and are written now.
    recovered: u64,
    /// Events of earlier processes that were in the spool and are lost.
    unrecovered: u64,
    /// When events were last written; `null` before the first.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_written: Option<Timestamp>,
    /// Requests under way.
    open: u64,
    /// Writes that failed and were tried again.
    retries: u64,
}

impl From<RecorderStats> for Health {
    fn from(stats: RecorderStats) -> Self {
        Self {
            accepted: stats.accepted,
            written: stats.written,
            lost: stats.lost,
            queued: stats.queued,
            queued_bytes: stats.queued_bytes,
            spooled: stats.spooled,
            recovered: stats.recovered,
            unrecovered: stats.unrecovered,
            last_written: stats.last_written,
            open: stats.open,
            retries: stats.retries,
        }
    }
}

/// Tells whether usage is written, and what was lost.
#[utoipa::path(
    get, path = "/recorder",
    operation_id = "get_recorder",
    tag = "usage",
    responses(
        (status = 200, description = "What it has seen", body = Health),
        Problem,
    ),
)]
pub(super) async fn stats(State(shared): State<Arc<Shared>>) -> Result<Json<Health>, Problem> {
    let none = || Problem::new(StatusCode::NOT_FOUND, "The dashboard knows of no recorder.");
    let recorder = shared.recorder.as_ref().ok_or_else(none)?;
    Ok(Json(recorder.stats().into()))
}

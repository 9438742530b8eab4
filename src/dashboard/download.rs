//! The log as a file.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use serde::Deserialize;
use utoipa::ToSchema;

use super::state::Backend;
use crate::usage::{Export, LogFilter};

/// What a file of requests is like.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// Comma-separated values (RFC 4180), with a header.
    Csv,
    /// Lines of JSON.
    Jsonl,
}

/// What is asked for, by its name: where the pages are nested may have parameters of its own.
#[derive(Deserialize)]
pub(super) struct As {
    pub(super) format: Format,
}

/// All requests that match, in this format.
pub(super) fn export_as(format: Format, backend: Arc<dyn Backend>, filter: LogFilter) -> Export {
    match format {
        Format::Csv => Export::csv(backend, filter),
        Format::Jsonl => Export::json_lines(backend, filter),
    }
}

/// The response that has an export as a file.
pub(super) fn download(export: Export) -> Response {
    let name = export.file_extension();
    let headers = [
        (CONTENT_TYPE, export.content_type().to_owned()),
        (
            CONTENT_DISPOSITION,
            format!("attachment; filename=\"requests.{name}\""),
        ),
    ];
    (headers, Body::from_stream(export)).into_response()
}

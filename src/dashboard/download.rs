//! Exports of the request log.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::usage::{Export, LogFilter, UsageReader};

const CSV: &str = "text/csv; charset=utf-8; header=present";

/// A file format of exports.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// Comma-separated values (RFC 4180), with a header.
    Csv,
    /// JSON Lines: one object per line.
    Jsonl,
}

/// The format in the path, extracted by name: the path at which the dashboard is nested may have captures too.
#[derive(Deserialize)]
pub(super) struct As {
    pub(super) format: Format,
}

/// Exports all matching requests in this format.
pub(super) fn export_as(format: Format, usage: Arc<dyn UsageReader>, filter: LogFilter) -> Export {
    match format {
        Format::Csv => Export::csv(usage, filter),
        Format::Jsonl => Export::json_lines(usage, filter),
    }
}

/// A response that downloads CSV as a file with this name, which must need no quoting. Spreadsheets need the byte order
/// mark to detect UTF-8.
pub(super) fn file(name: &str, rows: Vec<u8>, has_bom: bool) -> Response {
    let headers = [
        (CONTENT_TYPE, CSV.to_owned()),
        (
            CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        ),
    ];
    let mark = if has_bom { "\u{feff}" } else { "" };
    (headers, [mark.as_bytes(), &rows].concat()).into_response()
}

/// A response that downloads the export as a file.
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

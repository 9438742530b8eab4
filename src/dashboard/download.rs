//! The log as a file.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use serde::Deserialize;
use utoipa::ToSchema;

use super::Backend;
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

/// All requests that match; CSV with a byte order mark or without.
pub(super) fn download(
    backend: Arc<dyn Backend>,
    filter: LogFilter,
    format: Format,
    byte_order_mark: bool,
) -> Response {
    let (export, name) = match format {
        Format::Csv if byte_order_mark => {
            let export = Export::csv(backend, filter).byte_order_mark();
            (export, "requests.csv")
        }
        Format::Csv => (Export::csv(backend, filter), "requests.csv"),
        Format::Jsonl => (Export::json_lines(backend, filter), "requests.jsonl"),
    };
    let headers = [
        (CONTENT_TYPE, export.content_type().to_owned()),
        (
            CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        ),
    ];
    (headers, Body::from_stream(export)).into_response()
}

//! The log as a file.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use serde::Deserialize;

use super::filter::Filtered;
use crate::dashboard::Shared;
use crate::dashboard::fields::Fields;
use crate::dashboard::pages::{Failure, nowhere};
use crate::dashboard::visit::Visit;
use crate::usage::Export;

/// By its name: where the pages are nested may have parameters of its own.
#[derive(Deserialize)]
pub(in crate::dashboard) struct As {
    format: String,
}

/// What is filtered, all of it.
pub(in crate::dashboard) async fn export(
    State(shared): State<Arc<Shared>>,
    visit: Visit,
    Path(As { format }): Path<As>,
    fields: Fields,
) -> Response {
    // A file has all pages.
    let fields = fields.with([("after", "")]);
    let Filtered { filter, wrong, .. } = Filtered::read(&visit, &fields, None, None);
    if let Some((_, why)) = wrong.first() {
        return Failure::Refused(why.into()).page(&visit);
    }
    let reader = shared.backend.clone();
    let (export, name) = match &*format {
        "csv" => (Export::csv(reader, filter), "requests.csv"),
        "jsonl" => (Export::json_lines(reader, filter), "requests.jsonl"),
        _ => return nowhere(visit).await,
    };
    let headers = [
        (CONTENT_TYPE, export.content_type().to_owned()),
        (
            CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        ),
    ];
    (StatusCode::OK, headers, Body::from_stream(export)).into_response()
}

//! The log as a file.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;

use super::filter::Filtered;
use crate::dashboard::download::{As, download, export_as};
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::{Failure, not_found};
use crate::dashboard::state::Shared;

/// What is filtered, all of it.
pub(in crate::dashboard) async fn export(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    wanted: Result<Path<As>, PathRejection>,
    fields: FormFields,
) -> Response {
    let Ok(Path(As { format })) = wanted else {
        return not_found(visit).await;
    };
    // A file has all pages.
    let fields = fields.with([("after", "")]);
    let Filtered { filter, wrong, .. } = Filtered::read(&visit, &fields, None, None);
    if let Some((_, why)) = wrong.first() {
        return Failure::Refused(why.into()).page(&visit);
    }
    // For people, who open CSV with a spreadsheet.
    download(export_as(format, shared.backend.clone(), filter).byte_order_mark())
}

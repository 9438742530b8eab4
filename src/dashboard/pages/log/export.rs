//! Exports the request log as a file.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;

use super::filter::Filtered;
use crate::dashboard::download::{As, download, export_as};
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::owner_in_path::OwnerInPath;
use crate::dashboard::pages::{Failure, not_found};
use crate::dashboard::state::Shared;

/// Exports all requests that match the filter.
pub(in crate::dashboard) async fn export(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    path: Result<Path<As>, PathRejection>,
    fields: FormFields,
) -> Response {
    file_of(&shared, context, None, path, &fields).await
}

/// Exports all requests of an owner that match the filter.
pub(in crate::dashboard) async fn export_of_owner(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    OwnerInPath(owner): OwnerInPath,
    path: Result<Path<As>, PathRejection>,
    fields: FormFields,
) -> Response {
    file_of(&shared, context, Some(&owner), path, &fields).await
}

async fn file_of(
    shared: &Shared,
    context: PageContext,
    owner: Option<&str>,
    path: Result<Path<As>, PathRejection>,
    fields: &FormFields,
) -> Response {
    let Ok(Path(As { format })) = path else {
        return not_found(context).await;
    };
    // A file includes all pages.
    let fields = fields.with([("after", "")]);
    let mut filtered = Filtered::read(&context, &fields, None, owner, None);
    if let Some((_, why)) = filtered.wrong.first() {
        return Failure::Invalid(why.into()).page(&context);
    }
    if let Err(failure) = filtered.resolve(shared).await {
        return failure.page(&context);
    }
    let filter = filtered.filter;
    // Spreadsheets need the byte order mark to detect UTF-8.
    download(export_as(format, shared, filter).byte_order_mark())
}

//! Exports of the request log.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use serde::Deserialize;
use utoipa::ToSchema;

use super::state::Shared;
use crate::id::KeyId;
use crate::key::{KeyAdmin, KeyQuery};
use crate::usage::{Export, KeyNames, LogFilter, ReadError};

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

/// Exports all matching requests in this format. CSV has the names of their keys.
pub(super) fn export_as(format: Format, shared: &Shared, filter: LogFilter) -> Export {
    let usage = shared.usage.clone();
    match format {
        Format::Csv => Export::csv(usage, filter).key_names(Names {
            keys: shared.keys.clone(),
            known: Mutex::default(),
        }),
        Format::Jsonl => Export::json_lines(usage, filter),
    }
}

/// The names of keys in the store.
struct Names {
    keys: Arc<dyn KeyAdmin>,
    /// The names on the page before, which usually has the same keys.
    known: Mutex<HashMap<KeyId, String>>,
}

impl Names {
    fn known(&self) -> MutexGuard<'_, HashMap<KeyId, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl KeyNames for Names {
    async fn of(&self, ids: BTreeSet<KeyId>) -> Result<HashMap<KeyId, String>, ReadError> {
        let mut names = std::mem::take(&mut *self.known());
        names.retain(|id, _| ids.contains(id));
        let new: Vec<_> = ids
            .into_iter()
            .filter(|id| !names.contains_key(id))
            .collect();
        if !new.is_empty() {
            let query = KeyQuery::new().limit(new.len()).ids(new);
            let keys = self.keys.list(&query).await;
            let keys = keys.map_err(ReadError::unavailable)?.items;
            names.extend(keys.into_iter().map(|key| (key.id, key.name)));
        }
        self.known().clone_from(&names);
        Ok(names)
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

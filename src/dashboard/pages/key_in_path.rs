//! Extracts the key named in the path.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use serde::Deserialize;

use super::layout::{Failure, key_not_found};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::key::{Key, KeyRecord};

/// The key with the id in the path, read from the store. Rejects with an error page if there is none.
pub(in crate::dashboard) struct KeyInPath(pub(super) Key);

/// [`KeyInPath`] with its digest and policy.
pub(in crate::dashboard) struct RecordInPath(pub(super) KeyRecord);

/// Extracted by name, since the path at which the dashboard is nested may have captures too.
#[derive(Deserialize)]
struct Id {
    id: KeyId,
}

impl FromRequestParts<Arc<Shared>> for KeyInPath {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Response> {
        let RecordInPath(record) = RecordInPath::from_request_parts(parts, shared).await?;
        Ok(Self(record.key))
    }
}

impl FromRequestParts<Arc<Shared>> for RecordInPath {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Response> {
        let context = PageContext::from_request_parts(parts, shared).await;
        let context = context.map_err(IntoResponse::into_response)?;
        let id = Path::<Id>::from_request_parts(parts, shared).await;
        let id = id.ok().map(|Path(Id { id })| id);
        let found = match id {
            Some(id) => shared.keys.find(id).await.map_err(Failure::from),
            None => Ok(None),
        };
        match found {
            Ok(Some(record)) => Ok(Self(record)),
            Ok(None) => Err(key_not_found(&context, id)),
            Err(failure) => Err(failure.page(&context)),
        }
    }
}

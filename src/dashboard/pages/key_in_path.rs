//! The key that an address names.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use serde::Deserialize;

use super::layout::{Failure, no_key};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::key::Key;

/// The key whose id is in the path, as the store has it now; else a page says that there is none.
pub(in crate::dashboard) struct KeyInPath(pub(super) Key);

/// By its name: where the pages are nested may have parameters of its own.
#[derive(Deserialize)]
struct Id {
    id: KeyId,
}

impl FromRequestParts<Arc<Shared>> for KeyInPath {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Response> {
        let visit = PageContext::from_request_parts(parts, shared).await;
        let visit = visit.map_err(IntoResponse::into_response)?;
        let id = Path::<Id>::from_request_parts(parts, shared).await;
        let id = id.ok().map(|Path(Id { id })| id);
        let found = match id {
            Some(id) => shared.backend.get(id).await.map_err(Failure::from),
            None => Ok(None),
        };
        match found {
            Ok(Some(key)) => Ok(Self(key)),
            Ok(None) => Err(no_key(&visit, id)),
            Err(failure) => Err(failure.page(&visit)),
        }
    }
}

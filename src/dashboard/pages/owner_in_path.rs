//! Extracts the owner named in the path.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::response::{IntoResponse, Response};
use http::request::Parts;

use super::layout::not_found;
use crate::dashboard::owner_path::captured;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;

/// The owner in the path, who may have no keys and no usage.
pub(in crate::dashboard) struct OwnerInPath(pub(super) String);

impl FromRequestParts<Arc<Shared>> for OwnerInPath {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Response> {
        let context = PageContext::from_request_parts(parts, shared).await;
        let context = context.map_err(IntoResponse::into_response)?;
        let captures = RawPathParams::from_request_parts(parts, shared).await;
        let owner = captures.ok().and_then(|it| captured(&it, "owner"));
        match owner {
            Some(owner) => Ok(Self(owner)),
            None => Err(not_found(context).await),
        }
    }
}

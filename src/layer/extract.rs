//! [`Caller`] as an axum extractor.

use axum::body::Body;
use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use http::Request;

use super::caller::Caller;
use super::rejection::{Rejection, Rejections};
use super::request_parts::RequestParts;
use crate::usage::RejectionReason;

/// The rejection of the [`Caller`] extractor. Responds with 401.
///
/// The route is not behind an [`ApiKeyLayer`](super::ApiKeyLayer), or the request is anonymous or unverified and
/// the handler extracts a `Caller` instead of an `Option<Caller>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoCaller;

impl IntoResponse for NoCaller {
    fn into_response(self) -> Response {
        let rejection = Rejection::new(RejectionReason::Missing);
        Rejections::default()
            .response(rejection, RequestParts::of(&Request::new(())))
            .map(Body::from)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = NoCaller;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NoCaller> {
        parts.extensions.get().cloned().ok_or(NoCaller)
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get().cloned())
    }
}

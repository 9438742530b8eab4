//! [`Caller`] as an axum extractor.

use axum::body::Body;
use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use http::Request;

use super::caller::{Caller, is_admitted};
use super::rejection::{Rejection, Rejections, log_no_layer};
use super::request_parts::RequestParts;
use crate::usage::RejectionReason;

/// The rejection of the [`Caller`] extractor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoCaller {
    /// The request was admitted without a verified key: it is anonymous, unverified or a preflight, or its path is
    /// [exempt](super::ApiKeyLayer::exempt). The handler extracts a `Caller` instead of an `Option<Caller>`. Responds
    /// with 401.
    Anonymous,
    /// The route is not behind an [`ApiKeyLayer`](super::ApiKeyLayer). Responds with 500.
    NoLayer,
}

impl IntoResponse for NoCaller {
    fn into_response(self) -> Response {
        let request = Request::new(());
        let (rejections, parts) = (Rejections::default(), RequestParts::of(&request));
        let response = match self {
            Self::Anonymous => rejections.response(Rejection::new(RejectionReason::Missing), parts),
            Self::NoLayer => rejections.no_layer(parts),
        };
        response.map(Body::from)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = NoCaller;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NoCaller> {
        match parts.extensions.get::<Self>() {
            Some(caller) => Ok(caller.clone()),
            None if is_admitted(&parts.extensions) => Err(NoCaller::Anonymous),
            None => {
                log_no_layer(parts.uri.path());
                Err(NoCaller::NoLayer)
            }
        }
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get().cloned())
    }
}

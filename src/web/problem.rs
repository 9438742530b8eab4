//! Problem details ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use super::security_headers::challenge;
use crate::key::{InvalidKey, InvalidOwner, InvalidPlan, IssueError, RevealError, StoreError};
use crate::telemetry;
use crate::usage::ReadError;

// Backend errors never reach clients.
/// Problem details (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The problem type. Always `about:blank`: see `status`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The reason phrase of the HTTP status.
    title: &'static str,
    /// The HTTP status code.
    status: u16,
    /// A human-readable explanation.
    detail: Cow<'static, str>,
    /// The invalid parts of the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<ErrorDetail>,
}

/// An invalid part of a request.
#[derive(Debug, Serialize, ToSchema)]
struct ErrorDetail {
    /// A human-readable explanation.
    detail: String,
    /// The invalid field of the body, as a JSON Pointer in URI fragment form (RFC 6901 §6).
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<String>,
    /// The invalid query or path parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<String>,
    /// The invalid header.
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<&'static str>,
}

impl ErrorDetail {
    fn because(detail: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            pointer: None,
            parameter: None,
            header: None,
        }
    }
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    fn naming(status: StatusCode, wrong: ErrorDetail) -> Self {
        Self {
            errors: vec![wrong],
            ..Self::new(status, "The request is invalid. See `errors` for details.")
        }
    }

    /// An invalid query or path parameter.
    pub(crate) fn parameter(name: impl Into<String>, detail: impl Into<String>) -> Self {
        let wrong = ErrorDetail {
            parameter: Some(name.into()),
            ..ErrorDetail::because(detail)
        };
        Self::naming(StatusCode::BAD_REQUEST, wrong)
    }

    /// An invalid header.
    pub(crate) fn header(
        status: StatusCode,
        name: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        let wrong = ErrorDetail {
            header: Some(name),
            ..ErrorDetail::because(detail)
        };
        Self::naming(status, wrong)
    }

    /// An invalid field of the body. `pointer` has no leading `#`.
    pub(crate) fn field(pointer: &str, detail: impl Into<String>) -> Self {
        let wrong = ErrorDetail {
            pointer: Some(format!("#{pointer}")),
            ..ErrorDetail::because(detail)
        };
        Self::naming(StatusCode::UNPROCESSABLE_ENTITY, wrong)
    }

    pub(crate) fn key_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "API key not found.")
    }

    fn unavailable(error: &(dyn Error + 'static)) -> Self {
        telemetry::error!(error, "store unavailable");
        let detail = "The store is unavailable. Try again later.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    pub(crate) fn internal() -> Self {
        let detail = "Internal error. Try again later.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        let problem = HeaderValue::from_static("application/problem+json");
        headers.insert(CONTENT_TYPE, problem);
        match status {
            StatusCode::UNAUTHORIZED => challenge(headers),
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

/// One default response for all errors.
impl IntoResponses for Problem {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem")));
        let response = ResponseBuilder::new()
            .description("An error, as problem details (RFC 9457)")
            .content("application/problem+json", body.build());
        BTreeMap::from([("default".into(), response.build().into())])
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(_) => Self::key_not_found(),
            StoreError::Conflict(_)
            | StoreError::NotActive { .. }
            | StoreError::Replaced { .. }
            | StoreError::PlanInUse(_) => Self::new(StatusCode::CONFLICT, error.to_string()),
            StoreError::SecretsNotSupported => Self::field("/recoverable", error.to_string()),
            StoreError::Invalid(error) => error.into(),
            StoreError::InvalidOwner(error) => error.into(),
            StoreError::InvalidPlan(error) => error.into(),
            StoreError::PlanNotFound(_) => Self::field("/plan", error.to_string()),
            StoreError::OwnersNotSupported => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            StoreError::Page(error) => Self::parameter("after", error.to_string()),
            StoreError::Timeout | StoreError::Busy | StoreError::Unavailable(_) => {
                Self::unavailable(&error)
            }
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Page(error) => Self::parameter("after", error.to_string()),
            ReadError::Cursor => Self::parameter("after_cursor", error.to_string()),
            ReadError::Unsupported => {
                let detail = "The usage backend does not support this operation.";
                Self::new(StatusCode::NOT_IMPLEMENTED, detail)
            }
            ReadError::Unavailable(_) => Self::unavailable(&error),
        }
    }
}

impl From<IssueError> for Problem {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Invalid(error) => error.into(),
            IssueError::Store(error) => error.into(),
            IssueError::NoEncryptionKey => Self::field("/recoverable", error.to_string()),
            _ => Self::internal(),
        }
    }
}

impl From<RevealError> for Problem {
    fn from(error: RevealError) -> Self {
        match error {
            RevealError::Store(error) => error.into(),
            RevealError::NoEncryptionKey => {
                Self::new(StatusCode::NOT_IMPLEMENTED, error.to_string())
            }
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

impl From<InvalidKey> for Problem {
    fn from(error: InvalidKey) -> Self {
        let field = match error {
            InvalidKey::Name => "/name",
            InvalidKey::Owner => "/owner",
            InvalidKey::Plan => "/plan",
            InvalidKey::Environment => "/environment",
            InvalidKey::Scope | InvalidKey::TooManyScopes => "/scopes",
            InvalidKey::TooManyAddresses => "/addresses",
            InvalidKey::Metadata | InvalidKey::MetadataDepth | InvalidKey::MetadataNul => {
                "/metadata"
            }
            InvalidKey::Time => "/expires_at",
            InvalidKey::Limit(_) => "/limits",
            InvalidKey::Recoverable => "/recoverable",
            InvalidKey::Hint => return Self::internal(),
        };
        Self::field(field, error.to_string())
    }
}

impl From<InvalidOwner> for Problem {
    fn from(error: InvalidOwner) -> Self {
        let field = match error {
            InvalidOwner::Id => "/id",
            InvalidOwner::Name => "/name",
            InvalidOwner::Plan => "/plan",
            InvalidOwner::Limits(_) => "/limits",
            InvalidOwner::Metadata(_) => "/metadata",
            InvalidOwner::Time => "/created_at",
        };
        Self::field(field, error.to_string())
    }
}

impl From<InvalidPlan> for Problem {
    fn from(error: InvalidPlan) -> Self {
        let field = match error {
            InvalidPlan::Name => "/name",
            InvalidPlan::KeyLimits(_) => "/key_limits",
            InvalidPlan::OwnerLimits(_) => "/owner_limits",
            InvalidPlan::Metadata(_) => "/metadata",
            InvalidPlan::Time => "/created_at",
        };
        Self::field(field, error.to_string())
    }
}

/// The response for unknown paths.
pub(crate) fn not_found() -> Response {
    Problem::new(StatusCode::NOT_FOUND, "Path not found.").into_response()
}

/// The response for unsupported methods.
pub(crate) fn method_not_allowed() -> Response {
    let detail = "Method not allowed. See the `Allow` header.";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).into_response()
}

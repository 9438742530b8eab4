//! The `Idempotency-Key` header ([draft-ietf-httpapi-idempotency-key-header-07][draft]). The value is also accepted
//! without quotes.
//!
//! [draft]: https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header-07

use axum::extract::FromRequestParts;
use http::StatusCode;
use http::request::Parts;
use utoipa::IntoParams;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

use crate::dashboard::idempotency::{HEADER, IdempotencyError};
use crate::web::Problem;

/// The maximum length of an idempotency key.
const LONGEST: usize = 255;

/// The idempotency key, if the request has one.
pub(super) struct IdempotencyKey(pub(super) Option<String>);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(HEADER).into_iter();
        let (first, more) = (values.next(), values.next());
        let Some(first) = first else {
            return Ok(Self(None));
        };
        let text = first.to_str().unwrap_or_default().trim();
        let quoted = text
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        let text = quoted.unwrap_or(text);
        let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if more.is_some() || !(1..=LONGEST).contains(&text.len()) || !text.bytes().all(plain) {
            let detail = "Send one value of 1 to 255 visible ASCII characters, without quotes or backslashes.";
            return Err(Problem::header(StatusCode::BAD_REQUEST, HEADER, detail));
        }
        Ok(Self(Some(text.to_owned())))
    }
}

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let description = "Makes retries safe: requests with the same idempotency key create one key \
            only. For ten minutes, or until about a thousand later requests, a retry returns the first \
            response. After that, it returns 409 with the id of the key that was created.";
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(r#"^[!#-\[\]-~]{1,255}$"#));
        let header = ParameterBuilder::new()
            .name(HEADER)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(description))
            .schema(Some(text));
        vec![header.build()]
    }
}

impl From<IdempotencyError> for Problem {
    fn from(error: IdempotencyError) -> Self {
        let status = match error {
            IdempotencyError::Failed(error) => return error.into(),
            IdempotencyError::ParametersDiffer => {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                return Self::header(status, HEADER, error.to_string());
            }
            IdempotencyError::NoIssuer => StatusCode::NOT_IMPLEMENTED,
            IdempotencyError::InProgress
            | IdempotencyError::AlreadyCreated { .. }
            | IdempotencyError::AlreadyDeleted => StatusCode::CONFLICT,
            IdempotencyError::TooMany => StatusCode::SERVICE_UNAVAILABLE,
            IdempotencyError::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

//! A submitted form.

use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use axum::{Form, RequestExt};
use http::StatusCode;

use super::layout::error_page;
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;

/// The fields of a submitted form with a valid form token.
pub(in crate::dashboard) struct PostedForm(pub(super) FormFields);

impl FromRequest<Arc<Shared>> for PostedForm {
    type Rejection = Response;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Response> {
        let context = request.extensions().get::<PageContext>().cloned();
        let Some(context) = context else {
            return Err(StatusCode::UNAUTHORIZED.into_response());
        };
        let form = request.extract::<Form<Vec<(String, String)>>, _>().await;
        let unreadable = "The form could not be read. Go back and submit it again.";
        let Form(fields) = form.map_err(|_| {
            error_page(
                &context,
                StatusCode::BAD_REQUEST,
                "Invalid form",
                unreadable,
            )
        })?;
        let fields = FormFields(fields);
        let token = fields.get("token").unwrap_or_default();
        if !shared.signer.is_form_token(&context.admin, token) {
            let expired = "This form has expired. Go back, reload the page and submit it again.";
            return Err(error_page(
                &context,
                StatusCode::FORBIDDEN,
                "Form expired",
                expired,
            ));
        }
        Ok(Self(fields))
    }
}

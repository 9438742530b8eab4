//! A submitted form.

use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use axum::{Form, RequestExt};
use http::StatusCode;

use super::layout::refused;
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;

/// The fields of a form that was sent from one of these pages.
pub(in crate::dashboard) struct PostedForm(pub(super) FormFields);

impl FromRequest<Arc<Shared>> for PostedForm {
    type Rejection = Response;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Response> {
        let visit = request.extensions().get::<PageContext>().cloned();
        let Some(visit) = visit else {
            return Err(StatusCode::UNAUTHORIZED.into_response());
        };
        let form = request.extract::<Form<Vec<(String, String)>>, _>().await;
        let unreadable = "The form could not be read.";
        let Form(fields) =
            form.map_err(|_| refused(&visit, StatusCode::BAD_REQUEST, "Not a form", unreadable))?;
        let fields = FormFields(fields);
        let token = fields.get("token").unwrap_or_default();
        if !shared.signer.is_form_token(&visit.admin, token) {
            let old = "The form is an old one. Go back, reload the page and send it again.";
            return Err(refused(&visit, StatusCode::FORBIDDEN, "Not this form", old));
        }
        Ok(Self(fields))
    }
}

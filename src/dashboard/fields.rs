//! What a query or a form says: names and texts, of which any may be missing or nonsense.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use axum::{Form, RequestExt};
use http::StatusCode;
use http::request::Parts;

use super::Shared;
use super::pages::refused;
use super::visit::Visit;

/// Names and values, as they were sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    fn of_query(query: &str) -> Self {
        // Whatever is there can be read as names and values.
        Self(serde_urlencoded::from_str(query).unwrap_or_default())
    }

    /// The text under a name, without blanks around it; `None` when it is empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(key, _)| key == name);
        let (_, value) = found.next()?;
        Some(value.trim()).filter(|value| !value.is_empty())
    }

    /// The same with a value changed, as the query of an address; an empty one is left out.
    pub(super) fn with(&self, name: &str, value: &str) -> String {
        let others = self.0.iter().map(|(key, value)| (&**key, &**value));
        let others = others.filter(|(key, value)| *key != name && !value.is_empty());
        let all = others.chain(Some((name, value)).filter(|(_, value)| !value.is_empty()));
        serde_urlencoded::to_string(all.collect::<Vec<_>>()).unwrap_or_default()
    }

    /// Without these names.
    pub(super) fn without(&self, names: &[&str]) -> Self {
        let kept = self.0.iter();
        Self(
            kept.filter(|(key, _)| !names.contains(&&**key))
                .cloned()
                .collect(),
        )
    }
}

impl<S: Sync> FromRequestParts<S> for Fields {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of_query(parts.uri.query().unwrap_or_default()))
    }
}

/// The fields of a form that was sent from one of these pages.
pub(super) struct Posted(pub(super) Fields);

impl FromRequest<Arc<Shared>> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Response> {
        let visit = request.extensions().get::<Visit>().cloned();
        let Some(visit) = visit else {
            return Err(StatusCode::UNAUTHORIZED.into_response());
        };
        let form = request.extract::<Form<Vec<(String, String)>>, _>().await;
        let unreadable = "The form could not be read.";
        let Form(fields) =
            form.map_err(|_| refused(&visit, StatusCode::BAD_REQUEST, "Not a form", unreadable))?;
        let fields = Fields(fields);
        let token = fields.get("token").unwrap_or_default();
        if !shared.signer.is_form_token(&visit.admin, token) {
            let old = "The form is an old one. Go back, reload the page and send it again.";
            return Err(refused(&visit, StatusCode::FORBIDDEN, "Not this form", old));
        }
        Ok(Self(fields))
    }
}

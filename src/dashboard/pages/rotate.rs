//! A new secret in a key's place.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use maud::html;

use super::components::{self, Input, ONCE, name};
use super::generate::{no_issuer, shown};
use super::posted_form::PostedForm;
use super::{Failure, page};
use crate::dashboard::form::FormFields;
use crate::dashboard::idempotency::RequestKey;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::key_in_path::KeyInPath;
use crate::dashboard::state::Shared;
use crate::key::{Issuer, Key};

const HOUR: u64 = 3_600;

/// How long the old secret may go on working.
const GRACES: [(&str, &str, u64); 4] = [
    ("now", "Not at all: it stops now", 0),
    ("1h", "1 hour", HOUR),
    ("24h", "24 hours", 24 * HOUR),
    ("7d", "7 days", 7 * 24 * HOUR),
];

pub(in crate::dashboard) async fn form(visit: PageContext, KeyInPath(key): KeyInPath) -> Response {
    shown_form(&visit, &key, &FormFields::default(), None)
}

fn shown_form(
    visit: &PageContext,
    key: &Key,
    fields: &FormFields,
    wrong: Option<&str>,
) -> Response {
    let hours = fields.get("hours").unwrap_or_default();
    let hours = Input::new("hours", "Hours", hours);
    let hours = hours.hint("Where you chose your own").wrong(wrong);
    let graces = GRACES.map(|(value, text, _)| (value, text));
    let at = visit.at(&format!("/keys/{}", key.id));
    let content = html! {
        p { a href=(at) { "Back to the key" } }
        h1 { "Rotate " (name(&key.name)) }
        @if wrong.is_some() { p .error .column role="alert" { "Nothing was rotated." } }
        form .column .panel method="post" action={ (at) "/rotate" } {
            (components::token(visit))
            (components::once())
            p { "A new secret takes this key's place, with the same owner, scopes and limits." }
            (components::choice("grace", "How long the old one goes on working", fields.get("grace").or(Some("24h")),
                graces.into_iter().chain([("custom", "so many hours")])))
            (hours.text())
            button type="submit" .primary { "Rotate" }
            " " a .button href=(at) { "Cancel" }
        }
    };
    page(visit, "Rotate a key", &content)
}

pub(in crate::dashboard) async fn rotate(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    KeyInPath(key): KeyInPath,
    PostedForm(fields): PostedForm,
) -> Response {
    if shared.issuer.is_none() {
        return no_issuer(&visit);
    }
    let grace = fields.get("grace");
    let seconds = match GRACES.iter().find(|(name, ..)| Some(*name) == grace) {
        Some(&(_, _, seconds)) => Some(seconds),
        None if grace == Some("custom") => fields
            .get("hours")
            .and_then(|hours| hours.parse::<u64>().ok())
            .and_then(|hours| hours.checked_mul(HOUR)),
        None => None,
    };
    let Some(seconds) = seconds else {
        let why = "Say for how many whole hours the old secret goes on working.";
        let form = shown_form(&visit, &key, &fields, Some(why));
        return (StatusCode::UNPROCESSABLE_ENTITY, form).into_response();
    };
    let grace = Duration::from_secs(seconds);
    let path = format!("/keys/{}/rotate", key.id);
    let asked = RequestKey::at(
        &path,
        visit.admin.name(),
        fields.get(ONCE),
        fields.fingerprint(),
    );
    let keys = visit.keys(&shared);
    let rotate = async move |issuer: Issuer| issuer.rotate(&*keys, key.id, grace).await;
    match shared
        .idempotent_requests
        .once(asked, shared.issuer.clone(), shared.backend.clone(), rotate)
        .await
    {
        Ok(issued) => shown(&visit, &issued, "The key was rotated"),
        Err(error) => Failure::from(error).page(&visit),
    }
}

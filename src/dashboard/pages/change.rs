//! Switching a key off and on.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use maud::html;

use super::{Failure, page, parts, see};
use crate::dashboard::Shared;
use crate::dashboard::fields::Posted;
use crate::dashboard::visit::Visit;
use crate::id::KeyId;
use crate::key::{Key, StoreError};

/// A key by the id in an address, whatever stands there.
pub(super) async fn key_of(shared: &Shared, id: &str) -> Result<Key, Failure> {
    let id: KeyId = id.parse().map_err(|_| Failure::NotFound)?;
    shared.backend.get(id).await?.ok_or(Failure::NotFound)
}

pub(in crate::dashboard) async fn form(
    State(shared): State<Arc<Shared>>,
    visit: Visit,
    Path(id): Path<String>,
) -> Response {
    let key = match key_of(&shared, &id).await {
        Ok(key) => key,
        Err(failure) => return failure.page(&visit),
    };
    let at = |action: &str| visit.at(&format!("/keys/{}/{action}", key.id));
    let content = html! {
        p { a href=(visit.at("/keys")) { "Back to API keys" } }
        @if key.disabled {
            h1 { "Enable " (key.name) "?" }
            p { "Requests with it are served again at once." }
            form method="post" action=(at("enable")) {
                (parts::token(&visit)) button type="submit" .primary { "Enable" }
            }
        } @else {
            h1 { "Disable " (key.name) "?" }
            p { "Requests with it are refused until it is enabled again." }
            form method="post" action=(at("disable")) {
                (parts::token(&visit)) button type="submit" .danger { "Disable" }
            }
        }
    };
    page(&visit, "Switch a key", &content)
}

pub(in crate::dashboard) async fn disable(
    State(shared): State<Arc<Shared>>,
    visit: Visit,
    Path(id): Path<String>,
    _: Posted,
) -> Response {
    let Ok(id) = id.parse() else {
        return Failure::NotFound.page(&visit);
    };
    done(&visit, visit.keys(&shared).disable(id).await)
}

pub(in crate::dashboard) async fn enable(
    State(shared): State<Arc<Shared>>,
    visit: Visit,
    Path(id): Path<String>,
    _: Posted,
) -> Response {
    let Ok(id) = id.parse() else {
        return Failure::NotFound.page(&visit);
    };
    done(&visit, visit.keys(&shared).enable(id).await)
}

fn done(visit: &Visit, changed: Result<Key, StoreError>) -> Response {
    match changed {
        Ok(_) => see(visit.at("/keys")),
        Err(error) => Failure::from(error).page(visit),
    }
}

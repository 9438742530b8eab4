//! Switching a key off and on.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::html;

use super::{Failure, page, parts, see};
use crate::dashboard::Shared;
use crate::dashboard::fields::Posted;
use crate::dashboard::key_in_path::KeyInPath;
use crate::dashboard::visit::Visit;
use crate::key::{Key, StoreError};

pub(in crate::dashboard) async fn form(visit: Visit, KeyInPath(key): KeyInPath) -> Response {
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
    KeyInPath(key): KeyInPath,
    _: Posted,
) -> Response {
    done(&visit, visit.keys(&shared).disable(key.id).await)
}

pub(in crate::dashboard) async fn enable(
    State(shared): State<Arc<Shared>>,
    visit: Visit,
    KeyInPath(key): KeyInPath,
    _: Posted,
) -> Response {
    done(&visit, visit.keys(&shared).enable(key.id).await)
}

fn done(visit: &Visit, changed: Result<Key, StoreError>) -> Response {
    match changed {
        Ok(_) => see(visit.at("/keys")),
        Err(error) => Failure::from(error).page(visit),
    }
}

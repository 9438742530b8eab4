//! The frame of the pages, and the pages of errors.

use std::error::Error;

use axum::response::{Html, IntoResponse, Response};
use http::StatusCode;
use http::header::{LOCATION, RETRY_AFTER};
use maud::{DOCTYPE, Markup, html};

use super::{assets, components};
use crate::dashboard::idempotency::IdempotencyError;
use crate::dashboard::page_context::PageContext;
use crate::id::KeyId;
use crate::key::{IssueError, RevealError, StoreError};
use crate::telemetry;
use crate::usage::ReadError;
use crate::web::challenge;

/// A page for somebody who was let in.
pub(in crate::dashboard) fn page(visit: &PageContext, title: &str, content: &Markup) -> Response {
    let there = [
        (visit.home(), "Overview"),
        (visit.at("/keys"), "API keys"),
        (visit.at("/log"), "Request log"),
        (visit.at("/audit"), "Audit"),
    ];
    let frame = html! {
        a .skip href="#content" { "To the content" }
        header .top {
            a .brand href=(visit.home()) {
                img src={ (visit.base) (assets::ICON.address()) } width="18" height="18" alt="";
                "keytally"
            }
            nav aria-label="Pages" {
                @for (href, name) in there {
                    a href=(href) aria-current=[(name == title).then_some("page")] { (name) }
                }
            }
            @let name = html! { span .clip { (components::name(visit.admin.name())) } };
            @match &visit.sign_out {
                Some(address) => a .who href=(address) { (name) span { "Sign out" } },
                None => span .who { (name) },
            }
        }
        main #content {
            @if let Some(zone) = &visit.unknown_zone {
                p .warning { "Times are in UTC: the server does not know the time zone " (components::clipped(zone)) "." }
            }
            (content)
        }
    };
    document(&visit.base, title, &frame)
}

pub(in crate::dashboard) fn document(base: &str, title: &str, body: &Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · keytally" }
                link rel="icon" href={ (base) (assets::ICON.address()) };
                link rel="stylesheet" href={ (base) (assets::STYLE.address()) };
                script src={ (base) (assets::SCRIPT.address()) } defer {}
            }
            body { (body) }
        }
    };
    Html(page.into_string()).into_response()
}

/// A page that says why there is no other.
pub(in crate::dashboard) fn refused(
    visit: &PageContext,
    status: StatusCode,
    title: &str,
    why: &str,
) -> Response {
    let content = html! {
        h1 { (title) }
        p { (why) }
        p { a href=(visit.at("/keys")) { "Back to API keys" } }
    };
    (status, page(visit, title, &content)).into_response()
}

/// There is no key with this id, if it is one; what it was used for may be in the log.
pub(in crate::dashboard) fn no_key(visit: &PageContext, id: Option<KeyId>) -> Response {
    let content = html! {
        h1 { "No such key" }
        p { "There is no such key. It may have been deleted." }
        @if let Some(id) = id {
            p {
                a href=(visit.at(&format!("/log?key={id}"))) { "Its requests" } " and "
                a href=(visit.at(&format!("/audit?key={id}"))) { "what was done to it" }
                " are there as long as the store keeps them."
            }
        }
        p { a href=(visit.at("/keys")) { "Back to API keys" } }
    };
    (StatusCode::NOT_FOUND, page(visit, "No such key", &content)).into_response()
}

/// For those who were not let in: it tells nothing of what is here.
pub(in crate::dashboard) fn sign_in_required(status: StatusCode) -> Response {
    let why = if status == StatusCode::UNAUTHORIZED {
        "Sign in first."
    } else {
        "This is not for you, or it was sent from another site."
    };
    let mut response = (status, why).into_response();
    if status == StatusCode::UNAUTHORIZED {
        challenge(response.headers_mut());
    }
    response
}

pub(in crate::dashboard) async fn not_found(visit: PageContext) -> Response {
    let why = "There is no such page.";
    refused(&visit, StatusCode::NOT_FOUND, "Not found", why)
}

pub(in crate::dashboard) fn see(to: String) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response()
}

/// What went wrong, for a page: no text of the backend's own gets there.
pub(in crate::dashboard) enum Failure {
    NotFound,
    /// What was asked for cannot be done, and why.
    Refused(String),
    Down,
}

impl Failure {
    pub(super) fn down(error: &(dyn Error + 'static)) -> Self {
        telemetry::error!(error, "the store failed");
        Self::Down
    }

    pub(in crate::dashboard) fn page(self, visit: &PageContext) -> Response {
        match self {
            Self::NotFound => no_key(visit, None),
            Self::Refused(why) => {
                refused(visit, StatusCode::UNPROCESSABLE_ENTITY, "Not done", &why)
            }
            Self::Down => {
                // What timed out may have been done.
                let why = "The store does not answer. Try again in a moment; if something was to be changed, look first whether it was.";
                let page = refused(visit, StatusCode::SERVICE_UNAVAILABLE, "Unavailable", why);
                ([(RETRY_AFTER, "5")], page).into_response()
            }
        }
    }
}

impl From<IdempotencyError> for Failure {
    fn from(error: IdempotencyError) -> Self {
        match error {
            IdempotencyError::Failed(error) => error.into(),
            error => Self::Refused(error.to_string()),
        }
    }
}

impl From<RevealError> for Failure {
    fn from(error: RevealError) -> Self {
        match error {
            RevealError::Store(error) => error.into(),
            error => Self::Refused(error.to_string()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(_) => Self::NotFound,
            StoreError::Timeout | StoreError::Unavailable(_) => Self::down(&error),
            error => Self::Refused(error.to_string()),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Page(error) => Self::Refused(error.to_string()),
            _ => Self::down(&error),
        }
    }
}

impl From<IssueError> for Failure {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Store(error) => error.into(),
            error => Self::Refused(error.to_string()),
        }
    }
}

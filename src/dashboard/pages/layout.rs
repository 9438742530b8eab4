//! The page layout and the error pages.

use std::error::Error;

use axum::response::{Html, IntoResponse, Response};
use http::StatusCode;
use http::header::{LOCATION, RETRY_AFTER, SET_COOKIE};
use maud::{DOCTYPE, Markup, html};

use super::components::{Icon, icon};
use super::{assets, components, flash};
use crate::dashboard::flash::Flash;
use crate::dashboard::idempotency::IdempotencyError;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::return_path::ReturnPath;
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::key::{IssueError, RevealError, StoreError};
use crate::telemetry;
use crate::usage::ReadError;
use crate::web::challenge;

/// The fields of the form that finds a key. The script sends the id of a secret, and that it was one.
pub(super) const FIND: &str = "find";
pub(super) const SECRET_FOUND: &str = "secret-found";

/// A page for an authenticated administrator.
pub(in crate::dashboard) fn page(context: &PageContext, title: &str, content: &Markup) -> Response {
    let links = [
        ("/", "Overview"),
        ("/keys", "API keys"),
        ("/owners", "Owners"),
        ("/log", "Request log"),
        ("/audit", "Audit log"),
    ];
    let frame = html! {
        a .skip href="#content" { "Skip to content" }
        header .top {
            a .brand href=(context.home()) {
                img src={ (context.base) (assets::ICON.address()) } width="18" height="18" alt="";
                "keytally"
            }
            nav aria-label="Main" {
                @for (path, name) in links {
                    @let href = if path == "/" { context.home() } else { context.at(path) };
                    a href=(href) aria-current=[current(path, &context.path)] { (name) }
                }
            }
            (find_form(context))
            @let name = html! { span .clip { (components::name(context.admin.name())) } };
            @match &context.sign_out {
                Some(address) => a .who href=(address) { (name) span { "Sign out" } },
                None => span .who { (name) },
            }
        }
        main #content {
            @if let Some(zone) = &context.unknown_zone {
                p .warning { "Times are shown in UTC: unknown time zone " (components::clipped(zone)) "." }
            }
            @if let Some(done) = &context.flash { (flash::message(context, done)) }
            (content)
        }
    };
    let mut response = html_document(&context.base, title, &frame);
    if context.flash.is_some() {
        let clear = Flash::clear(context.is_local, &context.base);
        add_cookie(&mut response, &clear);
    }
    response
}

fn add_cookie(response: &mut Response, cookie: &str) {
    if let Ok(cookie) = cookie.parse() {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
}

/// The form that finds a key. Browsers must not remember or check what is entered.
fn find_form(context: &PageContext) -> Markup {
    html! {
        form .find method="post" action=(context.at("/keys/find")) role="search" aria-label="Find a key" {
            (components::token(context))
            input type="hidden" name=(SECRET_FOUND) value="";
            label .unseen for=(FIND) { "Find a key" }
            input type="text" id=(FIND) name=(FIND) required placeholder="Find a key or secret"
                title="Name, ID, hint or secret" autocomplete="off" autocapitalize="none" spellcheck="false";
            button type="submit" aria-label="Find" title="Find" { (icon(Icon::Search)) }
        }
    }
}

/// The `aria-current` of a navigation link to this path on the page at `here`: the page itself, or one below it. Plans
/// belong to owners.
fn current(path: &str, here: &str) -> Option<&'static str> {
    let here = match here.strip_prefix("/plans") {
        Some(_) => "/owners/plans",
        None => here,
    };
    match here.strip_prefix(path)? {
        "" => Some("page"),
        below if below.starts_with('/') => Some("true"),
        _ => None,
    }
}

pub(in crate::dashboard) fn html_document(base: &str, title: &str, body: &Markup) -> Response {
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

/// An error page.
pub(in crate::dashboard) fn error_page(
    context: &PageContext,
    status: StatusCode,
    title: &str,
    why: &str,
) -> Response {
    let content = html! {
        h1 { (title) }
        p { (why) }
        p { a href=(context.at("/keys")) { "Back to API keys" } }
    };
    (status, page(context, title, &content)).into_response()
}

/// The error page for an unknown key. With a valid key id, it links to the key's requests, which outlive the key.
pub(in crate::dashboard) fn key_not_found(context: &PageContext, id: Option<KeyId>) -> Response {
    let content = html! {
        h1 { "API key not found" }
        p { "The key does not exist or has been deleted." }
        @if let Some(id) = id {
            p {
                a href=(context.at(&format!("/log?key={id}"))) { "Its requests" } " and "
                a href=(context.at(&format!("/audit?key={id}"))) { "audit log entries" }
                " remain available until they are pruned."
            }
        }
        p { a href=(context.at("/keys")) { "Back to API keys" } }
    };
    (
        StatusCode::NOT_FOUND,
        page(context, "API key not found", &content),
    )
        .into_response()
}

/// The plain response to unauthenticated requests and denied ones. It reveals nothing about the dashboard.
pub(in crate::dashboard) fn access_denied(status: StatusCode) -> Response {
    let why = if status == StatusCode::UNAUTHORIZED {
        "Sign in to continue."
    } else {
        "Access denied."
    };
    let mut response = (status, why).into_response();
    if status == StatusCode::UNAUTHORIZED {
        challenge(response.headers_mut());
    }
    response
}

pub(in crate::dashboard) async fn not_found(context: PageContext) -> Response {
    let why = "Check the address and try again.";
    error_page(&context, StatusCode::NOT_FOUND, "Page not found", why)
}

pub(in crate::dashboard) fn redirect(to: String) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response()
}

/// Redirects to a page that confirms the change.
pub(super) fn redirect_with(
    shared: &Shared,
    context: &PageContext,
    to: &ReturnPath,
    flash: &Flash,
) -> Response {
    let mut response = redirect(to.url(&context.base));
    let (admin, base) = (&context.admin, &context.base);
    add_cookie(
        &mut response,
        &flash.set(&shared.signer, admin, context.is_local, base),
    );
    response
}

/// An error to show on a page. Backend errors never reach clients.
pub(in crate::dashboard) enum Failure {
    NotFound,
    /// The request is invalid, with the reason.
    Invalid(String),
    Unavailable,
    /// The server failed, with what to tell the administrator.
    Internal(String),
}

impl Failure {
    pub(super) fn down(error: &(dyn Error + 'static)) -> Self {
        telemetry::error!(error, "store unavailable");
        Self::Unavailable
    }

    pub(in crate::dashboard) fn page(self, context: &PageContext) -> Response {
        match self {
            Self::NotFound => key_not_found(context, None),
            Self::Invalid(why) => error_page(
                context,
                StatusCode::UNPROCESSABLE_ENTITY,
                "Request failed",
                &why,
            ),
            Self::Internal(why) => error_page(
                context,
                StatusCode::INTERNAL_SERVER_ERROR,
                "Internal error",
                &why,
            ),
            Self::Unavailable => {
                // A change that timed out may still have been applied.
                let why = "The store is unavailable. Try again in a moment. If you were making a change, first check whether it was saved.";
                let page = error_page(
                    context,
                    StatusCode::SERVICE_UNAVAILABLE,
                    "Service unavailable",
                    why,
                );
                ([(RETRY_AFTER, "5")], page).into_response()
            }
        }
    }
}

impl From<IdempotencyError> for Failure {
    fn from(error: IdempotencyError) -> Self {
        match error {
            IdempotencyError::Failed(error) => error.into(),
            IdempotencyError::Internal => Self::Internal(error.to_string()),
            error => Self::Invalid(error.to_string()),
        }
    }
}

impl From<RevealError> for Failure {
    fn from(error: RevealError) -> Self {
        match error {
            RevealError::Store(error) => error.into(),
            RevealError::NoEncryptionKey => Self::Invalid(error.to_string()),
            RevealError::Undecryptable(_) | RevealError::Mismatch(_) => {
                Self::Internal(error.to_string())
            }
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(_) => Self::NotFound,
            StoreError::Timeout | StoreError::Busy | StoreError::Unavailable(_) => {
                Self::down(&error)
            }
            error => Self::Invalid(error.to_string()),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Page(error) => Self::Invalid(error.to_string()),
            _ => Self::down(&error),
        }
    }
}

impl From<IssueError> for Failure {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Store(error) => error.into(),
            IssueError::Random(_) => {
                telemetry::error!(%error, "key generation failed");
                Self::Internal("The key could not be generated. Try again later.".into())
            }
            error => Self::Invalid(error.to_string()),
        }
    }
}

//! The page that shows a secret.

use axum::response::Response;
use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Uri};
use maud::{Markup, html};

use super::components::{copy, copy_as, name};
use super::page;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::return_path::ReturnPath;
use crate::dashboard::state::Shared;
use crate::key::Issued;

/// The page with the secret of a new key.
pub(super) fn new_secret(
    shared: &Shared,
    context: &PageContext,
    headers: &HeaderMap,
    issued: &Issued,
    title: &str,
    back: &ReturnPath,
) -> Response {
    let secret = issued.secret.expose();
    let content = html! {
        h1 { (title) }
        p { strong { (name(&issued.key.name)) } }
        (secret_box(secret))
        @if issued.key.recoverable {
            p .warning .column role="alert" {
                "Copy it now. You can reveal it again later; each reveal is recorded in the audit log."
            }
        } @else {
            p .warning .column role="alert" {
                "Copy it now. This is the only time it is shown. If it is lost, rotate the key."
            }
        }
        (curl(shared, context, headers, secret))
        p {
            a href=(context.at(&format!("/keys/{}", issued.key.id))) { "View usage" } " · "
            @if let Some(old) = issued.key.rotated_from.filter(|old| !back.is_of(*old)) {
                a href=(context.at(&format!("/keys/{old}"))) { "View old key" } " · "
            }
            a href=(back.url(&context.base)) { (back.label()) }
        }
    };
    page(context, &format!("{title}: {}", issued.key.name), &content)
}

/// The secret with a button to copy it.
pub(super) fn secret_box(secret: &str) -> Markup {
    html! { p .secret { code #secret { (secret) } " " (copy(secret, "API key")) } }
}

/// A `curl` command with the secret.
pub(super) fn curl(
    shared: &Shared,
    context: &PageContext,
    headers: &HeaderMap,
    secret: &str,
) -> Markup {
    let url = match &*shared.example_url {
        path if path.starts_with('/') => format!("{}{path}", origin(context, headers)),
        url => url.into(),
    };
    let command = format!(
        "curl -i -H {} {}",
        quoted(&format!("Authorization: Bearer {secret}")),
        quoted(&url)
    );
    html! {
        h2 { "Try it" }
        p .secret .command { code #curl { (command) } " " (copy_as(&command, "Copy", "Copy curl command")) }
    }
}

/// The origin of the page, as seen by the browser.
fn origin(context: &PageContext, headers: &HeaderMap) -> String {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &http::HeaderValue| value.to_str().ok())
    };
    // Verified by the protection against cross-site requests, if the browser sends no `Sec-Fetch-Site`.
    let origin: Option<Uri> = text(ORIGIN).and_then(|origin| origin.parse().ok());
    if let Some((scheme, host)) = origin
        .as_ref()
        .and_then(|it| Some((it.scheme_str()?, it.authority()?)))
    {
        return format!("{scheme}://{host}");
    }
    let scheme = if context.is_local { "http" } else { "https" };
    format!("{scheme}://{}", text(HOST).unwrap_or("localhost"))
}

/// A word of a shell command.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_cannot_end_their_quotes() {
        assert_eq!(quoted("https://a/b?c=d"), "'https://a/b?c=d'");
        assert_eq!(quoted("a'; rm -rf ~; '"), r"'a'\''; rm -rf ~; '\'''");
    }
}

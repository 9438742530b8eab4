//! Generating a key, and showing its secret once.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use jiff::{Timestamp, civil::DateTime};
use maud::{Markup, html};

use super::parts::{self, Input, copy};
use super::{Failure, page, refused};
use crate::dashboard::Shared;
use crate::dashboard::fields::{Fields, Posted};
use crate::dashboard::visit::Visit;
use crate::key::{AddressList, Issued, NewKey};
use crate::limit::RateLimit;

pub(in crate::dashboard) async fn form(
    State(shared): State<Arc<Shared>>,
    visit: Visit,
) -> Response {
    if shared.issuer.is_none() {
        return no_issuer(&visit);
    }
    page(
        &visit,
        "Generate API key",
        &content(&visit, &Fields::default(), None),
    )
}

pub(super) fn no_issuer(visit: &Visit) -> Response {
    let why = "This service has not told the dashboard how keys are made.";
    refused(visit, StatusCode::NOT_FOUND, "Not here", why)
}

pub(in crate::dashboard) async fn generate(
    State(shared): State<Arc<Shared>>,
    visit: Visit,
    Posted(fields): Posted,
) -> Response {
    let Some(issuer) = &shared.issuer else {
        return no_issuer(&visit);
    };
    let wrong = |why: &str| {
        let again = page(
            &visit,
            "Generate API key",
            &content(&visit, &fields, Some(why)),
        );
        (StatusCode::UNPROCESSABLE_ENTITY, again).into_response()
    };
    let new = match new_key(&visit, &fields) {
        Ok(new) => new,
        Err(why) => return wrong(&why),
    };
    match issuer.issue(&*visit.keys(&shared), new).await {
        Ok(issued) => shown(&visit, &issued, "The key was generated"),
        Err(error) => match error.into() {
            Failure::Refused(why) => wrong(&why),
            failure => failure.page(&visit),
        },
    }
}

/// The secret, this once.
pub(super) fn shown(visit: &Visit, issued: &Issued, title: &str) -> Response {
    let secret = issued.secret.expose();
    let content = html! {
        h1 { (title) }
        p { strong { (issued.key.name) } }
        p .secret { code #secret { (secret) } " " (copy(secret, "the key")) }
        p .warning role="alert" {
            "Copy it now. It is shown this once and kept nowhere: whoever loses it needs another."
        }
        p {
            a href=(visit.at(&format!("/keys/{}", issued.key.id))) { "Usage of this key" } " · "
            a href=(visit.at("/keys")) { "Back to API keys" }
        }
    };
    page(visit, title, &content)
}

/// The key that a form describes, or what is wrong with it.
fn new_key(visit: &Visit, fields: &Fields) -> Result<NewKey, String> {
    let name = fields
        .get("name")
        .ok_or("Give it a name by which people know it.")?;
    let mut new = NewKey::named(name);
    if let Some(owner) = fields.get("owner") {
        new = new.owner(owner);
    }
    if let Some(environment) = fields.get("environment") {
        new = new.environment(environment);
    }
    new = new.scopes(words(fields.get("scopes")));
    for limit in words(fields.get("limits")) {
        new = new.limit(limit_of(limit)?);
    }
    let addresses = AddressList::parse(words(fields.get("addresses")));
    new = new.addresses(addresses.map_err(|error| error.to_string())?);
    if let Some(end) = fields.get("expires") {
        new = new.expires(moment(visit, end).ok_or("The end is not a date and a time.")?);
    }
    Ok(new)
}

/// Words with blanks or commas between them.
fn words(text: Option<&str>) -> impl Iterator<Item = &str> {
    let text = text.unwrap_or_default();
    text.split([',', ' ', '\n', '\t'])
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

/// `600/min`, with `s`, `min`, `h` or `d` behind the number.
fn limit_of(text: &str) -> Result<RateLimit, String> {
    let wrong = || format!("“{text}” is not a limit: say 600/min, or s, h and d for min.");
    let (requests, per) = text.split_once('/').ok_or_else(wrong)?;
    let requests: u32 = requests.parse().map_err(|_| wrong())?;
    let limit = match per {
        "s" => RateLimit::per_second(requests),
        "min" => RateLimit::per_minute(requests),
        "h" => RateLimit::per_hour(requests),
        "d" => RateLimit::per(requests, std::time::Duration::from_secs(24 * 3_600)),
        _ => return Err(wrong()),
    };
    limit.validate().map_err(|error| error.to_string())?;
    Ok(limit)
}

/// What a browser's field for a date and a time says, on the reader's clock.
pub(super) fn moment(visit: &Visit, text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    let time: DateTime = text.parse().ok()?;
    visit.zone.to_timestamp(time).ok()
}

fn content(visit: &Visit, fields: &Fields, wrong: Option<&str>) -> Markup {
    let field = |name, label, hint| Input {
        name,
        label,
        hint,
        value: fields.get(name).unwrap_or_default(),
    };
    let zone = visit.zone.iana_name().unwrap_or("UTC");
    html! {
        p { a href=(visit.at("/keys")) { "Back to API keys" } }
        h1 { "Generate API key" }
        @if let Some(wrong) = wrong { p .error role="alert" { (wrong) } }
        form .column method="post" action=(visit.at("/keys/new")) {
            (parts::token(visit))
            (field("name", "Name", "Who uses it: PowerAutomate, Zapier Integration").required())
            (field("owner", "Owner", "Whose it is, in your own terms").text())
            (field("environment", "Environment", "Such as live or test").text())
            (field("scopes", "Scopes", "What it may do: read, orders:write").text())
            (field("limits", "Limits", "How fast: 20/s, 600/min. Empty: the service's own").text())
            (field("addresses", "Addresses", "From where alone: 203.0.113.0/24. Empty: everywhere").text())
            (field("expires", "Expires", &format!("In {zone}. Empty: never")).moment())
            button type="submit" .primary { "Generate" }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_nonsense_is_told() {
        assert_eq!(limit_of("600/min"), Ok(RateLimit::per_minute(600)));
        assert_eq!(limit_of("20/s"), Ok(RateLimit::per_second(20)));
        for text in [
            "600",
            "/min",
            "x/min",
            "0/s",
            "-1/s",
            "5/week",
            "99999999999/s",
            "1/s/s",
        ] {
            assert!(limit_of(text).is_err(), "{text}");
        }
    }
}

//! The table of all keys.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use maud::{Markup, html};

use super::components::{
    self, Icon, Input, badge, caption, copy, date, icon, line_or_none, line_to, minute,
};
use super::{Failure, overview, page};
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::key::{Key, KeyQuery, KeyStatus};
use crate::page::Page;

pub(in crate::dashboard) async fn list(
    State(shared): State<Arc<Shared>>,
    visit: PageContext,
    fields: FormFields,
) -> Response {
    let (query, wrong) = query(&fields);
    // What cannot be understood shows nothing, rather than what was not asked for.
    let keys = match wrong.is_empty() {
        true => shared.backend.list(&query).await.map(Some),
        false => Ok(None),
    };
    match keys {
        Ok(keys) => {
            let content = content(&shared, &visit, &fields, keys.as_ref(), &wrong);
            page(&visit, "API keys", &content)
        }
        Err(error) => Failure::from(error).page(&visit),
    }
}

const FILTERS: [&str; 4] = ["name", "owner", "status", "show"];

/// What else can be asked for: keys that want attention.
const SHOWN: [(&str, &str); 3] = [
    ("", "all"),
    ("unused", "unused for long"),
    ("expiring", "expiring soon"),
];

fn query(fields: &FormFields) -> (KeyQuery, FieldErrors) {
    let (now, mut wrong) = (Timestamp::now(), FieldErrors::default());
    let mut query = match fields.get("show") {
        None => KeyQuery::new(),
        Some("unused") => overview::unused(now),
        Some("expiring") => overview::expiring(now),
        Some(_) => {
            wrong.add("show", "There is nothing of that name to be shown.");
            KeyQuery::new()
        }
    };
    query.name = fields.get("name").map(Into::into);
    query.owner = fields.get("owner").map(Into::into);
    if let Some(name) = fields.get("status") {
        let mut known = KeyStatus::ALL.into_iter();
        match known.find(|status| status.as_str() == name) {
            Some(status) => query.status = Some((status, now)),
            None => wrong.add("status", "There is no such status."),
        }
    }
    let after = fields.get("after").map(str::parse).transpose();
    query.after = wrong.take(
        "after",
        after.map_err(|_| "There is no such place in the list."),
    );
    (query, wrong)
}

fn content(
    shared: &Shared,
    visit: &PageContext,
    fields: &FormFields,
    keys: Option<&Page<Key>>,
    wrong: &FieldErrors,
) -> Markup {
    let filtered = fields.has_any(&FILTERS);
    let kept = fields.only(&FILTERS);
    let to = |place: &str| {
        let query = kept.with([("after", place)]).query();
        format!("{}?{query}", visit.at("/keys"))
    };
    html! {
        .head {
            h1 { "API keys" }
            @if shared.issuer.is_some() {
                a .button .primary href=(visit.at("/keys/new")) { "Generate API key" }
            }
        }
        (filters(visit, fields, filtered, wrong))
        @match keys {
            None => {}
            Some(keys) if keys.items.is_empty() => p .empty {
                @if filtered { "No key matches. " a href=(visit.at("/keys")) { "Show all keys" } }
                @else { "There are no keys yet." @if shared.issuer.is_some() { " Generate one and give it to whom it is for." } }
            },
            Some(keys) => (table(shared, visit, &keys.items)),
        }
        (components::pages("Pages of keys", &[
            ("Newest", fields.get("after").map(|_| to(""))),
            ("Older", keys.and_then(|keys| keys.next.as_ref()).map(|next| to(&next.to_string()))),
        ]))
    }
}

fn filters(
    visit: &PageContext,
    fields: &FormFields,
    filtered: bool,
    wrong: &FieldErrors,
) -> Markup {
    let field = |name, label| Input::new(name, label, fields.get(name).unwrap_or_default());
    let choice = |name, label, choices: &[(&str, &str)]| {
        let choices = choices.iter().copied();
        components::choice_or(name, label, fields.get(name), choices, wrong.get(name))
    };
    let statuses = KeyStatus::ALL.map(|status| (status.as_str(), status.as_str()));
    let statuses: Vec<_> = [("", "any")].into_iter().chain(statuses).collect();
    html! {
        form .filters method="get" action=(visit.at("/keys")) role="search" aria-label="Filter the keys" {
            (components::alert(wrong, "after"))
            (field("name", "Name").text())
            (field("owner", "Owner").text())
            (choice("status", "Status", &statuses))
            (choice("show", "Show", &SHOWN))
            button type="submit" { "Apply" }
            @if filtered { a .button href=(visit.at("/keys")) { "Clear filters" } }
        }
    }
}

fn table(shared: &Shared, visit: &PageContext, keys: &[Key]) -> Markup {
    html! {
        .scroll .panel tabindex="0" role="region" aria-label="API keys" { table .keys {
            (caption("API keys, newest first"))
            thead { tr {
                @for name in ["Name", "Key", "Owner", "Environment", "Status", "Created", "Expires", "Last used"] {
                    th scope="col" { (name) }
                }
                th scope="col" { span .unseen { "Actions" } }
            } }
            tbody { @for key in keys { (row(shared, visit, key)) } }
        } }
    }
}

fn row(shared: &Shared, visit: &PageContext, key: &Key) -> Markup {
    let at = visit.at(&format!("/keys/{}", key.id));
    html! {
        tr {
            th .name scope="row" { (line_to(&at, &key.name)) }
            td .hint { code { (key.hint) } " " (copy(key.id.as_str(), "the key's id")) }
            td .owner { (line_or_none(key.owner.as_deref())) }
            td .environment { (line_or_none(key.environment.as_deref())) }
            td .status { (badge(key)) }
            td data-label="Created" { (date(visit, key.created_at)) }
            td data-label="Expires" { @if let Some(end) = key.expires_at { (date(visit, end)) } @else { "never" } }
            td data-label="Last used" {
                @if let Some(used) = key.last_used_at { (minute(visit, used)) }
                @else { strong .never { "never" } }
            }
            td .actions { (actions(shared, key, &at)) }
        }
    }
}

/// What is done often, each in a place of its own; the rest is on the key's page.
fn actions(shared: &Shared, key: &Key, at: &str) -> Markup {
    let status = key.status(Timestamp::now());
    let rotate = status == KeyStatus::Active && shared.issuer.is_some();
    let switch = match status {
        KeyStatus::Active => Some(("/disable", "Disable", Icon::Disable)),
        KeyStatus::Disabled => Some(("/enable", "Enable", Icon::Enable)),
        _ => None,
    };
    let actions = [
        Some(("", "Usage of", Icon::Chart)),
        rotate.then_some(("/rotate", "Rotate", Icon::Rotate)),
        switch,
        Some(("/delete", "Delete", Icon::Delete)),
    ];
    html! {
        .icons {
            @for action in actions {
                @match action {
                    Some((path, label, picture)) => {
                        a href={ (at) (path) } aria-label={ (label) " " (key.name) } title={ (label) " " (key.name) } { (icon(picture)) }
                    }
                    None => { span {} }
                }
            }
        }
    }
}

//! The list of keys.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use maud::{Markup, html};

use super::components::{
    self, Icon, Input, badge, caption, copy, date, icon, line_or_none, line_to, minute, owner,
};
use super::owner_field::{self, owner_field};
use super::{Failure, overview, page};
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::key::{Key, KeyQuery, KeyStatus, StoreError};
use crate::page::Page;

pub(in crate::dashboard) async fn list(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    fields: FormFields,
) -> Response {
    let (mut query, wrong) = query(&fields);
    // With an invalid filter, show no keys rather than unfiltered ones.
    let found = async {
        if let Some(owner) = query.owner_contains.take() {
            (query.owner, query.owner_contains) = owner_field::resolve(&shared, owner).await?;
        }
        let keys = match wrong.is_empty() {
            true => Some(shared.keys.list(&query).await?),
            false => None,
        };
        Ok::<_, StoreError>((keys, owner_field::suggested(&shared).await?))
    };
    match found.await {
        Ok((keys, owners)) => {
            let filters = filters(&context, &fields, &wrong, &owners);
            let content = content(&shared, &context, &fields, keys.as_ref(), &filters);
            page(&context, "API keys", &content)
        }
        Err(error) => Failure::from(error).page(&context),
    }
}

const FILTERS: [&str; 4] = ["name", "owner", "status", "show"];

/// Choices of the `show` filter.
const SHOWN: [(&str, &str); 4] = [
    ("", "All"),
    ("unused", "Unused"),
    ("expiring", "Expiring soon"),
    ("imported", "Imported"),
];

fn query(fields: &FormFields) -> (KeyQuery, FieldErrors) {
    let (now, mut wrong) = (Timestamp::now(), FieldErrors::default());
    let mut query = match fields.get("show") {
        None => KeyQuery::new(),
        Some("unused") => overview::unused(now),
        Some("expiring") => overview::expiring(now),
        Some("imported") => KeyQuery::new().imported(true),
        Some(_) => {
            wrong.add("show", "Choose an option from the list.");
            KeyQuery::new()
        }
    };
    query.search = fields.get("name").map(Into::into);
    query.owner_contains = fields.get("owner").map(Into::into);
    if let Some(name) = fields.get("status") {
        let mut known = KeyStatus::ALL.into_iter();
        match known.find(|status| status.as_str() == name) {
            Some(status) => query.status = Some((status, now)),
            None => wrong.add("status", "Choose a status from the list."),
        }
    }
    let after = fields.get("after").map(str::parse).transpose();
    query.page.after = wrong.take(
        "after",
        after.map_err(|_| "Invalid page token. Start again from the first page."),
    );
    (query, wrong)
}

fn content(
    shared: &Shared,
    context: &PageContext,
    fields: &FormFields,
    keys: Option<&Page<Key>>,
    filters: &Markup,
) -> Markup {
    let filtered = fields.has_any(&FILTERS);
    let kept = fields.only(&FILTERS);
    let to = |place: &str| {
        let query = kept.with([("after", place)]).query();
        format!("{}?{query}", context.at("/keys"))
    };
    html! {
        .head {
            h1 { "API keys" }
            @if shared.issuer.is_some() {
                a .button .primary href=(context.at("/keys/new")) { "Generate API key" }
            }
        }
        (filters)
        @match keys {
            None => {}
            Some(keys) if keys.items.is_empty() => p .empty {
                @if filtered { "No API keys match your filters. " a href=(context.at("/keys")) { "Show all keys" } }
                @else { "No API keys yet." @if shared.issuer.is_some() { " Generate one to get started." } }
            },
            Some(keys) => (table(shared, context, &keys.items)),
        }
        (components::pages("API key pages", &[
            ("Newest", fields.get("after").map(|_| to(""))),
            ("Older", keys.and_then(|keys| keys.next.as_ref()).map(|next| to(&next.to_string()))),
        ]))
    }
}

fn filters(
    context: &PageContext,
    fields: &FormFields,
    wrong: &FieldErrors,
    owners: &[String],
) -> Markup {
    let field = |name, label| Input::new(name, label, fields.get(name).unwrap_or_default());
    let choice = |name, label, choices: &[(&str, &str)]| {
        let choices = choices.iter().copied();
        components::choice_or(name, label, fields.get(name), choices, wrong.get(name))
    };
    let statuses = KeyStatus::ALL.map(|status| (status.as_str(), status.as_str()));
    let statuses: Vec<_> = [("", "Any")].into_iter().chain(statuses).collect();
    html! {
        form .filters method="get" action=(context.at("/keys")) role="search" aria-label="Filter API keys" {
            (components::alert(wrong, "after"))
            (field("name", "Name, hint or ID").in_url())
            (owner_field(fields, owners))
            (choice("status", "Status", &statuses))
            (choice("show", "Show", &SHOWN))
            button type="submit" { "Apply" }
            @if fields.has_any(&FILTERS) { a .button href=(context.at("/keys")) { "Clear filters" } }
        }
    }
}

fn table(shared: &Shared, context: &PageContext, keys: &[Key]) -> Markup {
    html! {
        .scroll .panel tabindex="0" role="region" aria-label="API keys" { table .keys {
            (caption("API keys, newest first"))
            thead { tr {
                @for name in ["Name", "Key", "Owner", "Environment", "Status", "Created", "Expires", "Last used"] {
                    th scope="col" { (name) }
                }
                th scope="col" { span .unseen { "Actions" } }
            } }
            tbody { @for key in keys { (row(shared, context, key)) } }
        } }
    }
}

fn row(shared: &Shared, context: &PageContext, key: &Key) -> Markup {
    let at = context.at(&format!("/keys/{}", key.id));
    html! {
        tr {
            th .name scope="row" { (line_to(&at, &key.name)) }
            td .hint { code { (key.hint) } " " (copy(key.id.as_str(), "key ID")) }
            td .owner { (owner(context, key.owner.as_deref())) }
            td .environment { (line_or_none(key.environment.as_deref())) }
            td .status { (badge(key)) }
            td data-label="Created" { (date(context, key.created_at)) }
            td data-label="Expires" { @if let Some(end) = key.expires_at { (date(context, end)) } @else { "Never" } }
            td data-label="Last used" {
                @if let Some(used) = key.last_used_at { (minute(context, used)) }
                @else { strong .never { "Never" } }
            }
            td .actions { (actions(shared, key, &at)) }
        }
    }
}

/// Icon links for frequent actions, in fixed columns. The others are on the key's page.
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

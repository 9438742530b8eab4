//! The list of keys.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use maud::{Markup, html};

use super::components::{
    self, Icon, Input, badge, caption, copy_as, copy_secret, date, icon, last_accepted, name,
    name_or_none, owner,
};
use super::confirmation::back_field;
use super::key_order::KeyOrder;
use super::lineage::{self, Lineage};
use super::owner_field::{self, owner_field};
use super::{Failure, overview, page, reveal};
use crate::dashboard::charts;
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::return_path::ReturnPath;
use crate::dashboard::state::Shared;
use crate::key::{Key, KeyQuery, KeyStatus, StoreError};
use crate::page::PageRequest;

pub(in crate::dashboard) async fn list(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    fields: FormFields,
) -> Response {
    let (mut query, order, wrong) = query(&fields);
    // With an invalid filter, show no keys rather than unfiltered ones.
    let found = async {
        if let Some(owner) = query.owner_contains.take() {
            (query.owner, query.owner_contains) = owner_field::resolve(&shared, owner).await?;
        }
        let listed = match wrong.is_empty() {
            true => {
                let mut listed = Listed::read(&shared, &fields, &query, order).await?;
                listed.lineage = Lineage::of(&shared, &listed.keys).await?;
                Some(listed)
            }
            false => None,
        };
        Ok::<_, StoreError>((listed, owner_field::suggested(&shared).await?))
    };
    match found.await {
        Ok((listed, owners)) => {
            let filters = filters(&context, &fields, &wrong, &owners);
            let content = content(&shared, &context, &fields, listed.as_ref(), &filters);
            page(&context, "API keys", &content)
        }
        Err(error) => Failure::from(error).page(&context),
    }
}

const FILTERS: [&str; 4] = ["name", "owner", "status", "show"];

/// The fields that links to other pages of the list keep.
const KEPT: [&str; 5] = ["name", "owner", "status", "show", "sort"];

/// The maximum number of keys that are counted and sorted.
const MAX_SORTED: usize = PageRequest::MAX_LIMIT;

/// The number of keys on a page.
const ROWS: usize = 50;

/// A page of the list.
struct Listed {
    keys: Vec<Key>,
    lineage: Lineage,
    /// The number of keys that match the filters, if they were all read.
    count: Option<usize>,
    order: KeyOrder,
    /// Links to other pages: their text and fields.
    pages: [(&'static str, Option<FormFields>); 2],
}

impl Listed {
    async fn read(
        shared: &Shared,
        fields: &FormFields,
        query: &KeyQuery,
        order: KeyOrder,
    ) -> Result<Self, StoreError> {
        let first = fields.get("after").is_none();
        let newest = shared.keys.list(query).await?;
        let mut count = (first && newest.next.is_none()).then_some(newest.items.len());
        let mut all = None;
        if count.is_none() {
            let mut query = query.clone().limit(MAX_SORTED);
            query.page.after = None;
            let keys = shared.keys.list(&query).await?;
            count = keys.next.is_none().then_some(keys.items.len());
            all = count.map(|_| keys.items);
        }
        if order != KeyOrder::Newest && count.is_some() {
            let mut keys = all.unwrap_or(newest.items);
            order.sort(&mut keys);
            return Ok(Self::sorted(keys, order, fields));
        }
        let kept = fields.only(&KEPT);
        let to = |place: &str| kept.with([("after", place)]);
        let older = newest.next.map(|next| to(&next.to_string()));
        Ok(Self {
            count,
            keys: newest.items,
            lineage: Lineage::default(),
            order: KeyOrder::Newest,
            pages: [("Newest", (!first).then(|| to(""))), ("Older", older)],
        })
    }

    /// The page of sorted keys whose number is in the fields.
    fn sorted(keys: Vec<Key>, order: KeyOrder, fields: &FormFields) -> Self {
        let count = keys.len();
        let last = count.div_ceil(ROWS).max(1);
        let number = fields.get("page").and_then(|page| page.parse().ok());
        let number = number.unwrap_or(1).clamp(1, last);
        let kept = fields.only(&KEPT);
        let to = |page: usize| kept.with([("page", &*page.to_string())]);
        let shown = keys.into_iter().skip((number - 1) * ROWS);
        Self {
            keys: shown.take(ROWS).collect(),
            lineage: Lineage::default(),
            count: Some(count),
            order,
            pages: [
                ("Previous", (number > 1).then(|| to(number - 1))),
                ("Next", (number < last).then(|| to(number + 1))),
            ],
        }
    }

    fn count(&self) -> String {
        match self.count {
            Some(1) => "1 API key".into(),
            Some(count) => format!("{} API keys", charts::count(count as u128)),
            None => format!("{}+ API keys", charts::count(MAX_SORTED as u128)),
        }
    }
}

/// Choices of the `show` filter.
const SHOWN: [(&str, &str); 4] = [
    ("", "All"),
    ("unused", "Unused"),
    ("expiring", "Expiring soon"),
    ("imported", "Imported"),
];

fn query(fields: &FormFields) -> (KeyQuery, KeyOrder, FieldErrors) {
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
    let order = match KeyOrder::named(fields.get("sort")) {
        Some(order) => order,
        None => {
            wrong.add("sort", "Choose an order from the list.");
            KeyOrder::Newest
        }
    };
    (query.limit(ROWS), order, wrong)
}

fn content(
    shared: &Shared,
    context: &PageContext,
    fields: &FormFields,
    listed: Option<&Listed>,
    filters: &Markup,
) -> Markup {
    let filtered = fields.has_any(&FILTERS);
    html! {
        .head {
            h1 { "API keys" }
            @if shared.issuer.is_some() {
                a .button .primary href=(context.at("/keys/new")) { "Generate API key" }
            }
        }
        (filters)
        @match listed {
            None => {}
            Some(listed) if listed.keys.is_empty() => p .empty {
                @if filtered { "No API keys match your filters. " a href=(context.at("/keys")) { "Show all keys" } }
                @else { "No API keys yet." @if shared.issuer.is_some() { " Generate one to get started." } }
            },
            Some(listed) => (found(shared, context, fields, listed)),
        }
    }
}

fn found(shared: &Shared, context: &PageContext, fields: &FormFields, listed: &Listed) -> Markup {
    let kept = fields.only(&KEPT);
    let to = |fields: &FormFields| format!("{}?{}", context.at("/keys"), fields.query());
    let pages = listed.pages.each_ref();
    let pages = pages.map(|(text, fields)| (*text, fields.as_ref().map(to)));
    let now = Timestamp::now();
    let any_active = listed
        .keys
        .iter()
        .any(|key| key.status(now) == KeyStatus::Active);
    let is_unsorted = listed.count.is_none() && fields.get("sort").is_some();
    html! {
        .head .selection {
            p { (listed.count()) }
            @if any_active {
                form #selection method="get" action=(context.at("/keys/disable")) {
                    (back_field(context.here.as_ref()))
                    button type="submit" { "Disable selected" }
                }
            }
        }
        @if is_unsorted {
            p .warning {
                "Only " (charts::count(MAX_SORTED as u128)) " keys can be sorted. Filter the list to sort it."
            }
        }
        (table(shared, context, &kept, listed))
        (components::pages("API key pages", &pages))
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
    let orders = KeyOrder::ALL.map(|order| (order.as_str(), order.label()));
    html! {
        form .filters method="get" action=(context.at("/keys")) role="search" aria-label="Filter API keys" {
            (components::alert(wrong, "after"))
            (field("name", "Name, hint or ID").in_url())
            (owner_field(fields, owners))
            (choice("status", "Status", &statuses))
            (choice("show", "Show", &SHOWN))
            (choice("sort", "Sort by", &orders))
            button type="submit" { "Apply" }
            @if fields.has_any(&FILTERS) { a .button href=(context.at("/keys")) { "Clear filters" } }
        }
    }
}

fn table(shared: &Shared, context: &PageContext, kept: &FormFields, listed: &Listed) -> Markup {
    let head = |text, [first, then]: [KeyOrder; 2]| {
        let next = if listed.order == first { then } else { first };
        let sorted = [first, then].contains(&listed.order);
        let query = kept.with([("sort", next.as_str())]).query();
        html! {
            th scope="col" aria-sort=[sorted.then(|| listed.order.direction())] {
                a href=(format!("{}?{query}", context.at("/keys"))) { (text) }
            }
        }
    };
    html! {
        .scroll .panel tabindex="0" role="region" aria-label="API keys" { table .keys {
            (caption(&format!("API keys: {}", listed.order.label())))
            thead { tr {
                th scope="col" .pick { span .unseen { "Select" } }
                (head("Name", [KeyOrder::Name, KeyOrder::Name]))
                th scope="col" { "Key" }
                th scope="col" { "Owner" }
                th scope="col" { "Environment" }
                th scope="col" { "Status" }
                (head("Created", [KeyOrder::Newest, KeyOrder::Oldest]))
                (head("Expires", [KeyOrder::Expiry, KeyOrder::Expiry]))
                (head("Last accepted", [KeyOrder::LastAccepted, KeyOrder::LongestIdle]))
                th scope="col" { span .unseen { "Actions" } }
            } }
            tbody { @for key in &listed.keys { (row(shared, context, key, &listed.lineage)) } }
        } }
    }
}

fn row(shared: &Shared, context: &PageContext, key: &Key, lineage: &Lineage) -> Markup {
    let at = context.at(&format!("/keys/{}", key.id));
    let is_active = key.status(Timestamp::now()) == KeyStatus::Active;
    html! {
        tr {
            td .pick {
                @if is_active {
                    label {
                        input type="checkbox" name="key" value=(key.id) form="selection"
                            aria-label={ "Select " (key.name) };
                    }
                }
            }
            th .name scope="row" { a href=(at) { (name(&key.name)) } }
            td .hint { code { (key.hint) } " " (copy_key(shared, context, key)) (lineage.links(context, key)) }
            td .owner data-label="Owner" { (owner(context, key.owner.as_deref())) }
            td .environment data-label="Environment" { (name_or_none(key.environment.as_deref())) }
            td .status { (badge(key)) (lineage::end(key)) }
            td data-label="Created" { (date(context, key.created_at)) }
            td data-label="Expires" { @if let Some(end) = key.expires_at { (date(context, end)) } @else { "Never" } }
            td .used data-label="Last accepted" { (last_accepted(context, key)) }
            td .actions { (actions(shared, context, key, &at, lineage)) }
        }
    }
}

/// A button that copies the secret if it is stored, which is audited, or else the key id.
fn copy_key(shared: &Shared, context: &PageContext, key: &Key) -> Markup {
    let name = &key.name;
    if reveal::can_reveal(shared, key) {
        let url = context.at(&format!("/api/keys/{}/reveal", key.id));
        return copy_secret(&url, "Secret", &format!("Copy secret of {name}"));
    }
    copy_as(key.id.as_str(), "ID", &format!("Copy key ID of {name}"))
}

/// Icon links for frequent actions, in fixed columns. The others are on the key's page.
fn actions(
    shared: &Shared,
    context: &PageContext,
    key: &Key,
    at: &str,
    lineage: &Lineage,
) -> Markup {
    let status = key.status(Timestamp::now());
    let rotate = lineage.can_rotate(shared, key);
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
    let back = context.back_here(&ReturnPath::key(key.id));
    html! {
        .icons {
            @for action in actions {
                @match action {
                    Some((path, label, picture)) => {
                        @let back = if path.is_empty() { "" } else { &back };
                        @let label = format!("{label} {}", key.name);
                        a href={ (at) (path) (back) } aria-label=(label) title=(label) { (icon(picture)) }
                    }
                    None => { span {} }
                }
            }
        }
    }
}

//! What can be said of a key: the form with which keys are generated and edited.

use jiff::Timestamp;
use maud::{Markup, html};

use super::components::{self, Input};
use super::limit_text;
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::key::{AddressList, InvalidKey, Key, KeyUpdate, NewKey};
use crate::limit::RateLimit;

/// What a form says of a key.
pub(super) struct Described {
    name: String,
    owner: Option<String>,
    environment: Option<String>,
    scopes: Vec<String>,
    limits: Vec<RateLimit>,
    addresses: AddressList,
    expires: Option<Timestamp>,
}

impl Described {
    /// What was sent, or what is wrong with it.
    pub(super) fn read(visit: &PageContext, fields: &FormFields) -> Result<Self, FieldErrors> {
        let mut wrong = FieldErrors::default();
        let text = |name| fields.get(name).map(String::from);
        let limits = words(fields.get("limits")).map(limit_text::read);
        let limits = limits.collect::<Result<_, _>>().map(Some);
        let addresses = AddressList::parse(words(fields.get("addresses")));
        let addresses = addresses.map(Some).map_err(|error| error.to_string());
        let described = Self {
            name: text("name").unwrap_or_default(),
            owner: text("owner"),
            environment: text("environment"),
            scopes: words(fields.get("scopes")).map(Into::into).collect(),
            limits: wrong.take("limits", limits).unwrap_or_default(),
            addresses: wrong.take("addresses", addresses).unwrap_or_default(),
            expires: wrong.take("expires", fields.time(visit, "expires")),
        };
        if described.name.is_empty() {
            wrong.add("name", "Give it a name by which people know it.");
        }
        if wrong.is_empty() {
            Ok(described)
        } else {
            Err(wrong)
        }
    }

    /// Whether a key of this would not work any more.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }

    pub(super) fn into_new(self) -> NewKey {
        let mut new = NewKey::new(self.name);
        if let Some(owner) = self.owner {
            new = new.owner(owner);
        }
        if let Some(environment) = self.environment {
            new = new.environment(environment);
        }
        if let Some(end) = self.expires {
            new = new.expires_at(end);
        }
        new = new.scopes(self.scopes).addresses(self.addresses);
        self.limits.into_iter().fold(new, NewKey::limit)
    }

    /// Other values for the fields that were changed on the form, and no others: somebody else may have
    /// changed those meanwhile, and not everything can be told on a form to the last.
    pub(super) fn into_update(self, changed: impl Fn(&str) -> bool) -> KeyUpdate {
        let mut update = KeyUpdate::new();
        if changed("name") {
            update = update.name(self.name);
        }
        if changed("owner") {
            update = update.owner(self.owner);
        }
        if changed("environment") {
            update = update.environment(self.environment);
        }
        if changed("scopes") {
            update = update.scopes(self.scopes);
        }
        if changed("limits") {
            update = update.limits(self.limits);
        }
        if changed("addresses") {
            update = update.addresses(self.addresses);
        }
        if changed("expires") {
            update = update.expires_at(self.expires);
        }
        update
    }
}

/// The form's fields as they stand for a key.
pub(super) fn fields_of(visit: &PageContext, key: &Key) -> FormFields {
    let joined = |words: Vec<String>| words.join(" ");
    let optional = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let expires = key.expires_at.map(|end| visit.field(end));
    [
        ("name", key.name.clone()),
        ("owner", optional(key.owner.as_deref())),
        ("environment", optional(key.environment.as_deref())),
        ("scopes", joined(key.scopes.clone())),
        (
            "limits",
            joined(key.limits.iter().map(limit_text::of).collect()),
        ),
        (
            "addresses",
            joined(key.addresses.iter().map(|it| it.to_string()).collect()),
        ),
        ("expires", expires.unwrap_or_default()),
    ]
    .into_iter()
    .collect()
}

/// The field that a store's refusal is about.
pub(super) fn field_of(error: &InvalidKey) -> Option<&'static str> {
    match error {
        InvalidKey::Name => Some("name"),
        InvalidKey::Owner => Some("owner"),
        InvalidKey::Environment => Some("environment"),
        InvalidKey::Scope | InvalidKey::TooManyScopes => Some("scopes"),
        InvalidKey::Limit(_) => Some("limits"),
        InvalidKey::TooManyAddresses => Some("addresses"),
        InvalidKey::Time => Some("expires"),
        _ => None,
    }
}

/// Words with blanks or commas between them.
fn words(text: Option<&str>) -> impl Iterator<Item = &str> {
    let text = text.unwrap_or_default();
    text.split([',', ' ', '\n', '\t'])
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

/// The form's inputs; around them belong a form and its button.
pub(super) fn inputs(visit: &PageContext, fields: &FormFields, wrong: &FieldErrors) -> Markup {
    let input = |name, label, hint| {
        let value = fields.get(name).unwrap_or_default();
        Input::new(name, label, value)
            .hint(hint)
            .wrong(wrong.get(name))
    };
    let zone = visit.zone_name();
    html! {
        (components::token(visit))
        input type="hidden" name="zone" value=(zone);
        (input("name", "Name", "Who uses it: PowerAutomate, Zapier Integration").required())
        (input("owner", "Owner", "Whose it is, in your own terms").text())
        (input("environment", "Environment", "Such as live or test").text())
        (input("scopes", "Scopes", "What it may do: read, orders:write").text())
        (input("limits", "Limits", "How fast: 20/s, 600/min, 600/min:100 for at most 100 at once. Empty: the service's own").text())
        (input("addresses", "Addresses", "From where alone: 203.0.113.0/24. Empty: everywhere").text())
        (input("expires", "Expires", &format!("In {zone}. Empty: never")).moment())
    }
}

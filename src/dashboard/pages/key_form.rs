//! The fields of the forms to generate and edit keys.

use jiff::Timestamp;
use maud::{Markup, html};

use super::components::{self, Input};
use super::limit_text;
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::key::{AddressList, InvalidKey, Key, KeyUpdate, NewKey};
use crate::limit::RateLimit;

/// The parsed fields of a key.
pub(super) struct KeyFields {
    name: String,
    owner: Option<String>,
    environment: Option<String>,
    scopes: Vec<String>,
    limits: Vec<RateLimit>,
    addresses: AddressList,
    expires: Option<Timestamp>,
}

impl KeyFields {
    /// Parses the submitted fields.
    pub(super) fn read(context: &PageContext, fields: &FormFields) -> Result<Self, FieldErrors> {
        let mut wrong = FieldErrors::default();
        let text = |name| fields.get(name).map(String::from);
        let limits = words(fields.get("limits")).map(limit_text::parse);
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
            expires: wrong.take("expires", fields.time(context, "expires")),
        };
        if described.name.is_empty() {
            wrong.add("name", "Enter a name.");
        }
        if wrong.is_empty() {
            Ok(described)
        } else {
            Err(wrong)
        }
    }

    /// Whether the key would already be expired.
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

    /// An update of only the fields that were changed on the form. The others may have been changed concurrently, and
    /// some, such as times, lose precision in the form.
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

/// The form fields with the values of a key.
pub(super) fn fields_of(context: &PageContext, key: &Key) -> FormFields {
    let joined = |words: Vec<String>| words.join(" ");
    let optional = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let expires = key.expires_at.map(|end| context.field(end));
    [
        ("name", key.name.clone()),
        ("owner", optional(key.owner.as_deref())),
        ("environment", optional(key.environment.as_deref())),
        ("scopes", joined(key.scopes.clone())),
        (
            "limits",
            joined(key.limits.iter().map(limit_text::format).collect()),
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

/// The form field that an error is about.
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

/// Splits words at whitespace and commas.
fn words(text: Option<&str>) -> impl Iterator<Item = &str> {
    let text = text.unwrap_or_default();
    text.split([',', ' ', '\n', '\t'])
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

/// The inputs of the form, without the form element and its button.
pub(super) fn inputs(context: &PageContext, fields: &FormFields, wrong: &FieldErrors) -> Markup {
    let input = |name, label, hint| {
        let value = fields.get(name).unwrap_or_default();
        Input::new(name, label, value)
            .hint(hint)
            .wrong(wrong.get(name))
    };
    let zone = context.zone_name();
    html! {
        (components::token(context))
        input type="hidden" name="zone" value=(zone);
        (input("name", "Name", "A label for the integration, such as Zapier").required())
        (input("owner", "Owner", "The customer or account that the key belongs to").text())
        (input("environment", "Environment", "For example, live or test").text())
        (input("scopes", "Scopes", "Permissions, separated by spaces: read orders:write").text())
        (input("limits", "Rate limits", "For example, 20/s, 600/min, or 600/min:100 for a burst of 100. Leave empty for the service defaults.").text())
        (input("addresses", "Allowed IPs", "Client IPs or networks, such as 203.0.113.0/24. Leave empty to allow any.").text())
        (input("expires", "Expires", &format!("In {zone}. Leave empty for no expiry.")).moment())
    }
}

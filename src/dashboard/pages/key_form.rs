//! The fields of the forms to generate and edit keys.

use jiff::Timestamp;
use maud::{Markup, html};

use super::components::{self, Input};
use super::expiry_fields;
use super::limit_fields::{self, OF_KEY};
use super::plans::PLAN;
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::key::{AddressList, InvalidKey, Key, KeyUpdate, NewKey};
use crate::limit::RateLimit;

/// The parsed fields of a key.
pub(super) struct KeyFields {
    name: String,
    owner: Option<String>,
    plan: Option<String>,
    environment: Option<String>,
    scopes: Vec<String>,
    limits: Vec<RateLimit>,
    addresses: AddressList,
    expires: Option<Timestamp>,
}

/// The submitted fields, with one field for all limits and one for the expiration time, as in [`fields_of`].
pub(super) struct Combined {
    fields: FormFields,
    expiry: Result<(), String>,
}

impl Combined {
    /// Combines the fields. `was` is the expiration date when the form was rendered.
    pub(super) fn of(context: &PageContext, fields: &FormFields, was: Option<&str>) -> Self {
        let limits = OF_KEY.text_of(fields);
        let expires = expiry_fields::text_of(context, fields, was, Timestamp::now());
        let mut combined = fields.with([(OF_KEY.name, &*limits)]);
        let expiry =
            expires.map(|expires| combined = combined.with([(expiry_fields::NAME, &*expires)]));
        Self {
            fields: combined,
            expiry,
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }
}

impl KeyFields {
    /// Parses the submitted fields, after [`combined`].
    pub(super) fn read(context: &PageContext, fields: &Combined) -> Result<Self, FieldErrors> {
        // Errors in the order of the fields, so that the first one is focused.
        let mut wrong = FieldErrors::default();
        let Combined { fields, expiry } = fields;
        let text = |name| fields.get(name).map(String::from);
        if fields.get("name").is_none() {
            wrong.add("name", "Enter a name.");
        }
        let limits = limit_fields::parse(fields.get(OF_KEY.name).unwrap_or_default());
        let limits = wrong.take(OF_KEY.name, limits.map(Some));
        let addresses = AddressList::parse(words(fields.get("addresses")));
        let addresses = addresses.map(Some).map_err(|error| error.to_string());
        let addresses = wrong.take("addresses", addresses);
        let expires = match expiry {
            Ok(_) => fields.time(context, expiry_fields::NAME),
            Err(error) => Err(error.clone()),
        };
        let described = Self {
            name: text("name").unwrap_or_default(),
            owner: text("owner"),
            plan: text(PLAN),
            environment: text("environment"),
            scopes: words(fields.get("scopes")).map(Into::into).collect(),
            limits: limits.unwrap_or_default(),
            addresses: addresses.unwrap_or_default(),
            expires: wrong.take(expiry_fields::NAME, expires),
        };
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
        if let Some(plan) = self.plan {
            new = new.plan(plan);
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
        if changed(PLAN) {
            update = update.plan(self.plan);
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

/// The folded fields, except for limits.
const OPTIONS: [&str; 8] = [
    "owner",
    PLAN,
    "environment",
    "scopes",
    "addresses",
    "expires",
    "expires-in",
    "recoverable",
];

/// The form fields with the values of a key.
pub(super) fn fields_of(context: &PageContext, key: &Key) -> FormFields {
    let joined = |words: Vec<String>| words.join(" ");
    let optional = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let expires = key.expires_at.map(|end| context.field(end));
    [
        ("name", key.name.clone()),
        ("owner", optional(key.owner.as_deref())),
        (PLAN, optional(key.plan.as_deref())),
        ("environment", optional(key.environment.as_deref())),
        ("scopes", joined(key.scopes.clone())),
        OF_KEY.of(&key.limits),
        (
            "addresses",
            joined(key.addresses.iter().map(|it| it.to_string()).collect()),
        ),
        (expiry_fields::NAME, expires.unwrap_or_default()),
    ]
    .into_iter()
    .collect()
}

/// The form field that an error is about.
pub(super) fn field_of(error: &InvalidKey) -> Option<&'static str> {
    match error {
        InvalidKey::Name => Some("name"),
        InvalidKey::Owner => Some("owner"),
        InvalidKey::Plan => Some(PLAN),
        InvalidKey::Environment => Some("environment"),
        InvalidKey::Scope | InvalidKey::TooManyScopes => Some("scopes"),
        InvalidKey::Limit(_) => Some(OF_KEY.name),
        InvalidKey::TooManyAddresses => Some("addresses"),
        InvalidKey::Time => Some(expiry_fields::NAME),
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

/// The inputs of the form, without the form element and its button. On a `new` form, all but the name are folded while
/// they are empty, with `plan` and `more` inputs.
pub(super) fn inputs(
    context: &PageContext,
    fields: &FormFields,
    wrong: &FieldErrors,
    new: bool,
    plan: &Markup,
    more: Option<Markup>,
) -> Markup {
    let input = |name, label, hint| {
        let value = fields.get(name).unwrap_or_default();
        Input::new(name, label, value).hint(hint).checked(wrong)
    };
    let mut name = input(
        "name",
        "Name",
        "A label for the integration, such as Zapier",
    );
    if new && wrong.is_empty() {
        name = name.focused();
    }
    let is_filled = fields.has_any(&OPTIONS) || !OF_KEY.text_of(fields).is_empty();
    let is_wrong = wrong.first().is_some_and(|(field, _)| field != "name");
    html! {
        (components::token(context))
        input type="hidden" name="zone" value=(context.zone_name());
        (name.required())
        details .options open[!new || is_filled || is_wrong] {
            summary { "Options" }
            (input("owner", "Owner", "The customer or account that the key belongs to").text())
            (input("environment", "Environment", "For example, live or test").text())
            (input("scopes", "Scopes", "Permissions, separated by spaces: read orders:write").text())
            (plan)
            (OF_KEY.inputs(fields, wrong))
            (input("addresses", "Allowed IPs",
                "Client IPs or networks, such as 203.0.113.0/24. Leave empty to allow any.").text())
            (expiry_fields::inputs(context, fields, wrong))
            @if let Some(more) = more { (more) }
        }
    }
}

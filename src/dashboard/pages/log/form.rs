//! The filter form of the request log.

use maud::{Markup, html};

use super::Log;
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::breakdowns::STATUSES;
use crate::dashboard::pages::causes;
use crate::dashboard::pages::components::{self, Input};
use crate::dashboard::pages::owner_field::owner_field;
use crate::usage::Method;

const OUTCOMES: [(&str, &str); 4] = [
    ("", "Any"),
    ("completed", "Completed"),
    ("failed", "Failed"),
    ("rate_limited", "Rate limited"),
];

impl Log<'_> {
    /// Renders the filter form around the field of the key.
    pub(super) fn form(
        &self,
        context: &PageContext,
        fields: &FormFields,
        wrong: &FieldErrors,
        key: &Markup,
        owners: &[String],
    ) -> Markup {
        let text = |name, label, hint| {
            let input = Input::new(name, label, fields.get(name).unwrap_or_default());
            input.hint(hint).wrong(wrong.get(name)).in_url()
        };
        let moment = |name, label, hint| {
            let time = fields.time(context, name).ok().flatten();
            let value = time.map(|time| context.field(time)).unwrap_or_default();
            let input = Input::new(name, label, &value);
            input.hint(hint).wrong(wrong.get(name)).moment()
        };
        let choice = |name, label, choices: &[(&str, &str)]| {
            components::choice_or(
                name,
                label,
                fields.get(name),
                choices.iter().copied(),
                wrong.get(name),
            )
        };
        let methods = Method::ALL.map(|method| (method.as_str(), method.as_str()));
        let methods: Vec<_> = [("", "Any")].into_iter().chain(methods).collect();
        let causes: Vec<_> = [("", "Any")].into_iter().chain(causes::choices()).collect();
        // Times of the page's range are sent in UTC, since `zone` applies to the fields of this form.
        let range = |name| fields.time(context, name).ok().flatten();
        html! {
            form .filters .many method="get" action={ (self.at) "#log" } role="search" aria-label="Filter request log" {
                (components::alert(wrong, "after"))
                @for name in ["range", STATUSES] {
                    @if let Some(value) = fields.get(name).filter(|_| self.picked.is_some()) {
                        input type="hidden" name=(name) value=(value);
                    }
                }
                @for name in ["from", "to"] {
                    @if let Some(time) = range(name).filter(|_| self.picked.is_some()) {
                        input type="hidden" name=(name) value=(time);
                    }
                }
                input type="hidden" name="zone" value=(context.zone_name());
                (key)
                (text("resource", "Resource ID", ""))
                @if self.has_owner_field() { (owner_field(fields, owners)) }
                (moment("since", "Date from", if self.picked.is_some() { "Defaults to the range above" } else { "" }))
                (moment("until", "Date to", ""))
                (choice("outcome", "Status", &OUTCOMES))
                (choice(causes::FIELD, "Cause", &causes))
                (choice("method", "HTTP method", &methods))
                (text("endpoint", "API endpoint", ""))
                (text("code", "Response status", "404 or 4xx"))
                (text("request", "Request ID", ""))
                p .buttons {
                    button type="submit" .primary { "Apply" }
                    a .button href=(self.cleared(fields)) { "Clear filters" }
                }
            }
        }
    }

    /// The URL of the page without log filters.
    pub(super) fn cleared(&self, fields: &FormFields) -> String {
        let kept = fields.only(&["range", "from", "to", STATUSES]);
        // The remaining times may depend on the zone.
        let zone = if kept.has_any(&["from", "to"]) {
            fields.get("zone")
        } else {
            None
        };
        let kept = kept.with([("zone", zone.unwrap_or_default())]);
        format!("{}?{}#log", self.at, kept.query())
    }
}

//! The filter form of the request log.

use maud::{Markup, html};

use super::Log;
use super::filter::{Suggestions, values_of};
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::breakdowns::STATUSES;
use crate::dashboard::pages::causes;
use crate::dashboard::pages::components::{self, Input};
use crate::dashboard::pages::owner_field::owner_field;
use crate::usage::{Method, Outcome};

impl Log<'_> {
    /// Renders the filter form around the field of the key.
    pub(super) fn form(
        &self,
        context: &PageContext,
        fields: &FormFields,
        wrong: &FieldErrors,
        key: &Markup,
        suggested: &Suggestions,
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
        let several = |name, label, choices: &[(&str, &str)]| {
            let chosen: Vec<_> = values_of(fields, name).collect();
            components::several(
                name,
                label,
                choices.iter().copied(),
                &chosen,
                wrong.get(name),
            )
        };
        let methods = Method::ALL.map(|method| (method.as_str(), method.as_str()));
        let outcomes =
            Outcome::ALL.map(|outcome| (outcome.as_str(), causes::label_of_outcome(outcome)));
        let endpoint = Input::new(
            "endpoint",
            "API endpoint",
            fields.get("endpoint").unwrap_or_default(),
        );
        let endpoint = endpoint.hint("A part or a path").suggest("endpoints");
        let causes: Vec<_> = [("", "Any")].into_iter().chain(causes::choices()).collect();
        // Times of the page's range are sent in UTC, since `zone` applies to the fields of this form.
        let range = |name| fields.time(context, name).ok().flatten();
        html! {
            form .filters .many method="get" action={ (self.at) "#log" } role="search" aria-label="Filter request log" {
                (components::alert(wrong, "after"))
                @for name in ["range", STATUSES] {
                    @let is_kept = self.picked.is_some() || self.preset(context, fields).is_some();
                    @if let Some(value) = fields.get(name).filter(|_| is_kept) {
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
                @if self.has_owner_field() { (owner_field(fields, &suggested.owners)) }
                (moment("since", "Date from", if self.picked.is_some() { "Defaults to the range above" } else { "" }))
                (moment("until", "Date to", ""))
                (several("outcome", "Status", &outcomes))
                (choice(causes::FIELD, "Cause", &causes))
                (several("method", "HTTP method", &methods))
                (endpoint.in_url())
                (components::suggestions("endpoints", &suggested.endpoints))
                (text("code", "Response status", "Codes or classes, such as 429, 5xx"))
                (text("client", "Client IP", ""))
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

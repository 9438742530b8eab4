//! The active filters of the request log, each with a link that removes it.

use jiff::Timestamp;
use maud::{Markup, html};

use super::Log;
use super::filter::{FIELDS, FILTERS, SEVERAL, values_of};
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::causes;
use crate::dashboard::pages::components::clipped;
use crate::usage::Outcome;

/// An active filter.
pub(super) struct Chip {
    label: &'static str,
    value: String,
    /// The fields without it.
    without: FormFields,
}

impl Log<'_> {
    /// Renders the active filters.
    pub(super) fn chips(&self, chips: &[Chip]) -> Markup {
        html! {
            @if !chips.is_empty() {
                ul .chips aria-label="Active filters" {
                    @for Chip { label, value, without } in chips {
                        li .chip {
                            span .label { (label) } (clipped(value))
                            a href={ (self.at) "?" (without.query()) "#log" } aria-label={ "Remove filter " (label) " " (value) } {
                                span aria-hidden="true" { "×" }
                            }
                        }
                    }
                }
            }
        }
    }

    /// The active filters. `key` is the name of the filtered key.
    pub(super) fn active(
        &self,
        context: &PageContext,
        fields: &FormFields,
        wrong: &FieldErrors,
        key: Option<&str>,
    ) -> Vec<Chip> {
        let kept = fields.only(&FIELDS);
        let mut chips = Vec::new();
        let mut add = |label, value: &str, name: &'static str, rest: &str| {
            let without = without(&kept, name, rest);
            let value = value.into();
            chips.push(Chip {
                label,
                value,
                without,
            });
        };
        if let Some((_, label)) = self.preset(context, fields) {
            add("Time", label, "range", "");
        }
        for name in FILTERS {
            let is_fixed = match name {
                "key" => self.key.is_some(),
                "owner" => !self.has_owner_field(),
                _ => false,
            };
            if is_fixed {
                continue;
            }
            if SEVERAL.contains(&name) && wrong.get(name).is_none() {
                let values: Vec<_> = values_of(fields, name).collect();
                for value in &values {
                    let rest: Vec<_> = values.iter().copied().filter(|it| it != value).collect();
                    add(label_of(name), &shown(name, value), name, &rest.join(","));
                }
            } else if let Some(value) = fields.get(name) {
                let time = |name| fields.time(context, name).ok().flatten();
                let value = match name {
                    "since" | "until" => time(name).map(|time| clock(context, time)),
                    "key" => key.map(String::from),
                    _ => Some(shown(name, value)),
                };
                let raw = || fields.get(name).unwrap_or_default().into();
                add(label_of(name), &value.unwrap_or_else(raw), name, "");
            }
        }
        chips
    }
}

/// The fields without one, or with the rest of its values.
fn without(fields: &FormFields, name: &str, rest: &str) -> FormFields {
    let without = fields.with([(name, rest)]);
    match without.has_any(&["since", "until", "from", "to"]) {
        true => without,
        false => without.with([("zone", "")]),
    }
}

fn clock(context: &PageContext, time: Timestamp) -> String {
    context.clock(time, "%H:%M:%S%.f")
}

fn label_of(name: &str) -> &'static str {
    match name {
        "resource" => "Resource ID",
        "key" => "API key",
        "owner" => "Owner",
        "since" => "From",
        "until" => "To",
        "outcome" => "Status",
        "cause" => "Cause",
        "method" => "HTTP method",
        "endpoint" => "Endpoint",
        "code" => "Response status",
        "client" => "Client IP",
        _ => "Request ID",
    }
}

/// The text of a value.
fn shown(name: &str, value: &str) -> String {
    let label = match name {
        "outcome" => outcome_label(value),
        causes::FIELD => causes::choices()
            .find(|(it, _)| *it == value)
            .map(|it| it.1),
        "method" => return value.to_uppercase(),
        _ => None,
    };
    label.unwrap_or(value).into()
}

fn outcome_label(value: &str) -> Option<&'static str> {
    let mut outcomes = Outcome::ALL.into_iter();
    let outcome = outcomes.find(|outcome| outcome.as_str() == value)?;
    Some(causes::label_of_outcome(outcome))
}

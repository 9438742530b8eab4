//! Pieces of pages.

use jiff::Timestamp;
use maud::{Markup, html};

use crate::dashboard::visit::Visit;
use crate::key::{Key, KeyStatus};

/// A time on the reader's clock; the script makes it the browser's own, and UTC is told on hover.
pub(super) fn time(visit: &Visit, time: Timestamp) -> Markup {
    html! { time datetime=(time) title=(time) { (visit.clock(time)) } }
}

/// A day on the reader's calendar.
pub(super) fn date(visit: &Visit, time: Timestamp) -> Markup {
    let day = visit.zone.to_datetime(time).date();
    html! { time .date datetime=(time) title=(time) { (day) } }
}

pub(super) fn status_name(status: KeyStatus) -> &'static str {
    match status {
        KeyStatus::Active => "active",
        KeyStatus::Disabled => "disabled",
        KeyStatus::Expired => "expired",
        KeyStatus::Revoked => "revoked",
    }
}

pub(super) fn badge(key: &Key) -> Markup {
    let name = status_name(key.status(Timestamp::now()));
    html! { span class={ "badge " (name) } { (name) } }
}

/// A button that copies a text; without the script the text can be marked by hand.
pub(super) fn copy(text: &str, what: &str) -> Markup {
    html! {
        button type="button" .copy data-copy=(text) aria-label={ "Copy " (what) } hidden { "Copy" }
    }
}

pub(super) fn token(visit: &Visit) -> Markup {
    html! { input type="hidden" name="token" value=(visit.token); }
}

/// A labelled field of a form.
pub(super) struct Input<'a> {
    pub(super) name: &'a str,
    pub(super) label: &'a str,
    pub(super) hint: &'a str,
    pub(super) value: &'a str,
}

impl Input<'_> {
    pub(super) fn text(&self) -> Markup {
        self.of("text", false)
    }

    pub(super) fn required(&self) -> Markup {
        self.of("text", true)
    }

    pub(super) fn moment(&self) -> Markup {
        self.of("datetime-local", false)
    }

    fn of(&self, kind: &str, required: bool) -> Markup {
        let Self {
            name,
            label,
            hint,
            value,
        } = self;
        html! {
            p .field {
                label for=(name) { (label) }
                input type=(kind) id=(name) name=(name) value=(value) required[required]
                    autocomplete="off" aria-describedby=[(!hint.is_empty()).then(|| format!("{name}-hint"))];
                @if !hint.is_empty() { small id={ (name) "-hint" } { (hint) } }
            }
        }
    }
}

/// A choice of a form: values and what they are called.
pub(super) fn choice<'a>(
    name: &str,
    label: &str,
    chosen: Option<&str>,
    choices: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Markup {
    html! {
        p .field {
            label for=(name) { (label) }
            select id=(name) name=(name) {
                @for (value, text) in choices {
                    option value=(value) selected[chosen.unwrap_or_default() == value] { (text) }
                }
            }
        }
    }
}

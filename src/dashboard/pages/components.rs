//! Components of pages.

use std::borrow::Cow;

use jiff::Timestamp;
use maud::{Markup, html};

use crate::dashboard::charts;
use crate::dashboard::form::FieldErrors;
use crate::dashboard::owner_path::linked_path;
use crate::dashboard::page_context::PageContext;
use crate::id::uuid_at;
use crate::key::{Key, KeyStatus};

/// A time in the browser's time zone, with UTC in the tooltip. The script formats it for the browser's locale.
pub(super) fn time(context: &PageContext, time: Timestamp) -> Markup {
    html! { time datetime=(time) title=(time) { (context.clock(time, "%H:%M:%S")) } }
}

/// [`time`] with milliseconds.
pub(super) fn precise_time(context: &PageContext, time: Timestamp) -> Markup {
    html! { time .precise datetime=(time) title=(time) { (context.clock(time, "%H:%M:%S%.3f")) } }
}

/// [`time`] without seconds.
pub(super) fn minute(context: &PageContext, time: Timestamp) -> Markup {
    html! { time .minute datetime=(time) title=(time) { (context.clock(time, "%H:%M")) } }
}

/// A date in the browser's time zone.
pub(super) fn date(context: &PageContext, time: Timestamp) -> Markup {
    let day = context.zone.to_datetime(time).date();
    html! { time .date datetime=(time) title=(time) { (day) } }
}

pub(super) fn badge(key: &Key) -> Markup {
    let name = match key.status(Timestamp::now()) {
        KeyStatus::Active if key.replaced_by.is_some() => "replaced",
        status => status.as_str(),
    };
    html! { span class={ "badge " (name) } { (name) } }
}

/// When the last accepted request of a key arrived, and the number of requests rejected since.
pub(super) fn last_accepted(context: &PageContext, key: &Key) -> Markup {
    html! {
        span {
            @match key.last_accepted_at {
                Some(time) => (minute(context, time)),
                None => strong .never { "Never" },
            }
            @if key.rejected_since > 0 {
                small { "Rejected since: " (charts::count(key.rejected_since)) }
            }
        }
    }
}

/// User-provided text, isolated so that its direction cannot affect the text around it.
pub(super) fn name(text: &str) -> Markup {
    html! { bdi { (text) } }
}

/// [`name`], or a dash.
pub(super) fn name_or_none(text: Option<&str>) -> Markup {
    html! { @match text { Some(text) => (name(text)), None => (none()) } }
}

/// A dash for a missing value.
pub(super) fn none() -> Markup {
    html! { span .none { "–" } }
}

/// Text on one line, cut off with the full text in the tooltip.
pub(super) fn line(text: &str) -> Markup {
    html! { span .clip title=(text) { (name(text)) } }
}

/// [`line`], or a dash.
pub(super) fn line_or_none(text: Option<&str>) -> Markup {
    html! { @match text { Some(text) => (line(text)), None => (none()) } }
}

/// [`line`] as a link.
pub(super) fn line_to(href: &str, text: &str) -> Markup {
    html! { a .clip href=(href) title=(text) { (name(text)) } }
}

/// An owner as a link to the owner's page, on one line; a dash without an owner.
pub(super) fn owner(context: &PageContext, owner: Option<&str>) -> Markup {
    html! {
        @match owner {
            Some(owner) => {
                @match linked_path(owner) {
                    Some(path) => (line_to(&context.at(&path), name_of_owner(owner))),
                    None => (clipped(owner)),
                }
            }
            None => (none()),
        }
    }
}

/// The text for an owner, which is never empty.
pub(super) fn name_of_owner(owner: &str) -> &str {
    match owner.trim() {
        "" => "(blank)",
        _ => owner,
    }
}

/// The maximum number of characters in a cell.
const MOST_SHOWN: usize = 150;

/// The maximum length in bytes of text that always fits and needs no tooltip.
const MAX_UNTRUNCATED: usize = 36;

/// Text from clients, of any length, on one line.
pub(super) fn clipped(text: &str) -> Markup {
    let shown = clip(text);
    let title = (shown.len() > MAX_UNTRUNCATED).then_some(&*shown);
    html! { span .clip title=[title] { (name(&shown)) } }
}

/// The beginning of a text of any length.
pub(super) fn clip(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MOST_SHOWN) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}

/// The caption of a table for screen readers.
pub(super) fn caption(text: &str) -> Markup {
    html! { caption { span .unseen { (text) } } }
}

/// Links to other pages of a list; nothing if there are none.
pub(super) fn pages(label: &str, links: &[(&str, Option<String>)]) -> Markup {
    let any = links.iter().any(|(_, href)| href.is_some());
    html! {
        @if any {
            nav .pages aria-label=(label) {
                @for (text, href) in links {
                    @if let Some(href) = href { a href=(href) { (text) } }
                }
            }
        }
    }
}

/// A button that copies text. Hidden without the script.
pub(super) fn copy(text: &str, what: &str) -> Markup {
    copy_as(text, "Copy", &format!("Copy {what}"))
}

/// [`copy`] with this text on the button, and this label.
pub(super) fn copy_as(text: &str, shown: &str, label: &str) -> Markup {
    copy_button(Some(text), None, shown, label)
}

/// A button that copies the secret in the response to a `POST` to this URL of the API. Hidden without the script.
pub(super) fn copy_secret(url: &str, shown: &str, label: &str) -> Markup {
    copy_button(None, Some(url), shown, label)
}

fn copy_button(text: Option<&str>, url: Option<&str>, shown: &str, label: &str) -> Markup {
    html! {
        button type="button" .copy data-copy=[text] data-copy-secret=[url] aria-label=(label) title=(label) hidden {
            (icon(Icon::Copy)) (icon(Icon::Done)) span { (shown) }
        }
    }
}

/// Icons of buttons and links.
#[derive(Clone, Copy)]
pub(super) enum Icon {
    Chart,
    Copy,
    Done,
    Rotate,
    Disable,
    Enable,
    Delete,
    Search,
}

/// An icon, hidden from screen readers: the element around it has a label.
pub(super) fn icon(icon: Icon) -> Markup {
    let (name, path) = match icon {
        Icon::Chart => ("chart", "M2 2v12h12M5 11V8m3 3V5m3 6V7m3 4V3"),
        Icon::Copy => ("copy", "M6 5h8v9H6zM3 11H2V2h8v1"),
        Icon::Done => ("done", "M3 9l3 3 7-8"),
        Icon::Rotate => (
            "rotate",
            "M13 3v4H9M3 13V9h4M12.6 7A5 5 0 0 0 4 4.5M3.4 9A5 5 0 0 0 12 11.5",
        ),
        Icon::Disable => ("disable", "M5 3v10M11 3v10"),
        Icon::Enable => ("enable", "M5 3l8 5-8 5z"),
        Icon::Delete => (
            "delete",
            "M2 4h12M6 4V2h4v2M4 4l.6 10h6.8L12 4M6.7 7v4M9.3 7v4",
        ),
        Icon::Search => (
            "search",
            "M7 12A5 5 0 1 1 7 2a5 5 0 0 1 0 10Zm3.6-1.4L14 14",
        ),
    };
    html! {
        svg class={ "icon " (name) } viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" { path d=(path) {} }
    }
}

pub(super) fn token(context: &PageContext) -> Markup {
    html! { input type="hidden" name="token" value=(context.token); }
}

/// The field with the idempotency key of a form, so that a double click or a reload creates one key only.
pub(super) const ONCE: &str = "once";

pub(super) fn once() -> Markup {
    let id = uuid_at(Timestamp::now().as_microsecond());
    html! { input type="hidden" name=(ONCE) value=(id); }
}

/// The pattern of inputs that reject secrets, and what browsers say then.
const NO_SECRET: &str = "(?!.*[a-z0-9]_[0-9A-Za-z]{54}(?![0-9A-Za-z_])).*";
const FIND_INSTEAD: &str = "To find the key of a secret, use “Find a key”.";

/// A labelled input of a form.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    name: &'a str,
    label: &'a str,
    value: &'a str,
    hint: &'a str,
    wrong: Option<&'a str>,
    in_url: bool,
    suggestions: Option<&'a str>,
    focused: bool,
}

impl<'a> Input<'a> {
    pub(super) fn new(name: &'a str, label: &'a str, value: &'a str) -> Self {
        Self {
            name,
            label,
            value,
            hint: "",
            wrong: None,
            in_url: false,
            suggestions: None,
            focused: false,
        }
    }

    /// The hint below the input.
    pub(super) fn hint(self, hint: &'a str) -> Self {
        Self { hint, ..self }
    }

    /// The error below the input.
    pub(super) fn wrong(self, wrong: Option<&'a str>) -> Self {
        Self { wrong, ..self }
    }

    /// The id of a `datalist` with suggestions.
    pub(super) fn suggest(self, id: &'a str) -> Self {
        Self {
            suggestions: Some(id),
            ..self
        }
    }

    /// The error below the input, and the focus if it is the first one of the form.
    pub(super) fn checked(self, wrong: &'a FieldErrors) -> Self {
        let first = wrong.first().map(|(name, _)| name);
        Self {
            wrong: wrong.get(self.name),
            focused: first == Some(self.name),
            ..self
        }
    }

    /// Focuses the input when the page is opened.
    pub(super) fn focused(self) -> Self {
        Self {
            focused: true,
            ..self
        }
    }

    pub(super) fn text(self) -> Markup {
        self.of("text", false)
    }

    /// A text that becomes a part of the URL. Browsers do not send it if it is a secret.
    pub(super) fn in_url(self) -> Markup {
        Self {
            in_url: true,
            ..self
        }
        .text()
    }

    pub(super) fn required(self) -> Markup {
        self.of("text", true)
    }

    pub(super) fn moment(self) -> Markup {
        self.of("datetime-local", false)
    }

    fn of(self, kind: &str, required: bool) -> Markup {
        let Self { name, value, .. } = self;
        // Without a step, browsers reject times with seconds.
        let step = (kind == "datetime-local").then_some("1");
        let (pattern, title) = match self.in_url {
            true => (Some(NO_SECRET), Some(FIND_INSTEAD)),
            false => (None, None),
        };
        let described = [
            (!self.hint.is_empty()).then(|| format!("{name}-hint")),
            self.wrong.map(|_| format!("{name}-wrong")),
        ];
        let described: Vec<_> = described.into_iter().flatten().collect();
        html! {
            p .field {
                label for=(name) { (self.label) }
                input type=(kind) id=(name) name=(name) value=(value) step=[step] pattern=[pattern] title=[title] required[required]
                    autofocus[self.focused] autocomplete="off" list=[self.suggestions]
                    aria-invalid=[self.wrong.map(|_| "true")]
                    aria-describedby=[(!described.is_empty()).then(|| described.join(" "))];
                @if !self.hint.is_empty() { small id={ (name) "-hint" } { (self.hint) } }
                @if let Some(wrong) = self.wrong { small .wrong id={ (name) "-wrong" } { (wrong) } }
            }
        }
    }
}

/// Suggestions for an input.
pub(super) fn suggestions(id: &str, values: &[String]) -> Markup {
    html! { datalist id=(id) { @for value in values { option value=(value) {} } } }
}

/// The alert above a form with errors: the error under the name `whole`, or a pointer to the fields.
pub(super) fn alert(wrong: &FieldErrors, whole: &str) -> Markup {
    html! {
        @if !wrong.is_empty() {
            p .error .column role="alert" {
                @match wrong.get(whole) { Some(why) => (why), None => "Fix the errors below and try again." }
            }
        }
    }
}

/// A select of a form, with values and labels.
pub(super) fn choice<'a>(
    name: &str,
    label: &str,
    chosen: Option<&str>,
    choices: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Markup {
    choice_or(name, label, chosen, choices, None)
}

/// [`choice`] with an error.
pub(super) fn choice_or<'a>(
    name: &str,
    label: &str,
    chosen: Option<&str>,
    choices: impl IntoIterator<Item = (&'a str, &'a str)>,
    wrong: Option<&str>,
) -> Markup {
    html! {
        p .field {
            label for=(name) { (label) }
            select id=(name) name=(name) aria-invalid=[wrong.map(|_| "true")]
                aria-describedby=[wrong.map(|_| format!("{name}-wrong"))] {
                @for (value, text) in choices {
                    option value=(value) selected[chosen.unwrap_or_default() == value] { (text) }
                }
            }
            @if let Some(wrong) = wrong { small .wrong id={ (name) "-wrong" } { (wrong) } }
        }
    }
}

/// Checkboxes that unfold below a button with the chosen labels.
pub(super) fn several<'a>(
    name: &str,
    label: &str,
    choices: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    chosen: &[&str],
    wrong: Option<&str>,
) -> Markup {
    let is_chosen = |value: &str| chosen.iter().any(|it| it.eq_ignore_ascii_case(value));
    let labels = choices.clone().filter(|(value, _)| is_chosen(value));
    let labels: Vec<_> = labels.map(|(_, label)| label).collect();
    html! {
        fieldset .field .several {
            legend { (label) }
            details name="several" {
                summary aria-invalid=[wrong.map(|_| "true")] {
                    span .unseen { (label) ": " }
                    span .clip { @if labels.is_empty() { "Any" } @else { (labels.join(", ")) } }
                }
                .menu {
                    @for (value, text) in choices {
                        label { input type="checkbox" name=(name) value=(value) checked[is_chosen(value)]; (text) }
                    }
                }
            }
            @if let Some(wrong) = wrong { small .wrong id={ (name) "-wrong" } { (wrong) } }
        }
    }
}

/// Content that the script folds on narrow screens, unless it stays open.
pub(super) fn folded(summary: &Markup, is_open: bool, content: &Markup) -> Markup {
    html! {
        details .fold open data-open[is_open] { summary { (summary) } (content) }
    }
}

pub(super) fn milliseconds(time: std::time::Duration) -> String {
    let millis = time.as_secs_f64() * 1_000.0;
    if millis < 10.0 {
        format!("{millis:.2} ms")
    } else {
        format!("{millis:.0} ms")
    }
}

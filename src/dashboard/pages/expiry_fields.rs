//! The form fields of an expiration time: common durations, or a date in the reader's time zone.

use jiff::civil::DateTime;
use jiff::{Span, Timestamp, ToSpan};
use maud::{Markup, html};

use super::components::{self, Input};
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::{FIELD_FORMAT, PageContext};

/// The name of the field with the date.
pub(super) const NAME: &str = "expires";

/// The name of the field with the duration.
const IN: &str = "expires-in";

/// The duration that stands for the date in [`NAME`].
const ON_DATE: &str = "date";

/// The values and labels of durations.
const DURATIONS: [(&str, &str); 4] = [
    ("7d", "In 7 days"),
    ("30d", "In 30 days"),
    ("90d", "In 90 days"),
    ("1y", "In 1 year"),
];

fn span(name: &str) -> Option<Span> {
    match name {
        "7d" => Some(7.days()),
        "30d" => Some(30.days()),
        "90d" => Some(90.days()),
        "1y" => Some(1.year()),
        _ => None,
    }
}

/// The submitted expiration time as text, from `now` on. Without the duration, the date alone counts.
///
/// # Errors
///
/// A message for the form.
pub(super) fn text_of(
    context: &PageContext,
    fields: &FormFields,
    was: Option<&str>,
    now: Timestamp,
) -> Result<String, String> {
    let date = fields.get(NAME).unwrap_or_default();
    // Browsers omit zero seconds.
    let local = date.parse::<DateTime>();
    let date = local.map_or(date.to_owned(), |date| {
        date.strftime(FIELD_FORMAT).to_string()
    });
    match fields.all(IN).next() {
        None | Some(ON_DATE) => Ok(date),
        // Without styles, the date is shown for every choice.
        Some("") if date.is_empty() || Some(&*date) == was => Ok(String::new()),
        Some("") => Err("To use this date, choose “On a date” above.".into()),
        Some(name) => {
            let span = span(name).ok_or("Choose an option from the list.")?;
            let end = context.zone.to_datetime(now).saturating_add(span);
            let end = end.with().subsec_nanosecond(0).build().unwrap_or(end);
            let end = context.zone.to_timestamp(end).unwrap_or(Timestamp::MAX);
            Ok(end.to_string())
        }
    }
}

pub(super) fn inputs(context: &PageContext, fields: &FormFields, wrong: &FieldErrors) -> Markup {
    let date = fields.get(NAME).unwrap_or_default();
    let usual = if date.is_empty() { "" } else { ON_DATE };
    let chosen = fields.all(IN).next().unwrap_or(usual);
    let choices = [("", "Never")].into_iter().chain(DURATIONS);
    let choices = choices.chain([(ON_DATE, "On a date")]);
    let hint = format!("In the time zone {}", context.zone_name());
    let input = Input::new(NAME, "Expiration date", date).hint(&hint);
    html! {
        .expiry {
            (components::choice(IN, "Expires", Some(chosen), choices))
            (input.checked(wrong).moment())
        }
    }
}

//! The values of a form's fields when it was rendered, in hidden fields, to notice concurrent changes.

use maud::{Markup, html};

use crate::dashboard::form::FormFields;

/// Prefixes the names of the fields.
const PREFIX: &str = "was-";

/// The message above a form whose fields were changed concurrently.
pub(super) const CHANGED: &str =
    "The values were changed after you opened this form. Review them and make your changes again.";

pub(super) fn inputs(was: &FormFields) -> Markup {
    html! {
        @for (name, value) in was.iter() {
            input type="hidden" name={ (PREFIX) (name) } value=(value);
        }
    }
}

/// The previous values of the fields that `now` has.
pub(super) fn of(submitted: &FormFields, now: &FormFields) -> FormFields {
    let was = now.iter().map(|(name, _)| {
        let was = submitted.get(&format!("{PREFIX}{name}"));
        (name, was.unwrap_or_default().to_owned())
    });
    was.collect()
}

/// Whether a field that is being changed was changed concurrently.
pub(super) fn is_outdated(
    now: &FormFields,
    was: &FormFields,
    changed: impl Fn(&str) -> bool,
) -> bool {
    let mut names = now.iter().map(|(name, _)| name);
    names.any(|name| changed(name) && was.get(name) != now.get(name))
}

//! The confirmation of a change, with "Undo" where possible.

use maud::{Markup, html};

use super::components::{name, token};
use super::confirmation::back_field;
use crate::dashboard::flash::{Done, Flash};
use crate::dashboard::owner_path::owner_path;
use crate::dashboard::page_context::PageContext;

pub(super) fn message(context: &PageContext, flash: &Flash) -> Markup {
    let [one, many] = match flash.done {
        Done::Disabled => [" was disabled.", "API keys were disabled."],
        Done::Enabled => [" was enabled.", "API keys were enabled."],
        Done::Revoked => [" was revoked.", "API keys were revoked."],
        Done::Deleted => [" was deleted.", "API keys were deleted."],
        Done::Saved => [": changes saved.", "Changes saved."],
        Done::Suspended => [" was suspended.", ""],
        Done::Resumed => [" was resumed.", ""],
    };
    let owner = |action: &str| {
        let owner = flash.name.as_deref().unwrap_or_default();
        Some(format!("{}/{action}", owner_path(owner)))
    };
    let undo = match flash.done {
        Done::Disabled => Some("/keys/enable".into()),
        Done::Enabled => Some("/keys/disable".into()),
        Done::Suspended => owner("resume"),
        Done::Resumed => owner("suspend"),
        Done::Revoked | Done::Deleted | Done::Saved => None,
    };
    html! {
        .flash role="status" {
            p {
                @match &flash.name {
                    Some(key) => { strong { (name(key)) } (one) }
                    None => { strong { (flash.keys.len()) } " " (many) }
                }
            }
            @if let Some(undo) = undo {
                form method="post" action=(context.at(&undo)) {
                    (token(context))
                    @for id in &flash.keys { input type="hidden" name="key" value=(id); }
                    (back_field(context.here.as_ref()))
                    button type="submit" { "Undo" }
                }
            }
        }
    }
}

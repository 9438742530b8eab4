//! The keys and owners with the most requests.

use std::sync::Arc;

use maud::{Markup, html};

use crate::dashboard::charts::{self, Bar};
use crate::dashboard::form::FormFields;
use crate::dashboard::owner_path::linked_path;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::components::name_of_owner;
use crate::id::KeyId;
use crate::key::Key;
use crate::usage::Totals;

/// The keys with the most requests, and their shares of all requests.
pub(super) fn keys(
    context: &PageContext,
    busiest: &[(Option<KeyId>, Totals)],
    keys: &[Key],
    all: u64,
    range: &FormFields,
) -> Markup {
    let rows = busiest.iter().map(|(id, totals)| Bar {
        label: match (id, id.and_then(|id| named(keys, id))) {
            (_, Some(key)) => key.name.clone(),
            (Some(id), None) => format!("{id} (deleted)"),
            (None, _) => "No key".into(),
        },
        count: totals.total(),
        href: id.map(|id| within(range, link(context, id, keys))),
    });
    html! {
        section .panel aria-label="Top keys" {
            (charts::bars("Top keys", "Key", &rows.collect::<Vec<_>>(), all))
        }
    }
}

/// The owners with the most requests, and their shares of all requests.
pub(super) fn owners(
    context: &PageContext,
    busiest: &[(&Arc<str>, &Totals)],
    all: u64,
    range: &FormFields,
) -> Markup {
    let rows = busiest.iter().map(|(owner, totals)| Bar {
        label: name_of_owner(owner).to_owned(),
        count: totals.total(),
        href: linked_path(owner).map(|path| within(range, context.at(&path))),
    });
    html! {
        section .panel aria-label="Top owners" {
            (charts::bars("Top owners", "Owner", &rows.collect::<Vec<_>>(), all))
        }
    }
}

/// A page with the same time range.
fn within(range: &FormFields, page: String) -> String {
    match (range.query(), page.contains('?')) {
        (query, false) if !query.is_empty() => format!("{page}?{query}"),
        _ => page,
    }
}

pub(super) fn named(keys: &[Key], id: KeyId) -> Option<&Key> {
    keys.iter().find(|key| key.id == id)
}

/// The page of a key, or the log if the key was deleted.
pub(super) fn link(context: &PageContext, id: KeyId, keys: &[Key]) -> String {
    match named(keys, id) {
        Some(_) => context.at(&format!("/keys/{id}")),
        None => context.at(&format!("/log?key={id}")),
    }
}

//! The fields of a key before and after an action.

use jiff::Timestamp;
use maud::{Markup, html};

use super::components::{clipped, minute, none};
use super::limit_text;
use crate::dashboard::page_context::PageContext;
use crate::id::KeyId;
use crate::key::{AuditEntry, Key};

/// A field as text, and as shown.
type Field = (Option<String>, Markup);

/// The fields that changed. Of a new key, those that are set; of a deleted key, none.
pub(super) fn list(context: &PageContext, entry: &AuditEntry) -> Markup {
    let Some(after) = &entry.after else {
        return none();
    };
    let new = Key::new(after.id, &*after.name, after.created_at);
    let before = entry.before.as_ref().unwrap_or(&new);
    let [before, after] = [before, after].map(|key| fields(context, key, entry.time));
    let changes = before.into_iter().zip(after);
    let changes: Vec<_> = changes
        .filter(|((_, before), (_, after))| before.0 != after.0)
        .collect();
    html! {
        @if changes.is_empty() { (none()) } @else {
            ul {
                @for ((label, before), (_, after)) in &changes {
                    li {
                        span .label { (label) ": " }
                        @if entry.before.is_some() { (before.1) " → " }
                        (after.1)
                    }
                }
            }
        }
    }
}

fn fields(context: &PageContext, key: &Key, at: Timestamp) -> [(&'static str, Field); 11] {
    let text = |text: Option<&str>| -> Field {
        let shown = html! { @match text { Some(text) => (clipped(text)), None => "None" } };
        (text.map(String::from), shown)
    };
    let list = |items: Vec<String>, separator| {
        let joined = items.join(separator);
        text(Some(&*joined).filter(|joined| !joined.is_empty()))
    };
    let limits = key.limits.iter().map(limit_text::describe);
    let addresses = key.addresses.iter().map(|address| address.to_string());
    let metadata = (!key.metadata.is_empty()).then(|| serde_json::to_string(&key.metadata));
    let expires = match key.expires_at {
        Some(end) => (Some(end.to_string()), minute(context, end)),
        None => (None, html! { "Never" }),
    };
    let secret = key.recoverable.then_some("stored, encrypted");
    [
        ("Name", text(Some(&key.name))),
        ("Owner", text(key.owner.as_deref())),
        ("Environment", text(key.environment.as_deref())),
        ("Scopes", list(key.scopes.clone(), " ")),
        ("Rate limits", list(limits.collect(), "; ")),
        ("Allowed IPs", list(addresses.collect(), " ")),
        ("Metadata", text(metadata.and_then(Result::ok).as_deref())),
        ("Expires", expires),
        ("Status", text(Some(key.status(at).as_str()))),
        ("Secret", text(secret)),
        (
            "Replaced by",
            text(key.replaced_by.as_ref().map(KeyId::as_str)),
        ),
    ]
}

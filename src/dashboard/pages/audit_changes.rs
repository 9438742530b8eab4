//! The fields of a key, an owner or a plan before and after an action.

use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::{Map, Value};

use super::components::{clipped, minute, none};
use super::limit_text;
use crate::dashboard::page_context::PageContext;
use crate::id::KeyId;
use crate::key::{AuditEntry, AuditState, Key, Owner, Plan};
use crate::limit::RateLimit;

/// A field as text, and as shown.
type Field = (Option<String>, Markup);

/// The fields that changed. Of a new key, those that are set; of a deleted key, none.
pub(super) fn list(context: &PageContext, entry: &AuditEntry) -> Markup {
    let Some(after) = &entry.after else {
        return none();
    };
    let new = match after {
        AuditState::Key(key) => Key::new(key.id, &*key.name, key.created_at).into(),
        AuditState::Owner(owner) => Owner::new(owner.id.clone(), owner.created_at).into(),
        AuditState::Plan(plan) => Plan::new(plan.name.clone(), plan.created_at).into(),
    };
    let before = entry.before.as_ref().unwrap_or(&new);
    let [before, after] = [before, after].map(|state| match state {
        AuditState::Key(key) => fields(context, key, entry.time).into(),
        AuditState::Owner(owner) => owner_fields(owner),
        AuditState::Plan(plan) => plan_fields(plan),
    });
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

fn text(text: Option<&str>) -> Field {
    let shown = html! { @match text { Some(text) => (clipped(text)), None => "None" } };
    (text.map(String::from), shown)
}

fn joined(items: Vec<String>, separator: &str) -> Field {
    let joined = items.join(separator);
    text(Some(&*joined).filter(|joined| !joined.is_empty()))
}

fn limits(limits: &[RateLimit]) -> Field {
    joined(limits.iter().map(limit_text::describe).collect(), "; ")
}

fn metadata(metadata: &Map<String, Value>) -> Field {
    let json = (!metadata.is_empty()).then(|| serde_json::to_string(metadata));
    text(json.and_then(Result::ok).as_deref())
}

fn owner_fields(owner: &Owner) -> Vec<(&'static str, Field)> {
    vec![
        ("Name", text(owner.name.as_deref())),
        ("Plan", text(owner.plan.as_deref())),
        ("Rate limits", limits(&owner.limits)),
        ("Metadata", metadata(&owner.metadata)),
        ("Status", text(Some(owner.status.as_str()))),
    ]
}

fn plan_fields(plan: &Plan) -> Vec<(&'static str, Field)> {
    vec![
        ("Rate limits of each key", limits(&plan.key_limits)),
        ("Rate limits of each owner", limits(&plan.owner_limits)),
        ("Metadata", metadata(&plan.metadata)),
    ]
}

fn fields(context: &PageContext, key: &Key, at: Timestamp) -> [(&'static str, Field); 12] {
    let addresses = key.addresses.iter().map(|address| address.to_string());
    let expires = match key.expires_at {
        Some(end) => (Some(end.to_string()), minute(context, end)),
        None => (None, html! { "Never" }),
    };
    let secret = key.recoverable.then_some("stored, encrypted");
    [
        ("Name", text(Some(&key.name))),
        ("Owner", text(key.owner.as_deref())),
        ("Plan", text(key.plan.as_deref())),
        ("Environment", text(key.environment.as_deref())),
        ("Scopes", joined(key.scopes.clone(), " ")),
        ("Rate limits", limits(&key.limits)),
        ("Allowed IPs", joined(addresses.collect(), " ")),
        ("Metadata", metadata(&key.metadata)),
        ("Expires", expires),
        ("Status", text(Some(key.status(at).as_str()))),
        ("Secret", text(secret)),
        (
            "Replaced by",
            text(key.replaced_by.as_ref().map(KeyId::as_str)),
        ),
    ]
}

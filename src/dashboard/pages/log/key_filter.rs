//! The API key filter of the request log: a select, or an input with suggestions if there are many keys.

use maud::{Markup, html};

use crate::dashboard::find::{self, Found};
use crate::dashboard::form::FormFields;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::Failure;
use crate::dashboard::pages::components::{self, Input};
use crate::dashboard::pages::range::{CUSTOM, TimeRange};
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::key::{Key, KeyQuery};
use crate::usage::UsageEvent;

/// The name of the field.
const KEY: &str = "key";

/// The maximum number of keys in the select, and of suggestions.
const MAX_KEYS: usize = 200;

/// The keys to choose from, sorted by name.
pub(super) struct KeyChoices {
    keys: Vec<Key>,
    /// Whether these are all keys, or all of the owner.
    is_complete: bool,
    has_owner: bool,
}

impl KeyChoices {
    /// The keys of all owners, or of one.
    pub(super) async fn read(shared: &Shared, owner: Option<&str>) -> Result<Self, Failure> {
        let mut query = KeyQuery::new().limit(MAX_KEYS);
        query.owner = owner.map(String::from);
        let page = shared.keys.list(&query).await?;
        let mut keys = page.items;
        keys.sort_by_cached_key(|key| (key.name.to_lowercase(), key.hint.clone()));
        Ok(Self {
            keys,
            is_complete: page.next.is_none(),
            has_owner: owner.is_some(),
        })
    }

    /// Resolves a name or hint that was entered to the id of the key. The inner error is the one to show.
    pub(super) async fn resolve(
        &self,
        shared: &Shared,
        fields: &FormFields,
    ) -> Result<Result<FormFields, &'static str>, Failure> {
        let text = fields.get(KEY).unwrap_or_default();
        if self.is_complete || text.is_empty() || text.parse::<KeyId>().is_ok() {
            return Ok(Ok(fields.clone()));
        }
        let id = match find::find(shared, text).await? {
            Found::Key { key, .. } => key.id,
            // The requests of deleted keys are kept.
            Found::None { id: Some(id) } => id,
            Found::None { id: None } => return Ok(Err("No key has this name, hint or ID.")),
            Found::Several { .. } => return Ok(Err("Several keys match. Enter the key ID.")),
        };
        Ok(Ok(fields.with([(KEY, id.as_str())])))
    }

    /// Renders the field with this value.
    pub(super) async fn field(
        &self,
        shared: &Shared,
        chosen: &str,
        wrong: Option<&str>,
    ) -> Result<Markup, Failure> {
        let listed = self.label_of(chosen);
        if self.is_complete {
            return Ok(self.select(chosen, listed.is_some(), wrong));
        }
        let label = match (listed, chosen.parse()) {
            (None, Ok(id)) => shared.keys.get(id).await?.as_ref().map(label),
            (listed, _) => listed,
        };
        let hint = label.unwrap_or_else(|| "Name, hint or ID".into());
        let input = Input::new(KEY, "API key", chosen).hint(&hint).wrong(wrong);
        let suggestions = self.keys.iter().map(|key| (key.id, self::label(key)));
        Ok(html! {
            (input.suggest("keys").in_url())
            datalist #keys {
                @for (id, label) in suggestions { option value=(id) label=(label) {} }
            }
        })
    }

    /// The name and hint of a key in the list.
    pub(super) fn label_of(&self, id: &str) -> Option<String> {
        let mut listed = self.keys.iter();
        listed.find(|key| key.id.as_str() == id).map(label)
    }

    /// The keys of these requests, to show their names. Deleted keys are missing.
    pub(super) async fn of(
        &self,
        shared: &Shared,
        events: &[UsageEvent],
    ) -> Result<Vec<Key>, Failure> {
        let mut ids: Vec<_> = events.iter().filter_map(|event| event.key).collect();
        ids.sort_unstable();
        ids.dedup();
        let listed = self.keys.iter().filter(|key| ids.contains(&key.id));
        let mut keys: Vec<_> = listed.cloned().collect();
        // Keys may have had another owner at the time of the requests.
        if (!self.is_complete || self.has_owner) && keys.len() < ids.len() {
            let query = KeyQuery::new().limit(ids.len()).ids(ids);
            keys = shared.keys.list(&query).await?.items;
        }
        Ok(keys)
    }

    fn select(&self, chosen: &str, is_listed: bool, wrong: Option<&str>) -> Markup {
        let deleted = format!("{chosen} (deleted)");
        let is_id = chosen.parse::<KeyId>().is_ok();
        let deleted = (is_id && !is_listed).then_some((chosen, &*deleted));
        let labels: Vec<_> = self.keys.iter().map(label).collect();
        let keys = self.keys.iter().zip(&labels);
        let keys = keys.map(|(key, label)| (key.id.as_str(), &**label));
        let choices = [("", "All keys")].into_iter().chain(deleted).chain(keys);
        components::choice_or(KEY, "API key", Some(chosen), choices, wrong)
    }
}

/// The name and hint of a key, without characters that change the direction of the text behind them.
fn label(key: &Key) -> String {
    let is_control = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    format!("{} · {}", key.name.replace(is_control, ""), key.hint)
}

/// The URL of the page with another choice than the key of this page, and the same other filters.
pub(in crate::dashboard::pages) fn leaving(
    context: &PageContext,
    key: &Key,
    fields: &FormFields,
) -> Option<String> {
    let (_, chosen) = fields.iter().find(|(name, _)| *name == KEY)?;
    let url = |path: &str, fields: FormFields| {
        let query = fields.query();
        let mark = if query.is_empty() { "" } else { "?" };
        context.at(&format!("{path}{mark}{query}"))
    };
    match chosen.trim().parse::<KeyId>() {
        Ok(id) if id == key.id => None,
        Ok(id) => Some(url(&format!("/keys/{id}"), fields.with([(KEY, "")]))),
        Err(_) => {
            // The page of all keys has no range, only the times of the filter.
            let TimeRange { range, .. } = TimeRange::of(context, fields);
            let (since, until) = (range.start.to_string(), range.end.to_string());
            let is_fixed = fields.get("range") == Some(CUSTOM);
            let until = if is_fixed { &*until } else { "" };
            let since = fields.get("since").unwrap_or(&since);
            let until = fields.get("until").unwrap_or(until);
            let range = [("range", ""), ("from", ""), ("to", "")];
            let times = [("since", since), ("until", until)];
            Some(url("/log", fields.with(range.into_iter().chain(times))))
        }
    }
}

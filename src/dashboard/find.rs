//! Finds the keys that a text refers to.

use super::state::Shared;
use crate::id::KeyId;
use crate::key::{Key, KeyQuery, StoreError, has_secret, identify};

/// The maximum length of a text to search for, in bytes. Longer texts are only searched for secrets.
const MAX_SEARCHED: usize = 200;

/// What a text refers to.
pub(super) enum Found {
    /// A key, and whether the text has its secret rather than its name, hint or id.
    Key { key: Box<Key>, by_secret: bool },
    /// At least two keys with this text in their names, hints or ids: the first page of them.
    Several { text: String, keys: Vec<Key> },
    /// No key. If the text has a secret or an id, that of a key that may have been deleted.
    None { id: Option<KeyId> },
}

/// Finds keys by a secret, an id, or a part of a name or hint.
pub(super) async fn find(shared: &Shared, text: &str) -> Result<Found, StoreError> {
    let text = text.trim();
    let secrets = identify(text, shared.issuer.as_ref());
    // Alone, or behind a prefix.
    let id = text.rsplit('_').next().and_then(|id| id.parse().ok());
    let ids: Vec<KeyId> = id.into_iter().chain(secrets.iter().copied()).collect();
    if !ids.is_empty() {
        let query = KeyQuery::new().limit(ids.len()).ids(ids.iter().copied());
        let keys = shared.keys.list(&query).await?.items;
        let most_likely = |key: &Key| ids.iter().position(|id| *id == key.id);
        if let Some(key) = keys.into_iter().min_by_key(most_likely) {
            return Ok(Found::Key {
                by_secret: id != Some(key.id),
                key: Box::new(key),
            });
        }
    }
    let secret = has_secret(text).then(|| secrets.first().copied());
    let nothing = Found::None {
        id: id.or(secret.flatten()),
    };
    let part = text.trim_end_matches(['…', '.', '*']);
    if secret.is_some() || part.is_empty() || part.len() > MAX_SEARCHED {
        return Ok(nothing);
    }
    let mut search = part;
    let mut keys = list(shared, search).await?;
    // The beginning of a secret, longer than a hint.
    if let Some((_, digits)) = part.rsplit_once('_').filter(|_| keys.is_empty()) {
        search = digits;
        keys = list(shared, digits).await?;
        keys.retain(|key| key.id.as_str().starts_with(digits));
    }
    Ok(match keys.len() {
        0 => nothing,
        1 => Found::Key {
            key: Box::new(keys.remove(0)),
            by_secret: false,
        },
        _ => Found::Several {
            text: search.into(),
            keys,
        },
    })
}

async fn list(shared: &Shared, text: &str) -> Result<Vec<Key>, StoreError> {
    let query = KeyQuery::new().search(text);
    Ok(shared.keys.list(&query).await?.items)
}

//! Looks up keys by their ids.

use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::key::{Key, KeyQuery, StoreError};
use crate::page::PageRequest;

/// The keys with these ids that still exist.
pub(super) async fn keys_with(shared: &Shared, ids: Vec<KeyId>) -> Result<Vec<Key>, StoreError> {
    let mut keys = Vec::new();
    for ids in ids.chunks(PageRequest::MAX_LIMIT) {
        let query = KeyQuery::new().ids(ids.iter().copied()).limit(ids.len());
        keys.extend(shared.keys.list(&query).await?.items);
    }
    Ok(keys)
}
